"""Evaluate one checkpoint on tasks, also against its text-only model, and find the stored answers of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from firstsight.errors import DamagedResult, QuantityError, RequestError, UnknownName
from firstsight.evaluate.answer_cache import evaluation_folder
from firstsight.evaluate.result_files import ANSWERS_FILE, Scores
from firstsight.evaluate.results import EvalResult, add_text_only_scores, merge_result
from firstsight.files import file_name_part, write_atomic
from firstsight.plan.store import Store
from firstsight.plan.verification import EVALUATIONS_FOLDER, check_stored_folder, read_evaluation_record
from firstsight.recipe.mixture import External, SyntheticBenchmarks
from firstsight.recipe.serialize import from_json
from firstsight.report.answers import AnswersTable
from firstsight.report.pages.answers_page import render_answers
from firstsight.report.pages.question_cards import question_lines
from firstsight.report.results import AnswerFile
from firstsight.site import Site
from firstsight.workspace import resolve
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay
from firstsight.workspace.results import benchmarks_folder
from firstsight.workspace.sources import as_request_error
from firstsight.workspace.study_graph import StoredStudy


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmarks:
    """A folder of benchmarks, and the kind (vision or text) of each task in it."""

    path: Path
    prompt_style: Literal["bare", "paper"]
    task_kinds: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointEvaluation:
    """The scores of one checkpoint, and the folder where they and the answers are stored."""

    scores: Scores
    has_paper_prompts: bool
    folder: Path


def evaluate_named(
    checkpoint: str,
    *,
    stored: StoredStudy,
    benchmarks: Path | None = None,
    tasks: str = "",
    blind: bool = False,
    text_model: str | bool = False,
    display: ProgressDisplay = NO_DISPLAY,
) -> CheckpointEvaluation:
    """Evaluate a checkpoint (a name as in `find_checkpoint`) and store its answers; stored ones are reused.

    `benchmarks` is a folder with one for each task, by default the study's; `tasks` are names with commas between them,
    by default all that the checkpoint supports. `blind`: only without images. `text_model` names a text-only model to
    compare with; True is the one from which the checkpoint's image training started.
    """
    folder = resolve.find_checkpoint(checkpoint, stored)
    baseline = _text_baseline(checkpoint, text_model, stored)
    bench = find_benchmark_tasks(benchmarks, stored, display=display)
    names = select_tasks(tasks, bench, with_vision=blind or is_vision_language(folder))
    out, site = stored.root, stored.site
    Store(out)  # raises for a folder of other files before anything is computed
    resolve.silence_transformers()
    from firstsight.evaluate.harness import ANSWER_CACHE_FOLDER, EvalConfig, evaluate_checkpoint

    def store(result: EvalResult, folder: Path, name: str) -> None:
        record = {"checkpoint": str(folder.absolute()), "word": name, "benchmarks": str(bench.path.absolute())}
        merge_result(result, evaluation_folder(out, folder), record)

    def evaluate(path: Path, name: str, *, blind: bool) -> EvalResult:
        mode = "blind" if blind else "both"
        config = EvalConfig(tasks=names, image_mode=mode, prompt_style=bench.prompt_style)
        cache = evaluation_folder(out, path) / ANSWER_CACHE_FOLDER
        with as_request_error(), display.task(name) as bar:
            run = evaluate_checkpoint(path, bench.path, config=config, site=site, on_progress=bar, answers_folder=cache)
        store(run, path, name)
        return run

    result = evaluate(folder, checkpoint, blind=blind)
    if baseline is not None:
        name = text_model if isinstance(text_model, str) else f"text model of {checkpoint}"
        text_only = evaluate(baseline, name, blind=True).answers
        result = replace(result, scores=add_text_only_scores(result.scores, result.answers, text_only=text_only))
        store(result, folder, checkpoint)
    is_paper, folder = bench.prompt_style == "paper", evaluation_folder(out, folder)
    return CheckpointEvaluation(scores=result.scores, has_paper_prompts=is_paper, folder=folder)


def _text_baseline(checkpoint: str, name: str | bool, stored: StoredStudy) -> Path | None:
    if not name or isinstance(name, bool):
        return resolve.find_text_model(checkpoint, stored) if name else None
    folder = resolve.find_checkpoint(name, stored)
    if is_vision_language(folder):
        raise RequestError(f"--text-model {name}: wanted a text model. Got a vision-language model. Name another.")
    return folder


def is_vision_language(folder: Path) -> bool:
    """Whether a checkpoint's spec.json or config.json describes a vision-language model; RequestError if damaged."""
    from firstsight.evaluate.task import load_json

    spec, config = folder / "spec.json", folder / "config.json"
    path = spec if spec.is_file() else config
    with as_request_error():
        value = load_json(path)
    if not isinstance(value, dict):
        raise RequestError(f"{path}: wanted an object. Got {str(value)[:40]}. Copy the folder again.")
    if path == spec:
        return value.get("kind") == "vlm"
    return bool({"vision_config", "image_token_id", "image_token_index"} & value.keys())


