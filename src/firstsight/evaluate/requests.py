"""Requests to a model: a task's questions with prompts and images, in an order that encodes each image once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from firstsight.errors import DataError
from firstsight.evaluate.answer_cache import AnswerCache, AnswerKey, questions_digest
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.metrics.boxes import IOU25, IOU50
from firstsight.evaluate.models.box_formats import BoxFormat, normalize_model_box
from firstsight.evaluate.models.hf_model import processed_image_size
from firstsight.evaluate.models.interface import ChoiceRequest, EvalModel, GenerationRequest, RawAnswer
from firstsight.evaluate.result_files import TaskScores
from firstsight.evaluate.results import ScoredAnswer, score_answers
from firstsight.evaluate.soft_scores import reference_forms, sample_keys, soft_score
from firstsight.evaluate.task import PromptStyle, Question, Task, benchmark_files, unread_file_notes

ImageMode = Literal["both", "seeing", "blind"]
"""Whether vision questions are evaluated with their image ("seeing"), without it ("blind"), or both ways."""

ANSWER_TOKEN_LIMITS: dict[PromptStyle, int] = {"bare": 8, "paper": 128}
"""Maximum tokens of an answer: synthetic answers have at most four words (a box); the paper's harness stops at 128."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question of a task, with its image or blind."""

    run: TaskRun
    question: Question
    prompt: str
    is_blind: bool

    @property
    def key(self) -> AnswerKey:
        """The key of its answer in the task's answer cache."""
        return self.question.id, self.is_blind

    @property
    def uses_image(self) -> bool:
        """Whether the model gets an image."""
        return self.run.task.kind == "vision" and not self.is_blind

    @property
    def image(self) -> tuple[str, str]:
        """The image's name in the benchmark's files, and the folder of its task."""
        return str(self.question.image), self.run.task_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRun:
    """One task's questions and prompts, and the cache of the answers to them."""

    task: Task
    questions: tuple[Question, ...]
    prompts: tuple[str, ...]
    task_folder: str
    """The name of the task's folder, which may contain its images."""
    skipped_counts: Mapping[str, int]
    """Questions of the files that are not evaluated: their number by reason."""
    notes: Sequence[str]
    """Lines about files that are not read, and about questions that are read otherwise than the files have them."""
    answer_cache: AnswerCache
    box_format: BoxFormat | None
    """How the model writes the boxes that are the answers; None for shares of the image."""

    def describe_in(self, scores: TaskScores) -> TaskScores:
        """The task's scores with the questions that were skipped and the unit of the model's boxes."""
        boxes = self.box_format.description if self.box_format else None
        return replace(scores, left_out=dict(self.skipped_counts), boxes=boxes)

    def requests(self, image_mode: ImageMode) -> list[Request]:
        """All questions with their image, then all without; text tasks once."""
        blind_values = {"both": (False, True), "seeing": (False,), "blind": (True,)}[image_mode]
        return [
            Request(run=self, question=question, prompt=prompt, is_blind=is_blind)
            for is_blind in (blind_values if self.task.kind == "vision" else (False,))
            for question, prompt in zip(self.questions, self.prompts, strict=True)
        ]

    def scored_answers(self, answers_by_key: Mapping[AnswerKey, RawAnswer]) -> list[ScoredAnswer]:
        """Scores for each of the two conditions that has all answers; a metric may need all of them at once."""
        scored: list[ScoredAnswer] = []
        for is_blind in (False, True):
            if all((question.id, is_blind) in answers_by_key for question in self.questions):
                raw = [answers_by_key[question.id, is_blind] for question in self.questions]
                texts = [answer.text for answer in raw]
                answers = score_answers(self.task, self.questions, texts, prompts=self.prompts, is_blind=is_blind)
                pairs = zip(answers, raw, strict=True)
                scored += [replace(a, soft=soft_score(self.task, a.question, answer)) for a, answer in pairs]
        return scored


def build_task_run(
    task: Task,
    benchmarks_path: Path,
    *,
    style: PromptStyle,
    images: BenchmarkImages | None,
    box_format: BoxFormat | None,
    answers_folder: Path | None,
) -> TaskRun:
    """The questions of a task, and their cache in `answers_folder` (None: answers are not stored).

    Raises DataError where the task's folder is missing, and what the task's reader raises.
    """
    folder = task.folder(benchmarks_path)
    if not folder.is_dir():
        names = ", ".join(sorted(path.name for path in benchmarks_path.glob("*/"))) or "none"
        raise DataError(
            f"{benchmarks_path}: wanted a folder {folder.name}. Got {names}. Add it, or leave out the task {task.name}."
        )
    paths = benchmark_files(folder)
    questions = task.read_questions(paths)
    prompts = tuple(task.prompt(question, style) for question in questions)
    box_format = box_format if task.metric in (IOU25, IOU50) else None
    fingerprints: list[Any] = [""]
    if task.kind == "vision":  # to notice replaced images: sizes and modification times
        names = dict.fromkeys(str(question.image) for question in questions)
        stamps = [images and images.fingerprint(name, folder.name) for name in names]
        fingerprints = [str(benchmarks_path.resolve()), stamps]
    box_notes = [box_format.description] if box_format else []
    rows = [[q.id, prompt, q.image, q.choices] for q, prompt in zip(questions, prompts, strict=True)]
    digest = questions_digest([*fingerprints, *box_notes, *rows])
    header = {"task": task.name, "version": task.version, "style": style, "questions": digest}
    return TaskRun(
        task=task,
        questions=questions,
        prompts=prompts,
        task_folder=folder.name,
        skipped_counts=task.count_skipped(paths) if task.count_skipped else {},
        notes=(*unread_file_notes(folder), *(task.reading_notes(paths) if task.reading_notes else ())),
        answer_cache=AnswerCache(folder=answers_folder, header=header),
        box_format=box_format,
    )


