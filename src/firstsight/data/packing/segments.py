"""Records to pieces: where a long one ends or is split, so that no picture is torn from the word behind it.

Legend: S samples of a chunk, N pictures shown in it, P pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from firstsight.data.index import Index
from firstsight.data.packing.packed_rows import Segments
from firstsight.recipe.mixture import PackingMode


class DroppedCounts(NamedTuple):
    """What a chunk's pieces leave out: tokens, records cut, records skipped; and records split."""

    dropped_tokens: int
    truncated: int
    skipped: int
    split: int


class SegmentEnds(NamedTuple):
    """How far stretches reach: up to a token, up to a picture, and whether the last position aims at that token."""

    token_ends: Int64[np.ndarray, "S"]
    image_ends: Int64[np.ndarray, "S"]
    has_next_token: Bool[np.ndarray, "S"]
    images_only: Bool[np.ndarray, "S"]
    """Only pictures: more of them stand before one word than fit a row with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleChunk:
    """Samples from `low` on that are packed together; tokens by their place in the index, pictures from 0 up."""

    index: Index
    first_sample: int
    samples: np.ndarray
    image_positions: Int64[np.ndarray, "N"]
    """The token that each picture stands before."""
    image_starts: Int64[np.ndarray, "S"]
    """Where each sample's pictures begin."""
    first_image: int
    """What the index calls the chunk's first picture."""
    length: int
    image_tokens: int
    max_images: int
    """Pictures that a piece may hold."""

    @classmethod
    def from_index(
        cls, index: Index, span: tuple[int, int], shape: tuple[int, int], *, packing: PackingMode
    ) -> SampleChunk:
        """Samples [low, high) for rows of (length, image tokens)."""
        samples, (length, image_tokens) = index.samples[slice(*span)], shape
        counts = samples["shown_count"].astype(np.int64)
        first_image = int(samples["shown_from"][counts > 0][:1].sum())
        image_refs = index.image_refs[first_image : first_image + int(counts.sum())]
        max_images = length // image_tokens if image_tokens else len(image_refs)
        return cls(
            index=index,
            first_sample=span[0],
            samples=samples,
            image_positions=np.repeat(samples["tokens_from"], counts) + image_refs["at"],
            image_starts=np.cumsum(counts) - counts,
            first_image=first_image,
            length=length,
            image_tokens=image_tokens,
            max_images=1 if packing == "one_image_per_row" and image_tokens else max_images,
        )

    @property
    def token_stops(self) -> Int64[np.ndarray, "S"]:
        return self.samples["tokens_from"] + self.samples["tokens_count"]

    @property
    def image_stops(self) -> Int64[np.ndarray, "S"]:
        return self.image_starts + self.samples["shown_count"]

    def starts_with_image(self, segments: Segments) -> Bool[np.ndarray, "P"]:
        """Pieces whose first position is a picture's slot, so that even their first token is aimed at."""
        starts_with_image = (segments.image_count > 0) & (self.image_tokens > 0)
        starts_with_image[starts_with_image] = (
            self.image_positions[segments.image_start[starts_with_image] - self.first_image]
            == segments.start[starts_with_image]
        )
        return starts_with_image

    def build_segments(
        self, sample_ids: np.ndarray, starts: tuple[np.ndarray, np.ndarray], ends: SegmentEnds
    ) -> Segments:
        """Pieces of samples `number` of the chunk from (token, picture) as far as they fit."""
        return Segments(
            sample=(self.first_sample + sample_ids).astype(np.int32),
            start=starts[0].astype(np.int64),
            count=(ends.token_ends - starts[0]).astype(np.int32),
            image_start=(self.first_image + starts[1]).astype(np.int64),
            image_count=(ends.image_ends - starts[1]).astype(np.int32),
            has_next_token=ends.has_next_token,
        )


def split_into_segments(chunk: SampleChunk) -> tuple[Segments, DroppedCounts]:
    """Pieces in the order of their samples: texts and interleaved documents go on in the next, others are cut."""
    match chunk.index.form:
        case "text":
            return _split_texts(chunk)
        case "interleaved":
            return _split_interleaved(chunk)
        case _:
            return _truncate_samples(chunk)


