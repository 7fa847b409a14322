"""A checkpoint and its benchmarks in, one kept row a question and one score a task out."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import DataError, ModelError
from firstsight.evaluate import answer_cache, tasks
from firstsight.evaluate.answer_cache import AnswerKey
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.lm_eval.run import evaluate_with_lm_eval, uses_lm_eval
from firstsight.evaluate.models.box_formats import box_format_of
from firstsight.evaluate.models.interface import EvalModel, GenerationRequest
from firstsight.evaluate.models.native import load_eval_model
from firstsight.evaluate.requests import (
    ANSWER_TOKEN_LIMITS,
    ImageMode,
    PromptContext,
    Request,
    TaskRun,
    build_task_run,
    check_request_vocabulary,
    run_requests,
)
from firstsight.evaluate.results import Guesses, ScoredAnswer, build_scores_json, summarise_answers
from firstsight.evaluate.task import QUESTION_BLIND, PromptStyle, Task, load_json
from firstsight.files import write_atomic
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.recipe.stages import Evaluate
from firstsight.site import Progress, ProgressCallback, Site

ANSWER_CACHE_FOLDER = "sheets"
"""The folder of raw answers beside what they add up to; a step of a study takes it away when all are there."""

_PROGRESS_INTERVAL = 128
"""Answers between reports of progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """What is asked, and how."""

    tasks: tuple[str, ...]
    image_mode: ImageMode
    prompt_style: PromptStyle


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """All that judging leaves: rows in the order of tasks and questions, seeing before blind, and scores.json."""

    answers: tuple[ScoredAnswer, ...]
    scores: dict[str, Any]


