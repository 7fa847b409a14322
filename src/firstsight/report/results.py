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

ArmSchedule = Literal["continue", "rewarm", "matched", "none", "trunk"]
"""How the arm's image phase set its rate: `none` has no image phase, `trunk` is the text model as it was."""

StageKind = Literal["pretrain", "midtrain", "finetune"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageLog:
    """One training step behind an arm: where it lies, where it begins, and what it logged."""

    kind: StageKind
    address: str
    start_tokens: int
    """Tokens that the model had seen, over all its life, where this log's `seen` counts from 0."""
    log_path: Path | None
    """log.jsonl with step, seen, lr, loss; None where the stage has not run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmResult:
    """One arm of one seed: its scores, or the reason why there are none."""

    name: str
    label: str
    seed: int
    start: Fraction
    schedule: ArmSchedule
    address: str
    """Of the evaluate step."""
    stages: tuple[StageLog, ...] = ()
    scores: Mapping[str, Any] | None = None
    missing_reason: str = ""
    """Why there are no scores; empty where there are."""
    answers_path: Path | None = None
    benchmarks_dir: Path | None = None
    """The benchmarks' folder, for their pictures: images.tar or images/ in it."""
    achieved_mix: Mapping[str, Any] = field(default_factory=dict)
    """The last training step's achieved.json: asked share, achieved shares and counts, padding."""

    @property
    def name_pattern(self) -> str:
        """The name without its start: start-020 and start-080 are one family, start-080-rewarm is another."""
        return self.name.replace(f"{round(100 * self.start):03d}", "*")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFacts:
    """What the page says about the study as a whole."""

    name: str
    scale: str
    question: str
    plan_tree: str
    cost_estimate: str
    provenance: Mapping[str, str]
    device: str
    compute_seconds: float
    is_builtin_scale: bool
    """A built-in scale: it shows how a study is read and settles nothing about models in use."""
    uses_openmoji: bool
    """The pictures are made of OpenMoji drawings, which must be credited."""


def read_training_log(stage: StageLog) -> list[dict[str, float]]:
    """The stage's logged rows with `seen` moved onto the arm's own clock; empty where nothing was logged."""
    if stage.log_path is None or not stage.log_path.exists():
        return []
    rows = []
    for location, row in iter_json_lines(stage.log_path):
        try:
            values = {name: float(row[name]) for name in ("seen", "lr", "loss")}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{location}: a log line needs numbers seen, lr and loss. Got {row}.") from error
        rows.append({**values, "seen": stage.start_tokens + values["seen"]})
    return rows


def read_achieved(arm: ArmResult) -> Mapping[str, Any]:
    """What the arm's image phase asked for and got, as training left it beside its log; empty where nothing is left."""
    log_paths = [stage.log_path for stage in arm.stages if stage.kind == "midtrain" and stage.log_path is not None]
    achieved_path = log_paths[0].with_name("achieved.json") if log_paths else None
    return (
        json.loads(achieved_path.read_text(encoding="utf-8"))
        if achieved_path and achieved_path.exists()
        else arm.achieved_mix
    )


def iter_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's place (file:number) and its object; DataError names the first line that is not one."""
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: wanted one JSON object a line. Got {line[:60]!r}.") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: wanted a JSON object. Got {line[:60]!r}.")
            yield f"{path}:{number}", row


def main_sweep_arms(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """The arms that a line may join: the family with the most starts, or all that have an image phase of their own."""
    image_arms = [arm for arm in arms if arm.schedule != "trunk"]
    starts_by_pattern: dict[str, set[Fraction]] = {}
    for arm in image_arms:
        starts_by_pattern.setdefault(arm.name_pattern, set()).add(arm.start)
    widest_pattern = max(starts_by_pattern, key=lambda pattern: len(starts_by_pattern[pattern]), default="")
    return (
        [arm for arm in image_arms if arm.name_pattern == widest_pattern]
        if len(starts_by_pattern.get(widest_pattern, ())) > 1
        else image_arms
    )


def arms_with_scores(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """The arms that have scores, by start, then name, then seed."""
    return sorted((arm for arm in arms if arm.scores is not None), key=lambda arm: (arm.start, arm.name, arm.seed))


_TEXT_FIELDS = ("image", "prompt", "answer", "truth", "form", "split")
ANSWER_SCHEMA: dict[str, Any] = {
    "task": pl.String,
    "question": pl.String,
    **dict.fromkeys(_TEXT_FIELDS, pl.String),
    "score": pl.Float64,
    "blind": pl.Boolean,
}


def read_answer_scores(arm: ArmResult) -> pl.DataFrame:
    """Every answer of one arm; empty where none were kept, DataError where a line lacks its task, id or score.

    Identifiers and texts are strings, whatever the benchmark's own file calls them.
    """
    rows: list[list[Any]] = []
    if arm.answers_path is not None and arm.answers_path.exists():
        for location, answer in iter_json_lines(arm.answers_path):
            raw_values = [answer.get(name) for name in _TEXT_FIELDS]
            text_values = [
                value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
                for value in raw_values
            ]
            try:
                columns = [str(answer["task"]), str(answer["question_id"]), *text_values]
                rows.append([*columns, float(answer["score"]), bool(answer.get("blind", False))])
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{location}: an answer needs task, question_id and score. Got keys {sorted(answer)}."
                ) from error
    return pl.DataFrame(rows, schema=ANSWER_SCHEMA, orient="row")
