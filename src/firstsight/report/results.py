"""The input of a report: a description of the study, and for each arm its scores and the files of its run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from firstsight.errors import DataError
from firstsight.evaluate.result_files import Scores
from firstsight.files import read_jsonl
from firstsight.recipe.study import Horizon

ArmSchedule = Literal["continue", "rewarm", "matched", "none", "trunk"]
"""Learning-rate schedule of the arm's image phase. `none`: no image phase; `trunk`: the text model without images."""

StageKind = Literal["pretrain", "midtrain", "finetune"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageLog:
    """One training step of an arm."""

    kind: StageKind
    address: str
    start_tokens: int
    """Tokens that the model was trained on before the log's `seen` starts at 0."""
    log_path: Path | None
    """log.jsonl with step, seen, lr and loss; None where the stage has not run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmResult:
    """One arm of one seed: its scores, or the reason why there are none."""

    name: str
    label: str
    """Name and seed: start-080.s1."""
    seed: int
    start: Fraction
    """Share of the text training after which images enter."""
    schedule: ArmSchedule
    address: str
    """Address of the evaluate step."""
    stages: tuple[StageLog, ...] = ()
    scores: Scores | None = None
    missing_reason: str = ""
    answers_path: Path | None = None
    benchmarks_dir: Path | None = None
    """The benchmarks' folder, which contains their images: images.tar or images/."""
    achieved_mix: Mapping[str, Any] = field(default_factory=dict)
    """achieved.json of the last training step: requested share, achieved shares and counts, padding."""

    @property
    def name_pattern(self) -> str:
        """The name with `*` for the start: start-020 and start-080 share one, start-080-rewarm has another."""
        return self.name.replace(f"{round(100 * self.start):03d}", "*")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyInfo:
    """The study as a whole: its question, plan, cost and provenance."""

    name: str
    scale: str
    question: str
    plan_tree: str
    cost_estimate: str
    provenance: Mapping[str, str]
    device: str
    compute_seconds: float
    horizon: Horizon
    is_builtin_scale: bool
    """A scale on synthetic data: an example of the method, without evidence about large models."""
    uses_openmoji: bool
    """The images are made of OpenMoji drawings, which must be credited."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerFile:
    """One file of answers and the benchmarks' folder with its images, if that is known."""

    path: Path
    benchmarks_dir: Path | None
    benchmarks_by_task: Mapping[str, Path] = field(default_factory=dict)

    def benchmarks_of(self, task: str) -> Path | None:
        return self.benchmarks_by_task.get(task, self.benchmarks_dir)


def read_training_log(stage: StageLog) -> list[dict[str, float]]:
    """Logged rows (seen, lr, loss), `seen` counted from the model's first token; empty where nothing was logged."""
    if stage.log_path is None or not stage.log_path.exists():
        return []
    rows = []
    for number, row in read_jsonl(stage.log_path):
        try:
            values = {name: float(row[name]) for name in ("seen", "lr", "loss")}
        except (KeyError, TypeError, ValueError) as error:
            message = f"{stage.log_path}:{number}: a log line needs numbers seen, lr and loss. Got {row}."
            raise DataError(message) from error
        rows.append({**values, "seen": stage.start_tokens + values["seen"]})
    return rows


def read_achieved(arm: ArmResult) -> Mapping[str, Any]:
    """achieved.json in the folder of the log of the arm's image phase, or `achieved_mix` where that file is missing."""
    log_path = next((stage.log_path for stage in arm.stages if stage.kind == "midtrain" and stage.log_path), None)
    path = log_path and log_path.with_name("achieved.json")
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else arm.achieved_mix


def main_sweep_arms(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """The arms that a figure joins by a line: those of the name pattern with most starts, else all but the trunk."""
    image_arms = [arm for arm in arms if arm.schedule != "trunk"]
    start_counts = Counter(pattern for pattern, _ in dict.fromkeys((arm.name_pattern, arm.start) for arm in image_arms))
    widest, start_count = start_counts.most_common(1)[0] if start_counts else ("", 0)
    return [arm for arm in image_arms if start_count < 2 or arm.name_pattern == widest]


def arms_with_scores(arms: Sequence[ArmResult]) -> list[ArmResult]:
    """The arms that have scores, by start, then name, then seed."""
    return sorted((arm for arm in arms if arm.scores is not None), key=lambda arm: (arm.start, arm.name, arm.seed))
