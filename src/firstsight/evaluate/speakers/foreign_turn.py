"""Other people's dialogues: the words of a turn as a model was taught to read them, and what its answer means.

Models with a chat template are asked through it. PaliGemma has none: it was taught short prefixes of one line, and it
answers boxes in tokens of its own. What it is asked: `answer en QUESTION` without the sentences that ask others to be
brief, and `detect PHRASE` for a box. Source: transformers, models/paligemma, and big_vision's README of PaliGemma.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from firstsight.data.records import PLACEHOLDER, without_placeholder
from firstsight.errors import ModelError
from firstsight.evaluate.speakers.foreign_folder import Parts

_BOX = re.compile(r'^Please provide the bounding box coordinate of the region this sentence describes: "(?P<said>.*)"$')
_BRIEF = (
    "Answer the question using a single word or phrase.",
    "When the provided information is insufficient, respond with 'Unanswerable'.",
)
_PLACES = re.compile(r"<loc(\d{4})>" * 4)
_BINS = 1024


@runtime_checkable
class Turn(Protocol):
    """How questions are laid out for one model."""

    def lay(self, text: str, *, sees: bool) -> str:
        """Everything that stands before the answer, a picture's mark included."""
        ...

    def inputs(self, laid: Sequence[str], shown: Sequence[Image.Image] | None) -> Any:
        """What the model reads, padded at the left; all rows with a picture, or none."""
        ...

    def heard(self, answer: str) -> str:
        """An answer as the benchmarks write it."""
        ...


def turn_of(parts: Parts) -> Turn:
    """How a model is asked; ModelError for one that sees and has no chat template."""
    if parts.kind == "paligemma":
        return Prefixed(parts)
    if parts.processor is not None and not parts.processor.chat_template and not parts.words.chat_template:
        raise ModelError(
            f"a {parts.kind} without a chat template: wanted one that says how it is asked. Got none in its folder. "
            "Put chat_template.jinja there as the model's card has it; base models are taught no dialogues."
        )
    return Chat(parts)


class Chat:
    """One user turn through the model's own chat template; a text model without one reads the words as they are."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._marks = marks(parts)

    def lay(self, text: str, *, sees: bool) -> str:
        plain = _without(self._marks, text)
        processor, words = self._parts.processor, self._parts.words
        if processor is None:
            if not words.chat_template:
                return self._parts.begins + plain
            return _rendered(words, [{"role": "user", "content": plain}])
        content = ([{"type": "image"}] if sees else []) + [{"type": "text", "text": plain}]
        return _rendered(processor, [{"role": "user", "content": content}])

    def inputs(self, laid: Sequence[str], shown: Sequence[Image.Image] | None) -> Any:
        words = self._parts.words
        begun = words.bos_token is not None and laid[0].startswith(words.bos_token)
        settings = {"padding": True, "return_tensors": "pt", "add_special_tokens": not begun}
        if self._parts.processor is None:
            return words(list(laid), return_token_type_ids=False, **settings)
        pictures = None if shown is None else [[picture] for picture in shown]
        return self._parts.processor(text=list(laid), images=pictures, **settings)

    def heard(self, answer: str) -> str:
        return answer


class Prefixed:
    """PaliGemma's prefixes; see the module."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._marks = marks(parts)
        self._mark = parts.processor.image_token if parts.processor is not None else ""

    def lay(self, text: str, *, sees: bool) -> str:
        lines = [line for line in _without(self._marks, text).split("\n") if line.strip() and line not in _BRIEF]
        plain = " ".join(lines)
        box = _BOX.match(plain)
        asked = f"detect {box['said']}" if box else f"answer en {plain}"
        return f"{self._mark if sees else ''}{self._parts.words.bos_token}{asked}\n"

    def inputs(self, laid: Sequence[str], shown: Sequence[Image.Image] | None) -> Any:
        settings = {"padding": True, "return_tensors": "pt"}
        if shown is None:
            return self._parts.words(list(laid), add_special_tokens=False, return_token_type_ids=True, **settings)
        assert self._parts.processor is not None
        # its processor itself puts the mark of a beginning behind the picture, and the line break that ends a prefix
        bare = [one.replace(self._parts.words.bos_token, "", 1).removesuffix("\n") for one in laid]
        found = self._parts.processor(text=bare, images=[[picture] for picture in shown], **settings)
        found.pop("labels", None)  # of training; all -100 here
        return found

    def heard(self, answer: str) -> str:
        """`<loc0102>...` (y, x, y, x of 1024) becomes [x, y, x, y] of 1."""
        found = _PLACES.search(answer)
        if found is None:
            return answer
        top, left, bottom, right = (int(part) / _BINS for part in found.groups())
        return f"[{left:.3f}, {top:.3f}, {right:.3f}, {bottom:.3f}]"


def marks(parts: Parts) -> list[str]:
    """Everything that means more to a model than its letters do, the longest first."""
    words = parts.words
    added = [str(one.content) for one in words.added_tokens_decoder.values() if one.special]
    shown = getattr(parts.processor, "image_token", None)  # some processors have none
    return sorted({*added, *words.all_special_tokens, *([shown] if shown else [])}, key=len, reverse=True)


def _rendered(owner: Any, talk: list[dict[str, Any]]) -> str:
    return str(owner.apply_chat_template(talk, tokenize=False, add_generation_prompt=True))


def _without(marks: Sequence[str], text: str) -> str:
    """A question's words alone: nobody ends a turn or shows a picture by writing so."""
    text = without_placeholder(PLACEHOLDER + text)  # as our own are asked: less the line break that begins a wording
    for mark in marks:
        text = text.replace(mark, "")
    return text
