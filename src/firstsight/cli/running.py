"""Run a study: the runner below, a display beside it, the report at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from firstsight.cli import show
from firstsight.cli.live import display
from firstsight.errors import MixError, QuantityError, RequestError, UnknownName
from firstsight.plan import budget
from firstsight.plan.executors import Local
from firstsight.plan.graph import Graph, graph
from firstsight.plan.runner import NAMED, Summary, lacking, run
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.recipe.study import Study
from firstsight.site import Site, read

HANDLERS: dict[str, str] = {
    "vocabulary": "firstsight.data.world:vocabulary",
    "texts": "firstsight.data.world:texts",
    "captions": "firstsight.data.world:captions",
    "dialogues": "firstsight.data.world:dialogues",
    "benchmarks": "firstsight.data.world:benchmarks",
    "prepare": "firstsight.data.prepare:prepare",
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    store, steps = known_study(study, out=out, jobs=jobs)
    summary = run_graph(steps, store, jobs=jobs)
    show.lines(summary.lines())
    from firstsight.cli.telling import tell_study  # its figures take a second to import

    show.lines([f"report: {tell_study(study, store, steps=steps, summary=summary)}"])
    return 0 if summary.ok else 1


def known_study(study: Study, *, out: Path, jobs: int | None) -> tuple[Store, Graph]:
    """The store under `out` and the study's plan, with every source of the user's looked at and prepared.

    RequestError where a source has no place, is not what it should be, has changed or is too small.
    """
    from firstsight.cli.data import fitting, naming  # reading data takes a second to import

    steps, place = graph(study), site()
    _refuse_thin(steps, {})
    if not steps.unknown():
        return Store(out), steps
    naming.check_places(naming.sources_of(steps), place)
    place = naming.brought(naming.sources_of(steps), place)
    fitting.check_models(steps.steps, place)
    store = Store(out)
    content = naming.looked_at(steps, store, site=place, jobs=jobs, made=made)
    steps = graph(study, content.identities)
    _refuse_thin(steps, content.counted())
    content.adopt(lacking(steps, store), store)
    return store, steps


def run_graph(steps: Graph, store: Store, *, jobs: int | None) -> Summary:
    """Run what is missing, with bars or lines; Ctrl-C and SIGTERM leave a store that goes on from there."""
    from firstsight.cli.data import naming

    place, out = naming.brought(naming.sources_of(steps), site()), show.console()
    workers = _jobs(jobs, place)
    shown = display(out, len(steps.steps))
    with Local(workers, place) as local, shown.around():
        return run(steps, store, site=place, executor=local, handlers=HANDLERS, watch=shown)


SITE = "FIRSTSIGHT_SITE"
"""The variable that names the site file."""


def site() -> Site:
    """This machine as its site file says, over what it has by itself: a GPU where the driver and torch know one."""
    gpu = Path("/dev/nvidiactl").exists() and not version("torch").endswith("+cpu")
    machine = Site(device="cuda" if gpu else "cpu")
    file = site_file()
    return machine if file is None else read(file, machine=machine)


def site_file() -> Path | None:
    """$FIRSTSIGHT_SITE, else ./site.toml if it is there, else the user's own if it is there."""
    if os.environ.get(SITE):
        return Path(os.environ[SITE]).expanduser()
    usual = (Path("site.toml"), Path.home() / ".config" / "firstsight" / "site.toml")
    return next((file for file in usual if file.is_file()), None)


def _jobs(asked: int | None, place: Site) -> int:
    if asked is None:
        return len(os.sched_getaffinity(0)) if place.device == "cpu" else 1
    if asked < 1:
        raise QuantityError(f"--jobs: wanted at least 1. Got {asked}.")
    return asked


def _refuse_thin(steps: Graph, counted: Mapping[str, int]) -> None:
    """Too little data is a wrong request as long as nothing has run."""
    try:
        budget.refuse_thin(budget.bill(steps, budget.device("cpu", utilisation=1.0), counted=counted))
    except MixError as error:
        raise RequestError(str(error)) from error


def benchmarks_of(study: Study, store: Store) -> Path:
    """Where the study's benchmarks lie, made if they are not there; the user's own where the site says."""
    steps = graph(study)
    judged = {parent: None for arm in steps.arms for role, parent in steps.final(arm).needs if role == "benchmarks"}
    step = next(iter(judged))
    if step.kind != NAMED:
        return made(step, store)
    from firstsight.cli.data import naming

    place = site()
    naming.check_places([step.spec], place)
    return Path(place.sources[step.spec.name].path)


def made(step: Step, store: Store) -> Path:
    """Where the result of a step lies, made if it is not there."""
    if not store.has(step.address):
        needs = tuple(parent for _, parent in step.needs)
        alone = Graph(title=step.address, steps=(*needs, step), arms={step.kind: (*needs, step)}, seeds={step.kind: 0})
        run_graph(alone, store, jobs=1).check()
    return store.path(step.address)
