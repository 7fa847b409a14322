"""Text to tokens and back, and the one place that says how a document is laid out.

    text      <|endoftext|> text <|endoftext|>
    caption   [picture] caption <|endoftext|>
    dialogue  [picture] human <|/h|> gpt <|/a|> human <|/h|> …      without a picture: <|endoftext|> in its stead

Training rows and evaluation prompts both come from `lay`, so they cannot drift apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Integer, UInt8
from tokenizers import AddedToken
from tokenizers import Tokenizer as Fast

from firstsight.data.records import Dialogue, Document, ImageText, Interleaved, Record, Tokenized
from firstsight.errors import DataError

END = "<|endoftext|>"
PAD = "<|pad|>"
CHAT = ("<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>")
"""The paper's additions in its order: a bare GPT-NeoX tokenizer gives them 50277 to 50281."""

NONE, ALWAYS, BEFORE = 0, 1, 2
"""Loss of a token: never, in every stage, only before fine-tuning."""
Closer = Literal["end", "human", "answer"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Special:
    """Ids of the tokens with a meaning, looked up by their text."""

    end: int
    human: int
    answer: int
    pad: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A stretch of text, the token that closes it, and what of it carries loss."""

    text: str
    closer: Closer
    loss: int
    spans: tuple[tuple[int, int], ...] | None


Ids = Integer[np.ndarray, "n"]
Loss = UInt8[np.ndarray, "n"]


class Tokenizer:
    """A `tokenizers` file with its special ids; what data writes like a special token is read as plain text.

    (A word-level vocabulary that lists the special tokens as words still finds them: the built-in world tells so.)
    """

    def __init__(self, file: Path) -> None:
        data = file.read_bytes()
        self.path = file
        self.digest = hashlib.sha256(data).hexdigest()
        self._fast = Fast.from_str(data.decode())
        self._fast.no_truncation()
        self._fast.no_padding()
        known = self._fast.get_vocab(with_added_tokens=True)
        if END not in known:
            raise DataError(f"{file}: wanted a tokenizer that knows {END}. Got {len(known)} tokens without it. Add it.")
        missing = [AddedToken(text, special=True, normalized=False) for text in CHAT if text not in known]
        self._fast.add_special_tokens(missing)
        self._fast.encode_special_tokens = True
        self.special = Special(
            end=self._id(END),
            human=self._id("<|/h|>"),
            answer=self._id("<|/a|>"),
            pad=self._id(PAD if PAD in known else END),
        )

    def _id(self, text: str) -> int:
        found = self._fast.token_to_id(text)
        if found is None:
            raise DataError(f"{self.path}: the tokenizer does not know {text}.")
        return found

    @property
    def size(self) -> int:
        """Rows that an embedding needs: the largest id and one."""
        return max(self._fast.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text, nothing added."""
        return [found.ids for found in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_places(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of every text with the characters [from, to) that each token covers."""
        found = self._fast.encode_batch(list(texts), add_special_tokens=False)
        return [(one.ids, one.offsets) for one in found]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        return self._fast.decode(list(ids), skip_special_tokens=True)


def load(place: Path) -> Tokenizer:
    """The tokenizer of a folder that holds tokenizer.json, or of such a file itself."""
    file = place / "tokenizer.json" if place.is_dir() else place
    if not file.is_file():
        raise DataError(f"{place}: wanted tokenizer.json (Hugging Face tokenizers format). Got nothing there.")
    return Tokenizer(file)


def parts(record: Record) -> tuple[Part, ...]:
    """The stretches of a record in reading order with their loss: questions carry it only before fine-tuning."""
    match record:
        case Document():
            return (Part(text=record.text, closer="end", loss=ALWAYS, spans=record.loss),)
        case ImageText():
            return (Part(text=record.caption, closer="end", loss=ALWAYS, spans=None),)
        case Tokenized() | Interleaved():
            raise DataError(f"{record.id}: not laid out yet")
        case Dialogue():
            return tuple(_turn(text, asked=number % 2 == 0) for number, text in enumerate(record.turns))


def _turn(text: str, *, asked: bool) -> Part:
    return Part(text=text, closer="human" if asked else "answer", loss=BEFORE if asked else ALWAYS, spans=None)


def lay(tokenizer: Tokenizer, documents: Sequence[tuple[Sequence[Part], bool]]) -> list[tuple[Ids, Loss]]:
    """Tokens and loss of every (parts, has picture); picture slots are not among them, they come first at packing."""
    flat = [part for pieces, _ in documents for part in pieces]
    encoded = iter(_encoded(tokenizer, flat))
    result: list[tuple[Ids, Loss]] = []
    for pieces, picture in documents:
        ids: list[int] = [] if picture else [tokenizer.special.end]
        loss: list[int] = [] if picture else [NONE]
        for part in pieces:
            inside, carries = next(encoded)
            ids += [*inside, getattr(tokenizer.special, part.closer)]
            loss += [*carries, part.loss]
        result.append((np.array(ids, dtype=np.uint32), np.array(loss, dtype=np.uint8)))
    return result


def _encoded(tokenizer: Tokenizer, flat: Sequence[Part]) -> list[tuple[list[int], list[int]]]:
    """Ids and loss of every part; offsets are asked for only where there are spans, they cost half the speed."""
    if all(part.spans is None for part in flat):
        plain = tokenizer.encode([part.text for part in flat])
        return [(ids, [part.loss] * len(ids)) for part, ids in zip(flat, plain, strict=True)]
    found = tokenizer.encode_with_places([part.text for part in flat])
    return [(ids, carried(part, places)) for part, (ids, places) in zip(flat, found, strict=True)]


def carried(part: Part, places: Sequence[tuple[int, int]]) -> list[int]:
    """Loss of each token: the part's own where the token touches a loss span, none elsewhere."""
    if part.spans is None:
        return [part.loss] * len(places)
    loss, spans, now = [NONE] * len(places), part.spans, 0
    for number, (start, stop) in enumerate(places):
        while now < len(spans) and spans[now][1] <= start:
            now += 1
        if now < len(spans) and start < stop and spans[now][0] < stop:
            loss[number] = part.loss
    return loss


def prompt_parts(human: str) -> tuple[Part, ...]:
    """What is asked, as the first turn of a dialogue that waits for its answer."""
    return (_turn(human, asked=True),)
