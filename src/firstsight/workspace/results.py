"""Run a study to its report, and collect what is stored of it: the results of each arm, or why they are missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from firstsight.errors import DataError, StoreError, UnknownName
from firstsight.evaluate.result_files import ANSWERS_FILE, read_scores
from firstsight.plan import estimate
from firstsight.plan.graph import Graph, build_graph, render_tree
from firstsight.plan.scheduler import EXTERNAL_KIND, RunSummary
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.recipe.schedule import SameCurve
from firstsight.recipe.stages import Midtrain
from firstsight.recipe.study import Arm, Study
from firstsight.report.results import ArmResult, StageLog, StudyInfo
from firstsight.workspace.execute import NO_DISPLAY, ProgressDisplay, last_line, run_graph, run_step
from firstsight.workspace.resolve import existing_store
from firstsight.workspace.sources import current_site, local_path
from firstsight.workspace.study_graph import prepare_study, resolve_graph


def run_study(
    study: Study, *, out: Path, jobs: int | None = None, executor: str = "local", display: ProgressDisplay = NO_DISPLAY
) -> tuple[RunSummary, Path]:
    """Run every step of a study that is not stored under `out`; how the run ended, and the path of the report."""
    if executor != "local":
        raise UnknownName("executor", executor, ["local"])
    store, graph = prepare_study(study, out=out, jobs=jobs, display=display)
    summary = run_graph(graph, store, jobs=jobs, display=display)
    return summary, _write_report(study, store, graph, summary)


def write_report(study: Study, out: Path) -> Path:
    """Write the report of a study, finished or not, from what is stored under `out`; the path of its page."""
    store = open_store(out)
    return _write_report(study, store, resolve_graph(study, current_site()), None)


def _write_report(study: Study, store: Store, graph: Graph, summary: RunSummary | None) -> Path:
    from firstsight.report.pages import report_page  # its figures take a second to import

    folder = store.root / "reports" / f"{study.name}-{study.scale}"
    arms = collect_results(study, store, graph, summary=summary)
    return report_page.write(arms, study=_study_info(study, graph, store), folder=folder)


def open_store(out: Path) -> Store:
    """The store under `out`; StoreError where there is none yet."""
    if store := existing_store(out):
        return store
    raise StoreError(f"nothing is stored under {out}. Run the study first, or name its folder with --out.")


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
    folder, scores = store.path(final.address), None
    if store.has(final.address):
        try:
            scores = read_scores(folder)
        except DataError as error:
            missing_reason = str(error)
    image_phase = [stage for stage in arm.stages if isinstance(stage, Midtrain)]
    curves = (stage.schedule for stage in (*image_phase, *arm.stages) if not isinstance(stage.schedule, SameCurve))
    schedules: list[Any] = [curve.TAG for curve in curves] if image_phase else ["none"]
    return ArmResult(
        name=arm.name,
        label=arm.label,
        seed=arm.seed,
        start=arm.start,
        schedule=schedules[0] if arm.stages else "trunk",
        address=final.address,
        stages=tuple(_stage_logs(arm, graph.arms[arm.label], store)),
        scores=scores,
        missing_reason="" if scores else missing_reason,
        answers_path=folder / ANSWERS_FILE if scores else None,
        benchmarks_dir=inputs["benchmarks"] if inputs["benchmarks"].is_dir() else None,
        achieved_mix=_read_json(inputs["checkpoint"] / "achieved.json"),
    )


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


def _study_info(study: Study, graph: Graph, store: Store) -> StudyInfo:
    records = [store.provenance(step.address) for step in graph.steps if store.has(step.address)]
    device = current_site().device
    costs = estimate.estimate_cost(graph, estimate.DeviceSpec("cpu" if device == "cpu" else "h100", utilisation=0.4))
    is_builtin = any(isinstance(arm.evaluate.benchmarks, SyntheticBenchmarks) for arm in study.arms)
    return StudyInfo(
        name=study.name,
        scale=study.scale,
        question=study.question,
        plan_tree="\n".join(render_tree(graph, store.addresses())),
        cost_estimate=_align(estimate.estimate_table(costs)),
        provenance=_provenance(records),
        device=device,
        compute_seconds=busy_seconds([(record["started"], record["ended"]) for record in records]),
        horizon=study.horizon,
        is_builtin_scale=is_builtin,
        uses_openmoji=is_builtin,
    )


def _align(rows: Sequence[Sequence[str]]) -> str:
    first_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join("  ".join([row[0].ljust(first_width), *map(str.rjust, row[1:], widths)]).rstrip() for row in rows)


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


def benchmarks_folder(study: Study, store: Store, *, display: ProgressDisplay = NO_DISPLAY) -> Path:
    """The study's benchmarks: written to the store if they are built-in, at the site's location if they are named."""
    graph = build_graph(study)
    finals = (graph.final_step(label) for label in graph.arms)
    step = next(parent for final in finals for role, parent in final.needs if role == "benchmarks")
    if step.kind != EXTERNAL_KIND:
        return run_step(step, store, display=display)
    return local_path(step.spec)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}
