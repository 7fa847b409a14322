"""Evaluate a checkpoint on tasks: load the model, build requests, generate answers into the cache, score them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from firstsight.errors import DataError, ModelError
from firstsight.evaluate import tasks
from firstsight.evaluate.answer_cache import AnswerKey, DamagedAnswers
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.lm_eval.run import evaluate_with_lm_eval, uses_lm_eval
from firstsight.evaluate.models.box_formats import box_format_of
from firstsight.evaluate.models.interface import EvalModel, GenerationRequest, RawAnswer
from firstsight.evaluate.models.native import load_eval_model
from firstsight.evaluate.requests import (
    ANSWER_TOKEN_LIMITS,
    ImageMode,
    Request,
    build_task_run,
    check_request_vocabulary,
    run_requests,
)
from firstsight.evaluate.result_files import build_scores, write_scores
from firstsight.evaluate.results import EvalResult, Guesses, ScoredAnswer, summarise_answers, write_result
from firstsight.evaluate.task import QUESTION_BLIND, PromptStyle, Task, load_json
from firstsight.limits import check_file_size
from firstsight.model.checkpoint_io import last_checkpoint, save_average
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.recipe.stages import Evaluate
from firstsight.resume_folder import remove_path, set_aside
from firstsight.site import Progress, ProgressCallback, Site

ANSWER_CACHE_FOLDER = "sheets"
"""The folder of raw answers in a result's folder; removed when a step of a study is published."""
_PROGRESS_INTERVAL = 128
"""Answers between reports of progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """The tasks to evaluate, and how their questions are evaluated."""

    tasks: tuple[str, ...]
    image_mode: ImageMode
    prompt_style: PromptStyle


def evaluate(
    spec: Evaluate, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Step handler: evaluate `inputs["checkpoint"]` on `inputs["benchmarks"]` and write answers.jsonl and scores.json.

    With `spec.average` the evaluated weights are a mean; `spec.each_of_last` checkpoints have their scores in
    last-0/scores.json (the one at the end), last-1/scores.json and so on. The bytes are a function of checkpoint and
    benchmarks. Raises DataError, ModelError or UnknownName.
    """
    checkpoint = last_checkpoint(inputs["checkpoint"], spec.checkpoint)
    cache, averaged = out / ANSWER_CACHE_FOLDER, out / "averaged"
    style: PromptStyle = "bare" if isinstance(spec.benchmarks, SyntheticBenchmarks) else "paper"
    config = EvalConfig(tasks=(*spec.vision_tasks, *spec.text_tasks), image_mode="both", prompt_style=style)
    arguments = {"benchmarks_path": inputs["benchmarks"], "config": config, "site": site}
    evaluate_folder = partial(_evaluate_or_resume, partial(evaluate_checkpoint, **arguments))
    parts = [
        partial(_report_part, on_progress, number, spec.evaluated_models) for number in range(spec.evaluated_models)
    ]
    if spec.average > 1:
        save_average(averaged, checkpoint=checkpoint, count=spec.average)
    result = evaluate_folder(averaged if spec.average > 1 else checkpoint, cache, on_progress=parts.pop(0))
    write_result(result, out)
    for number in range(spec.each_of_last):
        if number or spec.average > 1:
            folder = last_checkpoint(checkpoint, number)
            result = evaluate_folder(folder, cache / f"last-{number}", on_progress=parts.pop(0))
        scores_folder = out / f"last-{number}"
        scores_folder.mkdir(exist_ok=True)
        write_scores(result.scores, scores_folder)
    remove_path(averaged)


def _evaluate_or_resume(
    evaluate_folder: Callable[..., EvalResult], checkpoint: Path, answers_folder: Path, *, on_progress: ProgressCallback
) -> EvalResult:
    """The result of one checkpoint; damaged answers of an earlier attempt are set aside."""
    continue_evaluation = partial(evaluate_folder, checkpoint, on_progress=on_progress, answers_folder=answers_folder)
    try:
        if answers_folder.is_symlink() or answers_folder.is_file():
            raise DamagedAnswers("it is not a folder.")
        return continue_evaluation()
    except DamagedAnswers as error:
        note = partial(_report_note, on_progress)
        set_aside(answers_folder, str(error), then="the questions are answered again", on_damage=note)
        return continue_evaluation()


def _report_part(on_progress: ProgressCallback, number: int, count: int, progress: Progress) -> None:
    """Report the progress of one of `count` equal parts as that of the whole."""
    total = progress.total
    on_progress(replace(progress, done=number * total + progress.done, total=count * total))


def _report_note(on_progress: ProgressCallback, line: str) -> None:
    on_progress(Progress(done=0, total=0, unit="answers", note=line))


