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

from firstsight.data.records import (
    Dialogue,
    Document,
    ImageLocation,
    ImageText,
    InterleavedDocument,
    Record,
    TokenizedChunk,
)
from firstsight.errors import DataError

END_OF_TEXT = "<|endoftext|>"
END_TOKENS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<\uff5cend\u2581of\u2581sentence\uff5c>")
"""What ends a document, first known first: GPT-NeoX and most others; Llama 3; Llama 1, 2 and Mistral; Gemma; DeepSeek.

Only tokenizer.json decides, the one file that goes with every checkpoint: equal files lay out equal rows.
"""
PAD_TOKEN = "<|pad|>"
CHAT_TOKENS = ("<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>")
"""The paper's additions in its order: a bare GPT-NeoX tokenizer gives them 50277 to 50281."""

LOSS_NEVER, LOSS_ALWAYS, LOSS_BEFORE_FINETUNING = 0, 1, 2
"""Loss of a token: never, in every stage, only before fine-tuning."""
ClosingToken = Literal["end", "human", "answer", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpecialTokenIds:
    """Ids of the tokens with a meaning, looked up by their text."""

    end: int
    human: int
    answer: int
    pad: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSpan:
    """A stretch of text, the token that closes it, and what of it carries loss."""

    text: str
    closing_token: ClosingToken
    loss: int
    loss_spans: tuple[tuple[int, int], ...] | None


TokenIds = Integer[np.ndarray, "n"]
LossFlags = UInt8[np.ndarray, "n"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLayout:
    """One sample as tokens, and before which of them its pictures stand."""

    ids: TokenIds
    loss: LossFlags
    image_positions: tuple[int, ...]
    """For each picture in reading order how many of `ids` come before it; two may stand at one place."""
    record_number: int
    """Which of the records that were laid together this sample is made of."""


class Tokenizer:
    """A `tokenizers` file with its special ids; what data writes like a special token is read as plain text.

    (A word-level vocabulary that lists the special tokens as words still finds them: the built-in world tells so.)
    """

    def __init__(self, file: Path) -> None:
        data = file.read_bytes()
        self.path = file
        self.digest = hashlib.sha256(data).hexdigest()
        self._fast = _parse_tokenizer(data, file)
        self._fast.no_truncation()
        self._fast.no_padding()
        vocabulary = self._fast.get_vocab(with_added_tokens=True)
        self.base_vocab_size = max(vocabulary.values(), default=-1) + 1
        """Ids below this are the file's own; the chat tokens that it lacked come behind."""
        end = next((token for token in END_TOKENS if token in vocabulary), None)
        if end is None:
            raise DataError(
                f"{file}: wanted a tokenizer that knows one of {', '.join(END_TOKENS)}. Got {len(vocabulary)} tokens without. "
                f"Add {END_OF_TEXT}."
            )
        self.end_token = end
        """What ends a document, as it is written in the file."""
        missing_tokens = [
            AddedToken(text, special=True, normalized=False) for text in CHAT_TOKENS if text not in vocabulary
        ]
        self._fast.add_special_tokens(missing_tokens)
        self._fast.encode_special_tokens = True
        self.special_ids = SpecialTokenIds(
            end=self._token_id(end),
            human=self._token_id("<|/h|>"),
            answer=self._token_id("<|/a|>"),
            pad=self._token_id(PAD_TOKEN if PAD_TOKEN in vocabulary else end),
        )

    def _token_id(self, text: str) -> int:
        token_id = self._fast.token_to_id(text)
        if token_id is None:
            raise DataError(f"{self.path}: the tokenizer does not know {text}.")
        return token_id

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs: the largest id and one."""
        return max(self._fast.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of every text, nothing added."""
        return [encoding.ids for encoding in self._fast.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of every text with the characters [from, to) that each token covers."""
        encodings = self._fast.encode_batch(list(texts), add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        return self._fast.decode(list(ids), skip_special_tokens=True)


def _parse_tokenizer(data: bytes, file: Path) -> Fast:
    try:
        return Fast.from_str(data.decode())
    except Exception as error:  # the library raises no narrower one
        message = str(error)[:120]
        raise DataError(
            f"{file}: wanted Hugging Face tokenizers' JSON. Got: {message}. Copy the file again."
        ) from error


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a folder that holds tokenizer.json, or of such a file itself."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path}: wanted tokenizer.json (Hugging Face tokenizers format). Got nothing there.")
    return Tokenizer(file)


def tokenize_records(tokenizer: Tokenizer, records: Sequence[Record]) -> list[TokenLayout]:
    """Samples of `records`, in their order; `Laid.record` says whose each is.

    Every record is one sample, but for a publisher's chunk of tokens, which is cut into its documents: as many samples
    as it holds, none when it holds ends alone. A document that a chunk begins or breaks off within stays as it is. The
    end token stands in both samples that it divides: it closes the one, with loss, and opens the other, without.
    Raises DataError when a chunk holds an id that the tokenizer's file does not.
    """
    text_layouts = iter(
        _tokenize_texts(
            tokenizer, [text_record for text_record in records if not isinstance(text_record, TokenizedChunk)]
        )
    )
    layouts: list[TokenLayout] = []
    for record_number, record in enumerate(records):
        if isinstance(record, TokenizedChunk):
            layouts += [
                _token_layout(ids, loss, (), record_number) for ids, loss in _split_documents(tokenizer, record)
            ]
        else:
            ids, loss, image_positions = next(text_layouts)
            layouts.append(_token_layout(ids, loss, image_positions, record_number))
    return layouts


def _token_layout(
    ids: Sequence[int], loss: Sequence[int], image_positions: tuple[int, ...], record_number: int
) -> TokenLayout:
    return TokenLayout(
        ids=np.array(ids, dtype=np.uint32),
        loss=np.array(loss, dtype=np.uint8),
        image_positions=image_positions,
        record_number=record_number,
    )


def _tokenize_texts(
    tokenizer: Tokenizer, records: Sequence[Document | ImageText | InterleavedDocument | Dialogue]
) -> Iterator[tuple[list[int], list[int], tuple[int, ...]]]:
    """Ids, loss and the pictures' places of records that are told in text; all texts are encoded together."""
    spans_by_record = [text_spans(record) for record in records]
    encoded = iter(_encode_spans(tokenizer, [span for spans in spans_by_record for span in spans]))
    for record, spans in zip(records, spans_by_record, strict=True):
        image_spans = _image_spans(record)
        ids, loss, span_starts = _join_spans(
            tokenizer, spans, encoded, has_image=bool(image_spans) and image_spans[0] == 0
        )
        yield ids, loss, tuple(span_starts[span_number] for span_number in image_spans)


def _image_spans(record: Document | ImageText | InterleavedDocument | Dialogue) -> tuple[int, ...]:
    """Before which of a record's parts of text each of its pictures stands."""
    match record:
        case InterleavedDocument():
            part_numbers = [
                part_number for part_number, part in enumerate(record.parts) if isinstance(part, ImageLocation)
            ]
            return tuple(part_number - images_before for images_before, part_number in enumerate(part_numbers))
        case Document() | Dialogue(image=None):
            return ()
        case ImageText() | Dialogue():
            return (0,)


def _split_documents(tokenizer: Tokenizer, chunk: TokenizedChunk) -> Iterator[tuple[list[int], list[int]]]:
    """Documents of a chunk with their ends; its first token is no target, and neither is the end before a document."""
    if (largest := max(chunk.tokens)) >= tokenizer.base_vocab_size:
        raise DataError(
            f"{chunk.id}: a tokenizer that does not match the token tar: wanted ids below {tokenizer.base_vocab_size} "
            f"({tokenizer.path}). Got {largest}. Name the tokenizer that made these tokens."
        )
    ids, end = chunk.tokens, tokenizer.special_ids.end
    end_positions = [position for position, token_id in enumerate(ids) if token_id == end]
    for previous_end, next_end in zip([-1, *end_positions], [*end_positions, len(ids)], strict=True):
        if next_end - previous_end > 1:
            document = list(ids[max(previous_end, 0) : next_end + 1])
            yield document, [LOSS_NEVER, *([LOSS_ALWAYS] * (len(document) - 1))]


def text_spans(record: Document | ImageText | InterleavedDocument | Dialogue) -> tuple[TextSpan, ...]:
    """The stretches of a record in reading order with their loss: questions carry it only before fine-tuning."""
    match record:
        case Document():
            return (TextSpan(text=record.text, closing_token="end", loss=LOSS_ALWAYS, loss_spans=record.loss),)
        case ImageText():
            return (TextSpan(text=record.caption, closing_token="end", loss=LOSS_ALWAYS, loss_spans=None),)
        case InterleavedDocument():
            texts = [part for part in record.parts if isinstance(part, str)]
            last_number = len(texts) - 1
            return tuple(
                TextSpan(
                    text=text,
                    closing_token="end" if text_number == last_number else "none",
                    loss=LOSS_ALWAYS,
                    loss_spans=None,
                )
                for text_number, text in enumerate(texts)
            )
        case Dialogue():
            return tuple(
                _turn_span(text, is_question=text_number % 2 == 0) for text_number, text in enumerate(record.turns)
            )


def _turn_span(text: str, *, is_question: bool) -> TextSpan:
    return TextSpan(
        text=text,
        closing_token="human" if is_question else "answer",
        loss=LOSS_BEFORE_FINETUNING if is_question else LOSS_ALWAYS,
        loss_spans=None,
    )


def tokenize_spans(
    tokenizer: Tokenizer, documents: Sequence[tuple[Sequence[TextSpan], bool]]
) -> list[tuple[TokenIds, LossFlags]]:
    """Tokens and loss of every (parts, has picture); picture slots are not among them, they come first at packing."""
    spans = [span for document_spans, _ in documents for span in document_spans]
    encoded = iter(_encode_spans(tokenizer, spans))
    layouts: list[tuple[TokenIds, LossFlags]] = []
    for document_spans, has_image in documents:
        ids, loss, _ = _join_spans(tokenizer, document_spans, encoded, has_image=has_image)
        layouts.append((np.array(ids, dtype=np.uint32), np.array(loss, dtype=np.uint8)))
    return layouts


def _join_spans(
    tokenizer: Tokenizer, spans: Sequence[TextSpan], encoded: Iterator[tuple[list[int], list[int]]], *, has_image: bool
) -> tuple[list[int], list[int], list[int]]:
    """Ids and loss of one sample, and where each of its parts begins; behind the last: where a last picture stands."""
    ids, loss = ([], []) if has_image else ([tokenizer.special_ids.end], [LOSS_NEVER])
    span_starts = list[int]()
    for span in spans:
        span_starts.append(len(ids))
        span_ids, span_loss = next(encoded)
        closing_ids = [] if span.closing_token == "none" else [getattr(tokenizer.special_ids, span.closing_token)]
        ids += [*span_ids, *closing_ids]
        loss += [*span_loss, *([span.loss] * len(closing_ids))]
    # Nothing is told behind a last picture but the document's end, and that stands behind the picture.
    span_starts.append(len(ids) - 1)
    return ids, loss, span_starts


def _encode_spans(tokenizer: Tokenizer, spans: Sequence[TextSpan]) -> list[tuple[list[int], list[int]]]:
    """Ids and loss of every part; offsets are asked for only where there are spans, they cost half the speed."""
    if all(span.loss_spans is None for span in spans):
        encoded_ids = tokenizer.encode([span.text for span in spans])
        return [(ids, [span.loss] * len(ids)) for span, ids in zip(spans, encoded_ids, strict=True)]
    encodings = tokenizer.encode_with_offsets([span.text for span in spans])
    return [(ids, span_loss_flags(span, offsets)) for span, (ids, offsets) in zip(spans, encodings, strict=True)]


def span_loss_flags(span: TextSpan, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Loss of each token: the part's own where the token touches a loss span, none elsewhere."""
    if span.loss_spans is None:
        return [span.loss] * len(offsets)
    loss, spans, current = [LOSS_NEVER] * len(offsets), span.loss_spans, 0
    for token_number, (start, stop) in enumerate(offsets):
        while current < len(spans) and spans[current][1] <= start:
            current += 1
        if current < len(spans) and start < stop and spans[current][0] < stop:
            loss[token_number] = span.loss
    return loss


def prompt_spans(question: str) -> tuple[TextSpan, ...]:
    """What is asked, as the first turn of a dialogue that waits for its answer."""
    return (_turn_span(question, is_question=True),)
