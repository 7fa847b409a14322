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

RejectionReason = Literal[
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
REJECTION_REASONS: tuple[str, ...] = get_args(RejectionReason)
IMAGE_PLACEHOLDER = "<image>"
MAX_CAPTION_CHARS = 10_000
"""Characters of a caption; what is longer is a page that was taken for one."""
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class RecordError(DataError):
    """One record that is not what it claims to be; it goes to quarantine with its reason."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: RejectionReason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLocation:
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
class TokenizedChunk:
    """A chunk that its publisher tokenized, with the end tokens that it came with: several documents, or a part of one.

    `tokenizer.laid` cuts it into documents, because only the tokenizer knows which id is the end.
    """

    id: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class InterleavedDocument:
    """A document of texts and pictures in reading order."""

    id: str
    parts: tuple[str | ImageLocation, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageText:
    """A picture and its caption."""

    id: str
    image: ImageLocation
    caption: str
    synthetic: bool = False
    """The caption was written by a model (DataComp-DR), not found with the picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """Turns of human, gpt, human, gpt …, about at most one picture; placeholders are already stripped."""

    id: str
    image: ImageLocation | None
    turns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedRecord:
    """A refused record: what was wrong and where it lies."""

    reason: RejectionReason
    detail: str
    shard: str
    where: str
    """Line, member or item inside the shard."""


Record = Document | TokenizedChunk | ImageText | InterleavedDocument | Dialogue


def clean_text(text: object, *, empty_reason: RejectionReason) -> str:
    """`text` as a string that encodes and says something; raises Refused otherwise."""
    if not isinstance(text, str):
        raise RecordError("field missing", f"wanted a text, got {type(text).__name__}")
    if not text.strip():
        raise RecordError(empty_reason, "nothing but white space")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError("not UTF-8", f"lone surrogate at character {error.start}") from None
    if "\0" in text:
        raise RecordError("control character", f"NUL at character {text.index(chr(0))}")
    return text


def parse_caption(text: object) -> str:
    """A caption without the white space around it; raises Refused for control characters and for whole pages."""
    stripped = clean_text(text, empty_reason="empty caption").strip()
    if len(stripped) > MAX_CAPTION_CHARS:
        raise RecordError("too long", f"{len(stripped):,} characters, at most {MAX_CAPTION_CHARS:,}")
    if match := _CONTROL_CHARACTERS.search(stripped):
        raise RecordError("control character", f"U+{ord(match[0]):04X} at character {match.start()}")
    return stripped


def parse_token_ids(ids: object, *, record_id: str) -> TokenizedChunk:
    """A publisher's list of token ids; raises Refused unless it holds integers from 0 on, and at least one."""
    if not isinstance(ids, list) or not ids:
        raise RecordError("bad tokens", "wanted a list of ids. Got " + ("none" if ids == [] else type(ids).__name__))
    invalid_ids = [token_id for token_id in ids if type(token_id) is not int or token_id < 0]
    if invalid_ids:
        raise RecordError("bad tokens", f"wanted integers from 0 on. Got {invalid_ids[0]!r}")
    return TokenizedChunk(id=record_id, tokens=tuple(ids))


def join_interleaved(parts: Sequence[str | ImageLocation], *, record_id: str, separator: str) -> InterleavedDocument:
    """Texts and pictures in reading order; texts that touch are joined by `glue`, empty ones are left out."""
    merged_parts: list[str | ImageLocation] = []
    for part in parts:
        if isinstance(part, str) and not part.strip():
            continue
        if isinstance(part, str) and merged_parts and isinstance(previous := merged_parts[-1], str):
            merged_parts[-1] = clean_text(previous + separator + part, empty_reason="empty text")
        else:
            merged_parts.append(clean_text(part, empty_reason="empty text") if isinstance(part, str) else part)
    if not any(isinstance(part, str) for part in merged_parts):
        raise RecordError("empty text", "nothing but pictures")
    if not any(isinstance(part, ImageLocation) for part in merged_parts):
        raise RecordError("no picture", "no picture is left of this document")
    return InterleavedDocument(id=record_id, parts=tuple(merged_parts))


def parse_document(row: Mapping[str, object], *, default_id: str) -> Document:
    """A text record {"id", "text", "loss"?}; `name` stands in for a missing id."""
    text = clean_text(row.get("text"), empty_reason="empty text")
    loss = _parse_loss_spans(row["loss"], len(text)) if "loss" in row else None
    return Document(id=str(row.get("id", default_id)), text=text, loss=loss)


def _parse_loss_spans(value: object, length: int) -> tuple[tuple[int, int], ...]:
    """Ascending, disjoint character ranges inside a text of `length` characters."""
    if not isinstance(value, list):
        raise RecordError("bad loss span", f"wanted a list of [from, to], got {type(value).__name__}")
    spans: list[tuple[int, int]] = []
    previous_end = 0
    for span in value:
        is_range = isinstance(span, list) and len(span) == 2 and all(type(edge) is int for edge in span)
        if not is_range or not previous_end <= span[0] < span[1] <= length:
            raise RecordError("bad loss span", f"wanted ascending ranges inside 0..{length}, got {span!r}")
        previous_end = span[1]
        spans.append((span[0], span[1]))
    return tuple(spans)


def parse_llava_dialogue(row: Mapping[str, object], *, default_id: str, image: ImageLocation | None) -> Dialogue:
    """A LLaVA record {"id", "image"?, "conversations"}; at most one picture, turns alternate, the last is an answer."""
    conversation = row.get("conversations")
    if not isinstance(conversation, list) or not conversation:
        raise RecordError("field missing", "no conversations")
    if sum(_turn_value(turn).count(IMAGE_PLACEHOLDER) for turn in conversation) > 1:
        raise RecordError("several pictures", f"more than one {IMAGE_PLACEHOLDER}")
    if image is None and any(IMAGE_PLACEHOLDER in _turn_value(turn) for turn in conversation):
        raise RecordError("no picture", f"{IMAGE_PLACEHOLDER} is said but no picture is named")
    return Dialogue(id=str(row.get("id", default_id)), image=image, turns=_parse_turns(conversation))


def _turn_value(turn: object) -> str:
    value = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(value, str):
        raise RecordError("field missing", "a turn without value")
    return value


def _parse_turns(conversation: Sequence[object]) -> tuple[str, ...]:
    """Texts of alternating turns that begin with human and end with gpt."""
    for turn_number, turn in enumerate(conversation):
        role = turn.get("from") if isinstance(turn, dict) else None
        if role not in ("human", "gpt"):
            raise RecordError("unknown role", f"wanted human or gpt, got {role!r} at turn {turn_number}")
        if role != ("human", "gpt")[turn_number % 2]:
            raise RecordError("turns do not alternate", f"{role} at turn {turn_number}")
    if len(conversation) % 2:
        raise RecordError("turns do not alternate", "the last turn is not an answer")
    return tuple(
        clean_text(strip_image_placeholder(_turn_value(turn)), empty_reason="empty turn") for turn in conversation
    )


def strip_image_placeholder(text: str) -> str:
    """`text` without the picture's placeholder and the line break that sets it off."""
    for placeholder in (IMAGE_PLACEHOLDER + "\n", "\n" + IMAGE_PLACEHOLDER, IMAGE_PLACEHOLDER):
        text = text.replace(placeholder, "")
    return text
