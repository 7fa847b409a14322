"""A task's questions as they are put to one who can be asked, in the order that is quickest to work through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from firstsight.errors import DataError
from firstsight.evaluate.cache import Key, Sheet, questions_digest
from firstsight.evaluate.metrics.boxes import IOU25, IOU50
from firstsight.evaluate.pictures import Pictures
from firstsight.evaluate.question import Question, Style, Task, files
from firstsight.evaluate.speakers import boxes
from firstsight.evaluate.speakers.boxes import Writing
from firstsight.evaluate.speakers.speaker import Asked, Offered, Speaker
from firstsight.evaluate.summary import Row, checked

Sight = Literal["both", "seeing", "blind"]
"""Whether vision questions are asked with their picture, without it, or once each way."""

LIMIT: dict[Style, int] = {"bare": 8, "paper": 128}
"""Most tokens of an answer: the built-in world says at most four words (a box); the paper's harness stops at 128."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question in one condition."""

    task: Task
    question: Question
    prompt: str
    blind: bool
    folder: str
    """The task's folder, where pictures of its own may lie."""
    writing: Writing | None = None
    """How the one who is asked writes the box that is the answer, where that is not in shares."""

    @property
    def key(self) -> Key:
        """What its answer is kept under, in its task's sheet."""
        return self.question.id, self.blind

    @property
    def looks(self) -> bool:
        """Whether it is asked about a picture."""
        return self.task.kind == "vision" and not self.blind

    @property
    def picture(self) -> str:
        """What its files call the picture."""
        return str(self.question.image)

    @property
    def words(self) -> tuple[str, ...]:
        """Everything that the model reads."""
        return (self.prompt, *self.question.choices)


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """One task's questions in one wording, and the sheet with the answers to them."""

    task: Task
    questions: tuple[Question, ...]
    prompts: tuple[str, ...]
    folder: str
    """Its name."""
    left_out: Mapping[str, int]
    """Questions of the files that are not asked: how many, by why."""
    sheet: Sheet
    writing: Writing | None = None
    """Item.writing of every question."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a score says of how it was asked, where there is anything to say."""
        left = {"left_out": dict(self.left_out)} if self.left_out else {}
        return left | ({"boxes": self.writing.told} if self.writing else {})

    def items(self, sight: Sight) -> list[Item]:
        """Every question once for each condition that it is asked in."""
        looks = {"both": (False, True), "seeing": (False,), "blind": (True,)}[sight]
        return [
            Item(
                task=self.task,
                question=question,
                prompt=prompt,
                blind=blind,
                folder=self.folder,
                writing=self.writing,
            )
            for blind in (looks if self.task.kind == "vision" else (False,))
            for question, prompt in zip(self.questions, self.prompts, strict=True)
        ]

    def rows(self, known: Mapping[Key, str]) -> list[Row]:
        """Of each condition that is answered whole, checked at once, since a metric may look at a whole corpus."""
        rows: list[Row] = []
        for blind in (False, True):
            if all((question.id, blind) in known for question in self.questions):
                answers = [known[question.id, blind] for question in self.questions]
                rows += checked(self.task, self.questions, answers, prompts=self.prompts, blind=blind)
        return rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What an answer hangs on beside the checkpoint and the question."""

    style: Style
    pictures: Pictures | None = None
    """As they lie there now; None where there are none."""
    writing: Writing | None = None
    """How the one who is asked writes boxes, where that is not in shares."""


def paper(task: Task, benchmarks: Path, *, terms: Terms, sheets: Path | None) -> Paper:
    """The questions of the task in `benchmarks`, and their sheet in the folder `sheets` (None: not kept).

    Raises DataError where the folder is missing, and what the task's reader raises.
    """
    own = task.home(benchmarks)
    if not own.is_dir():
        there = ", ".join(sorted(path.name for path in benchmarks.glob("*/"))) or "none"
        raise DataError(f"{benchmarks}: wanted a folder {own.name} of its files. Got {there}. Add or drop {task.name}.")
    given = files(own)
    questions = task.read(given)
    prompts = tuple(task.prompt(question, terms.style) for question in questions)
    writing = terms.writing if task.metric in (IOU25, IOU50) else None
    asked = ([one.id, prompt, one.image, one.choices] for one, prompt in zip(questions, prompts, strict=True))
    told = questions_digest([*_about(task, questions, benchmarks, terms), *([writing.told] if writing else []), *asked])
    head = {"task": task.name, "version": task.version, "style": terms.style, "questions": told}
    return Paper(
        task=task,
        questions=questions,
        prompts=prompts,
        folder=own.name,
        left_out=task.left_out(given) if task.left_out else {},
        sheet=Sheet(folder=sheets, head=head),
        writing=writing,
    )


def _about(task: Task, questions: Sequence[Question], benchmarks: Path, terms: Terms) -> list[Any]:
    """The pictures of a vision task, as far as it can be seen from outside: equal names may be others elsewhere."""
    if task.kind != "vision":
        return [""]
    names, folder = dict.fromkeys(str(one.image) for one in questions), task.home(benchmarks).name
    return [str(benchmarks.resolve()), [terms.pictures and terms.pictures.stamp(name, folder) for name in names]]


def refuse(who: Speaker, items: Sequence[Item]) -> None:
    """RequestError that names words which the model cannot read, task by task."""
    words: dict[str, dict[str, None]] = {}
    for item in items:
        words.setdefault(item.task.name, {}).update(dict.fromkeys(item.words))
    for name, texts in words.items():
        who.refuse_unknown(list(texts), where=f"task {name}")


def put(who: Speaker, items: Sequence[Item], pictures: Pictures | None, *, limit: int) -> Iterator[tuple[int, str]]:
    """(place in `items`, answer), a choice by its number; in the order that is quickest, each once.

    What is said twice is asked once, and each picture is seen once: all questions about a portion of pictures are
    answered before the next portion.
    """
    yield from _put(who, [(at, item, None) for at, item in enumerate(items) if not item.looks], limit)
    if pictures is None:
        return
    about: dict[str, list[tuple[int, Item]]] = {}
    for at, item in enumerate(items):
        if item.looks:
            about.setdefault(pictures.where(item.picture, item.folder), []).append((at, item))
    places = list(about)
    for start in range(0, len(places), who.held):
        some = [(place, about[place]) for place in places[start : start + who.held]]
        firsts = [(place, group[0][1]) for place, group in some]
        seen = who.see([(place, pictures.read(item.picture, item.folder)) for place, item in firsts])
        shown = [(at, item, one) for (_, group), one in zip(some, seen, strict=True) for at, item in group]
        yield from _put(who, shown, limit)


def _put(who: Speaker, asked: Sequence[tuple[int, Item, object | None]], limit: int) -> Iterator[tuple[int, str]]:
    """Each distinct question once; those that are answered by a choice after the others."""
    said: dict[tuple[str, int, Writing | None], list[int]] = {}
    chosen: dict[tuple[str, int, tuple[str, ...], bool], list[int]] = {}
    shown = {id(picture): picture for _, _, picture in asked}
    for at, item, picture in asked:
        if item.task.answered == "choice":
            key = (item.prompt, id(picture), item.question.choices, item.task.kind == "vision")
            chosen.setdefault(key, []).append(at)
        else:
            said.setdefault((item.prompt, id(picture), item.writing), []).append(at)
    told = who.say([Asked(text=prompt, picture=shown[which]) for prompt, which, _ in said], limit=limit)
    size = cache(lambda which: boxes.scaled(who, shown[which]))
    for ((_, which, writing), places), answer in zip(said.items(), told, strict=True):
        heard = boxes.in_shares(answer, writing, size=partial(size, which)) if writing else answer
        yield from ((at, heard) for at in places)
    offered = [
        Offered(text=prompt, picture=shown[which], choices=choices, turn=turn)
        for prompt, which, choices, turn in chosen
    ]
    for places, number in zip(chosen.values(), who.choose(offered), strict=True):
        yield from ((at, str(number)) for at in places)
