"""Run a study: the runner below, a display beside it, the report at the end."""

from __future__ import annotations

import os
import signal
from importlib.metadata import version
from pathlib import Path

from firstsight.cli import show
from firstsight.cli.live import display
from firstsight.errors import MixError, QuantityError, RequestError, UnknownName
from firstsight.plan import budget
from firstsight.plan.executors import Local
from firstsight.plan.graph import Graph, graph
from firstsight.plan.runner import Summary, run
from firstsight.plan.store import Store
from firstsight.recipe.study import Study
from firstsight.site import Site

HANDLERS: dict[str, str] = {
    "vocabulary": "firstsight.data.world:vocabulary",
    "texts": "firstsight.data.world:texts",
    "captions": "firstsight.data.world:captions",
    "dialogues": "firstsight.data.world:dialogues",
    "benchmarks": "firstsight.data.world:benchmarks",
    "prepare": "firstsight.data.index:prepare",
    "contrast": "firstsight.train.run:contrast",
    "encode": "firstsight.train.run:encode",
    "pretrain": "firstsight.train.run:pretrain",
    "midtrain": "firstsight.train.run:midtrain",
    "finetune": "firstsight.train.run:finetune",
    "evaluate": "firstsight.evaluate.harness:evaluate",
}
"""Which function does the work of each kind of step; a worker imports it, nobody else does."""


def run_study(study: Study, *, out: Path, jobs: int | None, executor: str) -> int:
    """Bring the study into the store under `out` and write its report; the exit code of the command."""
    if executor != "local":
        raise UnknownName("executor", executor, ["local"])
    steps = graph(study)
    _refuse_thin(steps)
    store = Store(out)
    summary = run_graph(steps, store, jobs=jobs)
    show.lines(summary.lines())
    from firstsight.cli.telling import tell_study  # its figures take a second to import

    show.lines([f"report: {tell_study(study, store, steps=steps, summary=summary)}"])
    return 0 if summary.ok else 1


def run_graph(steps: Graph, store: Store, *, jobs: int | None) -> Summary:
    """Run what is missing, with bars or lines; Ctrl-C and SIGTERM leave a store that goes on from there."""
    place, out = site(), show.console()
    workers = _jobs(jobs, place)
    shown = display(out, len(steps.steps))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Local(workers, place) as local, shown.around():
        return run(steps, store, site=place, executor=local, handlers=HANDLERS, watch=shown)


def site() -> Site:
    """This machine: a GPU where the driver and torch's build both know one, else one CPU thread a worker."""
    gpu = Path("/dev/nvidiactl").exists() and not version("torch").endswith("+cpu")
    return Site(device="cuda" if gpu else "cpu")


def _jobs(asked: int | None, place: Site) -> int:
    if asked is None:
        return len(os.sched_getaffinity(0)) if place.device == "cpu" else 1
    if asked < 1:
        raise QuantityError(f"--jobs: wanted at least 1. Got {asked}.")
    return asked


def _refuse_thin(steps: Graph) -> None:
    """Too little data is a wrong request as long as nothing has run."""
    try:
        budget.refuse_thin(budget.bill(steps, budget.device("cpu", utilisation=1.0)))
    except MixError as error:
        raise RequestError(str(error)) from error


def benchmarks_of(study: Study, store: Store) -> Path:
    """Where the study's benchmarks lie, made if they are not there."""
    steps = graph(study)
    judged = {parent: None for arm in steps.arms for role, parent in steps.final(arm).needs if role == "benchmarks"}
    step = next(iter(judged))
    if not store.has(step.address):
        alone = Graph(title=steps.title, steps=(step,), arms={"benchmarks": (step,)}, seeds={"benchmarks": 0})
        run_graph(alone, store, jobs=1).check()
    return store.path(step.address)
