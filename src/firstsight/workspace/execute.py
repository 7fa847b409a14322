"""Run steps: the handler of each kind of step, and worker processes."""

from __future__ import annotations

import os
from pathlib import Path

from firstsight.errors import QuantityError
from firstsight.plan.executor import LocalExecutor
from firstsight.plan.graph import Graph
from firstsight.plan.scheduler import RunSummary, run
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.site import Site
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay
from firstsight.workspace.sources import download_models, external_sources

HANDLERS: dict[str, str] = {
    "vocabulary": "firstsight.synthetic:write_vocabulary",
    "texts": "firstsight.synthetic:write_texts",
    "captions": "firstsight.synthetic:write_captions",
    "dialogues": "firstsight.synthetic:write_dialogues",
    "interleaved": "firstsight.synthetic:write_interleaved",
    "multitask": "firstsight.synthetic:write_multitask",
    "benchmarks": "firstsight.synthetic:write_benchmarks",
    "prepare": "firstsight.data.prepare:prepare",
    "contrast": "firstsight.train.encoder:train_contrastive",
    "encode": "firstsight.train.encoder:encode_features",
    "pretrain": "firstsight.train.handlers:pretrain",
    "midtrain": "firstsight.train.handlers:train_stage",
    "finetune": "firstsight.train.handlers:train_stage",
    "evaluate": "firstsight.evaluate.harness:evaluate",
}
"""The function (`module:function`) that does each kind of step; only worker processes import it."""


def run_graph(
    graph: Graph, store: Store, *, site: Site, jobs: int | None = None, display: ProgressDisplay = NO_DISPLAY
) -> RunSummary:
    """Run the steps of a graph that are not stored, `jobs` at once (default: one a core, or one on a GPU).

    KeyboardInterrupt ends the worker processes; the next run resumes their steps.
    """
    site = download_models(external_sources(graph), site)
    if jobs is None:
        jobs = len(os.sched_getaffinity(0)) if site.device == "cpu" else 1
    if jobs < 1:
        raise QuantityError(f"--jobs: wanted at least 1. Got {jobs}.")
    with LocalExecutor(jobs, site) as executor, display.steps(len(graph.steps)) as on_event:
        return run(graph, store, site=site, executor=executor, handlers=HANDLERS, on_event=on_event)


def run_step(step: Step, store: Store, *, site: Site, display: ProgressDisplay = NO_DISPLAY) -> Path:
    """The folder of a step's result; the step and what it needs are run if it is not stored."""
    if not store.has(step.address):
        steps = (*(parent for _, parent in step.needs), step)
        graph = Graph(title=step.address, steps=steps, arms={step.kind: steps}, seeds={step.kind: 0})
        run_graph(graph, store, site=site, jobs=1, display=display).check()
    return store.path(step.address)
