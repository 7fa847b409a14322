"""Text to tokens and back, and the one place that says how a document is laid out.

    text      <|endoftext|> text <|endoftext|>
    caption   [picture] caption <|endoftext|>
    dialogue  [picture] human <|/h|> gpt <|/a|> human <|/h|> …      without a picture: <|endoftext|> in its stead
    document with pictures   [picture] text [picture] text <|endoftext|>      text first: <|endoftext|> before it
    publisher's chunk        cut at each <|endoftext|>, which closes one document and opens the next

<|endoftext|> stands for the end token of the tokenizer's own family (`ENDS`).
Training rows come from `laid`, evaluation prompts from `lay` beneath it, so they cannot drift apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Integer, UInt8
from tokenizers import AddedToken
from tokenizers import Tokenizer as Fast

from firstsight.data.records import Dialogue, Document, ImageText, Interleaved, Place, Record, Tokenized
from firstsight.errors import DataError

END = "<|endoftext|>"
ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<\uff5cend\u2581of\u2581sentence\uff5c>")
"""What ends a document, first known first: GPT-NeoX and most others; Llama 3; Llama 1, 2 and Mistral; Gemma; DeepSeek.

Only tokenizer.json decides, the one file that goes with every checkpoint: equal files lay out equal rows.
"""
PAD = "<|pad|>"
CHAT = ("<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>")
"""The paper's additions in its order: a bare GPT-NeoX tokenizer gives them 50277 to 50281."""

NONE, ALWAYS, BEFORE = 0, 1, 2
"""Loss of a token: never, in every stage, only before fine-tuning."""
Closer = Literal["end", "human", "answer", "none"]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Laid:
    """One sample as tokens, and before which of them its pictures stand."""

    ids: Ids
    loss: Loss
    at: tuple[int, ...]
    """For each picture in reading order how many of `ids` come before it; two may stand at one place."""
    record: int
    """Which of the records that were laid together this sample is made of."""


