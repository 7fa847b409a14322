"""What a source may hold, checked at the door: documents, token lists, captioned pictures, interleaved documents,
dialogues.

Every refusal has a reason out of a fixed list, so that a quarantine can be counted and read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from firstsight.errors import DataError

Reason = Literal[
    "not JSON",
    "not UTF-8",
    "field missing",
    "empty text",
    "bad loss span",
    "empty caption",
    "no caption",
    "no picture",
    "several pictures",
    "empty turn",
    "unknown role",
    "turns do not alternate",
    "unsafe path",
    "not a plain file",
    "zero bytes",
    "too many bytes",
    "too many pixels",
    "not a picture",
    "duplicate key",
    "control character",
    "too long",
    "bad tokens",
    "bad layout",
]
REASONS: tuple[str, ...] = get_args(Reason)
PLACEHOLDER = "<image>"
MOST_CAPTION = 10_000
"""Characters of a caption; what is longer is a page that was taken for one."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Refused(DataError):
    """One record that is not what it claims to be; it goes to quarantine with its reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a picture's encoded bytes lie in a source, and its perceptual hash."""

    shard: str
    """A file's name below the source's place, or `pictures:` and its name below the place of the pictures.

    A loose file is a shard with offset 0. A table's shard ends in `#` and the column of the pictures.
    """
    offset: int
    """In bytes; in a table the row."""
    size: int
    hash: int
    """64 bits, unsigned: pictures that look alike differ in few of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """Plain text; `loss` names the character ranges that carry loss, None means all of it."""

    id: str
    text: str
    loss: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenized:
    """A chunk that its publisher tokenized, with the end tokens that it came with: several documents, or a part of one.

    `tokenizer.laid` cuts it into documents, because only the tokenizer knows which id is the end.
    """

    id: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interleaved:
    """A document of texts and pictures in reading order."""

    id: str
    parts: tuple[str | Place, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageText:
    """A picture and its caption."""

    id: str
    image: Place
    caption: str
    synthetic: bool = False
    """The caption was written by a model (DataComp-DR), not found with the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """Turns of human, gpt, human, gpt …, about at most one picture; placeholders are already stripped."""

    id: str
    image: Place | None
    turns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bad:
    """A refused record: what was wrong and where it lies."""

    reason: Reason
    detail: str
    shard: str
    where: str
    """Line, member or item inside the shard."""


Record = Document | Tokenized | ImageText | Interleaved | Dialogue


def clean(text: object, *, empty: Reason) -> str:
    """`text` as a string that encodes and says something; raises Refused otherwise."""
    if not isinstance(text, str):
        raise Refused("field missing", f"wanted a text, got {type(text).__name__}")
    if not text.strip():
        raise Refused(empty, "nothing but white space")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused("not UTF-8", f"lone surrogate at character {error.start}") from None
    if "\0" in text:
        raise Refused("control character", f"NUL at character {text.index(chr(0))}")
    return text


def caption(text: object) -> str:
    """A caption without the white space around it; raises Refused for control characters and for whole pages."""
    said = clean(text, empty="empty caption").strip()
    if len(said) > MOST_CAPTION:
        raise Refused("too long", f"{len(said):,} characters, at most {MOST_CAPTION:,}")
    if found := _CONTROL.search(said):
        raise Refused("control character", f"U+{ord(found[0]):04X} at character {found.start()}")
    return said


def tokenized(ids: object, *, name: str) -> Tokenized:
    """A publisher's list of token ids; raises Refused unless it holds integers from 0 on, and at least one."""
    if not isinstance(ids, list) or not ids:
        raise Refused("bad tokens", "wanted a list of ids. Got " + ("none" if ids == [] else type(ids).__name__))
    wrong = [one for one in ids if type(one) is not int or one < 0]
    if wrong:
        raise Refused("bad tokens", f"wanted integers from 0 on. Got {wrong[0]!r}")
    return Tokenized(id=name, tokens=tuple(ids))


def interleaved(parts: Sequence[str | Place], *, name: str, glue: str) -> Interleaved:
    """Texts and pictures in reading order; texts that touch are joined by `glue`, empty ones are left out."""
    joined: list[str | Place] = []
    for part in parts:
        if isinstance(part, str) and not part.strip():
            continue
        if isinstance(part, str) and joined and isinstance(before := joined[-1], str):
            joined[-1] = clean(before + glue + part, empty="empty text")
        else:
            joined.append(clean(part, empty="empty text") if isinstance(part, str) else part)
    if not any(isinstance(part, str) for part in joined):
        raise Refused("empty text", "nothing but pictures")
    if not any(isinstance(part, Place) for part in joined):
        raise Refused("no picture", "no picture is left of this document")
    return Interleaved(id=name, parts=tuple(joined))


def document(row: Mapping[str, object], *, name: str) -> Document:
    """A text record {"id", "text", "loss"?}; `name` stands in for a missing id."""
    text = clean(row.get("text"), empty="empty text")
    loss = _spans(row["loss"], len(text)) if "loss" in row else None
    return Document(id=str(row.get("id", name)), text=text, loss=loss)


def _spans(value: object, length: int) -> tuple[tuple[int, int], ...]:
    """Ascending, disjoint character ranges inside a text of `length` characters."""
    if not isinstance(value, list):
        raise Refused("bad loss span", f"wanted a list of [from, to], got {type(value).__name__}")
    spans: list[tuple[int, int]] = []
    before = 0
    for span in value:
        whole = isinstance(span, list) and len(span) == 2 and all(type(edge) is int for edge in span)
        if not whole or not before <= span[0] < span[1] <= length:
            raise Refused("bad loss span", f"wanted ascending ranges inside 0..{length}, got {span!r}")
        before = span[1]
        spans.append((span[0], span[1]))
    return tuple(spans)


def dialogue(row: Mapping[str, object], *, name: str, image: Place | None) -> Dialogue:
    """A LLaVA record {"id", "image"?, "conversations"}; at most one picture, turns alternate, the last is an answer."""
    said = row.get("conversations")
    if not isinstance(said, list) or not said:
        raise Refused("field missing", "no conversations")
    if sum(_value(turn).count(PLACEHOLDER) for turn in said) > 1:
        raise Refused("several pictures", f"more than one {PLACEHOLDER}")
    if image is None and any(PLACEHOLDER in _value(turn) for turn in said):
        raise Refused("no picture", f"{PLACEHOLDER} is said but no picture is named")
    return Dialogue(id=str(row.get("id", name)), image=image, turns=_turns(said))


def _value(turn: object) -> str:
    value = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(value, str):
        raise Refused("field missing", "a turn without value")
    return value


def _turns(said: Sequence[object]) -> tuple[str, ...]:
    """Texts of alternating turns that begin with human and end with gpt."""
    for number, turn in enumerate(said):
        role = turn.get("from") if isinstance(turn, dict) else None
        if role not in ("human", "gpt"):
            raise Refused("unknown role", f"wanted human or gpt, got {role!r} at turn {number}")
        if role != ("human", "gpt")[number % 2]:
            raise Refused("turns do not alternate", f"{role} at turn {number}")
    if len(said) % 2:
        raise Refused("turns do not alternate", "the last turn is not an answer")
    return tuple(clean(without_placeholder(_value(turn)), empty="empty turn") for turn in said)


def without_placeholder(text: str) -> str:
    """`text` without the picture's placeholder and the line break that sets it off."""
    for form in (PLACEHOLDER + "\n", "\n" + PLACEHOLDER, PLACEHOLDER):
        text = text.replace(form, "")
    return text
