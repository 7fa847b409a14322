"""How many rows a source of the built-in world is sure to fill, from the sizes of its records; nothing is generated.

A size is a number of text tokens, special tokens included; each word of the world is at least one token. Mean and
deviation follow from the rates at which `firstsight.synthetic` chooses objects, sentences and questions. Its tests
compare them with generated records.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor, isqrt
from typing import Literal

from firstsight.recipe.mixture import (
    PackingMode,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticInterleaved,
    SyntheticMultitask,
    SyntheticTexts,
    SyntheticVocabulary,
)
from firstsight.recipe.stages import TokenizerSource

SyntheticSource = SyntheticTexts | SyntheticCaptions | SyntheticDialogues | SyntheticInterleaved | SyntheticMultitask
LEAST_TURN = 6
"""Tokens of the shortest question with its answer: the number of objects."""
LARGEST_TURNS = {"dialogues": 13, "multitask": 21}
"""Tokens of the longest question with its answer, by kind of source: the box of an object; a complete caption."""
_SIGMAS = 6
"""Standard deviations by which a sum of sizes may be below its mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordSizes:
    """Bounds of the sizes of a source's records."""

    least: int
    largest: int
    mean: float
    """A lower bound of the mean."""
    deviation: float
    """An upper bound of the standard deviation."""
    irregular: Literal[0, 1] = 0
    """1: up to a hundredth of the records (and 5 more) may be below `least`, or have no question at all."""

    def regular_records(self, records: int) -> int:
        """Records that are sure to have `least` tokens."""
        return max(0, records * (100 - self.irregular) // 100 - 5 * self.irregular)

    def total(self, records: int) -> int:
        """Tokens that so many records are sure to have."""
        expected = records * self.mean - _SIGMAS * self.deviation * (isqrt(records) + 1)
        return max(floor(expected), self.regular_records(records) * self.least)


def record_sizes(source: SyntheticSource) -> RecordSizes:
    """The sizes of a source's records; of an interleaved document, of an image and the passage after it."""
    most_objects = source.world.max_objects
    match source:
        case SyntheticTexts():
            return RecordSizes(least=8, largest=62, mean=23.2 + 2.6 * most_objects, deviation=11.5)
        case SyntheticCaptions(quality="rich"):
            # two thirds complete: 3 tokens an object, 2 a sign, 4 for ground and end; a third with boxes: 7 an object
            largest = max(5 * most_objects + 4, 7 * most_objects + 1)
            return RecordSizes(least=7, largest=largest, mean=5.5 + 2.5 * most_objects, deviation=6.5)
        case SyntheticCaptions():
            return RecordSizes(least=2, largest=3 * most_objects + 2, mean=2.9 + most_objects / 2, deviation=3.3)
        case SyntheticInterleaved():
            return RecordSizes(least=3, largest=0, mean=5.5 + 1.5 * most_objects, deviation=9.0)
        case SyntheticDialogues(turns=turns):
            mean, largest = 7.7 * min(turns, 6), LARGEST_TURNS["dialogues"] * turns
            return RecordSizes(least=LEAST_TURN * min(turns, 2), largest=largest, mean=mean, deviation=7.0, irregular=1)
        case SyntheticMultitask(turns=turns):
            few, shares = min(turns, 2), source.shares
            means = {"captions": 10 + 1.5 * most_objects, "words": 9.0, "boxes": 10.5 * few, "dialogues": 6.8 * few}
            mean = sum(float(share) * means[task] for task, share in shares.items())
            largest = max(LARGEST_TURNS["multitask"], LARGEST_TURNS["dialogues"] * turns)
            return RecordSizes(least=LEAST_TURN + 3 * (few - 1), largest=largest, mean=mean, deviation=5.0, irregular=1)


def records(source: SyntheticSource) -> int:
    """Documents of a text, else images."""
    return source.documents if isinstance(source, SyntheticTexts) else source.images


def size_text(source: SyntheticSource) -> str:
    """The size of a source for output: 640 images."""
    if isinstance(source, SyntheticTexts | SyntheticInterleaved):
        return f"{source.documents:,} documents"
    return f"{source.images:,} images"


def doubled(source: SyntheticSource) -> SyntheticSource:
    """The source with twice as many records, of which the first half are those of `source`."""
    if isinstance(source, SyntheticTexts | SyntheticInterleaved):
        return replace(source, documents=max(1, 2 * source.documents))
    return replace(source, images=max(1, 2 * source.images))


def guaranteed_rows(
    source: SyntheticSource, *, length: int, image_tokens: int, packing: PackingMode, tokenizer: TokenizerSource
) -> int:
    """Rows of `length` tokens that a source is sure to fill, with images of `image_tokens` tokens.

    No row has more tokens than its length, or more records than have room in it. `length` must have room for an image
    and a token.
    """
    sizes, count = record_sizes(source), records(source)
    regular, has_world_tokenizer = sizes.regular_records(count), isinstance(tokenizer, SyntheticVocabulary)
    is_whole = has_world_tokenizer and image_tokens + sizes.largest <= length
    match source:
        case SyntheticTexts():
            last_targets = 0 if is_whole else count  # the last token of a split document may be in no row
            return -(-max(0, sizes.total(count) - last_targets) // length)
        case _ if packing == "one_image_per_row":
            return regular
        case SyntheticInterleaved():
            return -(-(sizes.total(count) + count * image_tokens) // length)
        case SyntheticCaptions() | SyntheticDialogues() | SyntheticMultitask():
            least = image_tokens + sizes.least
            if not is_whole and not isinstance(source, SyntheticCaptions):  # ends after the last turn that fits
                least = (
                    min(least, length + 1 - LARGEST_TURNS[source.TAG])
                    if has_world_tokenizer
                    else image_tokens + LEAST_TURN
                )
            rows = -(-regular // max(1, length // max(1, least)))
            if is_whole:
                rows = max(rows, -(-(sizes.total(count) + regular * image_tokens) // length))
            return rows
