"""Plain loops over raw records as oracles: splitting, rows and shares without any code of the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path

import numpy as np

from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, SAMPLE_DTYPE, Index
from firstsight.data.loader.collate import IGNORE_INDEX
from firstsight.data.records import SpecialTokenIds
from firstsight.recipe.mixture import External, ExternalForm
from firstsight.units import Tokens

END, HUMAN, ANSWER, PAD = 0, 5, 3, 6


@dataclass(frozen=True)
class RawRecord:
    """A record: its tokens, the loss flag of each, and its images as (number of tokens before it, image)."""

    tokens: list[int]
    loss: list[int]
    images: list[tuple[int, int]]


@dataclass(frozen=True)
class RowPart:
    """A record's part in a row: tokens [begin, stop), images [first_image, last_image), and if a token follows."""

    record: int
    begin: int
    stop: int
    first_image: int
    last_image: int
    has_next: bool


def build_index(form: ExternalForm, records: Sequence[RawRecord], *, images: int = 0) -> Index:
    """The index of records, in memory."""
    samples = np.zeros(len(records), dtype=SAMPLE_DTYPE)
    tokens = refs = 0
    for sample, record in zip(samples, records, strict=True):
        sample["tokens_from"], sample["tokens_count"] = tokens, len(record.tokens)
        sample["shown_from"], sample["shown_count"] = refs, len(record.images)
        tokens, refs = tokens + len(record.tokens), refs + len(record.images)
    return Index(
        path=Path("reference"),
        form=form,
        samples=samples,
        image_refs=np.array([(image, at) for record in records for at, image in record.images], dtype=IMAGE_REF_DTYPE),
        tokens=np.array([token for record in records for token in record.tokens], dtype=np.uint16),
        loss=np.array([loss for record in records for loss in record.loss], dtype=np.uint8),
        images=np.zeros(images, dtype=IMAGE_DTYPE),
        image_shards=(),
        source_shards=(),
        source=External(name="made", form=form, tokens=Tokens(0)),
        special_ids=SpecialTokenIds(end=END, human=HUMAN, answer=ANSWER, pad=PAD),
        tokenizer_digest="",
        source_digest="",
        digest=f"{form} {len(records)} {tokens}",
    )


def reference_split(
    number: int, record: RawRecord, *, length: int, image_tokens: int, max_images: int
) -> list[RowPart]:
    """The parts of a document: each token, with the images before it, extends the current part or starts a new one."""
    parts, begin, first_image, end, last_image, size = list[RowPart](), 0, 0, 0, 0, 0

    def close(stop: int, *, has_next: bool) -> None:
        parts.append(RowPart(number, begin, stop, first_image, last_image, has_next))

    for word in range(len(record.tokens)):
        group = sum(at == word for at, _ in record.images)
        if size and (size + group * image_tokens + 1 > length or last_image - first_image + group > max_images):
            last = word == len(record.tokens) - 1
            close(word, has_next=not group)
            if last and not group:
                return parts
            begin, first_image, size = word, last_image, 0
        while group * image_tokens + 1 > length or group > max_images:
            count = min(length // image_tokens, max_images, group - 1)
            last_image, group = last_image + count, group - count
            close(word, has_next=True)
            first_image = last_image
        last_image, size, end = last_image + group, size + group * image_tokens + 1, word + 1
    close(end, has_next=False)
    return parts


def reference_rows(
    rows: Sequence[Sequence[RowPart]],
    records: Sequence[RawRecord],
    *,
    length: int,
    image_tokens: int,
    answers_only: bool,
) -> dict[str, list[list[int]]]:
    """Rows of parts, position by position; `picture` is the image whose slot a position is, or -1."""
    fillers = {"tokens": PAD, "targets": IGNORE_INDEX, "docs": -1, "positions": 0, "picture": -1}
    columns: dict[str, list[list[int]]] = {name: [] for name in fillers}
    for parts in rows:
        row: dict[str, list[int]] = {name: [] for name in fillers}
        for document, part in enumerate(parts):
            record, positions = records[part.record], list[tuple[str, int]]()
            images = list(record.images[part.first_image : part.last_image])
            for word in range(part.begin, part.stop + 1):
                while images and images[0][0] == word and (word < part.stop or part.has_next):
                    positions += [("slot", images.pop(0)[1])] * image_tokens
                if word < part.stop:
                    positions.append(("word", word))
            next_position = [("word", part.stop)] if part.has_next else [("nothing", 0)]
            for position, (current, following) in enumerate(
                zip(positions, [*positions[1:], *next_position], strict=True)
            ):
                carries = following[0] == "word" and record.loss[following[1]] in ([1] if answers_only else [1, 2])
                row["tokens"].append(record.tokens[current[1]] if current[0] == "word" else PAD)
                row["targets"].append(record.tokens[following[1]] if carries else IGNORE_INDEX)
                row["docs"].append(document)
                row["positions"].append(position)
                row["picture"].append(current[1] if current[0] == "slot" else -1)
        for name, filler in fillers.items():
            columns[name].append(row[name] + [filler] * (length - len(row[name])))
    return columns


def source_at(row: int, share: Fraction) -> tuple[bool, int]:
    """Whether row `row` is an image row, and its number among the rows of its kind."""
    before, after = floor(row * share), floor((row + 1) * share)
    return (True, before) if after > before else (False, row - before)
