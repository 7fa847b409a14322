"""Where the answers of what a word names are kept: by an evaluate step of a study, or by `firstsight evaluate`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from firstsight.errors import RequestError, UnknownName
from firstsight.plan.store import Store
from firstsight.recipe.mixture import External
from firstsight.recipe.serialize import from_json
from firstsight.recipe.study import Study
from firstsight.workspace import resolve
from firstsight.workspace.run import site
from firstsight.workspace.source_ids import known_graph

if TYPE_CHECKING:
    from firstsight.report.pages.answers_table import AnswerFile

ANSWERS, JUDGED = "answers.jsonl", "judged"


def found(word: str, *, study: Study, benchmarks: Path | None, out: Path) -> list[AnswerFile]:
    """The files of answers of the checkpoint that `word` names, the study's own first; `benchmarks` overrules theirs.

    Raises RequestError that says how to judge a checkpoint that was not judged under `out`.
    """
    kept = _named(Path(word)) or _judged(word, study, out)
    if not kept:
        if not Path(word).is_dir():
            resolve.checkpoint(word, study=study, out=out)  # which says what is not known, or was never trained
        wanted = f"firstsight evaluate {word} --study {study.name} --scale {study.scale} --out {out}"
        raise RequestError(f"{word}: wanted its answers. Got none under {out}. Judge it first: {wanted}")
    return [replace(one, benchmarks_dir=benchmarks, benchmarks_by_task={}) for one in kept] if benchmarks else kept


def _named(place: Path) -> list[AnswerFile]:
    """A file of answers, or a folder that holds one."""
    if place.is_file():
        return [_kept(place, None)]
    return [_left(place)] if (place / ANSWERS).is_file() else []


def _judged(word: str, study: Study, out: Path) -> list[AnswerFile]:
    """What an evaluate step left first, then what was judged beside it."""
    steps = _evaluated(word, study, out)
    if not (out / JUDGED).is_dir():
        return steps
    try:
        folder = Path(word) if Path(word).is_dir() else resolve.checkpoint(word, study=study, out=out)
    except RequestError:
        if steps:
            return steps
        raise
    from firstsight.evaluate.answer_cache import evaluation_folder

    beside = evaluation_folder(out, folder)
    return [*steps, *([_left(beside)] if (beside / ANSWERS).is_file() else [])]


def _evaluated(word: str, study: Study, out: Path) -> list[AnswerFile]:
    """What the study's evaluate step of an arm left, or the latest one of an address or of a checkpoint's folder."""
    if not (out / "store.json").is_file():
        return []
    store = Store(out)
    if any(word in (arm.label, arm.name) for arm in study.arms):
        address = known_graph(study, site()).final_step(study.arm(word).label).address
    else:
        folder = Path(word).absolute()
        try:
            address = store.find(folder.name if folder.is_dir() and folder.parent == store.root / "steps" else word)
        except UnknownName:
            return []
    if not store.has(address):
        return []
    step = address if (store.path(address) / ANSWERS).is_file() else _latest(address, store)
    return [_step(step, store)] if step else []


def _latest(checkpoint: str, store: Store) -> str | None:
    """The address of the evaluate step that judged a checkpoint last."""
    judged = [address for address in store.addresses() if (store.path(address) / ANSWERS).is_file()]
    notes = [store.provenance(address) for address in judged]
    ended = {note["ended"]: note["address"] for note in notes if note["needs"].get("checkpoint") == checkpoint}
    return ended[max(ended)] if ended else None


def _step(address: str, store: Store) -> AnswerFile:
    """The answers of an evaluate step, with its benchmarks: of the store, or where the site says."""
    note = store.provenance(address)
    benchmarks = store.path(note["needs"]["benchmarks"])
    source = from_json(note["spec"]).benchmarks
    if isinstance(source, External):
        known = site().sources.get(source.name)
        return _kept(store.path(address) / ANSWERS, Path(known.path) if known else None)
    return _kept(store.path(address) / ANSWERS, benchmarks)


def _left(folder: Path) -> AnswerFile:
    """The answers of a folder that was judged; judged.json, where it lies beside them, names the benchmarks."""
    file = folder / "judged.json"
    try:
        note = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        by_task = {str(task): Path(place) for task, place in note.get("tasks", {}).items()}
        place = Path(note["benchmarks"]) if "benchmarks" in note else None
    except (ValueError, TypeError, AttributeError) as error:
        raise RequestError(f"{file}: wanted what judging leaves. Got {error}. Judge the checkpoint again.") from error
    return _kept(folder / ANSWERS, place, by_task)


def _kept(answers: Path, benchmarks: Path | None, by_task: Mapping[str, Path] | None = None) -> AnswerFile:
    from firstsight.report.pages.answers_table import AnswerFile

    return AnswerFile(path=answers, benchmarks_dir=benchmarks, benchmarks_by_task=by_task or {})