def check_request_vocabulary(model: EvalModel, requests: Sequence[Request]) -> None:
    """RequestError that names words outside the model's vocabulary, by task."""
    texts_by_task: dict[str, dict[str, None]] = {}
    for request in requests:
        texts = (request.prompt, *request.question.choices)
        texts_by_task.setdefault(request.run.task.name, {}).update(dict.fromkeys(texts))
    for name, texts in texts_by_task.items():
        model.check_vocabulary(list(texts), location=f"task {name}")


def run_requests(
    model: EvalModel, requests: Sequence[Request], images: BenchmarkImages | None, *, max_new_tokens: int
) -> Iterator[tuple[int, RawAnswer]]:
    """(index into `requests`, answer) once for each request, in processing order.

    Requests without an image come first. Then each image is encoded once, whatever its names: all requests about
    `model.image_batch` images are answered before the next images are read. Equal requests share one answer.
    """
    blind = [(index, request, None) for index, request in enumerate(requests) if not request.uses_image]
    yield from _run_batch(model, blind, max_new_tokens)
    if images is None:
        return
    requests_by_image: dict[str, list[tuple[int, Request]]] = {}
    for index, request in enumerate(requests):
        if request.uses_image:
            requests_by_image.setdefault(images.location(*request.image), []).append((index, request))
    groups = list(requests_by_image.items())
    for start in range(0, len(groups), model.image_batch):
        batch = groups[start : start + model.image_batch]
        encoded = model.encode_images([(location, images.read(*group[0][1].image)) for location, group in batch])
        rows = [(*row, image) for (_, group), image in zip(batch, encoded, strict=True) for row in group]
        yield from _run_batch(model, rows, max_new_tokens)


def _run_batch(
    model: EvalModel, rows: Sequence[tuple[int, Request, Any]], limit: int
) -> Iterator[tuple[int, RawAnswer]]:
    """Answers to (index, request, encoded image), each distinct request once; generation first, then choices."""
    generation_groups: dict[tuple[_GenerationKey, BoxFormat | None], list[int]] = {}
    choice_groups: dict[tuple[str, int, tuple[str, ...], bool], list[int]] = {}
    images = {id(image): image for _, _, image in rows}
    for index, request, image in rows:
        task, question = request.run.task, request.question
        if task.answer_type == "choice":
            key = (request.prompt, id(image), question.choices, task.kind == "vision")
            choice_groups.setdefault(key, []).append(index)
        else:
            forms, keys = reference_forms(task, question), sample_keys(task, question)
            group = _GenerationKey(request.prompt, id(image), forms, keys), request.run.box_format
            generation_groups.setdefault(group, []).append(index)
    generation_requests = [
        GenerationRequest(text=key.text, image=images[key.image], references=key.references, sample_keys=key.samples)
        for key, _ in generation_groups
    ]
    generated = model.generate(generation_requests, max_new_tokens=limit)
    image_size = cache(lambda image_id: processed_image_size(model, images[image_id]))
    for ((key, box_format), indices), answer in zip(generation_groups.items(), generated, strict=True):
        if box_format:
            normalize = partial(
                normalize_model_box, box_format=box_format, get_image_size=partial(image_size, key.image)
            )
            answer = answer._replace(text=normalize(answer.text), samples=tuple(map(normalize, answer.samples)))
        yield from ((index, answer) for index in indices)
    choice_requests = [
        ChoiceRequest(text=prompt, image=images[image_id], choices=choices, is_chat_turn=is_chat_turn)
        for prompt, image_id, choices, is_chat_turn in choice_groups
    ]
    for indices, answer in zip(choice_groups.values(), model.rank_choices(choice_requests), strict=True):
        yield from ((index, answer) for index in indices)


class _GenerationKey(NamedTuple):
    """What the answer to a request depends on."""

    text: str
    image: int
    """The id of the encoded image."""
    references: tuple[str, ...]
    samples: tuple[int, ...]
