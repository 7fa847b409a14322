"""Collect what is stored of a study, the results of each arm or why they are missing, and write its report.

A study that runs, here or in another process, is followed from what its store contains.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstsight.errors import DataError, RequestError
from firstsight.evaluate.statistics.differences import FAMILY_ALPHA
from firstsight.plan import estimate
from firstsight.plan.graph import render_tree
from firstsight.plan.scheduler import EXTERNAL_KIND, RunSummary
from firstsight.plan.schedules import stage_table, training_lines
from firstsight.plan.step import TRAINING_KINDS, Step, differences_of_pairs
from firstsight.plan.store import Store
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.recipe.scales import plan_assumptions
from firstsight.recipe.study import Study
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.collect import collect_results, planned_stages
from firstsight.report.power import assumed_power_report, combined_power_report, power_report
from firstsight.report.results import (
    MAX_COMPARED_ARMS,
    ArmResult,
    RunInfo,
    RunState,
    damage_by_arms,
)
from firstsight.workspace.decisions.next_runs import cheapest_runs
from firstsight.workspace.execute import run_step
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay
from firstsight.workspace.sources import local_path
from firstsight.workspace.study_graph import StoredStudy
from firstsight.workspace.study_plan import align_table

if TYPE_CHECKING:
    from firstsight.report.figures import StudyChart


POLL_SECONDS = 5.0
PROGRESS_SECONDS = 30.0
"""The page is written again after that time where only the progress of running steps has changed."""
RECENT_SECONDS = 60.0
"""A step whose files have not changed for that long is not called running."""
LOG_TAIL_BYTES = 4096


class StudyResults(StudyAnalysis):
    """What is stored of a study, finished or not, as values for a script or a notebook."""

    def __init__(self, stored: StoredStudy, summary: RunSummary | None = None) -> None:
        """`summary` of the last run says what failed in it; without one, the store does."""
        self.parts = [StudyResults(part, summary) for part in stored.parts]
        """The results of the parts of a combined study."""
        arms = collect_results(stored.study, stored.open_store(), stored.graph, summary=summary)
        super().__init__(arms, stored.study, rule="sequential" if stored.record else "fixed")
        self._stored = stored

    def __repr__(self) -> str:
        count = sum(arm.scores is not None for arm in self.arms)
        return f"{self.study.name} at {self.study.scale}: scores of {count} of {len(self.arms)} arms"

    @cached_property
    def answer(self) -> str:
        """The report's first sentence (`report.summary.answer_sentence`); of a combined study how many are done."""
        if self.parts:
            done = sum(all(arm.scores is not None for arm in part.arms) for part in self.parts)
            return f"{done} of {len(self.parts)} studies have the scores of all their arms."
        return super().answer

    @cached_property
    def next_runs(self) -> dict[str, str]:
        """What to run to decide each undecided claim at the least cost, as a sentence by the claim's name."""
        return cheapest_runs(self._stored, self)

    def figure(self, name: str = "stable") -> StudyChart:
        """A chart of the report, shown by a notebook: stable, tasks, heat, schedules, losses; the study's name is main.

        Raises UnknownName for a chart that does not exist, and RequestError for one without results yet.
        """
        from firstsight.report.figures import draw_figure  # takes a second to import

        return draw_figure(self, name)

    def power(
        self, effect: float, *, kind: str = "vision", power: float = 0.8
    ) -> tuple[list[str], list[tuple[str, ...]]]:
        """The seeds or questions needed to detect a difference of `effect` points between two arms with probability
        `power`: lines of text, and a table of the smallest detectable differences with a header row.

        `kind` is the stable score: vision or text. Before two seeds are stored the noise is that which the scale
        assumes, if it does; RequestError otherwise. Of a combined study the table has a row for each part.
        """
        _check_power_request(effect, kind=kind, power=power)
        options = {"effect": effect / 100, "kind": kind, "power": power}
        if self.parts:
            return combined_power_report({part.study.name: (part.arms, part.scores) for part in self.parts}, **options)
        try:
            return power_report(self.arms, self.scores, **options)
        except RequestError:
            if (assumed := assumed_power(self.study, effect, kind=kind, power=power)) is None:
                raise
            return assumed

    def problem_lines(self) -> Iterator[str]:
        """What a report of these results lacks, as text for the terminal: arms without scores, and damage."""
        missing = [arm for arm in self.arms if arm.scores is None]
        if missing:
            reasons = "; ".join(dict.fromkeys(arm.missing_reason for arm in missing))
            yield f"{len(missing)} of {len(self.arms)} arms have no scores: {reasons}"
        for line, labels in damage_by_arms(self.arms).items():
            if all(line != arm.missing_reason for arm in missing):
                yield f"damaged, in {len(labels)} of {len(self.arms)} arms: {line}"

    def write_report(self, state: RunState | None = None) -> Path:
        """Write report.html with its figures and tables, finished or not; the path of the page.

        That of a combined study is an index of the reports of its parts, which are written too. With the `state` of a
        run that goes on, the page reads itself again.
        """
        from firstsight.report.pages import index_page, report_page  # its figures take a second to import

        stored = self._stored
        run = replace(run_info(stored), state=state, next_runs=self.next_runs)
        folder = stored.open_store().root / "reports" / f"{self.study.name}-{self.study.scale}"
        if self.parts:
            entries = [
                index_page.IndexEntry(
                    study=part.study,
                    answer=part.answer,
                    claims=part.claims,
                    next_runs=part.next_runs,
                    page=part.write_report(),
                )
                for part in self.parts
            ]
            return index_page.write(entries, study=self.study, run=run, folder=folder)
        return report_page.write(self, run=run, folder=folder)


