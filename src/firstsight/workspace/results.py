"""From the store to the report: what is there of each arm, and why the rest is not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from firstsight.cli import terminal
from firstsight.errors import StoreError
from firstsight.plan import estimate
from firstsight.plan.graph import MODEL_KINDS, Graph, render_tree
from firstsight.plan.scheduler import Summary
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.recipe.stages import Midtrain
from firstsight.recipe.study import Arm, Study
from firstsight.report.pages import report_page
from firstsight.report.results import ArmResult, StageLog, StudyFacts
from firstsight.workspace.run import site
from firstsight.workspace.source_ids import known_graph


def write_report(study: Study, out: Path) -> None:
    """Write the report from what is stored under `out`; StoreError where nothing is."""
    if not (out / "store.json").is_file():
        raise StoreError(f"nothing is stored under {out}. Run the study first, or name its folder with --out.")
    terminal.lines([f"report: {tell_study(study, Store(out), steps=known_graph(study, site()), summary=None)}"])


def tell_study(study: Study, store: Store, *, steps: Graph, summary: Summary | None) -> Path:
    """Write the report of a study, finished or not; the path of its page."""
    folder = store.root / "reports" / f"{study.name}-{study.scale}"
    arms = results(study, store, steps=steps, summary=summary)
    return report_page.write(arms, study=_facts(study, steps, store), folder=folder)


def results(study: Study, store: Store, *, steps: Graph, summary: Summary | None = None) -> list[ArmResult]:
    """What the store holds of each arm, and why it holds no more."""
    return [_result(arm, steps, store, summary) for arm in study.arms]


def _result(arm: Arm, steps: Graph, store: Store, summary: Summary | None) -> ArmResult:
    """What the store holds of one arm."""
    final = steps.final_step(arm.label)
    needs = {role: parent.address for role, parent in final.needs}
    there = store.has(final.address)
    benchmarks = store.path(needs["benchmarks"])
    return ArmResult(
        name=arm.name,
        label=arm.label,
        seed=arm.seed,
        start=arm.start,
        schedule=_schedule(arm),
        address=final.address,
        stages=tuple(_stages(arm, steps.arms[arm.label], store)),
        scores=_json(store.path(final.address) / "scores.json") if there else None,
        missing_reason="" if there else _missing(arm, summary),
        answers_path=store.path(final.address) / "answers.jsonl" if there else None,
        benchmarks_dir=benchmarks if benchmarks.is_dir() else None,
        achieved_mix=_json(store.path(needs["checkpoint"]) / "achieved.json"),
    )


def _schedule(arm: Arm) -> Any:
    if not arm.stages:
        return "trunk"
    mid = [stage for stage in arm.stages if isinstance(stage, Midtrain)]
    return mid[0].schedule.TAG if mid else "none"


def _stages(arm: Arm, steps: Sequence[Step], store: Store) -> Iterator[StageLog]:
    """The steps that trained the arm's model; a trunk's segments share one clock, every later stage has its own."""
    begins = arm.pretrain.tokens_at(arm.start)
    for step in steps:
        if step.kind not in MODEL_KINDS or step.kind == "evaluate":
            continue
        log = store.path(step.address) / "log.jsonl"
        since = 0 if step.kind == "pretrain" else begins
        yield StageLog(
            kind=step.kind, address=step.address, start_tokens=since, log_path=log if log.is_file() else None
        )
        if step.kind != "pretrain":
            begins += step.spec.row_shape.round_up(step.spec.tokens)


def _missing(arm: Arm, summary: Summary | None) -> str:
    """Why an arm has no scores."""
    for failure in summary.failed if summary else ():
        if arm.label in failure.arms:
            return f"{failure.step.address} failed: {(failure.reason.strip().splitlines() or ['no reason given'])[-1]}"
    return "not run yet"


def _facts(study: Study, steps: Graph, store: Store) -> StudyFacts:
    """The study as a whole, from its plan and from the notes of what is stored."""
    notes = [store.provenance(step.address) for step in steps.steps if store.has(step.address)]
    place = site()
    priced = estimate.estimate_cost(
        steps, estimate.device_spec("cpu" if place.device == "cpu" else "h100", utilisation=0.4)
    )
    benchmarks = {type(arm.evaluate.benchmarks) for arm in study.arms}
    return StudyFacts(
        name=study.name,
        scale=study.scale,
        question=study.question,
        plan_tree="\n".join(render_tree(steps, store.addresses())),
        cost_estimate=terminal.aligned(estimate.estimate_table(priced)),
        provenance=_provenance(notes),
        device=place.device,
        compute_seconds=busy([(note["started"], note["ended"]) for note in notes]),
        is_builtin_scale=SyntheticBenchmarks in benchmarks,
        uses_openmoji=SyntheticBenchmarks in benchmarks,
    )


def _provenance(notes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Code, packages and machines that made the results; several are joined."""
    found: dict[str, dict[str, None]] = {}
    for note in notes:
        told = {"commit": note["code"]["commit"], "python": note["code"]["python"], **note["code"]["packages"]}
        for name, value in {**told, "host": note["host"], "machine": note["machine"]}.items():
            found.setdefault(name, {})[str(value or "none")] = None
    return {name: ", ".join(values) for name, values in found.items()}


def busy(spans: Sequence[tuple[str, str]]) -> float:
    """Seconds in which at least one of the spans (ISO times) was under way."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted(
        (datetime.fromisoformat(a).timestamp(), datetime.fromisoformat(b).timestamp()) for a, b in spans
    ):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
