"""The stored answers of a checkpoint: of an evaluate step of a study, or of the `evaluate` command."""

from __future__ import annotations

import json
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

from firstsight.errors import RequestError
from firstsight.evaluate.answer_cache import EVALUATIONS_FOLDER, evaluation_folder
from firstsight.plan.store import Store
from firstsight.recipe.mixture import External
from firstsight.recipe.serialize import from_json
from firstsight.recipe.study import Study
from firstsight.report.results import AnswerFile
from firstsight.workspace.resolve import existing_store, find_checkpoint, is_arm, stored_address
from firstsight.workspace.sources import current_site
from firstsight.workspace.study_graph import resolve_graph

ANSWERS_FILE = "answers.jsonl"


def find_answers(name: str, *, study: Study, benchmarks: Path | None, out: Path) -> list[AnswerFile]:
    """The answer files of a checkpoint, those of the study first; `benchmarks` replaces the recorded image folders.

    RequestError, with the command to give, for a checkpoint that was not evaluated under `out`.
    """
    path = Path(name)
    if path.is_file():
        files = [AnswerFile(path=path, benchmarks_dir=None)]
    else:
        files = _evaluated_files(path) or _files_of_checkpoint(name, study, out)
    if not files:
        if not path.is_dir():
            find_checkpoint(name, study=study, out=out)  # raises for a name that is unknown or not trained
        command = f"firstsight evaluate {name} --study {study.name} --scale {study.scale} --out {out}"
        raise RequestError(f"{name}: wanted its answers. Got none under {out}. Evaluate it first: {command}")
    return [replace(file, benchmarks_dir=benchmarks, benchmarks_by_task={}) for file in files] if benchmarks else files


def _files_of_checkpoint(name: str, study: Study, out: Path) -> list[AnswerFile]:
    """The answers of the study's evaluate step, then those of the `evaluate` command."""
    files = _study_files(name, study, out)
    if not (out / EVALUATIONS_FOLDER).is_dir():
        return files
    try:
        folder = Path(name) if Path(name).is_dir() else find_checkpoint(name, study=study, out=out)
    except RequestError:
        if files:
            return files
        raise
    return [*files, *_evaluated_files(evaluation_folder(out, folder))]


def _study_files(name: str, study: Study, out: Path) -> list[AnswerFile]:
    """The answers of an arm's evaluate step, or of the latest one of an address or a checkpoint's folder."""
    store, folder = existing_store(out), Path(name).absolute()
    if store is None:
        return []
    if is_arm(name, study):
        address = resolve_graph(study, current_site()).final_step(study.arm(name).label).address
    elif folder.is_dir() and folder.parent == store.root / "steps":
        address = folder.name
    else:
        address = stored_address(name, out)
    if address is None or not store.has(address):
        return []
    step = address if (store.path(address) / ANSWERS_FILE).is_file() else _latest_evaluation(address, store)
    return [_step_file(step, store)] if step else []


def _latest_evaluation(checkpoint: str, store: Store) -> str | None:
    """The address of the evaluate step that evaluated a checkpoint last."""
    evaluations = [address for address in store.addresses() if (store.path(address) / ANSWERS_FILE).is_file()]
    records = [store.provenance(address) for address in evaluations]
    records = [record for record in records if record["needs"].get("checkpoint") == checkpoint]
    return max(records, key=itemgetter("ended"))["address"] if records else None


def _step_file(address: str, store: Store) -> AnswerFile:
    """The answers of an evaluate step, with its benchmarks: in the store, or at the site's location."""
    record = store.provenance(address)
    answers, source = store.path(address) / ANSWERS_FILE, from_json(record["spec"]).benchmarks
    if isinstance(source, External):
        location = current_site().sources.get(source.name)
        return AnswerFile(path=answers, benchmarks_dir=Path(location.path) if location else None)
    return AnswerFile(path=answers, benchmarks_dir=store.path(record["needs"]["benchmarks"]))


def _evaluated_files(folder: Path) -> list[AnswerFile]:
    """The answers in a folder, if it has any; a judged.json beside them has the benchmarks' paths."""
    if not (folder / ANSWERS_FILE).is_file():
        return []
    file = folder / "judged.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        by_task = {str(task): Path(path) for task, path in record.get("tasks", {}).items()}
        benchmarks = Path(record["benchmarks"]) if "benchmarks" in record else None
    except (ValueError, TypeError, AttributeError) as error:
        message = f"{file}: wanted the record of an evaluation. Got {error}. Evaluate the checkpoint again."
        raise RequestError(message) from error
    return [AnswerFile(path=folder / ANSWERS_FILE, benchmarks_dir=benchmarks, benchmarks_by_task=by_task)]
