"""What an arm's label, an address or a folder on the command line stands for, and what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firstsight.errors import DataError, ModelError, RequestError, UnknownName
from firstsight.plan.differences import FieldDifference, field_differences
from firstsight.plan.graph import Graph
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.recipe.serialize import from_json
from firstsight.recipe.study import Arm, Study
from firstsight.workspace.run import site
from firstsight.workspace.source_ids import brought, check_places, known_graph


def differences(first: str, second: str, *, study: Study, out: Path) -> tuple[FieldDifference, ...]:
    """The fields in which two arms, steps or stored results differ."""
    steps = known_graph(study, site())
    ours, theirs = (_subject(word, study, steps, out) for word in (first, second))
    if isinstance(ours, Arm) and isinstance(theirs, Arm):
        return field_differences(ours, theirs)
    ours, theirs = (steps.final_step(one.label) if isinstance(one, Arm) else one for one in (ours, theirs))
    if isinstance(ours, Step) and isinstance(theirs, Step):
        return field_differences(ours, theirs)
    return field_differences(*(one.spec if isinstance(one, Step) else one for one in (ours, theirs)))


def _subject(word: str, study: Study, steps: Graph, out: Path) -> Any:
    """The arm, the step of the study, or the spec of a stored result that `word` names."""
    if any(word in (arm.label, arm.name) for arm in study.arms):
        return study.arm(word)
    try:
        return steps.find_step(word)
    except UnknownName:
        stored = _stored(word, out)
        if stored is None:
            known = {name for arm in study.arms for name in (arm.label, arm.name)}
            raise UnknownName("arm or step", word, [*known, *(step.address for step in steps.steps)]) from None
        return from_json(Store(out).provenance(stored)["spec"])


def _stored(word: str, out: Path) -> str | None:
    """The published address that `word` names, if there is one."""
    if not (out / "store.json").is_file():
        return None
    try:
        return Store(out).find(word)
    except UnknownName:
        return None


def checkpoint(word: str, *, study: Study, out: Path) -> Path:
    """The folder of the checkpoint that `word` names: a folder, an arm of the study, an address, or a hub name."""
    if any((Path(word) / name).is_file() for name in ("spec.json", "config.json")):
        return Path(word)
    if Path(word).is_dir():
        raise RequestError(
            f"{word}: wanted a checkpoint: a folder with spec.json (firstsight) or config.json (transformers). "
            "Got neither. Name what a training step left, or a downloaded model's folder."
        )
    if "/" in word:
        from firstsight.hub.download import resolve_hub_path

        with as_request():
            return resolve_hub_path(word)
    steps = known_graph(study, site())
    return _lies(_address(word, study=study, steps=steps, out=out), steps, out)


def text_model(word: str, *, study: Study, out: Path) -> Path:
    """The folder of the text model that the checkpoint which `word` names came from, where it left its trunk.

    RequestError for a folder, which does not say what it came from, and for models that saw from the beginning.
    """
    if Path(word).is_dir():
        raise RequestError(f"{word}: a folder does not say which text model it came from. Name it with --text-model.")
    steps = known_graph(study, site())
    address = _address(word, study=study, steps=steps, out=out)
    given = {one.address for one in steps.steps if one.donor_model}
    while address not in given and (note := Store(out).provenance(address))["kind"] != "pretrain":
        before = note["needs"].get("previous") or note["needs"].get("trunk")
        if before is None:
            raise RequestError(
                f"{word}: it came from no text model: {address} saw from the beginning. "
                "Name one to compare with, with --text-model, or leave --text-only out."
            )
        address = before
    folder = _lies(address, steps, out)
    if not folder.is_dir():
        raise RequestError(f"{word}: its text model {address} is no longer under {out}. Run the study again.")
    return folder


def _address(word: str, *, study: Study, steps: Graph, out: Path) -> str:
    """Of the checkpoint that an arm or an address means; RequestError where it is not stored."""
    address = _stored(word, out)
    if address is not None:
        return Store(out).provenance(address)["needs"].get("checkpoint", address)
    subject = _subject(word, study, steps, out)
    step: Step = steps.final_step(subject.label) if isinstance(subject, Arm) else subject
    step = step.parent("checkpoint") or step
    if not step.donor_model and (not (out / "store.json").is_file() or not Store(out).has(step.address)):
        raise RequestError(
            f"{word}: its checkpoint {step.address} is not stored under {out}. "
            f"Run it first: firstsight run {study.name} --scale {study.scale} --out {out}"
        )
    return step.address


def _lies(address: str, steps: Graph, out: Path) -> Path:
    """Where a stored checkpoint lies, or a donor's."""
    given = next((one for one in steps.steps if one.address == address and one.donor_model), None)
    return _donated(given) if given else Store(out).path(address)


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


def hush() -> None:
    """No word from transformers about the half of SigLIP that a vision tower leaves out."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def answer(word: str, *, study: Study, image: Path, question: str, out: Path) -> str:
    """What the checkpoint that `word` names answers about a picture."""
    folder = checkpoint(word, study=study, out=out)
    if not image.is_file():
        raise RequestError(f"no picture lies at {image}.")
    from firstsight.evaluate.harness import answer_question

    hush()
    with as_request():
        return answer_question(folder, image, question, site=site())