def evaluate_checkpoint(
    checkpoint: Path,
    benchmarks_path: Path,
    *,
    config: EvalConfig,
    site: Site,
    on_progress: ProgressCallback,
    answers_folder: Path | None = None,
) -> EvalResult:
    """The answers and scores of a checkpoint on tasks, whose folders are in `benchmarks_path`.

    Answers in `answers_folder` are reused, and new ones are appended to it as they are generated; if none is missing,
    the checkpoint is not loaded. A complete set of stored answers (seeing or blind) counts even if not requested.
    Raises ModelError for vision tasks with a text model, DataError for missing files and images, both before anything
    is generated, and RequestError for words outside a small vocabulary.
    """
    selected_tasks = [tasks.get_task(name, benchmarks_path) for name in config.tasks]
    native_tasks = [task for task in selected_tasks if not uses_lm_eval(task, config.prompt_style)]
    get_model = cache(lambda: load_eval_model(checkpoint, site=site))
    with _open_images(benchmarks_path, native_tasks) as images:
        style, boxes = config.prompt_style, box_format_of(checkpoint)
        build = partial(build_task_run, style=style, images=images, box_format=boxes, answers_folder=answers_folder)
        runs = {task.name: build(task, benchmarks_path) for task in native_tasks}
        notes = (*(note for run in runs.values() for note in run.notes), *(images.notes() if images else ()))
        for line in dict.fromkeys(notes):
            _report_note(on_progress, line)
        answers = {name: run.answer_cache.read() for name, run in runs.items()}
        requests = [request for run in runs.values() for request in run.requests(config.image_mode)]
        pending = [request for request in requests if request.key not in answers[request.run.task.name]]
        if pending:
            images = _check_images(pending, benchmarks_path, images)
            _check_vision_support(get_model(), pending, checkpoint)
            check_request_vocabulary(get_model(), pending)
            limit = ANSWER_TOKEN_LIMITS[config.prompt_style]
            generated = run_requests(get_model(), pending, images, max_new_tokens=limit)
            _store_answers(generated, pending, answers=answers, total=len(requests), on_progress=on_progress)
    scored: list[ScoredAnswer] = []
    for task in selected_tasks:
        if task.name in runs:
            scored += runs[task.name].scored_answers(answers[task.name])
        else:
            scored += evaluate_with_lm_eval(
                task, benchmarks_path, get_model=get_model, answers_folder=answers_folder, on_progress=on_progress
            )
    scores = summarise_answers(scored, _load_guesses(native_tasks, benchmarks_path))
    scores |= {name: run.describe_in(scores[name]) for name, run in runs.items()}
    return EvalResult(answers=tuple(scored), scores=build_scores(scores))


def _store_answers(
    generated: Iterable[tuple[int, RawAnswer]],
    pending: Sequence[Request],
    *,
    answers: Mapping[str, dict[AnswerKey, RawAnswer]],
    total: int,
    on_progress: ProgressCallback,
) -> None:
    """Add each (index into `pending`, answer) to the cache and to `answers`; errors say how many are stored."""
    num_done = num_cached = total - len(pending)
    try:
        with ExitStack() as stack:
            pending_runs = {request.run.task.name: request.run for request in pending}
            append = {name: stack.enter_context(run.answer_cache.appender()) for name, run in pending_runs.items()}
            for num_done, (index, answer) in enumerate(generated, start=num_cached + 1):
                request = pending[index]
                append[request.run.task.name](request.key, answer)
                answers[request.run.task.name][request.key] = answer
                if (num_done - num_cached) % _PROGRESS_INTERVAL == 0 or num_done == total:
                    on_progress(Progress(done=num_done, total=total, unit="answers"))
    except (DataError, ModelError) as error:
        if num_done == num_cached or pending[0].run.answer_cache.file is None:
            raise
        stored = f"{num_done:,} of {total:,} answers are stored; run the command again to continue."
        raise type(error)(f"{error} {stored}") from error


def answer_question(checkpoint: Path, image: Path, question: str, *, site: Site) -> str:
    """The checkpoint's answer to a question about an image.

    Raises DataError for a file that is not an image, RequestError that names words outside a small vocabulary.
    """
    model = load_eval_model(checkpoint, site=site)
    model.check_vocabulary([question], location="the question")
    try:
        check_file_size(image, "picture")
        data = image.read_bytes()
    except OSError as error:
        raise DataError(f"{image}: wanted an image. Got {error.strerror}. Name a PNG, JPEG or WebP file.") from error
    [encoded] = model.encode_images([(str(image), data)])
    request = GenerationRequest(text=question, image=encoded)
    [answer] = model.generate([request], max_new_tokens=ANSWER_TOKEN_LIMITS["paper"])
    return answer.text


@contextmanager
def _open_images(benchmarks_path: Path, selected_tasks: Sequence[Task]) -> Iterator[BenchmarkImages | None]:
    """The images of vision tasks; None where they cannot be opened, since blind questions need none."""
    try:
        images = BenchmarkImages(benchmarks_path) if any(task.kind == "vision" for task in selected_tasks) else None
    except DataError:  # raised again by _check_images, if a request needs them
        images = None
    try:
        yield images
    finally:
        if images is not None:
            images.close()


def _check_images(pending: Sequence[Request], path: Path, images: BenchmarkImages | None) -> BenchmarkImages | None:
    """The images, if a request needs any; DataError that counts the missing ones, or why they cannot be opened."""
    names_by_folder: dict[str, list[str]] = {}
    for name, folder in (request.image for request in pending if request.uses_image):
        names_by_folder.setdefault(folder, []).append(name)
    if not names_by_folder:
        return None
    images = images or BenchmarkImages(path)
    for folder, names in names_by_folder.items():
        images.check_present(names, folder)
    return images


def _check_vision_support(model: EvalModel, pending: Sequence[Request], checkpoint: Path) -> None:
    if not model.has_vision and any(request.uses_image for request in pending):
        raise ModelError(
            f"{checkpoint}: wanted a vision-language model for vision tasks. Got a text-only model. "
            "Evaluate it blind, or on text tasks only."
        )


def _load_guesses(selected_tasks: Sequence[Task], benchmarks_path: Path) -> Guesses:
    """The answers of the best guesser that ignores the question, for tasks whose folders contain them."""
    return {
        task.name: {str(key): str(value) for key, value in load_json(path).items()}
        for task in selected_tasks
        if (path := task.folder(benchmarks_path) / QUESTION_BLIND).is_file()
    }
