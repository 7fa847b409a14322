"""A task's questions as they are put to one who can be asked, in the order that is quickest to work through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from firstsight.errors import DataError
from firstsight.evaluate.answer_cache import AnswerCache, AnswerKey, questions_digest
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.metrics.boxes import IOU25, IOU50
from firstsight.evaluate.models import box_formats
from firstsight.evaluate.models.box_formats import BoxFormat
from firstsight.evaluate.models.interface import ChoiceRequest, EvalModel, GenerationRequest
from firstsight.evaluate.results import ScoredAnswer, score_answers
from firstsight.evaluate.task import PromptStyle, Question, Task, benchmark_files

ImageMode = Literal["both", "seeing", "blind"]
"""Whether vision questions are asked with their picture, without it, or once each way."""

ANSWER_TOKEN_LIMITS: dict[PromptStyle, int] = {"bare": 8, "paper": 128}
"""Most tokens of an answer: the built-in world says at most four words (a box); the paper's harness stops at 128."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One question in one condition."""

    task: Task
    question: Question
    prompt: str
    is_blind: bool
    task_folder: str
    """The task's folder, where pictures of its own may lie."""
    box_format: BoxFormat | None = None
    """How the one who is asked writes the box that is the answer, where that is not in shares."""

    @property
    def key(self) -> AnswerKey:
        """What its answer is kept under, in its task's sheet."""
        return self.question.id, self.is_blind

    @property
    def uses_image(self) -> bool:
        """Whether it is asked about a picture."""
        return self.task.kind == "vision" and not self.is_blind

    @property
    def image_name(self) -> str:
        """What its files call the picture."""
        return str(self.question.image)

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything that the model reads."""
        return (self.prompt, *self.question.choices)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRun:
    """One task's questions in one wording, and the sheet with the answers to them."""

    task: Task
    questions: tuple[Question, ...]
    prompts: tuple[str, ...]
    task_folder: str
    """Its name."""
    skipped_counts: Mapping[str, int]
    """Questions of the files that are not asked: how many, by why."""
    answer_cache: AnswerCache
    box_format: BoxFormat | None = None
    """Item.writing of every question."""

    @property
    def score_notes(self) -> dict[str, Any]:
        """What a score says of how it was asked, where there is anything to say."""
        skipped = {"left_out": dict(self.skipped_counts)} if self.skipped_counts else {}
        return skipped | ({"boxes": self.box_format.description} if self.box_format else {})

    def requests(self, image_mode: ImageMode) -> list[Request]:
        """Every question once for each condition that it is asked in."""
        blind_conditions = {"both": (False, True), "seeing": (False,), "blind": (True,)}[image_mode]
        return [
            Request(
                task=self.task,
                question=question,
                prompt=prompt,
                is_blind=is_blind,
                task_folder=self.task_folder,
                box_format=self.box_format,
            )
            for is_blind in (blind_conditions if self.task.kind == "vision" else (False,))
            for question, prompt in zip(self.questions, self.prompts, strict=True)
        ]

    def scored_answers(self, answers_by_key: Mapping[AnswerKey, str]) -> list[ScoredAnswer]:
        """Of each condition that is answered whole, checked at once, since a metric may look at a whole corpus."""
        scored: list[ScoredAnswer] = []
        for is_blind in (False, True):
            if all((question.id, is_blind) in answers_by_key for question in self.questions):
                answers = [answers_by_key[question.id, is_blind] for question in self.questions]
                scored += score_answers(self.task, self.questions, answers, prompts=self.prompts, is_blind=is_blind)
        return scored


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptContext:
    """What an answer hangs on beside the checkpoint and the question."""

    style: PromptStyle
    images: BenchmarkImages | None = None
    """As they lie there now; None where there are none."""
    box_format: BoxFormat | None = None
    """How the one who is asked writes boxes, where that is not in shares."""


def build_task_run(
    task: Task, benchmarks_path: Path, *, context: PromptContext, answers_folder: Path | None
) -> TaskRun:
    """The questions of the task in `benchmarks`, and their sheet in the folder `sheets` (None: not kept).

    Raises DataError where the folder is missing, and what the task's reader raises.
    """
    task_folder = task.folder(benchmarks_path)
    if not task_folder.is_dir():
        folder_names = ", ".join(sorted(path.name for path in benchmarks_path.glob("*/"))) or "none"
        raise DataError(
            f"{benchmarks_path}: wanted a folder {task_folder.name} of its files. Got {folder_names}. Add or drop {task.name}."
        )
    paths = benchmark_files(task_folder)
    questions = task.read_questions(paths)
    prompts = tuple(task.prompt(question, context.style) for question in questions)
    box_format = context.box_format if task.metric in (IOU25, IOU50) else None
    question_rows = (
        [query.id, prompt, query.image, query.choices] for query, prompt in zip(questions, prompts, strict=True)
    )
    digest = questions_digest(
        [
            *_image_fingerprints(task, questions, benchmarks_path, context),
            *([box_format.description] if box_format else []),
            *question_rows,
        ]
    )
    header = {"task": task.name, "version": task.version, "style": context.style, "questions": digest}
    return TaskRun(
        task=task,
        questions=questions,
        prompts=prompts,
        task_folder=task_folder.name,
        skipped_counts=task.count_skipped(paths) if task.count_skipped else {},
        answer_cache=AnswerCache(folder=answers_folder, header=header),
        box_format=box_format,
    )


