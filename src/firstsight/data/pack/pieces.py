"""Records to pieces: where a long one ends or is split, so that no picture is torn from the word behind it.

Legend: S samples of a chunk, N pictures shown in it, P pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from firstsight.data.index import Index
from firstsight.data.pack.table import Pieces
from firstsight.recipe.mix import Packing


class Lost(NamedTuple):
    """What a chunk's pieces leave out: tokens, records cut, records skipped; and records split."""

    tokens: int
    cut: int
    skipped: int
    split: int


class Fit(NamedTuple):
    """How far stretches reach: up to a token, up to a picture, and whether the last position aims at that token."""

    end: Int64[np.ndarray, "S"]
    upto: Int64[np.ndarray, "S"]
    goes_on: Bool[np.ndarray, "S"]
    stuck: Bool[np.ndarray, "S"]
    """Only pictures: more of them stand before one word than fit a row with it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Samples from `low` on that are packed together; tokens by their place in the index, pictures from 0 up."""

    index: Index
    low: int
    samples: np.ndarray
    at: Int64[np.ndarray, "N"]
    """The token that each picture stands before."""
    first: Int64[np.ndarray, "S"]
    """Where each sample's pictures begin."""
    shown_from: int
    """What the index calls the chunk's first picture."""
    length: int
    image_tokens: int
    most: int
    """Pictures that a piece may hold."""

    @classmethod
    def of(cls, index: Index, span: tuple[int, int], shape: tuple[int, int], *, packing: Packing) -> Chunk:
        """Samples [low, high) for rows of (length, image tokens)."""
        samples, (length, image_tokens) = index.samples[slice(*span)], shape
        counts = samples["shown_count"].astype(np.int64)
        begin = int(samples["shown_from"][counts > 0][:1].sum())
        shown = index.shown[begin : begin + int(counts.sum())]
        most = length // image_tokens if image_tokens else len(shown)
        return cls(
            index=index,
            low=span[0],
            samples=samples,
            at=np.repeat(samples["tokens_from"], counts) + shown["at"],
            first=np.cumsum(counts) - counts,
            shown_from=begin,
            length=length,
            image_tokens=image_tokens,
            most=1 if packing == "one_image_per_row" and image_tokens else most,
        )

    @property
    def stop(self) -> Int64[np.ndarray, "S"]:
        return self.samples["tokens_from"] + self.samples["tokens_count"]

    @property
    def last(self) -> Int64[np.ndarray, "S"]:
        return self.first + self.samples["shown_count"]

    def headed(self, pieces: Pieces) -> Bool[np.ndarray, "P"]:
        """Pieces whose first position is a picture's slot, so that even their first token is aimed at."""
        headed = (pieces.shown_count > 0) & (self.image_tokens > 0)
        headed[headed] = self.at[pieces.shown_from[headed] - self.shown_from] == pieces.start[headed]
        return headed

    def pieces(self, number: np.ndarray, begin: tuple[np.ndarray, np.ndarray], fit: Fit) -> Pieces:
        """Pieces of samples `number` of the chunk from (token, picture) as far as they fit."""
        return Pieces(
            sample=(self.low + number).astype(np.int32),
            start=begin[0].astype(np.int64),
            count=(fit.end - begin[0]).astype(np.int32),
            shown_from=(self.shown_from + begin[1]).astype(np.int64),
            shown_count=(fit.upto - begin[1]).astype(np.int32),
            goes_on=fit.goes_on,
        )


def pieces(chunk: Chunk) -> tuple[Pieces, Lost]:
    """Pieces in the order of their samples: texts and interleaved documents go on in the next, others are cut."""
    match chunk.index.form:
        case "text":
            return _split(chunk)
        case "interleaved":
            return _stretched(chunk)
        case _:
            return _cut(chunk)


