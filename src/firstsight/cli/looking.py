"""What an arm's label, an address or a folder on the command line stands for, and what is asked of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firstsight.cli.data.naming import brought, check_places, known_graph
from firstsight.cli.running import site
from firstsight.errors import DataError, ModelError, RequestError, UnknownName
from firstsight.plan.graph import Graph
from firstsight.plan.step import Difference, Step, difference
from firstsight.plan.store import Store
from firstsight.recipe.canon import decode
from firstsight.recipe.mix import Benchmarks
from firstsight.recipe.stages import Evaluate
from firstsight.recipe.study import Arm, Study


def differences(first: str, second: str, *, study: Study, out: Path) -> tuple[Difference, ...]:
    """The fields in which two arms, steps or stored results differ."""
    steps = known_graph(study, site())
    ours, theirs = (_subject(word, study, steps, out) for word in (first, second))
    if isinstance(ours, Arm) and isinstance(theirs, Arm):
        return difference(ours, theirs)
    ours, theirs = (steps.final(one.label) if isinstance(one, Arm) else one for one in (ours, theirs))
    if isinstance(ours, Step) and isinstance(theirs, Step):
        return difference(ours, theirs)
    return difference(*(one.spec if isinstance(one, Step) else one for one in (ours, theirs)))


def _subject(word: str, study: Study, steps: Graph, out: Path) -> Any:
    """The arm, the step of the study, or the spec of a stored result that `word` names."""
    if any(word in (arm.label, arm.name) for arm in study.arms):
        return study.arm(word)
    try:
        return steps.find(word)
    except UnknownName:
        stored = _stored(word, out)
        if stored is None:
            known = {name for arm in study.arms for name in (arm.label, arm.name)}
            raise UnknownName("arm or step", word, [*known, *(step.address for step in steps.steps)]) from None
        return decode(Store(out).provenance(stored)["spec"])


def _stored(word: str, out: Path) -> str | None:
    """The published address that `word` names, if there is one."""
    if not (out / "store.json").is_file():
        return None
    try:
        return Store(out).find(word)
    except UnknownName:
        return None


def checkpoint(word: str, *, study: Study, out: Path) -> Path:
    """The folder of the checkpoint that `word` names: a folder, an arm of the study, or an address."""
    if (Path(word) / "spec.json").is_file():
        return Path(word)
    steps = known_graph(study, site())
    address = _stored(word, out)
    if address is None:
        subject = _subject(word, study, steps, out)
        step: Step = steps.final(subject.label) if isinstance(subject, Arm) else subject
        step = step.need("checkpoint") or step
        if step.holds:
            return _donated(step)
        address = step.address
        if not (out / "store.json").is_file() or not Store(out).has(address):
            raise RequestError(
                f"{word}: its checkpoint {address} is not stored under {out}. "
                f"Run it first: firstsight run {study.name} --scale {study.scale} --out {out}"
            )
    judged = Store(out).provenance(address)["needs"].get("checkpoint", address)
    given = next((one for one in steps.steps if one.address == judged and one.holds), None)
    return _donated(given) if given else Store(out).path(judged)


def _donated(step: Step) -> Path:
    """Where a donor's checkpoint lies, as the site says."""
    named = [step.spec]
    check_places(named, site())
    return Path(brought(named, site()).sources[step.spec.name].path)


@contextmanager
def as_request() -> Iterator[None]:
    """What the user names and is not what it should be is a wrong request, not a failed step."""
    try:
        yield
    except (DataError, ModelError) as error:
        raise RequestError(str(error)) from error


def _hush() -> None:
    """No word from transformers about the half of SigLIP that a vision tower leaves out."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def answer(word: str, *, study: Study, image: Path, question: str, out: Path) -> str:
    """What the checkpoint that `word` names answers about a picture."""
    folder = checkpoint(word, study=study, out=out)
    if not image.is_file():
        raise RequestError(f"no picture lies at {image}.")
    from firstsight.evaluate.harness import ask

    _hush()
    with as_request():
        return ask(folder, image, question, site=site())


def judge(word: str, *, study: Study, tasks: str, blind: bool, out: Path) -> tuple[tuple[str, ...], ...]:
    """The scores of a checkpoint, task by task, as rows of words with a header."""
    folder = checkpoint(word, study=study, out=out)
    spec = max((arm.evaluate for arm in study.arms), key=lambda one: len(one.vision) + len(one.text))
    names = _tasks(tasks, spec, folder)
    from firstsight.cli.running import benchmarks_of
    from firstsight.evaluate import harness

    style = "bare" if isinstance(spec.benchmarks, Benchmarks) else "paper"
    asking = harness.Asking(tasks=names, sight="blind" if blind else "both", style=style)
    where = benchmarks_of(study, Store(out))
    _hush()
    with as_request():
        verdict = harness.judge(folder, where, asking=asking, site=site(), tell=lambda _: None)
    return _scores(verdict.scores)


def _tasks(words: str, spec: Evaluate, folder: Path) -> tuple[str, ...]:
    """The tasks that were asked for; without any, all that the checkpoint has the eyes for."""
    known = (*spec.vision, *spec.text)
    names = tuple(name.strip() for name in words.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise UnknownName("task", name, known)
    seeing = json.loads((folder / "spec.json").read_text())["kind"] == "vlm"
    return names or (known if seeing else spec.text)


def _scores(scores: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    head = ("task", "metric", "questions", "score", "95 % interval", "blind", "question-blind", "chance")
    return (head, *(_score(name, task) for name, task in scores["tasks"].items()))


def _score(name: str, task: dict[str, Any]) -> tuple[str, ...]:
    low, high = task.get("interval") or (None, None)
    interval = "" if low is None else f"{_number(low)} to {_number(high)}"
    rest = (_number(task.get(key)) for key in ("blind", "question_blind", "chance"))
    return (name, str(task["metric"]), str(task["n"]), _number(task.get("score")), interval, *rest)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"
