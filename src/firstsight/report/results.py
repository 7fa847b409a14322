"""What a report is written from: plain values and files, whoever ran the study."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import polars as pl

from firstsight.errors import DataError

Schedule = Literal["Continue", "Rewarm", "Matched", "none", "trunk"]
"""How the arm's image phase set its rate: `none` has no image phase, `trunk` is the text model as it was."""

StageKind = Literal["pretrain", "midtrain", "finetune"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One training step behind an arm: where it lies, where it begins, and what it logged."""

    kind: StageKind
    address: str
    begins: int
    """Tokens that the model had seen, over all its life, where this log's `seen` counts from 0."""
    log: Path | None
    """log.jsonl with step, seen, lr, loss; None where the stage has not run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmResult:
    """One arm of one seed: its scores, or the reason why there are none."""

    name: str
    label: str
    seed: int
    start: Fraction
    schedule: Schedule
    address: str
    """Of the evaluate step."""
    stages: tuple[Stage, ...] = ()
    scores: Mapping[str, Any] | None = None
    missing: str = ""
    """Why there are no scores; empty where there are."""
    answers: Path | None = None
    benchmarks: Path | None = None
    """The benchmarks' folder, for their pictures: images.tar or images/ in it."""
    achieved: Mapping[str, Any] = field(default_factory=dict)
    """The last training step's achieved.json: asked share, achieved shares and counts, padding."""

    @property
    def family(self) -> str:
        """The name without its start: start-020 and start-080 are one family, start-080-rewarm is another."""
        return self.name.replace(f"{round(100 * self.start):03d}", "*")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFacts:
    """What the page says about the study as a whole."""

    name: str
    scale: str
    question: str
    tree: str
    bill: str
    provenance: Mapping[str, str]
    device: str
    seconds: float
    toy: bool
    """A built-in scale: it shows how a study is read and settles nothing about models in use."""
    openmoji: bool
    """The pictures are made of OpenMoji drawings, which must be credited."""


def read_log(stage: Stage) -> list[dict[str, float]]:
    """The stage's logged rows with `seen` moved onto the arm's own clock; empty where nothing was logged."""
    if stage.log is None or not stage.log.exists():
        return []
    rows = []
    for where, row in json_lines(stage.log):
        try:
            values = {name: float(row[name]) for name in ("seen", "lr", "loss")}
        except (KeyError, TypeError, ValueError) as problem:
            raise DataError(f"{where}: a log line needs numbers seen, lr and loss. Got {row}.") from problem
        rows.append({**values, "seen": stage.begins + values["seen"]})
    return rows


def read_achieved(arm: ArmResult) -> Mapping[str, Any]:
    """What the arm's image phase asked for and got, as training left it beside its log; empty where nothing is left."""
    logs = [stage.log for stage in arm.stages if stage.kind == "midtrain" and stage.log is not None]
    notes = logs[0].with_name("achieved.json") if logs else None
    return json.loads(notes.read_text(encoding="utf-8")) if notes and notes.exists() else arm.achieved


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place (file:number) and its object; DataError names the first line that is not one."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as problem:
                raise DataError(f"{path}:{number}: wanted one JSON object a line. Got {line[:60]!r}.") from problem
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: wanted a JSON object. Got {line[:60]!r}.")
            yield f"{path}:{number}", row


def ordinary(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """The arms that a line may join: the family with the most starts, or all that have an image phase of their own."""
    seen = [arm for arm in arms if arm.schedule != "trunk"]
    starts: dict[str, set[Fraction]] = {}
    for arm in seen:
        starts.setdefault(arm.family, set()).add(arm.start)
    widest = max(starts, key=lambda family: len(starts[family]), default="")
    return [arm for arm in seen if arm.family == widest] if len(starts.get(widest, ())) > 1 else seen


def judged(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """The arms that have scores, by start, then name, then seed."""
    return sorted((arm for arm in arms if arm.scores is not None), key=lambda arm: (arm.start, arm.name, arm.seed))


_TEXTS = ("image", "prompt", "answer", "truth", "form", "split")
ANSWERS: dict[str, Any] = {
    "task": pl.String,
    "question": pl.String,
    **dict.fromkeys(_TEXTS, pl.String),
    "score": pl.Float64,
    "blind": pl.Boolean,
}


def read_answers(arm: ArmResult) -> pl.DataFrame:
    """Every answer of one arm; empty where none were kept, DataError where a line lacks its task, id or score.

    Identifiers and texts are strings, whatever the benchmark's own file calls them.
    """
    rows: list[list[Any]] = []
    if arm.answers is not None and arm.answers.exists():
        for where, line in json_lines(arm.answers):
            given = [line.get(name) for name in _TEXTS]
            texts = [
                value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
                for value in given
            ]
            try:
                told = [str(line["task"]), str(line["question_id"]), *texts]
                rows.append([*told, float(line["score"]), bool(line.get("blind", False))])
            except (KeyError, TypeError, ValueError) as problem:
                raise DataError(
                    f"{where}: an answer needs task, question_id and score. Got keys {sorted(line)}."
                ) from problem
    return pl.DataFrame(rows, schema=ANSWERS, orient="row")
