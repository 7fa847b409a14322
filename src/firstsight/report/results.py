"""The input of a report: a description of the study, and for each arm its scores and the files of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from firstsight.errors import DataError
from firstsight.evaluate.result_files import Scores
from firstsight.files import read_json, read_jsonl
from firstsight.recipe.analysis import Axis, Coordinate
from firstsight.site import default_cache

_DAMAGE_ADVICE = "Or delete the folder of this step and run again to compute it once more."

MAX_COMPARED_ARMS = 16
"""Of more arms a page has no recipes of two, and no intervals: they would take most of its size and time."""

StageKind = Literal["pretrain", "midtrain", "finetune"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageLog:
    """One training step of an arm."""

    kind: StageKind
    address: str
    start_tokens: int = 0
    """Tokens that the model was trained on before position 0 of this step; 0 for a segment of the trunk."""
    planned: Sequence[Mapping[str, float]] = ()
    """seen and lr of the plan, which needs no run; `seen` counted from the model's first token."""
    rows: Sequence[Mapping[str, float]] = ()
    """log.jsonl as `read_training_log` reads it; empty where the stage has not run."""
    achieved_mix: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """achieved.json: requested share, achieved shares and counts, padding; empty where the stage has not run."""
    tokens: int = 0
    mix: str = ""
    """Requested share of images and the sources, as text; empty for text pre-training."""
    schedule: str = ""
    """`recipe.schedule.schedule_text` of the arm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmResult:
    """One arm of one seed: its scores, or the reason why there are none."""

    name: str
    label: str
    """Name and seed, unique within a study."""
    seed: int
    address: str
    """Address of the evaluate step."""
    at: Mapping[str, Coordinate] = field(default_factory=dict[str, Coordinate])
    """Coordinates by axis."""
    group: str = ""
    role: Literal["compared", "baseline"] = "compared"
    stages: tuple[StageLog, ...] = ()
    scores: Scores | None = None
    last_scores: tuple[Scores, ...] = ()
    """Those of the last checkpoints, each by itself, the one at the end first; empty where they were not evaluated."""
    missing_reason: str = ""
    damage: tuple[str, ...] = ()
    """What is wrong with stored files of this arm; no run replaces them, `doctor --repair` does."""
    heldout_questions: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many questions of each task have a part that was held out of training."""
    answers: pl.DataFrame | None = field(default=None, compare=False, repr=False)
    """All answers, columns `report.answers.ANSWER_SCHEMA`; None without scores."""
    benchmarks_dir: Path | None = None
    """The benchmarks' folder, which contains their images: images.tar or images/."""

    def __repr__(self) -> str:
        return f"{self.label}: {self.missing_reason or 'scored'}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """How far the run of a study is."""

    stored: int
    """Steps that are stored, of `total`."""
    total: int
    running: tuple[str, ...] = ()
    """Steps that something was written for in the last minute, with their progress as text."""

    def __str__(self) -> str:
        if self.stored == self.total:
            return f"All {self.total} steps are stored."
        running = (
            f"Now: {', '.join(self.running)}." if self.running else "No step has written anything in the last minute."
        )
        return f"{self.stored} of {self.total} steps are stored. {running}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunInfo:
    """Plan, cost and provenance of a study's results."""

    plan_tree: str
    cost_estimate: str
    provenance: Mapping[str, str]
    device: str
    compute_seconds: float
    is_builtin_scale: bool
    """A scale on synthetic data: an example of the method, without evidence about large models."""
    uses_openmoji: bool
    """The images are made of OpenMoji drawings, which must be credited."""
    recipe_differences: Mapping[tuple[str, str], Sequence[tuple[str, str, str]]] = field(default_factory=dict)
    """The fields in which the recipes of two arms differ, by their names: path, and both values as text."""
    state: RunState | None = None
    """Of a study that is followed while it runs: the page then reads itself again; None for a page that stays."""
    next_runs: Mapping[str, str] = field(default_factory=dict[str, str])
    """What to run to decide an undecided claim at the least cost, as a sentence by the claim's name."""
    cache: Path = field(default_factory=default_cache)
    """`Site.cache`, which keeps the script of all pages."""
    looks: tuple[str, ...] | None = None
    """The looks at the claims of a study that is decided by the sequential rule; None for verdicts of fixed size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFile:
    """One file of answers and the benchmarks' folder with its images, if that is known."""

    path: Path
    benchmarks_dir: Path | None
    benchmarks_by_task: Mapping[str, Path] = field(default_factory=dict)

    def benchmarks_of(self, task: str) -> Path | None:
        return self.benchmarks_by_task.get(task, self.benchmarks_dir)


def read_training_log(path: Path, *, start_tokens: int) -> list[dict[str, float]]:
    """Rows (seen, lr, loss) of a log.jsonl, none where there is no such file; DataError for an invalid line.

    `seen` is counted from the model's first token: `start_tokens` are those before the log starts at 0.
    """
    rows = []
    for number, row in _log_lines(path) if path.is_file() else ():
        try:
            values = {name: float(row[name]) for name in ("seen", "lr", "loss")}
        except (KeyError, TypeError, ValueError) as error:
            message = f"{path}:{number}: a log line needs numbers seen, lr and loss. Got {row}. Repair it."
            raise DataError(f"{message} {_DAMAGE_ADVICE}") from error
        rows.append({**values, "seen": start_tokens + values["seen"]})
    return rows


def _log_lines(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        yield from read_jsonl(path)
    except DataError as error:
        raise DataError(f"{error} {_DAMAGE_ADVICE}") from error


def read_achieved_file(path: Path) -> Mapping[str, Any]:
    """An achieved.json; empty where there is none. DataError for one that is damaged."""
    advice = f"Restore it. {_DAMAGE_ADVICE}"
    return read_json(path, keys=["asked", "achieved"], advice=advice) if path.is_file() else {}


def damage_by_arms(arms: Sequence[ArmResult]) -> dict[str, list[str]]:
    """Each damage as a sentence, and the labels of the arms that it concerns."""
    labels: dict[str, list[str]] = {}
    for arm in arms:
        for line in arm.damage:
            labels.setdefault(line, []).append(arm.label)
    return labels


def compared_arms(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """The arms that are ranked and compared: all but the baselines."""
    return [arm for arm in arms if arm.role == "compared"]


def arms_with_scores(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """The arms that have scores, in the study's order of names, baselines last; seeds of one name together."""
    names = list(dict.fromkeys(arm.name for arm in arms))
    scored = (arm for arm in arms if arm.scores is not None)
    return sorted(scored, key=lambda arm: (arm.role == "baseline", names.index(arm.name), arm.seed))


def place_text(arm: ArmResult, axes: Sequence[Axis]) -> str:
    """The coordinates of an arm as text, separated by commas."""
    return ", ".join(axis.text(arm.at[axis.name]) for axis in axes if axis.name in arm.at)


def arm_texts(arms: Sequence[ArmResult], axes: Sequence[Axis]) -> dict[str, str]:
    """A short text for each arm by name: its coordinates, or its name where these are not unique."""
    texts = {arm.name: place_text(arm, axes) for arm in compared_arms(arms)}
    is_unique = all(texts.values()) and len(set(texts.values())) == len(texts)
    return {arm.name: texts[arm.name] if is_unique and arm.name in texts else arm.name for arm in arms}
