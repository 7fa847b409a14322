"""Records to segments: where a long record is split or truncated. An image stays in the row of the token after it.

Shapes: S samples of a chunk, P segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from firstsight.data.index import Index, ragged_ranges
from firstsight.recipe.mixture import PackingMode


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """Ranges of an index's tokens, each within a single row, with the images that are placed among them."""

    sample: Int32[np.ndarray, "P"]
    start: Int64[np.ndarray, "P"]
    """First token, an index into the index's `tokens`."""
    count: Int32[np.ndarray, "P"]
    """Text tokens; image slots are not counted."""
    image_start: Int64[np.ndarray, "P"]
    """First image, an index into the index's `image_refs`."""
    image_count: Int32[np.ndarray, "P"]
    has_next_token: Bool[np.ndarray, "P"]
    """The document has a token directly after this segment: the target of the segment's last position."""

    def select(self, indices: Int64[np.ndarray, "Q"]) -> Segments:
        return Segments(**{name: getattr(self, name)[indices] for name in SEGMENT_ARRAYS})


SEGMENT_ARRAYS = tuple(Segments.__dataclass_fields__)


class PackingConfig(NamedTuple):
    """The rows that an index is packed into: tokens per row, tokens per image, and how images share rows."""

    length: int
    image_tokens: int
    packing: PackingMode


class SegmentEnds(NamedTuple):
    """Exclusive ends of segments in tokens and images, and whether the end token is the last position's target."""

    tokens: Int64[np.ndarray, "S"]
    images: Int64[np.ndarray, "S"]
    has_next_token: Bool[np.ndarray, "S"]


class SampleChunk:
    """Samples [start, stop) of an index, which are packed together. Images are numbered from 0 within the chunk."""

    def __init__(self, index: Index, start: int, stop: int, *, config: PackingConfig) -> None:
        self.index, self.first_sample, self.samples = index, start, index.samples[start:stop]
        self.length, self.image_tokens, packing = config
        counts = self.samples["shown_count"].astype(np.int64)
        self.first_image = int(self.samples["shown_from"][counts > 0][:1].sum())
        """The chunk's image 0, an index into the index's `image_refs`."""
        refs = index.image_refs[self.first_image : self.first_image + int(counts.sum())]
        self.image_positions = np.repeat(self.samples["tokens_from"], counts) + refs["at"]
        """For each image the token that follows it, an index into the index's `tokens`."""
        self.image_stops = np.cumsum(counts)
        self.image_starts = self.image_stops - counts
        """First image of each sample."""
        self.token_stops = self.samples["tokens_from"] + self.samples["tokens_count"]
        max_images = self.length // self.image_tokens if self.image_tokens else len(refs)
        self.max_images = 1 if packing == "one_image_per_row" and self.image_tokens else max_images
        """The most images of a segment."""

    def starts_with_image(self, segments: Segments) -> Bool[np.ndarray, "P"]:
        """Segments whose first position is an image slot, so that their first token is a target too."""
        mask = (segments.image_count > 0) & (self.image_tokens > 0)
        mask[mask] = self.image_positions[segments.image_start[mask] - self.first_image] == segments.start[mask]
        return mask

    def segments(self, ids: np.ndarray, starts: np.ndarray, image_starts: np.ndarray, *, ends: SegmentEnds) -> Segments:
        """Segments of the chunk's samples `ids` from given tokens and images to `ends`."""
        return Segments(
            sample=(self.first_sample + ids).astype(np.int32),
            start=starts.astype(np.int64),
            count=(ends.tokens - starts).astype(np.int32),
            image_start=(self.first_image + image_starts).astype(np.int64),
            image_count=(ends.images - image_starts).astype(np.int32),
            has_next_token=ends.has_next_token,
        )


def split_into_segments(chunk: SampleChunk) -> tuple[Segments, dict[str, int]]:
    """Segments in sample order, and the fields of PackingStats that count what was split, truncated or left out.

    Texts and interleaved documents are split over rows, other records are truncated.
    """
    return {"text": _split_texts, "interleaved": _split_interleaved}.get(chunk.index.form, _truncate)(chunk)