def _split(chunk: Chunk) -> tuple[Pieces, Lost]:
    """Stretches of at most `length` tokens; a last token that is only a target gets no piece of its own."""
    start, count = chunk.samples["tokens_from"], chunk.samples["tokens_count"].astype(np.int64)
    parts = np.maximum(1, -(-(count - 1) // chunk.length))
    number = np.repeat(np.arange(len(count)), parts)
    nth = np.arange(len(number)) - np.repeat(np.cumsum(parts) - parts, parts)
    begin = start[number] + nth * chunk.length
    end, nothing = np.minimum(begin + chunk.length, chunk.stop[number]), np.zeros(len(number), dtype=np.int64)
    fit = Fit(end, nothing, end < chunk.stop[number], nothing > 0)
    return chunk.pieces(number, (begin, nothing), fit), Lost(0, 0, 0, int((parts > 1).sum()))


def _stretched(chunk: Chunk) -> tuple[Pieces, Lost]:
    """All documents advance by one piece at a time, each piece as long as fits, until none has anything left."""
    found, number = list[Pieces](), np.arange(len(chunk.samples))
    token, seen = chunk.samples["tokens_from"], chunk.first
    while len(number):
        fit = _reach(chunk, token, seen, number)
        found.append(chunk.pieces(number, (token, seen), fit))
        stop, last = chunk.stop[number], chunk.last[number]
        only_a_target = fit.goes_on & (fit.end == stop - 1) & (fit.upto == last)
        more = (fit.end < stop) & ~only_a_target
        number, token, seen = number[more], fit.end[more], fit.upto[more]
    joined = joined_pieces(found)
    ordered = joined.taken(np.argsort(joined.sample, kind="stable"))
    split = int((np.bincount(ordered.sample - chunk.low, minlength=1) > 1).sum())
    return ordered, Lost(0, 0, 0, split)


def joined_pieces(found: list[Pieces]) -> Pieces:
    """Pieces one after the other."""
    return Pieces(
        **{name: np.concatenate([getattr(one, name) for one in found]) for name in Pieces.__dataclass_fields__}
    )


def _cut(chunk: Chunk) -> tuple[Pieces, Lost]:
    """One piece a record, as much of it as fits: a caption ends anywhere, a dialogue with its last whole turn."""
    number, begin = np.arange(len(chunk.samples)), chunk.samples["tokens_from"]
    end, upto, goes_on, _ = _reach(chunk, begin, chunk.first, number)
    if chunk.index.form == "dialogues":
        for long in np.flatnonzero(end < chunk.stop):
            end[long] = _whole_turns(chunk.index, int(begin[long]), int(end[long]))
            upto[long] = max(chunk.first[long], min(int(upto[long]), int(np.searchsorted(chunk.at, end[long]))))
        goes_on[:] = False
    lost, skipped = chunk.stop - end, end == begin
    kept = np.flatnonzero(~skipped)
    fit = Fit(end[kept], upto[kept], goes_on[kept], skipped[kept])
    counts = Lost(int(lost.sum()), int(((lost > 0) & ~skipped).sum()), int(skipped.sum()), 0)
    return chunk.pieces(kept, (begin[kept], chunk.first[kept]), fit), counts


def _whole_turns(index: Index, start: int, end: int) -> int:
    """Where the last answer ends that lies wholly in the tokens [start, end)."""
    ends = np.flatnonzero(index.tokens[start:end] == index.special.answer)
    return start + int(ends[-1]) + 1 if len(ends) else start


def _reach(chunk: Chunk, token: np.ndarray, seen: np.ndarray, number: np.ndarray) -> Fit:
    """How much of samples `number` fits a row from (token, picture) on; a picture stays with the word behind it."""
    at, each, stop, last = chunk.at, chunk.image_tokens, chunk.stop[number], chunk.last[number]
    behind = np.append(at, stop.max(initial=0))  # so that "the next picture" can be asked for behind the last one
    # picture i and its word fit when at[i] + 1 - token + each * (i + 1 - seen) <= length: the left side rises with i
    fitting = np.searchsorted(
        at + each * np.arange(len(at)), token + chunk.length - 1 + each * (seen - 1), side="right"
    )
    upto = np.clip(fitting, seen, np.minimum(last, seen + chunk.most))
    blocked = upto < last
    upto = np.where(blocked, np.maximum(seen, np.searchsorted(at, behind[upto])), upto)
    wall = np.where(blocked, behind[upto], stop)
    end = np.minimum(wall, token + chunk.length - each * (upto - seen))
    stuck = end == token
    crowd = np.searchsorted(at, behind[seen], side="right") - seen
    upto = np.where(stuck, seen + np.minimum(chunk.most, crowd - 1), upto)
    next_is_word = (end < stop) & ~((upto < last) & (behind[upto] == end))
    return Fit(end, upto, next_is_word | stuck, stuck)
