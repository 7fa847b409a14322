"""A checkpoint and its benchmarks in, one kept row a question and one score a task out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from firstsight.errors import DataError, ModelError
from firstsight.evaluate import respond, tasks
from firstsight.evaluate.pictures import Pictures
from firstsight.evaluate.question import QUESTION_BLIND, Question, Style, Task, load
from firstsight.evaluate.respond import LIMIT, Asked, Speaker
from firstsight.evaluate.summary import Guesses, Row, row, summarise
from firstsight.recipe.mix import Benchmarks
from firstsight.recipe.stages import Evaluate
from firstsight.site import Progress, Site, Tell

Sight = Literal["both", "seeing", "blind"]
"""Whether vision questions are asked with their picture, without it, or once each way."""

_TOLD = 128
"""Answers between reports of progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """What is asked, and how."""

    tasks: tuple[str, ...]
    sight: Sight
    style: Style


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All that judging leaves: rows in the order of tasks and questions, seeing before blind, and scores.json."""

    rows: tuple[Row, ...]
    scores: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Item:
    task: Task
    question: Question
    prompt: str
    blind: bool


def evaluate(spec: Evaluate, *, inputs: Mapping[str, Path], out: Path, site: Site, tell: Tell) -> None:
    """Handler: judge `inputs["checkpoint"]` on `inputs["benchmarks"]`; leaves answers.jsonl and scores.json.

    The bytes are a function of checkpoint and benchmarks. Raises DataError, ModelError or UnknownName.
    """
    style: Style = "bare" if isinstance(spec.benchmarks, Benchmarks) else "paper"
    asking = Asking(tasks=(*spec.vision, *spec.text), sight="both", style=style)
    write(judge(inputs["checkpoint"], inputs["benchmarks"], asking=asking, site=site, tell=tell), out)


def write(verdict: Verdict, out: Path) -> None:
    """answers.jsonl, one line a question and condition, and scores.json."""
    out.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row.line(), ensure_ascii=False) + "\n" for row in verdict.rows)
    (out / "answers.jsonl").write_text(lines, encoding="utf-8")
    (out / "scores.json").write_text(json.dumps(verdict.scores, indent=1) + "\n", encoding="utf-8")


def judge(checkpoint: Path, benchmarks: Path, *, asking: Asking, site: Site, tell: Tell) -> Verdict:
    """Ask a checkpoint every question of the tasks' folders in `benchmarks` and check its answers.

    Raises ModelError when a text model is to look at pictures, RequestError for words outside its vocabulary.
    """
    judged = [tasks.task(name) for name in asking.tasks]
    items = _items(judged, benchmarks, asking)
    who = respond.speaker(checkpoint, site=site)
    if who.vision is None and any(item.task.kind == "vision" and not item.blind for item in items):
        raise ModelError(f"{checkpoint}: a text model has no eyes. Got vision tasks. Ask them blind, or text alone.")
    for task in judged:
        respond.refuse_unknown_words(who.words, _words(task, items), where=f"task {task.name}")
    answers: dict[int, str] = {}
    for at, answer in _answers(who, items, benchmarks, LIMIT[asking.style]):
        answers[at] = answer
        if len(answers) % _TOLD == 0 or len(answers) == len(items):
            tell(Progress(done=len(answers), total=len(items), unit="answers"))
    rows = [_row(item, answers[at]) for at, item in enumerate(items)]
    return Verdict(rows=tuple(rows), scores=summarise(rows, _guesses(judged, benchmarks)))


def ask(checkpoint: Path, picture: Path, question: str, *, site: Site) -> str:
    """What the checkpoint answers about one picture.

    Raises DataError for a picture that is none, RequestError that names words outside a small vocabulary.
    """
    who = respond.speaker(checkpoint, site=site)
    respond.refuse_unknown_words(who.words, [question], where="the question")
    try:
        data = picture.read_bytes()
    except OSError as error:
        raise DataError(f"{picture}: wanted a picture. Got {error.strerror}. Name a PNG, JPEG or WebP file.") from error
    [seen] = respond.see(who, [(str(picture), data)])
    [answer] = respond.say(who, [Asked(text=question, picture=seen)], limit=LIMIT["paper"])
    return answer


def _items(judged: Sequence[Task], benchmarks: Path, asking: Asking) -> list[_Item]:
    """Every question once for each condition that it is asked in."""
    looks = {"both": (False, True), "seeing": (False,), "blind": (True,)}[asking.sight]
    items: list[_Item] = []
    for task in judged:
        questions = task.read(_folder(benchmarks, task.name))
        for blind in looks if task.kind == "vision" else (False,):
            items += [
                _Item(task=task, question=question, prompt=task.prompt(question, asking.style), blind=blind)
                for question in questions
            ]
    return items


def _folder(benchmarks: Path, name: str) -> Path:
    if not (benchmarks / name).is_dir():
        held = ", ".join(sorted(path.name for path in benchmarks.glob("*/"))) or "none"
        raise DataError(f"{benchmarks}: wanted a folder {name} with the benchmark's files. Got {held}. Add or drop it.")
    return benchmarks / name


def _words(task: Task, items: Sequence[_Item]) -> list[str]:
    """Everything of a task that the model reads."""
    own = [item for item in items if item.task is task]
    return [text for item in own for text in (item.prompt, *item.question.choices)]


def _answers(who: Speaker, items: Sequence[_Item], benchmarks: Path, limit: int) -> Iterator[tuple[int, str]]:
    """(item, answer), in the order that is quickest to work through."""
    text = [at for at, item in enumerate(items) if item.task.kind == "text"]
    chosen = respond.choose(who, [(items[at].prompt, items[at].question.choices) for at in text])
    yield from zip(text, map(str, chosen), strict=True)
    blind = [at for at, item in enumerate(items) if item.blind]
    said = respond.say(who, [Asked(text=items[at].prompt, picture=None) for at in blind], limit=limit)
    yield from zip(blind, said, strict=True)
    seeing = [at for at, item in enumerate(items) if item.task.kind == "vision" and not item.blind]
    if seeing:
        yield from _seeing(who, [(at, items[at]) for at in seeing], Pictures(benchmarks), limit)


def _seeing(
    who: Speaker, asked: Sequence[tuple[int, _Item]], pictures: Pictures, limit: int
) -> Iterator[tuple[int, str]]:
    """Each picture is encoded once; all questions about a portion of pictures are answered before the next."""
    about: dict[str, list[tuple[int, _Item]]] = {}
    for at, item in asked:
        about.setdefault(str(item.question.image), []).append((at, item))
    names = list(about)
    portion = respond.pictures_held(who)
    for start in range(0, len(names), portion):
        some = names[start : start + portion]
        seen = dict(zip(some, respond.see(who, [(name, pictures.read(name)) for name in some]), strict=True))
        pairs = [(at, Asked(text=item.prompt, picture=seen[name])) for name in some for at, item in about[name]]
        said = respond.say(who, [ask for _, ask in pairs], limit=limit)
        yield from zip([at for at, _ in pairs], said, strict=True)
    pictures.close()


def _row(item: _Item, answer: str) -> Row:
    return row(item.task, item.question, prompt=item.prompt, answer=answer, blind=item.blind)


def _guesses(judged: Sequence[Task], benchmarks: Path) -> Guesses:
    """The answers of the guesser that ignores the question, where the benchmark's folder has them."""
    files = {task.name: benchmarks / task.name / QUESTION_BLIND for task in judged}
    found = {name: load(file) for name, file in files.items() if file.is_file()}
    return {name: {str(key): str(value) for key, value in given.items()} for name, given in found.items()}