def _split_texts(chunk: SampleChunk) -> tuple[Segments, dict[str, int]]:
    """Segments of at most `length` tokens; a last token that is only a target gets no segment."""
    parts = np.maximum(1, -(-(chunk.samples["tokens_count"].astype(np.int64) - 1) // chunk.length))
    _, sample_ids, part_numbers = ragged_ranges(np.zeros_like(parts), parts)
    starts = chunk.samples["tokens_from"][sample_ids] + part_numbers * chunk.length
    stops = chunk.token_stops[sample_ids]
    ends, zeros = np.minimum(starts + chunk.length, stops), np.zeros(len(sample_ids), dtype=np.int64)
    segments = chunk.segments(sample_ids, starts, zeros, ends=SegmentEnds(ends, zeros, ends < stops))
    return segments, {"split": int((parts > 1).sum())}


def _split_interleaved(chunk: SampleChunk) -> tuple[Segments, dict[str, int]]:
    """In each round every unfinished document gets its next segment, as long as fits a row."""
    rounds, ids = list[Segments](), np.arange(len(chunk.samples))
    starts, image_starts = chunk.samples["tokens_from"], chunk.image_starts
    while len(ids):
        ends = _segment_ends(chunk, starts, image_starts, ids)
        rounds.append(chunk.segments(ids, starts, image_starts, ends=ends))
        stops, image_stops = chunk.token_stops[ids], chunk.image_stops[ids]
        is_target_only = ends.has_next_token & (ends.tokens == stops - 1) & (ends.images == image_stops)
        rest = (ends.tokens < stops) & ~is_target_only
        ids, starts, image_starts = ids[rest], ends.tokens[rest], ends.images[rest]
    arrays = {name: np.concatenate([getattr(segments, name) for segments in rounds]) for name in SEGMENT_ARRAYS}
    segments = Segments(**arrays).select(np.argsort(arrays["sample"], kind="stable"))
    return segments, {"split": int((np.bincount(segments.sample - chunk.first_sample) > 1).sum())}


def _truncate(chunk: SampleChunk) -> tuple[Segments, dict[str, int]]:
    """The beginning of every record that fits a row: a caption ends anywhere, a dialogue after a complete answer."""
    ids, starts, stops = np.arange(len(chunk.samples)), chunk.samples["tokens_from"], chunk.token_stops
    ends, image_ends, has_next_token = _segment_ends(chunk, starts, chunk.image_starts, ids)
    if chunk.index.form == "dialogues":
        for sample in np.flatnonzero(ends < stops):
            tokens = chunk.index.tokens[starts[sample] : ends[sample]]
            answer_ends = np.flatnonzero(tokens == chunk.index.special_ids.answer)
            ends[sample] = starts[sample] + (answer_ends[-1] + 1 if len(answer_ends) else 0)
            images = min(int(image_ends[sample]), int(np.searchsorted(chunk.image_positions, ends[sample])))
            image_ends[sample] = max(chunk.image_starts[sample], images)
        has_next_token[:] = False
    dropped, is_skipped = stops - ends, ends == starts
    fit = np.flatnonzero(~is_skipped)
    counts = {"dropped_tokens": dropped, "truncated": (dropped > 0) & ~is_skipped, "skipped": is_skipped}
    fit_ends = SegmentEnds(ends[fit], image_ends[fit], has_next_token[fit])
    segments = chunk.segments(fit, starts[fit], chunk.image_starts[fit], ends=fit_ends)
    return segments, {name: int(count.sum()) for name, count in counts.items()}


def _segment_ends(chunk: SampleChunk, starts: np.ndarray, image_starts: np.ndarray, ids: np.ndarray) -> SegmentEnds:
    """How much of samples `ids` fits a row from given tokens and images on."""
    positions, image_tokens = chunk.image_positions, chunk.image_tokens
    stops, image_stops = chunk.token_stops[ids], chunk.image_stops[ids]
    padded = np.append(positions, stops.max(initial=0))  # an image after the last one, to index with image_stops
    # Image i and the token after it fit if positions[i] + 1 - start + image_tokens * (i + 1 - image_start) <= length.
    # The left side rises with i, so that the last image that fits is found by binary search.
    limit = starts + chunk.length - 1 + image_tokens * (image_starts - 1)
    fitting = np.searchsorted(positions + image_tokens * np.arange(len(positions)), limit, side="right")
    image_ends = np.clip(fitting, image_starts, np.minimum(image_stops, image_starts + chunk.max_images))
    is_blocked = image_ends < image_stops  # the next image fits no more: end before the token that it belongs to
    before_token = np.maximum(image_starts, np.searchsorted(positions, padded[image_ends]))
    image_ends = np.where(is_blocked, before_token, image_ends)
    limits = np.where(is_blocked, padded[image_ends], stops)
    ends = np.minimum(limits, starts + chunk.length - image_tokens * (image_ends - image_starts))
    images_only = ends == starts  # more images before a token than fit a row together with it
    at_token = np.searchsorted(positions, padded[image_starts], side="right") - image_starts
    image_ends = np.where(images_only, image_starts + np.minimum(chunk.max_images, at_token - 1), image_ends)
    next_is_image = (image_ends < image_stops) & (padded[image_ends] == ends)
    return SegmentEnds(ends, image_ends, (ends < stops) & ~next_is_image | images_only)