def find_benchmark_tasks(
    path: Path | None, stored: StoredStudy, *, display: ProgressDisplay = NO_DISPLAY
) -> Benchmarks:
    """The tasks in a folder of benchmarks, or in the study's if `path` is None; RequestError where there are none."""
    if path is None:
        specs = (arm.evaluate for arm in stored.study.arms)
        spec = max(specs, key=lambda spec: len(spec.vision_tasks) + len(spec.text_tasks))
        kinds = dict.fromkeys(spec.vision_tasks, "vision") | dict.fromkeys(spec.text_tasks, "text")
        style = "bare" if isinstance(spec.benchmarks, SyntheticBenchmarks) else "paper"
        folder = benchmarks_folder(stored, display=display)
        return Benchmarks(path=folder, prompt_style=style, task_kinds=kinds)
    from firstsight.evaluate.tasks import TASKS, get_task

    if not path.is_dir():
        raise RequestError(f"--benchmarks {path}: wanted a folder with one for each task. Got none. Make or mount it.")
    user_tasks = sorted(file.parent.name for file in path.glob("*/task.json"))
    names = [name for name in (*TASKS, *user_tasks) if (path / name).is_dir()]
    if not names:
        present = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise RequestError(f"--benchmarks {path}: wanted folders called {', '.join(TASKS)}. Got {present}.")
    check_stored_folder(path)
    with as_request_error():
        kinds = {name: get_task(name, path).kind for name in names}
    return Benchmarks(path=path, prompt_style="paper", task_kinds=kinds)