def learning_rates(stored: StoredStudy, path: Path | None = None) -> StudyChart:
    """The learning rates of a study by its plan, which needs no run; written to `path`, .svg or .png, where given."""
    from firstsight.report.figures.curves import learning_rate_chart, planned_curves  # takes a second to import
    from firstsight.report.pages.report_page import write_figure

    if path is not None and path.suffix not in (".svg", ".png"):
        raise RequestError(f"--figure: wanted a file that ends in .svg or .png. Got {path}.")
    chart = learning_rate_chart(planned_curves(list(_planned_arms(stored))), stored.study)
    if path is not None:
        write_figure(chart, "schedules", study=stored.study, path=path)
    return chart


def _planned_arms(stored: StoredStudy) -> Iterator[ArmResult]:
    for arm in stored.study.arms:
        stages = tuple(planned_stages(arm, stored.graph).values())
        address = stored.graph.final_step(arm.label).address
        names = {"name": arm.name, "label": arm.label, "seed": arm.seed, "group": arm.group, "role": arm.role}
        yield ArmResult(**names, address=address, stages=stages)


def _recipe_differences(study: Study) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """The fields in which each two arms of a study differ at one seed; none of more than MAX_COMPARED_ARMS arms."""
    arms = {arm.name: arm.with_seed(study.arms[0].seed) for arm in study.arms}
    if len(arms) > MAX_COMPARED_ARMS:
        return {}
    pairs = differences_of_pairs({name: replace(arm, stages=arm.resolved_stages()) for name, arm in arms.items()})
    return {pair: [(field.path, *field.texts) for field in fields] for pair, fields in pairs.items()}


def assumed_power(
    study: Study, effect: float, *, kind: str = "vision", power: float = 0.8
) -> tuple[list[str], list[tuple[str, ...]]] | None:
    """`StudyResults.power` without results, by what the scale assumes; None where it assumes nothing of that kind."""
    _check_power_request(effect, kind=kind, power=power)
    assumptions, arms = plan_assumptions(study.scale), [arm for arm in study.arms if arm.evaluate.vision_tasks]
    if kind != "vision" or not assumptions.seed_deviation or not arms:
        return None
    questions = {task: estimate.question_count(arms[0].evaluate, task) for task in arms[0].evaluate.vision_tasks}
    counts = {"num_arms": len({arm.name for arm in arms}), "num_seeds": len({arm.seed for arm in arms})}
    return assumed_power_report(assumptions, questions, **counts, effect=effect / 100, power=power)


def _check_power_request(effect: float, *, kind: str, power: float) -> None:
    if not 0 < effect <= 100:  # neither is NaN
        raise RequestError(f"--effect: wanted points above 0, at most 100. Got {effect:g}.")
    if kind not in ("vision", "text"):
        raise RequestError(f"--kind: wanted vision or text. Got {kind!r}.")
    if not FAMILY_ALPHA < power < 1:
        rate = f"{FAMILY_ALPHA:g}, which a test at the 5 % level reaches without any effect"
        raise RequestError(f"--power: wanted a share below 1 and above {rate}. Got {power:g}.")