def _split_texts(chunk: SampleChunk) -> tuple[Segments, DroppedCounts]:
    """Stretches of at most `length` tokens; a last token that is only a target gets no piece of its own."""
    sample_starts, token_counts = chunk.samples["tokens_from"], chunk.samples["tokens_count"].astype(np.int64)
    part_counts = np.maximum(1, -(-(token_counts - 1) // chunk.length))
    sample_ids = np.repeat(np.arange(len(token_counts)), part_counts)
    part_numbers = np.arange(len(sample_ids)) - np.repeat(np.cumsum(part_counts) - part_counts, part_counts)
    segment_starts = sample_starts[sample_ids] + part_numbers * chunk.length
    segment_ends, zeros = (
        np.minimum(segment_starts + chunk.length, chunk.token_stops[sample_ids]),
        np.zeros(len(sample_ids), dtype=np.int64),
    )
    ends = SegmentEnds(segment_ends, zeros, segment_ends < chunk.token_stops[sample_ids], zeros > 0)
    return chunk.build_segments(sample_ids, (segment_starts, zeros), ends), DroppedCounts(
        0, 0, 0, int((part_counts > 1).sum())
    )


def _split_interleaved(chunk: SampleChunk) -> tuple[Segments, DroppedCounts]:
    """All documents advance by one piece at a time, each piece as long as fits, until none has anything left."""
    rounds, sample_ids = list[Segments](), np.arange(len(chunk.samples))
    token_starts, image_starts = chunk.samples["tokens_from"], chunk.image_starts
    while len(sample_ids):
        ends = _segment_ends(chunk, token_starts, image_starts, sample_ids)
        rounds.append(chunk.build_segments(sample_ids, (token_starts, image_starts), ends))
        token_stops, image_stops = chunk.token_stops[sample_ids], chunk.image_stops[sample_ids]
        is_target_only = ends.has_next_token & (ends.token_ends == token_stops - 1) & (ends.image_ends == image_stops)
        is_unfinished = (ends.token_ends < token_stops) & ~is_target_only
        sample_ids, token_starts, image_starts = (
            sample_ids[is_unfinished],
            ends.token_ends[is_unfinished],
            ends.image_ends[is_unfinished],
        )
    segments = concatenate_segments(rounds)
    ordered_segments = segments.select(np.argsort(segments.sample, kind="stable"))
    split_count = int((np.bincount(ordered_segments.sample - chunk.first_sample, minlength=1) > 1).sum())
    return ordered_segments, DroppedCounts(0, 0, 0, split_count)


def concatenate_segments(parts: list[Segments]) -> Segments:
    """Pieces one after the other."""
    return Segments(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in Segments.__dataclass_fields__}
    )


def _truncate_samples(chunk: SampleChunk) -> tuple[Segments, DroppedCounts]:
    """One piece a record, as much of it as fits: a caption ends anywhere, a dialogue with its last whole turn."""
    sample_ids, token_starts = np.arange(len(chunk.samples)), chunk.samples["tokens_from"]
    token_ends, image_ends, has_next_token, _ = _segment_ends(chunk, token_starts, chunk.image_starts, sample_ids)
    if chunk.index.form == "dialogues":
        for sample in np.flatnonzero(token_ends < chunk.token_stops):
            token_ends[sample] = _last_turn_end(chunk.index, int(token_starts[sample]), int(token_ends[sample]))
            image_ends[sample] = max(
                chunk.image_starts[sample],
                min(int(image_ends[sample]), int(np.searchsorted(chunk.image_positions, token_ends[sample]))),
            )
        has_next_token[:] = False
    dropped_tokens, is_skipped = chunk.token_stops - token_ends, token_ends == token_starts
    fitting = np.flatnonzero(~is_skipped)
    ends = SegmentEnds(token_ends[fitting], image_ends[fitting], has_next_token[fitting], is_skipped[fitting])
    counts = DroppedCounts(
        int(dropped_tokens.sum()), int(((dropped_tokens > 0) & ~is_skipped).sum()), int(is_skipped.sum()), 0
    )
    return chunk.build_segments(fitting, (token_starts[fitting], chunk.image_starts[fitting]), ends), counts


def _last_turn_end(index: Index, start: int, end: int) -> int:
    """Where the last answer ends that lies wholly in the tokens [start, end)."""
    answer_ends = np.flatnonzero(index.tokens[start:end] == index.special_ids.answer)
    return start + int(answer_ends[-1]) + 1 if len(answer_ends) else start


def _segment_ends(
    chunk: SampleChunk, token_starts: np.ndarray, image_starts: np.ndarray, sample_ids: np.ndarray
) -> SegmentEnds:
    """How much of samples `number` fits a row from (token, picture) on; a picture stays with the word behind it."""
    image_positions, image_tokens, token_stops, image_stops = (
        chunk.image_positions,
        chunk.image_tokens,
        chunk.token_stops[sample_ids],
        chunk.image_stops[sample_ids],
    )
    next_positions = np.append(
        image_positions, token_stops.max(initial=0)
    )  # so that "the next picture" can be asked for behind the last one
    # picture i and its word fit when at[i] + 1 - token + each * (i + 1 - seen) <= length: the left side rises with i
    fitting_images = np.searchsorted(
        image_positions + image_tokens * np.arange(len(image_positions)),
        token_starts + chunk.length - 1 + image_tokens * (image_starts - 1),
        side="right",
    )
    image_ends = np.clip(fitting_images, image_starts, np.minimum(image_stops, image_starts + chunk.max_images))
    is_blocked = image_ends < image_stops
    image_ends = np.where(
        is_blocked, np.maximum(image_starts, np.searchsorted(image_positions, next_positions[image_ends])), image_ends
    )
    token_limits = np.where(is_blocked, next_positions[image_ends], token_stops)
    token_ends = np.minimum(token_limits, token_starts + chunk.length - image_tokens * (image_ends - image_starts))
    images_only = token_ends == token_starts
    images_at_token = np.searchsorted(image_positions, next_positions[image_starts], side="right") - image_starts
    image_ends = np.where(images_only, image_starts + np.minimum(chunk.max_images, images_at_token - 1), image_ends)
    next_is_token = (token_ends < token_stops) & ~(
        (image_ends < image_stops) & (next_positions[image_ends] == token_ends)
    )
    return SegmentEnds(token_ends, image_ends, next_is_token | images_only, images_only)