def select_tasks(names: str, benchmarks: Benchmarks, *, with_vision: bool) -> tuple[str, ...]:
    """The named tasks; all without names, the vision tasks only for `with_vision`.

    A variant of a task (pope_p, which scores P(yes)) is only selected by its name.
    """
    from firstsight.evaluate.tasks import TASKS

    kinds = benchmarks.task_kinds
    known = (*kinds, *(name for name, task in TASKS.items() if task.variant_of in kinds))
    selected = tuple(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in selected:
        if name not in known and name in TASKS:
            reason = f"Got none; available there: {', '.join(known)}. Add the folder, or drop the task."
            raise RequestError(f"--tasks {name}: wanted a folder {name} in {benchmarks.path}. {reason}")
        if name not in known:
            raise UnknownName("task", name, known)
    return selected or tuple(name for name, kind in kinds.items() if with_vision or kind == "text")


def find_answers(name: str, stored: StoredStudy, *, benchmarks: Path | None) -> list[AnswerFile]:
    """The answer files of a checkpoint, those of the study first; `benchmarks` replaces the recorded image folders.

    RequestError, with the command to give, for a checkpoint that was not evaluated; DamagedResult for damaged answers.
    """
    path = Path(name)
    if path.exists():
        check_stored_folder(path if path.is_dir() else path.parent)
    files = [AnswerFile(path=path, benchmarks_dir=None)] if path.is_file() else _evaluated_files(path)
    files = files or _files_of_checkpoint(name, stored)
    if not files:
        if not path.is_dir():
            resolve.find_checkpoint(name, stored)  # raises for a name that is unknown or not trained
        study, out = stored.study, stored.root
        command = f"firstsight evaluate {name} --study {study.name} --scale {study.scale} --out {out}"
        raise RequestError(f"{name}: wanted its answers. Got none under {out}. Evaluate it first: {command}")
    return [replace(file, benchmarks_dir=benchmarks, benchmarks_by_task={}) for file in files] if benchmarks else files


def _files_of_checkpoint(name: str, stored: StoredStudy) -> list[AnswerFile]:
    files = _study_files(name, stored)
    if not (stored.root / EVALUATIONS_FOLDER).is_dir():
        return files
    try:
        folder = Path(name) if Path(name).is_dir() else resolve.find_checkpoint(name, stored)
    except RequestError:
        if files:
            return files
        raise
    return [*files, *_evaluated_files(evaluation_folder(stored.root, folder))]


def _study_files(name: str, stored: StoredStudy) -> list[AnswerFile]:
    """The answers of an arm's evaluate step, or of the latest one of an address or a checkpoint's folder."""
    store, folder = stored.store, Path(name).absolute()
    if store is None:
        return []
    if resolve.is_arm(name, stored.study):
        address = stored.graph.final_step(stored.study.arm(name).label).address
    elif folder.is_dir() and folder.parent == store.root / "steps":
        address = folder.name
    else:
        address = resolve.stored_address(name, stored)
    if address is None or not store.has(address):
        return []
    evaluations = [step for step in store.addresses() if (store.path(step) / ANSWERS_FILE).is_file()]
    if address in evaluations:
        return [_step_file(address, store, stored.site)]
    records: list[dict[str, Any]] = []
    for step in evaluations:
        with suppress(DamagedResult):  # another checkpoint's, as far as can be known
            records.append(store.provenance(step))
    records = [record for record in records if record["needs"].get("checkpoint") == address]
    return [_step_file(max(records, key=itemgetter("ended"))["address"], store, stored.site)] if records else []


def _step_file(address: str, store: Store, site: Site) -> AnswerFile:
    """The answers of an evaluate step, with its benchmarks: in the store, or at the site's location.

    DamagedResult where one of them is not as it was published.
    """
    store.check_result(address)
    record = store.provenance(address)
    answers, source = store.path(address) / ANSWERS_FILE, from_json(record["spec"]).benchmarks
    if isinstance(source, External):
        location = site.sources.get(source.name)
        return AnswerFile(path=answers, benchmarks_dir=Path(location.path) if location else None)
    return AnswerFile(path=answers, benchmarks_dir=store.check_result(record["needs"]["benchmarks"]))


def _evaluated_files(folder: Path) -> list[AnswerFile]:
    record = read_evaluation_record(folder)
    if not (folder / ANSWERS_FILE).is_file():
        return []
    by_task = {task: Path(path) for task, path in record.get("tasks", {}).items()}
    benchmarks = Path(record["benchmarks"]) if record else None
    return [AnswerFile(path=folder / ANSWERS_FILE, benchmarks_dir=benchmarks, benchmarks_by_task=by_task)]


@dataclass(frozen=True)
class StoredAnswers:
    """The answers of a checkpoint; with `other`, of two. With `task` only those to its questions."""

    stored: StoredStudy
    checkpoint: str
    other: str = ""
    task: str = ""
    benchmarks: Path | None = None
    """The folder of the images, if it was moved."""

    def __post_init__(self) -> None:
        if self.other == self.checkpoint:
            raise RequestError(f"{self.other}: wanted another checkpoint than the first. Got it twice. Name it once.")

    def lines(self, question: str) -> list[str]:
        """One question (12, or pope/12) as text."""
        with as_request_error():
            return list(question_lines(self._tables, question))

    def write(self, max_questions: int) -> Path:
        """Write a page of at most that many questions, those on which two checkpoints differ first; its path."""
        if max_questions < 1:
            raise QuantityError(f"--rows: wanted at least 1. Got {max_questions}.")
        with as_request_error():
            is_builtin = _has_builtin_images(chain(*self._files))
            tables = self._tables
            html = render_answers(tables, max_questions=max_questions, task=self.task, credit_openmoji=is_builtin)
        name = "-against-".join(self._names)
        name_parts = [file_name_part(part)[-90:] for part in (name, self.task)]
        page = self.stored.root / "answers" / f"{'-'.join(filter(None, name_parts)) or 'answers'}.html"
        Store(self.stored.root)  # the folder must be a store, so that a later run may use it
        write_atomic(page, html)
        return page

    @property
    def _checkpoints(self) -> list[str]:
        return [self.checkpoint, self.other] if self.other else [self.checkpoint]

    @property
    def _names(self) -> list[str]:
        short = [_short_name(name) for name in self._checkpoints]
        return short if len(set(short)) == len(short) else self._checkpoints

    @cached_property
    def _files(self) -> list[list[AnswerFile]]:
        return [find_answers(name, self.stored, benchmarks=self.benchmarks) for name in self._checkpoints]

    @cached_property
    def _tables(self) -> list[AnswersTable]:
        return [AnswersTable(name, part, task=self.task) for name, part in zip(self._names, self._files, strict=True)]


def _short_name(name: str) -> str:
    if not Path(name).exists():
        return name
    path = Path(name).resolve()
    path = path.parent if path.name == "answers.jsonl" else path
    return path.stem if path.is_file() else path.name


def _has_builtin_images(files: Iterable[AnswerFile]) -> bool:
    folders = (folder for file in files for folder in (file.benchmarks_dir, *file.benchmarks_by_task.values()))
    return any(folder is not None and folder.name.startswith("benchmarks-") for folder in folders)