def run_info(stored: StoredStudy) -> RunInfo:
    """What a report says about the plan, the cost, the provenance and the looks at the claims of a study."""
    study, store, graph, site = stored.study, stored.open_store(), stored.graph, stored.site
    records, unreadable = [], []
    for step in graph.steps:
        if store.has(step.address):
            try:
                records.append(store.provenance(step.address))
            except DataError:
                unreadable.append(step.address)
    device = site.device
    assumed = plan_assumptions(study.scale)
    is_for_gpu = device != "cpu" and assumed.device != "cpu"
    spec = (assumed.device, assumed.utilisation) if is_for_gpu else ("cpu" if device == "cpu" else "h100", 0.4)
    costs = estimate.estimate_cost(graph, estimate.DeviceSpec(*spec))
    stages = align_table(stage_table(study))
    is_builtin = any(isinstance(arm.evaluate.benchmarks, SyntheticBenchmarks) for arm in study.arms)
    return RunInfo(
        plan_tree="\n".join([*render_tree(graph, store.addresses()), "", *training_lines(study), *stages]),
        cost_estimate="\n".join(align_table(estimate.estimate_table(costs))),
        provenance=_provenance(records) | ({"damaged record": ", ".join(unreadable)} if unreadable else {}),
        device=device,
        cache=site.cache,
        compute_seconds=busy_seconds([(record["started"], record["ended"]) for record in records]),
        is_builtin_scale=is_builtin,
        uses_openmoji=is_builtin,
        recipe_differences=_recipe_differences(study),
        looks=None if stored.record is None else tuple(map(str, stored.record.looks)),
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
    for start, end in sorted(tuple(datetime.fromisoformat(moment).timestamp() for moment in span) for span in spans):
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


def watch_report(
    load: Callable[[], StoredStudy], *, poll_seconds: float = POLL_SECONDS
) -> Iterator[tuple[RunState, Path]]:
    """Write the report when something was stored or has failed, or running steps have moved on; gives the state and the
    page each time. Ends when no arm can get further scores.

    `load` reads the study again: a run may add arms, or prepare sources. The last page does not read itself again; one
    is also written after KeyboardInterrupt and where the caller stops.
    """
    seen: tuple[object, ...] = ()
    written, state = 0.0, None
    try:
        while True:
            stored = load()
            state = run_state(stored)
            facts = (state.stored, state.total, _failures(stored))
            is_progress = state.running != (seen[-1] if seen else ()) and time.monotonic() - written > PROGRESS_SECONDS
            if not seen or facts != seen[:-1] or is_progress:
                results = StudyResults(stored)
                is_done = all(arm.scores is not None or arm.damage for arm in results.arms)
                page = results.write_report(None if is_done else state)
                seen, written = (*facts, state.running), time.monotonic()
                yield state, page
                if is_done:
                    return
            time.sleep(poll_seconds)
    except (KeyboardInterrupt, GeneratorExit):
        if state is not None:
            StudyResults(load()).write_report()
        raise


def run_state(stored: StoredStudy) -> RunState:
    """How many steps of a study are stored, and which ones are running."""
    store = stored.open_store()
    steps = [step for step in stored.graph.steps if step.kind != EXTERNAL_KIND]
    missing = [step for step in steps if not store.has(step.address)]
    running = (_running_text(step, store.work_path(step.address)) for step in missing)
    return RunState(stored=len(steps) - len(missing), total=len(steps), running=tuple(filter(None, running)))


def _failures(stored: StoredStudy) -> tuple[str, ...]:
    store = stored.open_store()
    return tuple(step.address for step in stored.graph.steps if store.last_failure(step.address))


def _running_text(step: Step, work: Path) -> str:
    """The name of a step whose working folder has changed lately, with its progress; else an empty text."""
    changed = 0.0
    with suppress(OSError):  # it may be published meanwhile
        changed = max(path.stat().st_mtime for path in (work, *work.iterdir()))
    if time.time() - changed > RECENT_SECONDS:
        return ""
    tokens = _logged_tokens(work / "log.jsonl") if step.kind in TRAINING_KINDS else None
    if tokens is None:
        return step.slug
    spec, start = step.spec, 0
    if step.kind == "pretrain":  # its log counts from the beginning of the trunk
        start = spec.pretrain.tokens_at(spec.start)
    total = spec.tokens if step.kind == "pretrain" else spec.rounded_tokens
    return f"{step.slug} {100 * min(max((tokens - start) / total, 0.0), 1.0):.0f} %"


def _logged_tokens(log: Path) -> float | None:
    """The tokens of the last whole line of a training log; None without one."""
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - LOG_TAIL_BYTES, 0))
            *lines, _ = file.read().split(b"\n")
        row: Any = json.loads(lines[-1])
        return float(row["seen"])
    return None
