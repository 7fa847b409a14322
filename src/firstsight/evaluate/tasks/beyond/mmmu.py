"""MMMU-style multiple choice: a college question about one picture, answered by an option's letter."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.letters import LETTER
from firstsight.evaluate.question import Question, Task, tags, take
from firstsight.evaluate.tasks.records import Record, distinct, first_of, listed, rows, word

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MARK = re.compile(r"\s*<image[ _](\d+)>\s*")
_NUMBERED = re.compile(r"image_\d+")
_PICTURES = ("image", "image_1")
_ID = ("id", "question_id")


def read(given: Sequence[Path]) -> tuple[Question, ...]:
    """{"id", "question", "options", "answer", "image" or "image_1"}: a list or lines, in one file or one a subject.

    Questions over several pictures and questions without options cannot be asked this way; `left_out` counts them.
    """
    kept = [record for path in given for record in rows(path) if not _why_not(record)]
    if not kept:
        raise DataError(
            f"{', '.join(str(path) for path in given)}: no multiple-choice question about one picture. "
            f"Left out: {dict(left_out(given))}. Add the questions with options."
        )
    return distinct([_question(record) for record in kept], given)


def left_out(given: Sequence[Path]) -> Mapping[str, int]:
    """How many questions are passed by, by why."""
    return dict(Counter(why for path in given for record in rows(path) if (why := _why_not(record))))


def _why_not(record: Record) -> str:
    row = record.held
    if row.get("question_type") == "open" or not options(take(row, "options", record.where), record.where):
        return "without options"
    given = [key for key in row if _NUMBERED.fullmatch(key) and row[key] is not None]
    marks = {mark[1] for mark in _MARK.finditer(str(row.get("question", "")) + str(row["options"]))}
    several = len(given) > 1 or len(marks) > 1 or (isinstance(row.get("image"), list) and len(row["image"]) > 1)
    return "over several pictures" if several else ""


def options(given: Any, where: str) -> tuple[str, ...]:
    """A list of texts, or the text of one as Python writes it; nothing in that text is run."""
    try:
        held = ast.literal_eval(given) if isinstance(given, str) else given
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{where}: options is no list: {given[:80]!r}. Write it as a list of texts.") from error
    texts = [str(one) for one in held] if isinstance(held, list) else None
    if texts is None or not all(isinstance(one, (str, int, float)) for one in held) or len(texts) > len(LETTERS):
        raise DataError(f"{where}: options is a list of at most 26 texts. Got {str(given)[:80]!r}. Write it as one.")
    return tuple(texts)


def _question(record: Record) -> Question:
    row, where = record.held, record.where
    offered = tuple(_plain(one) for one in options(row["options"], where))
    letter = word(row, "answer", where).strip()
    if letter not in list(LETTERS[: len(offered)]):
        raise DataError(f"{where}: the answer is a letter, A to {LETTERS[len(offered) - 1]}. Got {letter!r}.")
    return Question(
        id=first_of(row, _ID, where),
        text=with_options(_plain(word(row, "question", where)), offered),
        truth=(letter, *offered),
        image=_picture(row, where),
        choices=(),
        split="",
        tags=tags(row),
    )


def with_options(question: str, offered: Sequence[str]) -> str:
    """The question with an option a line, as LLaVA and the paper's harness list them."""
    return "\n".join([question, *(f"{letter}. {one}" for letter, one in zip(LETTERS, offered, strict=False))])


def _plain(text: str) -> str:
    """Without MMMU's mark for the picture: here it comes before all words."""
    return _MARK.sub(" ", text).strip()


def _picture(row: Mapping[str, Any], where: str) -> str:
    """The name of the picture, also where a tool wrote the file's name beside its bytes."""
    given = next((row[key] for key in _PICTURES if row.get(key) is not None), None)
    if isinstance(given, list) and given:
        given = given[0]
    name = given.get("path") if isinstance(given, dict) else given
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: wanted the picture's file name under {listed(_PICTURES)}. Got {str(given)[:60]!r}.")
    return name


MMMU = Task(
    name="mmmu",
    kind="vision",
    answered="words",
    metric=LETTER,
    chance=0.25,
    baseline=None,
    read=read,
    wording={"bare": "{q}", "paper": "\n{q}\nAnswer with the option's letter from the given choices directly."},
    version=1,
    left_out=left_out,
)
"""Most questions have four options; the exact chance hangs on which are kept."""
