"""Run steps: the handler of each kind of step, and worker processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from firstsight.errors import QuantityError
from firstsight.launch import launched
from firstsight.plan.graph import Graph
from firstsight.plan.scheduler import RunSummary, missing_steps, run
from firstsight.plan.step import Step
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.store import Store
from firstsight.resume_folder import UNFINISHED_FILES
from firstsight.site import Site
from firstsight.track import check_trackers
from firstsight.workspace.executors import start_executor
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay
from firstsight.workspace.sources import check_machine, download_models, external_sources

_DIALOGUES = ("dialogues.json", "images.tar")
_INDEX_FILES = (
    *(f"{name}.npy" for name in ("samples", "shown", "tokens", "loss", "images")),
    *("shards.json", "read.json", "manifest.json", "quarantine.jsonl"),
)
_TRAINING_RECORDS = ("log.jsonl", "ledger.json", "ledger.npy", "achieved.json")


def _training_handler(function: str) -> StepHandler:
    """A step that trains the decoder: a checkpoint, what was read for it, and resume points."""
    return StepHandler(
        function=function,
        outputs=("model*.safetensors", "optimizer*.safetensors", "spec.json", "tokenizer.json", *_TRAINING_RECORDS),
        optional=("model.safetensors.index.json", "optimizer.safetensors.index.json", "encoder*/**", "last-*/**"),
        unfinished=UNFINISHED_FILES,
    )


HANDLERS: dict[str, StepHandler] = {
    "vocabulary": StepHandler(function="firstsight.synthetic:write_vocabulary", outputs=("tokenizer.json",)),
    "texts": StepHandler(function="firstsight.synthetic:write_texts", outputs=("text-*.jsonl.zst",)),
    "captions": StepHandler(function="firstsight.synthetic:write_captions", outputs=("*.tar",)),
    "dialogues": StepHandler(function="firstsight.synthetic:write_dialogues", outputs=_DIALOGUES),
    "interleaved": StepHandler(
        function="firstsight.synthetic:write_interleaved", outputs=("documents-*.jsonl.zst", "images-*.tar")
    ),
    "multitask": StepHandler(function="firstsight.synthetic:write_multitask", outputs=_DIALOGUES),
    "benchmarks": StepHandler(
        function="firstsight.synthetic:write_benchmarks", outputs=("images.tar", "*/*.json", "*/*.jsonl")
    ),
    "prepare": StepHandler(
        function="firstsight.data.prepare:prepare",
        outputs=_INDEX_FILES,
        unfinished=(*_INDEX_FILES, "complete.json", "parts/**", "refused.json"),
    ),
    "contrast": StepHandler(
        function="firstsight.train.encoder:train_contrastive",
        outputs=("model*.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json"),
        optional=("model.safetensors.index.json",),
    ),
    "encode": StepHandler(
        function="firstsight.train.encoder:encode_features", outputs=("features*.npy",), unfinished=UNFINISHED_FILES
    ),
    "pretrain": _training_handler("firstsight.train.handlers:pretrain"),
    "midtrain": _training_handler("firstsight.train.handlers:train_stage"),
    "finetune": _training_handler("firstsight.train.handlers:train_stage"),
    "evaluate": StepHandler(
        function="firstsight.evaluate.harness:evaluate",
        outputs=("answers.jsonl", "scores.json"),
        optional=("last-*/scores.json",),
        unfinished=("sheets/**", "sheets.damaged-*", "sheets.damaged-*/**"),
    ),
}
"""What does each kind of step and what it may leave; only worker processes import the functions."""


def run_graph(
    graph: Graph,
    store: Store,
    *,
    site: Site,
    jobs: int | None = None,
    executor: str = "local",
    display: ProgressDisplay = NO_DISPLAY,
) -> RunSummary:
    """Run the steps of a graph that are not stored, `jobs` at once (default: one a core, or one on a GPU).

    On a cluster (`executor`: slurm or ray) all that are ready, by default. KeyboardInterrupt ends the worker processes;
    the next run resumes their steps. Under torchrun all processes train one step after the other.
    """
    site = download_models(external_sources(graph), site)
    if (launch := launched()) is not None:
        site, jobs = replace(site, processes=launch.world_size, gpus=0), 1
    missing = missing_steps(graph, store)
    check_processes(sorted(missing, key=lambda step: step.address), site.processes)
    if executor == "local":
        jobs = worker_count(site, jobs)
        check_trackers(site.track)
        if missing:
            check_machine(site)
    workers = jobs or max(1, len(graph.steps))
    steps = start_executor(executor, workers=workers, site=site, store=store)
    with steps as running, display.steps(len(graph.steps)) as on_event:
        return run(graph, store, site=site, executor=running, handlers=HANDLERS, on_event=on_event)


def check_processes(steps: Iterable[Step], processes: int) -> None:
    """QuantityError where the rows of a training step cannot be divided among its processes."""
    for step in steps:
        shape = getattr(step.spec, "row_shape", None) or getattr(
            getattr(step.spec, "pretrain", None), "row_shape", None
        )
        if shape is not None and shape.batch_size % processes:
            counts = ", ".join(str(n) for n in range(1, shape.batch_size + 1) if shape.batch_size % n == 0)
            rows = f"the {shape.batch_size} rows of an update of {step.address}"
            raise QuantityError(f"--processes: wanted a number that divides {rows}: {counts}. Got {processes}.")


def worker_count(site: Site, jobs: int | None) -> int:
    """How many steps run at once: `jobs`, by default one for each group of `site.processes` cores or shared-out GPUs.

    One on GPUs that are not shared out. QuantityError below 1, and above what the GPUs allow.
    """
    most = site.gpus // site.processes
    if site.gpus and not most:
        raise QuantityError(f"processes: wanted at most the {site.gpus} GPUs of the site. Got {site.processes}.")
    if jobs is None:
        return max(1, len(os.sched_getaffinity(0)) // site.processes) if site.device == "cpu" else most or 1
    if jobs < 1:
        raise QuantityError(f"--jobs: wanted at least 1. Got {jobs}.")
    if most and jobs > most:
        problem = f"wanted at most {most} steps of {site.processes} GPUs on {site.gpus}. Got {jobs}"
        raise QuantityError(f"--jobs: {problem}. Give fewer --jobs or --processes.")
    return jobs


def with_processes(site: Site, processes: int) -> Site:
    """The site with so many processes for every training step; QuantityError below 1."""
    if processes < 1:
        raise QuantityError(f"--processes: wanted at least 1. Got {processes}.")
    return replace(site, processes=processes)


def run_step(step: Step, store: Store, *, site: Site, display: ProgressDisplay = NO_DISPLAY) -> Path:
    """The folder of a step's result; the step and what it needs are run if it is not stored.

    DamagedResult if it is not as it was published.
    """
    if not store.has(step.address):
        steps = (*(parent for _, parent in step.needs), step)
        graph = Graph(title=step.address, steps=steps, arms={step.kind: steps}, seeds={step.kind: 0})
        run_graph(graph, store, site=site, jobs=1, display=display).check()
    return store.check_result(step.address)