def _image_fingerprints(
    task: Task, questions: Sequence[Question], benchmarks_path: Path, context: PromptContext
) -> list[Any]:
    """The pictures of a vision task, as far as it can be seen from outside: equal names may be others elsewhere."""
    if task.kind != "vision":
        return [""]
    names, folder = dict.fromkeys(str(question.image) for question in questions), task.folder(benchmarks_path).name
    return [
        str(benchmarks_path.resolve()),
        [context.images and context.images.fingerprint(name, folder) for name in names],
    ]


def check_request_vocabulary(model: EvalModel, requests: Sequence[Request]) -> None:
    """RequestError that names words which the model cannot read, task by task."""
    texts_by_task: dict[str, dict[str, None]] = {}
    for request in requests:
        texts_by_task.setdefault(request.task.name, {}).update(dict.fromkeys(request.texts))
    for name, texts in texts_by_task.items():
        model.check_vocabulary(list(texts), location=f"task {name}")


def run_requests(
    model: EvalModel, requests: Sequence[Request], images: BenchmarkImages | None, *, max_new_tokens: int
) -> Iterator[tuple[int, str]]:
    """(place in `items`, answer), a choice by its number; in the order that is quickest, each once.

    What is said twice is asked once, and each picture is seen once: all questions about a portion of pictures are
    answered before the next portion.
    """
    yield from _run_group(
        model,
        [(index, request, None) for index, request in enumerate(requests) if not request.uses_image],
        max_new_tokens,
    )
    if images is None:
        return
    requests_by_image: dict[str, list[tuple[int, Request]]] = {}
    for index, request in enumerate(requests):
        if request.uses_image:
            requests_by_image.setdefault(images.location(request.image_name, request.task_folder), []).append(
                (index, request)
            )
    locations = list(requests_by_image)
    for start in range(0, len(locations), model.image_batch):
        groups = [(location, requests_by_image[location]) for location in locations[start : start + model.image_batch]]
        first_requests = [(location, group[0][1]) for location, group in groups]
        encoded_images = model.encode_images(
            [(location, images.read(request.image_name, request.task_folder)) for location, request in first_requests]
        )
        image_requests = [
            (index, request, encoded_image)
            for (_, group), encoded_image in zip(groups, encoded_images, strict=True)
            for index, request in group
        ]
        yield from _run_group(model, image_requests, max_new_tokens)


def _run_group(
    model: EvalModel, indexed_requests: Sequence[tuple[int, Request, object | None]], max_new_tokens: int
) -> Iterator[tuple[int, str]]:
    """Each distinct question once; those that are answered by a choice after the others."""
    generation_groups: dict[tuple[str, int, BoxFormat | None], list[int]] = {}
    choice_groups: dict[tuple[str, int, tuple[str, ...], bool], list[int]] = {}
    images_by_id = {id(image): image for _, _, image in indexed_requests}
    for index, request, image in indexed_requests:
        if request.task.answer_type == "choice":
            key = (request.prompt, id(image), request.question.choices, request.task.kind == "vision")
            choice_groups.setdefault(key, []).append(index)
        else:
            generation_groups.setdefault((request.prompt, id(image), request.box_format), []).append(index)
    generated = model.generate(
        [GenerationRequest(text=prompt, image=images_by_id[image_id]) for prompt, image_id, _ in generation_groups],
        max_new_tokens=max_new_tokens,
    )
    image_size = cache(lambda image_id: box_formats.processed_image_size(model, images_by_id[image_id]))
    for ((_, image_id, box_format), indices), answer in zip(generation_groups.items(), generated, strict=True):
        normalised_answer = (
            box_formats.normalise_answer_box(answer, box_format, get_image_size=partial(image_size, image_id))
            if box_format
            else answer
        )
        yield from ((index, normalised_answer) for index in indices)
    choice_requests = [
        ChoiceRequest(text=prompt, image=images_by_id[image_id], choices=choices, is_chat_turn=is_chat_turn)
        for prompt, image_id, choices, is_chat_turn in choice_groups
    ]
    for indices, choice_index in zip(choice_groups.values(), model.rank_choices(choice_requests), strict=True):
        yield from ((index, str(choice_index)) for index in indices)
