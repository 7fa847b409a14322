"""Run steps: the handler of each kind of step, worker processes, and how a caller follows the progress."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

from firstsight.errors import QuantityError
from firstsight.plan.executor import LocalExecutor
from firstsight.plan.graph import Graph
from firstsight.plan.scheduler import EventCallback, RunSummary, run
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.site import ProgressCallback
from firstsight.workspace.sources import current_site, download_models, external_sources

HANDLERS: dict[str, str] = {
    "vocabulary": "firstsight.synthetic:write_vocabulary",
    "texts": "firstsight.synthetic:write_texts",
    "captions": "firstsight.synthetic:write_captions",
    "dialogues": "firstsight.synthetic:write_dialogues",
    "interleaved": "firstsight.synthetic:write_interleaved",
    "multitask": "firstsight.synthetic:write_multitask",
    "benchmarks": "firstsight.synthetic:write_benchmarks",
    "prepare": "firstsight.data.prepare:prepare",
    "contrast": "firstsight.train.contrastive:train_contrastive",
    "encode": "firstsight.train.encode:encode_features",
    "pretrain": "firstsight.train.handlers:pretrain",
    "midtrain": "firstsight.train.handlers:train_stage",
    "finetune": "firstsight.train.handlers:train_stage",
    "evaluate": "firstsight.evaluate.harness:evaluate",
}
"""The function (`module:function`) that does each kind of step; only worker processes import it."""


@runtime_checkable
class ProgressDisplay(Protocol):
    """Shows progress. Both methods give a context manager, to be entered during the work, with a callback."""

    def task(self, name: str) -> AbstractContextManager[ProgressCallback]:
        """For one piece of work: a source that is prepared, a checkpoint that is evaluated or imported."""
        return nullcontext(lambda progress: None)

    def steps(self, count: int) -> AbstractContextManager[EventCallback]:
        """For a run of `count` steps."""
        return nullcontext(lambda event: None)


class NoDisplay(ProgressDisplay):
    """A display that shows nothing."""


NO_DISPLAY = NoDisplay()


def run_graph(
    graph: Graph, store: Store, *, jobs: int | None = None, display: ProgressDisplay = NO_DISPLAY
) -> RunSummary:
    """Run the steps of a graph that are not stored, `jobs` at once (default: one a core, or one on a GPU).

    KeyboardInterrupt ends the worker processes; the next run resumes their steps.
    """
    site = download_models(external_sources(graph), current_site())
    if jobs is None:
        jobs = len(os.sched_getaffinity(0)) if site.device == "cpu" else 1
    if jobs < 1:
        raise QuantityError(f"--jobs: wanted at least 1. Got {jobs}.")
    with LocalExecutor(jobs, site) as executor, display.steps(len(graph.steps)) as on_event:
        return run(graph, store, site=site, executor=executor, handlers=HANDLERS, on_event=on_event)


def run_step(step: Step, store: Store, *, display: ProgressDisplay = NO_DISPLAY) -> Path:
    """The folder of a step's result; the step and what it needs are run if it is not stored."""
    if not store.has(step.address):
        steps = (*(parent for _, parent in step.needs), step)
        graph = Graph(title=step.address, steps=steps, arms={step.kind: steps}, seeds={step.kind: 0})
        run_graph(graph, store, jobs=1, display=display).check()
    return store.path(step.address)


def last_line(reason: str) -> str:
    """The last line of an error message, which names the cause."""
    return (reason.strip().splitlines() or ["no reason given"])[-1]
