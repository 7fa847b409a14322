"""What is stored of each arm of a study, read from its store: results, or why they are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import polars as pl

from firstsight.errors import DataError
from firstsight.evaluate.result_files import ANSWERS_FILE, Scores, read_scores
from firstsight.plan.graph import Graph
from firstsight.plan.scheduler import RunSummary, last_line
from firstsight.plan.schedules import early_evaluation, planned_rates
from firstsight.plan.step import TRAINING_KINDS, Step
from firstsight.plan.store import Store
from firstsight.recipe.schedule import LRSchedule, ResolvedSchedule, schedule_text
from firstsight.recipe.study import Arm, Study
from firstsight.report.answers import read_answers
from firstsight.report.results import ArmResult, StageKind, StageLog, read_achieved_file, read_training_log

READ_FILES: Mapping[str, Sequence[str] | None] = {
    **dict.fromkeys(TRAINING_KINDS, ("log.jsonl", "achieved.json")),
    **dict.fromkeys(("evaluate", "benchmarks"), None),
}
"""The files of a step that a report reads, by kind: all where it is None, none of other kinds."""


def collect_results(study: Study, store: Store, graph: Graph, *, summary: RunSummary | None = None) -> list[ArmResult]:
    """What is stored of each arm, and why the rest is missing: `summary` lists what failed in the last run."""
    ends = {
        failure.step.address: f"{'stopped' if failure.is_saved else 'failed'}: {last_line(failure.reason)}"
        for failure in (summary.failed if summary else ())
    }
    reader = _ResultReader(store, graph, ends)
    return [reader.arm_result(arm) for arm in study.arms]


class _ResultReader:
    """Reads what arms have stored, as long as it is what was published; what several arms share is read once."""

    def __init__(self, store: Store, graph: Graph, ends: Mapping[str, str]) -> None:
        self._store, self._graph, self._ends = store, graph, ends
        self._damage: dict[Step, str] = {}
        """What is wrong with a stored step, as a sentence; empty where nothing is."""
        self._stages: dict[Step, StageLog] = {}

    def arm_result(self, arm: Arm) -> ArmResult:
        """What is stored of an arm."""
        final, steps = self._graph.final_step(arm.label), self._graph.arms[arm.label]
        inputs, planned = dict(final.needs), planned_stages(arm, self._graph)
        stages = {step: self._stage(step, stage) for step, stage in planned.items()}
        evaluation, benchmarks = self._evaluation(final), self._store.path(inputs["benchmarks"].address)
        damage = tuple(filter(None, map(self._find_damage, steps)))
        return ArmResult(
            name=arm.name,
            label=arm.label,
            seed=arm.seed,
            address=final.address,
            at=arm.at,
            group=arm.group,
            role=arm.role,
            stages=tuple(stages.values()),
            missing_reason="" if evaluation else self._damage[final] or self._missing_reason(steps),
            damage=damage,
            benchmarks_dir=benchmarks if benchmarks.is_dir() and not self._damage[inputs["benchmarks"]] else None,
            **evaluation,
        )

    def _find_damage(self, step: Step) -> str:
        """What is wrong with a stored step; of large files that a report does not read only what costs no reading."""
        if step not in self._damage:
            self._damage[step] = ""
            files = READ_FILES.get(step.kind, ())
            if self._store.has(step.address):
                try:
                    self._store.check_result(step.address, files)
                except DataError as error:
                    self._damage[step] = str(error)
        return self._damage[step]

    def _stage(self, step: Step, stage: StageLog) -> StageLog:
        """A planned training step with its log and its achieved mix, where it is stored and undamaged."""
        if step not in self._stages:
            if self._store.has(step.address) and not self._find_damage(step):
                folder = self._store.path(step.address)
                try:
                    rows = read_training_log(folder / "log.jsonl", start_tokens=stage.start_tokens)
                    stage = replace(stage, rows=rows, achieved_mix=read_achieved_file(folder / "achieved.json"))
                except DataError as error:
                    self._damage[step] = str(error)
            self._stages[step] = stage
        return self._stages[step]

    def _evaluation(self, final: Step) -> dict[str, Any]:
        """Scores, answers and held-out questions as fields of an ArmResult; none without undamaged scores."""
        folder = self._store.path(final.address)
        if not self._store.has(final.address) or self._find_damage(final):
            return {}
        try:
            scores, answers = read_scores(folder), read_answers(folder / ANSWERS_FILE)
            heldout = _count_heldout(scores, answers, folder / ANSWERS_FILE)
            last = tuple(read_scores(folder / f"last-{number}") for number in range(final.spec.each_of_last))
        except DataError as error:
            self._damage[final] = str(error)
            return {}
        return {"scores": scores, "last_scores": last, "answers": answers, "heldout_questions": heldout}

    def _missing_reason(self, steps: Sequence[Step]) -> str:
        """How the first step that is not stored and was begun has ended, if any."""
        for address in (step.address for step in steps if not self._store.has(step.address)):
            if address in self._ends:
                return f"{address} {self._ends[address]}"
            if reason := self._store.last_failure(address):
                return f"{address} failed: {last_line(reason)}"
        return "not run yet"


def _schedule_texts(arm: Arm) -> Iterator[str]:
    """The schedule of each stage of an arm as text."""
    for number, (stated, stage) in enumerate(zip(arm.stages, arm.resolved_stages(), strict=True), 1):
        assert isinstance(stated.schedule, LRSchedule) and isinstance(stage.schedule, ResolvedSchedule)  # as resolved
        early = early_evaluation(arm) if number == len(arm.stages) else ""
        yield "; ".join(filter(None, [schedule_text(stated.schedule, stage.schedule, stage.rounded_tokens), early]))


def planned_stages(arm: Arm, graph: Graph) -> dict[Step, StageLog]:
    """The training steps of an arm with what they will read, and the learning rates that they will have."""
    stages: dict[Step, StageLog] = {}
    start, schedules = arm.pretrain.tokens_at(arm.start), _schedule_texts(arm)
    for step in graph.arms[arm.label]:
        if step.kind == "pretrain":
            stages[step] = _planned_stage(step, 0, tokens=step.spec.tokens)
        elif step.kind in TRAINING_KINDS:
            tokens = step.spec.rounded_tokens
            stages[step] = _planned_stage(step, start, tokens=tokens, mix=str(step.spec.mix), schedule=next(schedules))
            start += tokens
    return stages


@lru_cache(maxsize=4096)  # the segments of a trunk are steps of all its arms
def _planned_rows(step: Step, first: int) -> tuple[Mapping[str, float], ...]:
    return tuple({"seen": float(first + tokens), "lr": rate} for tokens, rate in planned_rates(step.spec))


def _planned_stage(step: Step, first: int, **texts: Any) -> StageLog:
    planned = _planned_rows(step, first)
    names = {"kind": cast(StageKind, step.kind), "address": step.address}
    return StageLog(**names, start_tokens=first, planned=planned, **texts)


def _count_heldout(scores: Scores, answers: pl.DataFrame, path: Path) -> Mapping[str, int]:
    """The number of held-out questions of each task; DataError where the answers are not those that were scored."""
    tasks, blind, heldout = (answers.get_column(name).to_list() for name in ("task", "blind", "heldout"))
    counts = Counter(zip(tasks, blind, strict=True))
    for name, task in scores.tasks.items():
        for is_blind, score in ((False, task.score), (True, task.blind)):
            wanted, got = 0 if score is None else task.n, counts[name, is_blind]
            if got != wanted:
                condition = "without" if is_blind else "with"
                raise DataError(
                    f"{path}: wanted {wanted} answers to {name} {condition} the image, as in scores.json. Got {got}. "
                    "Delete the folder of this step and run again to evaluate it once more."
                )
    return Counter(
        t for t, is_blind, is_heldout in zip(tasks, blind, heldout, strict=True) if is_heldout and not is_blind
    )
