"""Collect what is stored of a study, the results of each arm or why they are missing, and write its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from firstsight.errors import DataError, RequestError
from firstsight.evaluate.result_files import ANSWERS_FILE, Scores, iter_answers, read_scores
from firstsight.plan import estimate
from firstsight.plan.graph import Graph, render_tree
from firstsight.plan.scheduler import EXTERNAL_KIND, RunSummary
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.recipe.study import Arm, Study
from firstsight.report.claims import ClaimResult, evaluate_claims
from firstsight.report.compare import ArmComparison
from firstsight.report.power import power_report
from firstsight.report.results import ArmResult, RunInfo, StageLog, read_achieved_file, read_training_log
from firstsight.report.table import score_table
from firstsight.site import Site
from firstsight.workspace.execute import run_step
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay, last_line
from firstsight.workspace.sources import local_path
from firstsight.workspace.study_graph import StoredStudy
from firstsight.workspace.study_plan import align_table

if TYPE_CHECKING:
    from firstsight.report.figures import StudyChart


class StudyResults:
    """What is stored of a study, finished or not, as values for a script or a notebook."""

    def __init__(self, stored: StoredStudy) -> None:
        self.study = stored.study
        self.arms = collect_results(stored.study, stored.open_store(), stored.graph)
        """The results of each arm, or why they are missing."""

    def __repr__(self) -> str:
        count = sum(arm.scores is not None for arm in self.arms)
        return f"{self.study.name} at {self.study.scale}: scores of {count} of {len(self.arms)} arms"

    @cached_property
    def scores(self) -> pl.DataFrame:
        """All scores: one row for one arm, task and condition, with the columns of scores.csv."""
        return score_table(self.arms, self.study.axes)

    @cached_property
    def claims(self) -> list[ClaimResult]:
        """The claims of the study, tested on these results."""
        return evaluate_claims(self.study.claims, self.arms, ArmComparison(self.arms, self.scores))

    def figure(self, name: str = "stable") -> StudyChart:
        """A chart of the report, shown by a notebook: stable, tasks, heat, schedules, losses; the study's name is main.

        Raises UnknownName for a chart that does not exist, and RequestError for one without results yet.
        """
        from firstsight.report.figures import draw_figure  # takes a second to import

        return draw_figure(self.arms, self.study, name)

    def power(
        self, effect: float, *, kind: str = "vision", power: float = 0.8
    ) -> tuple[list[str], list[tuple[str, str]]]:
        """The seeds or questions needed to detect a difference of `effect` points between two arms with probability
        `power`: lines of text, and a table of the smallest detectable differences with a header row.

        `kind` is the stable score: vision or text.
        """
        if not 0 < effect <= 100:  # neither is NaN
            raise RequestError(f"--effect: wanted points above 0, at most 100. Got {effect:g}.")
        if kind not in ("vision", "text"):
            raise RequestError(f"--kind: wanted vision or text. Got {kind!r}.")
        if not 0 < power < 1:
            raise RequestError(f"--power: wanted a share between 0 and 1. Got {power:g}.")
        return power_report(self.arms, self.scores, effect=effect / 100, kind=kind, power=power)


def write_report(stored: StoredStudy, summary: RunSummary | None = None) -> Path:
    """Write the report of a study, finished or not, from what is stored; the path of its page.

    `summary` of the last run lists what failed in it.
    """
    from firstsight.report.pages import report_page  # its figures take a second to import

    store, study = stored.open_store(), stored.study
    folder = store.root / "reports" / f"{study.name}-{study.scale}"
    arms = collect_results(study, store, stored.graph, summary=summary)
    run = run_info(study, store, stored.graph, site=stored.site)
    return report_page.write(arms, study=study, run=run, folder=folder)


def collect_results(study: Study, store: Store, graph: Graph, *, summary: RunSummary | None = None) -> list[ArmResult]:
    """What is stored of each arm, and why the rest is missing: `summary` lists what failed in the last run."""
    reasons: dict[str, str] = {}
    for failure in summary.failed if summary else ():
        for label in failure.arms:
            reasons.setdefault(label, f"{failure.step.address} failed: {last_line(failure.reason)}")
    return [_arm_result(arm, graph, store, reasons.get(arm.label, "not run yet")) for arm in study.arms]


def _arm_result(arm: Arm, graph: Graph, store: Store, missing_reason: str) -> ArmResult:
    final = graph.final_step(arm.label)
    inputs = {role: store.path(parent.address) for role, parent in final.needs}
    stages, damage = _readable_stages(_stage_logs(arm, graph.arms[arm.label], store))
    scores, folder, heldout = None, store.path(final.address), Counter[str]()
    achieved: Mapping[str, Any] = {}
    try:
        achieved = read_achieved_file(inputs["checkpoint"] / "achieved.json")
        if store.has(final.address):
            scores = read_scores(folder)
            heldout = _count_heldout(scores, folder / ANSWERS_FILE)
        for step in graph.arms[arm.label]:
            if store.has(step.address):
                store.provenance(step.address)
    except DataError as error:
        damage = damage or str(error)
    scores = None if damage else scores
    return ArmResult(
        name=arm.name,
        label=arm.label,
        seed=arm.seed,
        address=final.address,
        at=arm.at,
        group=arm.group,
        role=arm.role,
        stages=stages,
        scores=scores,
        missing_reason="" if scores else damage or missing_reason,
        is_damaged=bool(damage),
        heldout_questions=heldout,
        answers_path=folder / ANSWERS_FILE if scores else None,
        benchmarks_dir=inputs["benchmarks"] if inputs["benchmarks"].is_dir() else None,
        achieved_mix=achieved,
    )


def _readable_stages(stages: Iterable[StageLog]) -> tuple[tuple[StageLog, ...], str]:
    """The stages, without the log where a file of the stage is damaged, and the first damage as a sentence."""
    readable, damages = [], []
    for stage in stages:
        try:
            read_training_log(stage)
            if stage.log_path and stage.kind == "midtrain":
                read_achieved_file(stage.log_path.with_name("achieved.json"))
            readable.append(stage)
        except DataError as error:
            damages.append(str(error))
            readable.append(replace(stage, log_path=None))
    return tuple(readable), next(iter(damages), "")


def _count_heldout(scores: Scores, path: Path) -> Counter[str]:
    """The number of held-out questions of each task; DataError where the answers are not those that were scored."""
    advice = "Delete the folder of this step and run again to evaluate it once more."
    if not path.is_file():
        raise DataError(f"{path}: wanted the answers that were scored. Got no such file. {advice}")
    counts, heldout = Counter[tuple[str, bool]](), Counter[str]()
    for _, answer in iter_answers(path):
        counts[answer.task, answer.blind] += 1
        heldout[answer.task] += not answer.blind and "heldout" in dict(answer.tags).values()
    for name, task in scores.tasks.items():
        for is_blind, score in ((False, task.score), (True, task.blind)):
            wanted, got = 0 if score is None else task.n, counts[name, is_blind]
            if got != wanted:
                condition = "without" if is_blind else "with"
                raise DataError(
                    f"{path}: wanted {wanted} answers to {name} {condition} the image, as in scores.json. Got {got}. "
                    f"{advice}"
                )
    return heldout


def _stage_logs(arm: Arm, steps: Sequence[Step], store: Store) -> Iterator[StageLog]:
    """The training steps of an arm; the trunk's segments count tokens from 0, each later stage from its own start."""
    start = arm.pretrain.tokens_at(arm.start)
    for step in steps:
        if step.kind not in ("pretrain", "midtrain", "finetune"):
            continue
        path, is_trunk = store.path(step.address) / "log.jsonl", step.kind == "pretrain"
        log, begin = path if path.is_file() else None, 0 if is_trunk else start
        yield StageLog(kind=step.kind, address=step.address, start_tokens=begin, log_path=log)
        if not is_trunk:
            start += step.spec.rounded_tokens


