"""The arm, step or checkpoint that a name refers to, and what to do with it: compare two, or answer a question."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from firstsight.errors import RequestError, UnknownName
from firstsight.plan.step import FieldDifference, Step, field_differences
from firstsight.plan.store import Store
from firstsight.plan.verification import check_stored_folder
from firstsight.recipe.serialize import from_json
from firstsight.recipe.study import Arm, Study
from firstsight.workspace import sources
from firstsight.workspace.study_graph import StoredStudy


def compare(first: str, second: str, stored: StoredStudy) -> tuple[FieldDifference, ...]:
    """The fields in which two arms, steps or stored results differ: two arms by their specs, else step by step."""
    subjects = [_find(name, stored) for name in (first, second)]
    if not all(isinstance(subject, Arm) for subject in subjects):
        subjects = [
            stored.graph.final_step(subject.label) if isinstance(subject, Arm) else subject for subject in subjects
        ]
        if not all(isinstance(subject, Step) for subject in subjects):
            subjects = [subject.spec if isinstance(subject, Step) else subject for subject in subjects]
    return field_differences(*subjects)


def _find(name: str, stored: StoredStudy) -> object:
    study, graph = stored.study, stored.graph
    if is_arm(name, study):
        arm = study.arm(name)
        return replace(arm, stages=arm.resolved_stages())
    with suppress(UnknownName):
        return graph.find_step(name)
    if address := stored_address(name, stored):
        return from_json(Store(stored.root).provenance(address)["spec"])
    arms = {label for arm in study.arms for label in (arm.label, arm.name)}
    raise UnknownName("arm or step", name, [*arms, *(step.address for step in graph.steps)])


def is_arm(name: str, study: Study) -> bool:
    """Whether a study has an arm with this name or label."""
    return any(name in (arm.label, arm.name) for arm in study.arms)


def stored_address(name: str, stored: StoredStudy) -> str | None:
    """The stored address that a name or its beginning means; None where there is none."""
    with suppress(UnknownName):
        return stored.store.find(name) if stored.store else None


def find_checkpoint(name: str, stored: StoredStudy) -> Path:
    """The folder of a checkpoint: `name` is a folder, an arm of the study, a stored address, or a hub name.

    RequestError where it is not a checkpoint or not stored, DamagedResult where it is not as it was published; a hub
    name is downloaded.
    """
    if any((Path(name) / file).is_file() for file in ("spec.json", "config.json")):
        return check_stored_folder(Path(name))
    if Path(name).is_dir():
        files = "spec.json (firstsight) or config.json (transformers)"
        advice = "Name the result of a training step, or a downloaded model's folder."
        raise RequestError(f"{name}: wanted a checkpoint: a folder with {files}. Got neither. {advice}")
    if "/" in name:
        return sources.local_model_path(name)
    return _checkpoint_folder(_checkpoint_address(name, stored), stored)


def find_text_model(name: str, stored: StoredStudy) -> Path:
    """The folder of the text-only model from which a checkpoint's image training started.

    RequestError for a folder, which does not record it, and for models trained on images from the beginning.
    """
    if Path(name).is_dir():
        raise RequestError(f"{name}: a folder does not record its text model. Name it with --text-model.")
    address = _checkpoint_address(name, stored)
    donors = {step.address for step in stored.graph.steps if step.is_public_checkpoint}
    while address not in donors and (record := Store(stored.root).provenance(address))["kind"] != "pretrain":
        parent = record["needs"].get("previous") or record["needs"].get("trunk")
        if parent is None:
            advice = "Name one to compare with, with --text-model, or leave --text-only out."
            raise RequestError(f"{name}: no text model: {address} was trained on images from the beginning. {advice}")
        address = parent
    if address not in donors and not Store(stored.root).has(address):
        raise RequestError(f"{name}: its text model {address} is no longer under {stored.root}. Run the study again.")
    return _checkpoint_folder(address, stored)


def _checkpoint_address(name: str, stored: StoredStudy) -> str:
    """The address of the checkpoint of an arm or a step; RequestError where it is not stored."""
    if address := stored_address(name, stored):
        return Store(stored.root).provenance(address)["needs"].get("checkpoint", address)
    subject, study, out = _find(name, stored), stored.study, stored.root
    step = stored.graph.final_step(subject.label) if isinstance(subject, Arm) else subject
    assert isinstance(step, Step)  # a spec comes from a stored result
    step = step.parent("checkpoint") or step
    if not step.is_public_checkpoint and (stored.store is None or not stored.store.has(step.address)):
        command = f"firstsight run {study.name} --scale {study.scale} --out {out}"
        raise RequestError(f"{name}: its checkpoint {step.address} is not stored under {out}. Run it first: {command}")
    return step.address


def _checkpoint_folder(address: str, stored: StoredStudy) -> Path:
    for step in stored.graph.steps:
        if step.address == address and step.is_public_checkpoint:
            return sources.local_path(step.spec, stored.site)
    return Store(stored.root).check_result(address)


def silence_transformers() -> None:
    """Hide transformers' warning that SigLIP's text tower is not loaded, and its progress bars."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def answer(checkpoint: str, stored: StoredStudy, *, image: Path, question: str) -> str:
    """The answer of a checkpoint (a name as in `find_checkpoint`) to a question about an image file."""
    folder = find_checkpoint(checkpoint, stored)
    if not image.is_file():
        raise RequestError(f"{image}: wanted an image file. Got none.")
    from firstsight.evaluate.harness import answer_question

    silence_transformers()
    with sources.as_request_error():
        return answer_question(folder, image, question, site=stored.site)
