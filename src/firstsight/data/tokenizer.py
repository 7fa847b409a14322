"""Text to tokens and back, and how the tokens of a document are laid out.

    text      <|endoftext|> text <|endoftext|>
    caption   [image] caption <|endoftext|>
    dialogue  [image] human <|/h|> gpt <|/a|> human <|/h|> ...     without an image: <|endoftext|> instead of it
    document with images   [image] text [image] text <|endoftext|>     starting with text: <|endoftext|> before it
    publisher's chunk      cut at every <|endoftext|>, which closes a document and opens the next

<|endoftext|> is the end token of the tokenizer's own family (`END_TOKENS`). Training rows and evaluation
prompts are laid out by the same function, `_join_spans`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Integer, UInt8
from tokenizers import AddedToken
from tokenizers import Tokenizer as HFTokenizer

from firstsight.data.records import (
    Dialogue,
    Document,
    ImageLocation,
    ImageText,
    InterleavedDocument,
    Record,
    SpecialTokenIds,
    TokenizedChunk,
)
from firstsight.errors import DataError
from firstsight.limits import check_limit, read_file

END_OF_TEXT = "<|endoftext|>"
END_TOKENS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<\uff5cend\u2581of\u2581sentence\uff5c>")
"""End tokens in order of precedence: GPT-NeoX and most others; Llama 3; Llama 1, 2 and Mistral; Gemma; DeepSeek.

The end token is looked up in tokenizer.json alone, the file that comes with every checkpoint, so that equal files lay
out equal rows.
"""
PAD_TOKEN = "<|pad|>"
CHAT_TOKENS = ("<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>")
"""The paper's additional tokens in its order: a GPT-NeoX tokenizer without them gives them ids 50277 to 50281."""

LOSS_NEVER, LOSS_ALWAYS, LOSS_BEFORE_FINETUNING = 0, 1, 2
"""Loss flag of a token: in no stage, in every stage, in every stage but fine-tuning."""
ClosingToken = Literal["end", "human", "answer", "none"]
TokenIds = Integer[np.ndarray, "n"]
LossFlags = UInt8[np.ndarray, "n"]
TextRecord = Document | ImageText | InterleavedDocument | Dialogue


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSpan:
    """A piece of text, the special token after it, the loss flag of its tokens, and the characters that it is for."""

    text: str
    closing_token: ClosingToken
    loss: int = LOSS_ALWAYS
    loss_spans: tuple[tuple[int, int], ...] | None = None
    """None means all of the text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLayout:
    """A sample as tokens and the positions of its images."""

    ids: TokenIds
    loss: LossFlags
    image_positions: tuple[int, ...]
    """For each image in reading order the number of `ids` before it; two images may have the same."""
    record_number: int
    """The record that this sample is made of, by its number among the records that were tokenized together."""


class Tokenizer:
    """A `tokenizers` file with the ids of its special tokens; special tokens in data are encoded as plain text.

    (A word-level vocabulary that lists the special tokens as words encodes them as such: the built-in world does so.)
    """

    def __init__(self, file: Path) -> None:
        data = read_file(file, "tokenizer")
        self.path, self.digest = file, hashlib.sha256(data).hexdigest()
        try:
            self._tokenizer = HFTokenizer.from_str(data.decode())
        except Exception as error:  # the library raises no narrower one
            got = f"{file}: wanted Hugging Face tokenizers' JSON. Got: {str(error)[:120]}. Copy the file again."
            raise DataError(got) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        check_limit(file, "vocabulary", self._tokenizer.get_vocab_size(with_added_tokens=True))
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self.base_vocab_size = max(vocabulary.values(), default=-1) + 1
        """Lower ids are those of the file; the chat tokens that it lacks are added after them."""
        check_limit(file, "vocabulary", self.base_vocab_size, detail=" with its largest id")
        end = next((token for token in END_TOKENS if token in vocabulary), None)
        if end is None:
            raise DataError(
                f"{file}: wanted a tokenizer with one of {', '.join(END_TOKENS)}. "
                f"Got {len(vocabulary)} tokens without. Add {END_OF_TEXT}."
            )
        self.end_token = end
        """The token that ends a document, as it is written in the file."""
        missing = [token for token in CHAT_TOKENS if token not in vocabulary]
        self._tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
        self._tokenizer.encode_special_tokens = True
        self.special_ids = SpecialTokenIds(
            end=self._token_id(end),
            human=self._token_id("<|/h|>"),
            answer=self._token_id("<|/a|>"),
            pad=self._token_id(PAD_TOKEN if PAD_TOKEN in vocabulary else end),
        )

    def _token_id(self, text: str) -> int:
        token_id = self._tokenizer.token_to_id(text)
        if token_id is None:
            raise DataError(f"{self.path}: the tokenizer has no token for {text}.")
        return token_id

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs: the largest id plus one."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text, nothing added."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of every text with the characters [from, to) that each token covers."""
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a folder with tokenizer.json, or of such a file itself."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path}: wanted tokenizer.json (Hugging Face tokenizers format). Got nothing there.")
    return Tokenizer(file)


