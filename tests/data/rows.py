"""Indexes made by hand, and rows laid out by plain loops over raw records: no line of the product takes part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, SAMPLE_DTYPE, Index
from firstsight.data.loader.collate import IGNORE_INDEX
from firstsight.data.records import SpecialTokenIds
from firstsight.recipe.mixture import External, ExternalForm
from firstsight.units import Tokens

END, HUMAN, ANSWER, PAD = 0, 5, 3, 6


@dataclass(frozen=True)
class Raw:
    """A record: its tokens, the loss of each, and its pictures as (before which token, picture)."""

    tokens: list[int]
    loss: list[int]
    shown: list[tuple[int, int]]


@dataclass(frozen=True)
class Stretch:
    """What of a record stands in one row: tokens [begin, stop), pictures [seen, upto), and whether it goes on."""

    record: int
    begin: int
    stop: int
    seen: int
    upto: int
    goes_on: bool


def index_of(form: ExternalForm, records: Sequence[Raw], *, images: int = 0) -> Index:
    """The index of records, in memory."""
    samples = np.zeros(len(records), dtype=SAMPLE_DTYPE)
    tokens = shown = 0
    for sample, record in zip(samples, records, strict=True):
        sample["tokens_from"], sample["tokens_count"] = tokens, len(record.tokens)
        sample["shown_from"], sample["shown_count"] = shown, len(record.shown)
        tokens, shown = tokens + len(record.tokens), shown + len(record.shown)
    return Index(
        path=Path("made-by-hand"),
        form=form,
        samples=samples,
        image_refs=np.array(
            [(picture, at) for record in records for at, picture in record.shown], dtype=IMAGE_REF_DTYPE
        ),
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


def split_by_hand(number: int, record: Raw, *, length: int, slots: int, most: int) -> list[Stretch]:
    """A document's stretches, word by word: each takes the pictures before it along, or begins a new stretch."""
    found, begin, seen, now, upto, size = list[Stretch](), 0, 0, 0, 0, 0

    def close(stop: int, *, goes_on: bool) -> None:
        found.append(Stretch(number, begin, stop, seen, upto, goes_on))

    for word in range(len(record.tokens)):
        group = sum(at == word for at, _ in record.shown)
        if size and (size + group * slots + 1 > length or upto - seen + group > most):
            last = word == len(record.tokens) - 1
            close(word, goes_on=not group)
            if last and not group:
                return found
            begin, seen, size = word, upto, 0
        while group * slots + 1 > length or group > most:
            some = min(length // slots, most, group - 1)
            upto, group = upto + some, group - some
            close(word, goes_on=True)
            seen = upto
        upto, size, now = upto + group, size + group * slots + 1, word + 1
    close(now, goes_on=False)
    return found


def lay_by_hand(
    rows: Sequence[Sequence[Stretch]], records: Sequence[Raw], *, length: int, slots: int, answers_only: bool
) -> dict[str, list[list[int]]]:
    """Rows of stretches, position by position; `picture` names the picture whose slot a position is."""
    blank = {"tokens": PAD, "targets": IGNORE_INDEX, "docs": -1, "positions": 0, "picture": -1}
    laid: dict[str, list[list[int]]] = {name: [] for name in blank}
    for stretches in rows:
        row: dict[str, list[int]] = {name: [] for name in blank}
        for document, stretch in enumerate(stretches):
            record, positions = records[stretch.record], list[tuple[str, int]]()
            shown = list(record.shown[stretch.seen : stretch.upto])
            for word in range(stretch.begin, stretch.stop + 1):
                while shown and shown[0][0] == word and (word < stretch.stop or stretch.goes_on):
                    positions += [("slot", shown.pop(0)[1])] * slots
                if word < stretch.stop:
                    positions.append(("word", word))
            behind = [("word", stretch.stop)] if stretch.goes_on else [("nothing", 0)]
            for place, (here, then) in enumerate(zip(positions, [*positions[1:], *behind], strict=True)):
                carries = then[0] == "word" and record.loss[then[1]] in ([1] if answers_only else [1, 2])
                row["tokens"].append(record.tokens[here[1]] if here[0] == "word" else PAD)
                row["targets"].append(record.tokens[then[1]] if carries else IGNORE_INDEX)
                row["docs"].append(document)
                row["positions"].append(place)
                row["picture"].append(here[1] if here[0] == "slot" else -1)
        for name, filler in blank.items():
            laid[name].append(row[name] + [filler] * (length - len(row[name])))
    return laid