def run_info(study: Study, store: Store, graph: Graph, *, site: Site) -> RunInfo:
    """What a report says about the plan, the cost and the provenance of a study."""
    records, unreadable = [], []
    for step in graph.steps:
        if store.has(step.address):
            try:
                records.append(store.provenance(step.address))
            except DataError:
                unreadable.append(step.address)
    device = site.device
    costs = estimate.estimate_cost(graph, estimate.DeviceSpec("cpu" if device == "cpu" else "h100", utilisation=0.4))
    is_builtin = any(isinstance(arm.evaluate.benchmarks, SyntheticBenchmarks) for arm in study.arms)
    return RunInfo(
        plan_tree="\n".join(render_tree(graph, store.addresses())),
        cost_estimate="\n".join(align_table(estimate.estimate_table(costs))),
        provenance=_provenance(records) | ({"damaged record": ", ".join(unreadable)} if unreadable else {}),
        device=device,
        compute_seconds=busy_seconds([(record["started"], record["ended"]) for record in records]),
        is_builtin_scale=is_builtin,
        uses_openmoji=is_builtin,
    )


def _provenance(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The code, packages and machines that made the results; several values are joined by commas."""
    values: dict[str, dict[str, None]] = {}
    for record in records:
        code = {"commit": record["code"]["commit"], "python": record["code"]["python"], **record["code"]["packages"]}
        for name, value in {**code, "host": record["host"], "machine": record["machine"]}.items():
            values.setdefault(name, {})[str(value or "none")] = None
    return {name: ", ".join(distinct) for name, distinct in values.items()}


def busy_seconds(spans: Sequence[tuple[str, str]]) -> float:
    """Seconds that at least one of the spans (start and end as ISO times) covers."""
    total, covered_until = 0.0, float("-inf")
    for start, end in sorted(tuple(datetime.fromisoformat(time).timestamp() for time in span) for span in spans):
        total += max(0.0, end - max(start, covered_until))
        covered_until = max(covered_until, end)
    return total


def benchmarks_folder(stored: StoredStudy, *, display: ProgressDisplay = NO_DISPLAY) -> Path:
    """The study's benchmarks: written to the store if they are built-in, at the site's location if they are named."""
    finals = (stored.graph.final_step(label) for label in stored.graph.arms)
    step = next(parent for final in finals for role, parent in final.needs if role == "benchmarks")
    if step.kind != EXTERNAL_KIND:
        return run_step(step, Store(stored.root), site=stored.site, display=display)
    return local_path(step.spec, stored.site)