def evaluate(
    spec: Evaluate, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Handler: judge `inputs["checkpoint"]` on `inputs["benchmarks"]`; leaves answers.jsonl and scores.json.

    The bytes are a function of checkpoint and benchmarks. Raises DataError, ModelError or UnknownName.
    """
    prompt_style: PromptStyle = "bare" if isinstance(spec.benchmarks, SyntheticBenchmarks) else "paper"
    config = EvalConfig(tasks=(*spec.vision_tasks, *spec.text_tasks), image_mode="both", prompt_style=prompt_style)
    answers_folder = out / ANSWER_CACHE_FOLDER
    result = evaluate_checkpoint(
        inputs["checkpoint"],
        inputs["benchmarks"],
        config=config,
        site=site,
        on_progress=on_progress,
        answers_folder=answers_folder,
    )
    write_result(result, out)
    shutil.rmtree(answers_folder)


def write_result(result: EvalResult, output_path: Path) -> None:
    """answers.jsonl, one line a question and condition, and scores.json."""
    text = "".join(json.dumps(answer.to_json(), ensure_ascii=False) + "\n" for answer in result.answers)
    write_atomic(output_path / "answers.jsonl", text)
    write_atomic(output_path / "scores.json", json.dumps(result.scores, indent=1) + "\n")


def merge_result(result: EvalResult, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Add a verdict to what was judged of a checkpoint before: answers.jsonl, scores.json and, of `note`, judged.json.

    Tasks that were judged before are replaced; what another version scored is left out, its answers stay in `sheets`.
    """
    with answer_cache.file_lock(folder / "lock", is_blocking=True):
        previous = _read_previous_result(folder, result.scores["versions"]["scores"])
        task_scores = previous.scores.get("tasks", {}) | result.scores["tasks"]
        versions = previous.scores.get("versions", {}) | result.scores["versions"]
        scores = build_scores_json(task_scores, {name: versions[name] for name in task_scores})
        new_lines: dict[str, list[str]] = {name: [] for name in result.scores["tasks"]}
        for answer in result.answers:
            new_lines[answer.task.name].append(json.dumps(answer.to_json(), ensure_ascii=False))
        lines = previous.lines | new_lines
        write_atomic(folder / "answers.jsonl", "".join(f"{line}\n" for name in task_scores for line in lines[name]))
        write_atomic(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
        new_metadata = {
            **metadata,
            "tasks": previous.metadata.get("tasks", {}) | dict.fromkeys(new_lines, metadata["benchmarks"]),
        }
        write_atomic(folder / "judged.json", json.dumps(new_metadata, indent=1) + "\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class _PreviousResult:
    """What was recorded of a checkpoint; all empty where nothing was, or by another version."""

    scores: dict[str, Any]
    lines: dict[str, list[str]]
    metadata: dict[str, Any]


def _read_previous_result(folder: Path, version: int) -> _PreviousResult:
    scores, metadata = (json.loads(path.read_text()) if path.is_file() else {} for path in _result_paths(folder))
    if not scores or scores["versions"]["scores"] != version:
        return _PreviousResult(scores={}, lines={}, metadata={})
    lines: dict[str, list[str]] = {name: [] for name in scores["tasks"]}
    for line in (folder / "answers.jsonl").read_text(encoding="utf-8").split("\n")[:-1]:
        lines[json.loads(line)["task"]].append(line)
    return _PreviousResult(scores=scores, lines=lines, metadata=metadata)


def _result_paths(folder: Path) -> tuple[Path, Path]:
    return folder / "scores.json", folder / "judged.json"


def evaluate_checkpoint(
    checkpoint: Path,
    benchmarks_path: Path,
    *,
    config: EvalConfig,
    site: Site,
    on_progress: ProgressCallback,
    answers_folder: Path | None = None,
) -> EvalResult:
    """Ask a checkpoint every question of the tasks' folders in `benchmarks` and check its answers.

    Answers that lie in the folder `sheets` are not asked for again, and the others go there as they come; where all of
    them lie there, the checkpoint is not even loaded. A task's other condition is told, too, where it lies there whole.
    Raises ModelError when a text model is to look at pictures, DataError for missing files and pictures, before
    anything is asked, and RequestError for words outside a small vocabulary.
    """
    selected_tasks = [tasks.get_task(name, benchmarks_path) for name in config.tasks]
    harness_tasks = [task for task in selected_tasks if not uses_lm_eval(task, config.prompt_style)]
    get_model = functools.cache(lambda: load_eval_model(checkpoint, site=site))
    with _open_images(benchmarks_path, harness_tasks) as available_images:
        context = PromptContext(
            style=config.prompt_style, images=available_images, box_format=box_format_of(checkpoint)
        )
        task_runs = {
            task.name: build_task_run(task, benchmarks_path, context=context, answers_folder=answers_folder)
            for task in harness_tasks
        }
        answers_by_task = {name: task_run.answer_cache.read() for name, task_run in task_runs.items()}
        requests = [request for task_run in task_runs.values() for request in task_run.requests(config.image_mode)]
        pending = [request for request in requests if request.key not in answers_by_task[request.task.name]]
        if pending:
            images = _require_images(pending, benchmarks_path, available_images)
            _check_vision_support(get_model(), pending, checkpoint)
            check_request_vocabulary(get_model(), pending)
            recorder = _AnswerRecorder(
                task_runs=task_runs,
                answers_by_task=answers_by_task,
                pending=pending,
                on_progress=on_progress,
                total=len(requests),
            )
            recorder.record_all(
                run_requests(get_model(), pending, images, max_new_tokens=ANSWER_TOKEN_LIMITS[config.prompt_style])
            )
    scored_answers: list[ScoredAnswer] = []
    for task in selected_tasks:
        if task.name in task_runs:
            scored_answers += task_runs[task.name].scored_answers(answers_by_task[task.name])
        else:
            scored_answers += evaluate_with_lm_eval(
                task, benchmarks_path, get_model=get_model, answers_folder=answers_folder, on_progress=on_progress
            )
    scores = summarise_answers(scored_answers, _load_guesses(harness_tasks, benchmarks_path))
    for name, task_run in task_runs.items():
        scores["tasks"][name] |= task_run.score_notes
    return EvalResult(answers=tuple(scored_answers), scores=scores)


@dataclass(frozen=True, kw_only=True, slots=True)
class _AnswerRecorder:
    """What happens to answers as they come."""

    task_runs: Mapping[str, TaskRun]
    answers_by_task: Mapping[str, dict[AnswerKey, str]]
    pending: Sequence[Request]
    on_progress: ProgressCallback
    total: int

    def record_all(self, answers: Iterable[tuple[int, str]]) -> None:
        """Each goes into its sheet at once; an error on the way says how many are kept."""
        num_done = num_cached = self.total - len(self.pending)
        try:
            with ExitStack() as stack:
                names = dict.fromkeys(request.task.name for request in self.pending)
                appenders = {name: stack.enter_context(self.task_runs[name].answer_cache.appender()) for name in names}
                for num_done, (index, answer) in enumerate(answers, start=num_cached + 1):
                    request = self.pending[index]
                    appenders[request.task.name](request.key, answer)
                    self.answers_by_task[request.task.name][request.key] = answer
                    if (num_done - num_cached) % _PROGRESS_INTERVAL == 0 or num_done == self.total:
                        self.on_progress(Progress(done=num_done, total=self.total, unit="answers"))
        except (DataError, ModelError) as error:
            if num_done == num_cached or self.task_runs[self.pending[0].task.name].answer_cache.file is None:
                raise
            raise type(error)(
                f"{error} {num_done:,} of {self.total:,} answers are kept; ask again to go on."
            ) from error


def answer_question(checkpoint: Path, image_path: Path, question: str, *, site: Site) -> str:
    """What the checkpoint answers about one picture.

    Raises DataError for a picture that is none, RequestError that names words outside a small vocabulary.
    """
    model = load_eval_model(checkpoint, site=site)
    model.check_vocabulary([question], location="the question")
    try:
        data = image_path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{image_path}: wanted a picture. Got {error.strerror}. Name a PNG, JPEG or WebP file."
        ) from error
    [image] = model.encode_images([(str(image_path), data)])
    [answer] = model.generate(
        [GenerationRequest(text=question, image=image)], max_new_tokens=ANSWER_TOKEN_LIMITS["paper"]
    )
    return answer


@contextmanager
def _open_images(
    benchmarks_path: Path, selected_tasks: Sequence[Task]
) -> Generator[BenchmarkImages | None, None, None]:
    """The pictures as they lie there, for vision tasks; None where there are none: blind questions need none."""
    try:
        images = BenchmarkImages(benchmarks_path) if any(task.kind == "vision" for task in selected_tasks) else None
    except DataError:  # told when somebody is to look at them
        images = None
    try:
        yield images
    finally:
        if images is not None:
            images.close()


def _require_images(
    pending: Sequence[Request], benchmarks_path: Path, available_images: BenchmarkImages | None
) -> BenchmarkImages | None:
    """The benchmarks' pictures, where any are looked at; DataError that counts those that are missing."""
    image_names: dict[str, list[str]] = {}
    for request in pending:
        if request.uses_image:
            image_names.setdefault(request.task_folder, []).append(request.image_name)
    if not image_names:
        return None
    images = (
        BenchmarkImages(benchmarks_path) if available_images is None else available_images
    )  # the former says why none are there
    for folder, names in image_names.items():
        images.check_present(names, folder)
    return images


def _check_vision_support(model: EvalModel, pending: Sequence[Request], checkpoint: Path) -> None:
    if not model.has_vision and any(request.uses_image for request in pending):
        raise ModelError(f"{checkpoint}: a text model has no eyes. Got vision tasks. Ask them blind, or text alone.")


def _load_guesses(selected_tasks: Sequence[Task], benchmarks_path: Path) -> Guesses:
    """The answers of the guesser that ignores the question, where the benchmark's folder has them."""
    paths = {task.name: task.folder(benchmarks_path) / QUESTION_BLIND for task in selected_tasks}
    raw_guesses = {name: load_json(path) for name, path in paths.items() if path.is_file()}
    return {
        name: {str(key): str(value) for key, value in task_guesses.items()}
        for name, task_guesses in raw_guesses.items()
    }