def tokenize_records(tokenizer: Tokenizer, records: Sequence[Record]) -> list[TokenLayout]:
    """The samples of `records` in their order; all texts are encoded together.

    Every record is a single sample, except a publisher's chunk of tokens: it has a sample for each of its documents,
    none if it consists of end tokens. A document that is cut off at either end of a chunk stays so. The end token
    between two documents is in both samples: with loss at the end of the first, without at the start of the second.
    Raises DataError if a chunk contains an id that is not in the tokenizer's file.
    """
    spans = [record_spans(record) for record in records if not isinstance(record, TokenizedChunk)]
    encoded = iter(_encode_spans(tokenizer, [span for texts, _ in spans for span in texts]))
    layouts, remaining_spans = list[TokenLayout](), iter(spans)
    for number, record in enumerate(records):
        if isinstance(record, TokenizedChunk):
            samples = _documents(tokenizer, record)
        else:
            texts, images = next(remaining_spans)
            ids, loss, starts = _join_spans(tokenizer, texts, encoded, has_image=images[:1] == [0])
            samples = [(ids, loss, tuple(starts[text] for text in images))]
        for ids, loss, positions in samples:
            ids, loss = np.array(ids, dtype=np.uint32), np.array(loss, dtype=np.uint8)
            layouts.append(TokenLayout(ids=ids, loss=loss, image_positions=positions, record_number=number))
    return layouts


def _documents(tokenizer: Tokenizer, chunk: TokenizedChunk) -> Iterator[tuple[list[int], list[int], tuple[int, ...]]]:
    """(ids, loss, no images) of each document with its end tokens; the first token of a document is not a target."""
    if (largest := max(chunk.tokens)) >= tokenizer.base_vocab_size:
        raise DataError(
            f"{chunk.id}: a tokenizer that does not match the token tar: wanted ids below {tokenizer.base_vocab_size} "
            f"({tokenizer.path}). Got {largest}. Name the tokenizer that made these tokens."
        )
    ends = [position for position, token in enumerate(chunk.tokens) if token == tokenizer.special_ids.end]
    for previous, end in zip([-1, *ends], [*ends, len(chunk.tokens)], strict=True):
        if end - previous > 1:
            ids = list(chunk.tokens[max(previous, 0) : end + 1])
            yield ids, [LOSS_NEVER, *([LOSS_ALWAYS] * (len(ids) - 1))], ()


def record_spans(record: TextRecord) -> tuple[list[TextSpan], list[int]]:
    """The texts of a record in reading order, and for each image the number of the text after it.

    Questions are in the loss only before fine-tuning.
    """
    match record:
        case Document():
            return [TextSpan(text=record.text, closing_token="end", loss_spans=record.loss)], []
        case ImageText():
            return [TextSpan(text=record.caption, closing_token="end")], [0]
        case InterleavedDocument():
            spans, images = list[TextSpan](), list[int]()
            for part in record.parts:
                if isinstance(part, ImageLocation):
                    images.append(len(spans))
                else:
                    spans.append(TextSpan(text=part, closing_token="none"))
            return [*spans[:-1], replace(spans[-1], closing_token="end")], images
        case Dialogue():
            turns = [
                TextSpan(text=text, closing_token="answer") if number % 2 else _question_span(text)
                for number, text in enumerate(record.turns)
            ]
            return turns, [] if record.image is None else [0]


def _question_span(text: str) -> TextSpan:
    return TextSpan(text=text, closing_token="human", loss=LOSS_BEFORE_FINETUNING)


def _join_spans(
    tokenizer: Tokenizer, spans: Sequence[TextSpan], encoded: Iterator[tuple[list[int], list[int]]], *, has_image: bool
) -> tuple[list[int], list[int], list[int]]:
    """Ids and loss of a sample and the start of each span, plus the position of an image after the last span.

    `has_image`: the sample starts with an image instead of the end token. `encoded` yields ids and loss of each span.
    """
    ids, loss = ([], []) if has_image else ([tokenizer.special_ids.end], [LOSS_NEVER])
    starts = list[int]()
    for span in spans:
        starts.append(len(ids))
        span_ids, span_loss = next(encoded)
        closing_ids = [] if span.closing_token == "none" else [getattr(tokenizer.special_ids, span.closing_token)]
        ids += [*span_ids, *closing_ids]
        loss += [*span_loss, *([span.loss] * len(closing_ids))]
    starts.append(len(ids) - 1)  # after an image at the end only the end token follows
    return ids, loss, starts


def _encode_spans(tokenizer: Tokenizer, spans: Sequence[TextSpan]) -> list[tuple[list[int], list[int]]]:
    """Ids and loss of every span; offsets, which cost half the speed, are computed only if a span has loss spans."""
    if all(span.loss_spans is None for span in spans):
        encoded = tokenizer.encode([span.text for span in spans])
        return [(ids, [span.loss] * len(ids)) for span, ids in zip(spans, encoded, strict=True)]
    encodings = tokenizer.encode_with_offsets([span.text for span in spans])
    return [(ids, span_loss_flags(span, offsets)) for span, (ids, offsets) in zip(spans, encodings, strict=True)]


def span_loss_flags(span: TextSpan, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The loss flag of each token: the span's own if the token overlaps a loss span, else LOSS_NEVER."""
    if span.loss_spans is None:
        return [span.loss] * len(offsets)
    flags, ranges, current = [LOSS_NEVER] * len(offsets), span.loss_spans, 0
    for number, (start, stop) in enumerate(offsets):
        while current < len(ranges) and ranges[current][1] <= start:
            current += 1
        if current < len(ranges) and start < stop and ranges[current][0] < stop:
            flags[number] = span.loss
    return flags


def encode_prompt(tokenizer: Tokenizer, question: str, *, image_tokens: int) -> list[int]:
    """Tokens of a training row up to where the answer begins: image slots (pad ids) or the start token come first."""
    spans = [_question_span(question)]
    ids, _, _ = _join_spans(tokenizer, spans, iter(_encode_spans(tokenizer, spans)), has_image=image_tokens > 0)
    return [tokenizer.special_ids.pad] * image_tokens + ids


def encode_context(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of the beginning of a text document, to be continued."""
    if not text.strip():
        raise DataError("a context needs words. Got nothing but white space.")
    [ids] = tokenizer.encode([text])
    return [tokenizer.special_ids.end, *ids]
