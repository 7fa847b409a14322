"""TextVQA: read what is written in the picture; alone, or with what an OCR system read there in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.vqa import TEXTVQA as EVALAI
from firstsight.evaluate.question import Published, Question, Task, load, tags, take
from firstsight.evaluate.tasks.records import distinct, holding, listed, word
from firstsight.evaluate.tasks.vqav2 import SHORT, answers, joined

_TOKENS = "\nReference OCR token: "
"""LLaVA's words for them, which the paper's harness takes over."""


def read(given: Sequence[Path]) -> tuple[Question, ...]:
    """The VQA form, or TextVQA's own file ({"data": [...]}, ten strings an item); OCR tokens are skipped."""
    return _questions({path: load(path) for path in given})


def read_ocr(given: Sequence[Path]) -> tuple[Question, ...]:
    """The same with the tokens after each question, from the Rosetta file or, without one, from the questions' own."""
    held = {path: load(path) for path in given}
    tokens = _tokens(held)
    questions = _questions(held)
    lacking = sorted({str(one.image) for one in questions} - tokens.keys())
    if lacking:
        names = ", ".join(str(path) for path in given)
        raise DataError(
            f"{names}: {len(lacking):,} pictures have no OCR tokens: {listed(lacking)}. "
            "Put TextVQA_Rosetta_OCR_v0.2_val.json beside the questions."
        )
    return tuple(replace(one, text=one.text + _TOKENS + ", ".join(tokens[str(one.image)])) for one in questions)


def _questions(held: Mapping[Path, Any]) -> tuple[Question, ...]:
    asked = {path: content for path, content in held.items() if not _only_tokens(content)}
    if holding(asked, "questions") or holding(asked, "annotations"):
        return joined(asked)
    path = holding(asked, "data")
    if path is None or len(asked) > 1:
        names = ", ".join(str(path) for path in held)
        raise DataError(f"{names}: wanted TextVQA_0.5.1_val.json or the VQA form's two files. Keep one split a folder.")
    return distinct([_question(row, f"{path}: record {at}", path) for at, row in _data(asked[path])], [path])


def _question(row: Any, where: str, path: Path) -> Question:
    return Question(
        id=word(row, "question_id", where),
        text=word(row, "question", where),
        truth=answers(take(row, "answers", where), path),
        image=word(row, "image_id", where),
        choices=(),
        split="",
        tags=tags(row),
    )


def _data(content: Any) -> list[tuple[int, Any]]:
    data = content["data"]
    return list(enumerate(data, start=1)) if isinstance(data, list) else []


def _only_tokens(content: Any) -> bool:
    rows = [row for _, row in _data(content)] if isinstance(content, dict) and "data" in content else []
    return bool(rows) and all(isinstance(row, dict) and "ocr_tokens" in row and "question" not in row for row in rows)


def _tokens(held: Mapping[Path, Any]) -> dict[str, list[str]]:
    """By picture; a file of tokens alone goes before those that stand beside the questions."""
    own = {path: content for path, content in held.items() if _only_tokens(content)}
    path = holding(own or held, "data")
    if path is None:
        return {}
    rows = [(f"{path}: record {at}", row) for at, row in _data(held[path]) if isinstance(row, dict)]
    told = [(where, row) for where, row in rows if "ocr_tokens" in row]
    return {word(row, "image_id", where): _strings(row["ocr_tokens"], where) for where, row in told}


def _strings(given: Any, where: str) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(token, str) for token in given):
        raise DataError(f"{where}: ocr_tokens is a list of texts. Got {str(given)[:80]}. Is this the Rosetta file?")
    return given


TEXTVQA = Task(
    name="textvqa",
    kind="vision",
    answered="words",
    metric=EVALAI,
    chance=0.0,
    baseline=0.0,
    read=read,
    wording={"bare": "{q}", "paper": SHORT},
    version=2,
    published=(Published(name="TextVQA val", counts={"": 5000}), Published(name="train", counts={"": 34602})),
)

TEXTVQA_OCR = replace(TEXTVQA, name="textvqa_ocr", baseline=None, read=read_ocr, variant="textvqa", version=1)
"""Another system reads the picture for the model, so this one is kept out of the stable score."""
