"""Run a study: the runner below, a display beside it, the report at the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from firstsight.cli import terminal
from firstsight.cli.progress import display
from firstsight.errors import MixError, QuantityError, RequestError, UnknownName
from firstsight.plan import estimate
from firstsight.plan.executor import LocalExecutor
from firstsight.plan.graph import Graph, build_graph
from firstsight.plan.scheduler import EXTERNAL_KIND, Summary, missing_steps, run
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.recipe.study import Study
from firstsight.site import Site
from firstsight.site_file import read_site

HANDLERS: dict[str, str] = {
    "vocabulary": "firstsight.synthetic:write_vocabulary",
    "texts": "firstsight.synthetic:write_texts",
    "captions": "firstsight.synthetic:write_captions",
    "dialogues": "firstsight.synthetic:write_dialogues",
    "benchmarks": "firstsight.synthetic:write_benchmarks",
    "prepare": "firstsight.data.prepare:prepare",
    "contrast": "firstsight.train.contrastive:train_contrastive",
    "encode": "firstsight.train.encode:encode_features",
    "pretrain": "firstsight.train.handlers:pretrain",
    "midtrain": "firstsight.train.handlers:midtrain",
    "finetune": "firstsight.train.handlers:finetune",
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
    terminal.lines(summary.lines())
    from firstsight.workspace.results import tell_study  # its figures take a second to import

    terminal.lines([f"report: {tell_study(study, store, steps=steps, summary=summary)}"])
    return 0 if summary.ok else 1


def known_study(study: Study, *, out: Path, jobs: int | None) -> tuple[Store, Graph]:
    """The store under `out` and the study's plan, with every source of the user's looked at and prepared.

    RequestError where a source has no place, is not what it should be, has changed or is too small.
    """
    from firstsight.workspace import check_sources, source_ids  # reading data takes a second to import

    steps, place = build_graph(study), site()
    _refuse_thin(steps, {})
    if not steps.undigested_names():
        return Store(out), steps
    source_ids.check_places(source_ids.sources_of(steps), place)
    place = source_ids.brought(source_ids.sources_of(steps), place)
    check_sources.check_models(steps.steps, place)
    store = Store(out)
    content = source_ids.looked_at(steps, store, site=place, jobs=jobs, made=made)
    steps = build_graph(study, content.identities)
    _refuse_thin(steps, content.counted())
    content.adopt(missing_steps(steps, store), store)
    return store, steps


def run_graph(steps: Graph, store: Store, *, jobs: int | None) -> Summary:
    """Run what is missing, with bars or lines; Ctrl-C and SIGTERM leave a store that goes on from there."""
    from firstsight.workspace import source_ids

    place, out = source_ids.brought(source_ids.sources_of(steps), site()), terminal.console()
    workers = _jobs(jobs, place)
    shown = display(out, len(steps.steps))
    with LocalExecutor(workers, place) as local, shown.around():
        return run(steps, store, site=place, executor=local, handlers=HANDLERS, on_event=shown)


SITE = "FIRSTSIGHT_SITE"
"""The variable that names the site file."""


def site() -> Site:
    """This machine as its site file says, over what it has by itself: a GPU where the driver and torch know one."""
    gpu = Path("/dev/nvidiactl").exists() and not version("torch").endswith("+cpu")
    machine = Site(device="cuda" if gpu else "cpu")
    file = site_file()
    return machine if file is None else read_site(file, defaults=machine)


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
        estimate.check_data_sufficient(
            estimate.estimate_cost(steps, estimate.device_spec("cpu", utilisation=1.0), counted_tokens=counted)
        )
    except MixError as error:
        raise RequestError(str(error)) from error


def benchmarks_of(study: Study, store: Store) -> Path:
    """Where the study's benchmarks lie, made if they are not there; the user's own where the site says."""
    steps = build_graph(study)
    judged = {
        parent: None for arm in steps.arms for role, parent in steps.final_step(arm).needs if role == "benchmarks"
    }
    step = next(iter(judged))
    if step.kind != EXTERNAL_KIND:
        return made(step, store)
    from firstsight.workspace import source_ids

    place = site()
    source_ids.check_places([step.spec], place)
    return Path(place.sources[step.spec.name].path)


def made(step: Step, store: Store) -> Path:
    """Where the result of a step lies, made if it is not there."""
    if not store.has(step.address):
        needs = tuple(parent for _, parent in step.needs)
        alone = Graph(title=step.address, steps=(*needs, step), arms={step.kind: (*needs, step)}, seeds={step.kind: 0})
        run_graph(alone, store, jobs=1).check()
    return store.path(step.address)