class Tokenizer:
    """A `tokenizers` file with its special ids; what data writes like a special token is read as plain text.

    (A word-level vocabulary that lists the special tokens as words still finds them: the built-in world tells so.)
    """

    def __init__(self, file: Path) -> None:
        data = file.read_bytes()
        self.path = file
        self.digest = hashlib.sha256(data).hexdigest()
        self._fast = _read(data, file)
        self._fast.no_truncation()
        self._fast.no_padding()
        known = self._fast.get_vocab(with_added_tokens=True)
        self.published = max(known.values(), default=-1) + 1
        """Ids below this are the file's own; the chat tokens that it lacked come behind."""
        end = next((one for one in ENDS if one in known), None)
        if end is None:
            raise DataError(
                f"{file}: wanted a tokenizer that knows one of {', '.join(ENDS)}. Got {len(known)} tokens without. "
                f"Add {END}."
            )
        self.end = end
        """What ends a document, as it is written in the file."""
        missing = [AddedToken(text, special=True, normalized=False) for text in CHAT if text not in known]
        self._fast.add_special_tokens(missing)
        self._fast.encode_special_tokens = True
        self.special = Special(
            end=self._id(end),
            human=self._id("<|/h|>"),
            answer=self._id("<|/a|>"),
            pad=self._id(PAD if PAD in known else end),
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


def _read(data: bytes, file: Path) -> Fast:
    try:
        return Fast.from_str(data.decode())
    except Exception as error:  # the library raises no narrower one
        told = str(error)[:120]
        raise DataError(f"{file}: wanted Hugging Face tokenizers' JSON. Got: {told}. Copy the file again.") from error


def load(place: Path) -> Tokenizer:
    """The tokenizer of a folder that holds tokenizer.json, or of such a file itself."""
    file = place / "tokenizer.json" if place.is_dir() else place
    if not file.is_file():
        raise DataError(f"{place}: wanted tokenizer.json (Hugging Face tokenizers format). Got nothing there.")
    return Tokenizer(file)


def laid(tokenizer: Tokenizer, records: Sequence[Record]) -> list[Laid]:
    """Samples of `records`, in their order; `Laid.record` says whose each is.

    Every record is one sample, but for a publisher's chunk of tokens, which is cut into its documents: as many samples
    as it holds, none when it holds ends alone. A document that a chunk begins or breaks off within stays as it is. The
    end token stands in both samples that it divides: it closes the one, with loss, and opens the other, without.
    Raises DataError when a chunk holds an id that the tokenizer's file does not.
    """
    spoken = iter(_spoken(tokenizer, [one for one in records if not isinstance(one, Tokenized)]))
    result: list[Laid] = []
    for number, record in enumerate(records):
        if isinstance(record, Tokenized):
            result += [_made(ids, loss, (), number) for ids, loss in _cut(tokenizer, record)]
        else:
            ids, loss, at = next(spoken)
            result.append(_made(ids, loss, at, number))
    return result


def _made(ids: Sequence[int], loss: Sequence[int], at: tuple[int, ...], record: int) -> Laid:
    return Laid(ids=np.array(ids, dtype=np.uint32), loss=np.array(loss, dtype=np.uint8), at=at, record=record)


def _spoken(
    tokenizer: Tokenizer, records: Sequence[Document | ImageText | Interleaved | Dialogue]
) -> Iterator[tuple[list[int], list[int], tuple[int, ...]]]:
    """Ids, loss and the pictures' places of records that are told in text; all texts are encoded together."""
    told = [parts(record) for record in records]
    encoded = iter(_encoded(tokenizer, [part for pieces in told for part in pieces]))
    for record, pieces in zip(records, told, strict=True):
        seen = _shown(record)
        ids, loss, begins = _joined(tokenizer, pieces, encoded, picture=bool(seen) and seen[0] == 0)
        yield ids, loss, tuple(begins[number] for number in seen)


def _shown(record: Document | ImageText | Interleaved | Dialogue) -> tuple[int, ...]:
    """Before which of a record's parts of text each of its pictures stands."""
    match record:
        case Interleaved():
            pictures = [number for number, part in enumerate(record.parts) if isinstance(part, Place)]
            return tuple(number - before for before, number in enumerate(pictures))
        case Document() | Dialogue(image=None):
            return ()
        case ImageText() | Dialogue():
            return (0,)


def _cut(tokenizer: Tokenizer, chunk: Tokenized) -> Iterator[tuple[list[int], list[int]]]:
    """Documents of a chunk with their ends; its first token is no target, and neither is the end before a document."""
    if (largest := max(chunk.tokens)) >= tokenizer.published:
        raise DataError(
            f"{chunk.id}: a tokenizer that does not match the token tar: wanted ids below {tokenizer.published} "
            f"({tokenizer.path}). Got {largest}. Name the tokenizer that made these tokens."
        )
    ids, end = chunk.tokens, tokenizer.special.end
    ends = [number for number, one in enumerate(ids) if one == end]
    for before, behind in zip([-1, *ends], [*ends, len(ids)], strict=True):
        if behind - before > 1:
            piece = list(ids[max(before, 0) : behind + 1])
            yield piece, [NONE, *([ALWAYS] * (len(piece) - 1))]


def parts(record: Document | ImageText | Interleaved | Dialogue) -> tuple[Part, ...]:
    """The stretches of a record in reading order with their loss: questions carry it only before fine-tuning."""
    match record:
        case Document():
            return (Part(text=record.text, closer="end", loss=ALWAYS, spans=record.loss),)
        case ImageText():
            return (Part(text=record.caption, closer="end", loss=ALWAYS, spans=None),)
        case Interleaved():
            texts = [part for part in record.parts if isinstance(part, str)]
            last = len(texts) - 1
            return tuple(
                Part(text=text, closer="end" if number == last else "none", loss=ALWAYS, spans=None)
                for number, text in enumerate(texts)
            )
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
        ids, loss, _ = _joined(tokenizer, pieces, encoded, picture=picture)
        result.append((np.array(ids, dtype=np.uint32), np.array(loss, dtype=np.uint8)))
    return result


def _joined(
    tokenizer: Tokenizer, pieces: Sequence[Part], encoded: Iterator[tuple[list[int], list[int]]], *, picture: bool
) -> tuple[list[int], list[int], list[int]]:
    """Ids and loss of one sample, and where each of its parts begins; behind the last: where a last picture stands."""
    ids, loss = ([], []) if picture else ([tokenizer.special.end], [NONE])
    begins = list[int]()
    for part in pieces:
        begins.append(len(ids))
        inside, carries = next(encoded)
        closing = [] if part.closer == "none" else [getattr(tokenizer.special, part.closer)]
        ids += [*inside, *closing]
        loss += [*carries, *([part.loss] * len(closing))]
    # Nothing is told behind a last picture but the document's end, and that stands behind the picture.
    begins.append(len(ids) - 1)
    return ids, loss, begins


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
