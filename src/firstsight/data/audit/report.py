"""The findings of an audit as values, as sentences and as lines of a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from firstsight.data.audit.eval_sets import EvalItem
from firstsight.data.index import Index
from firstsight.files import open_atomic

NGRAM_SIZE = 13
"""Consecutive tokens that count as overlap; Brown et al. 2020 (appendix C) use 13 words."""
MAX_BUCKET_SIZE = 1000
"""Hashes with equal bands that are compared; larger buckets are skipped."""
MAX_HAMMING_DISTANCE = 4
"""Bits in which the hashes of an image and of its rescaled or re-encoded copy may differ."""
MIN_INFORMATIVE_BITS = 8
"""A hash with fewer bits set, or fewer unset, is that of a plain area or a gradient: it does not identify an image."""

MAX_LISTED_CLUSTERS, MAX_LISTED_MEMBERS = 5, 3
"""Duplicate clusters that are listed, and members of each."""
MAX_RARE_RECORDS = 10
"""Words that more records than these share with an evaluation set are a common phrase, not a leak.

Brown et al. 2020 (appendix C) use the same threshold.
"""
PRINTED_FINDINGS = 3
"""Findings of each kind that the terminal shows."""


@dataclass(frozen=True, slots=True)
class RecordLocation:
    """A record of an index and, for a finding about an image, where its bytes are."""

    record: int
    shard: str = ""
    """Name of the file; empty for texts, whose location is not in the index."""
    offset: int = -1
    """Offset in bytes, in a table the row; -1 for texts."""

    def __str__(self) -> str:
        return f"record {self.record:,}" + (f" ({self.shard} at {self.offset:,})" if self.shard else "")


class ImageRecordFinder:
    """Finds the first record with an image."""

    def __init__(self, index: Index) -> None:
        self._index, image_ids = index, index.image_refs["picture"]
        self._first_refs = np.full(len(index.images), -1)
        self._first_refs[image_ids[::-1]] = np.arange(len(image_ids))[::-1]

    def locate(self, image_id: int) -> RecordLocation:
        """The first record with an image, and where the image's bytes are."""
        image, starts = self._index.images[image_id], self._index.samples["shown_from"]
        record = int(np.searchsorted(starts, self._first_refs[image_id], side="right")) - 1
        return RecordLocation(record, self._index.image_shards[int(image["shard"])], int(image["offset"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicateCluster:
    """Images or texts that count as the same; its first members."""

    size: int
    members: tuple[RecordLocation, ...]

    def __str__(self) -> str:
        return f"{self.size:,} x: {', '.join(map(str, self.members))}{', ...' * (self.size > MAX_LISTED_MEMBERS)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DuplicateReport:
    """Counts of duplicates; the first member of a cluster is never counted."""

    form: str
    images: int
    identical_images: int
    """Images with the hash and the size in bytes of an earlier one. Their bytes were not compared."""
    similar_images: int
    """Other images that are linked to an earlier one by hashes at most MAX_HAMMING_DISTANCE bits apart."""
    uninformative_images: int
    """Images whose hash has too few bits set or unset; they are in none of the other counts."""
    crowded_images: int
    """Images with a hash that was not compared with all candidates; `similar_images` may be too low by these."""
    records: int
    repeated_texts: int
    """Records with exactly the tokens of an earlier one."""
    largest_identical: tuple[DuplicateCluster, ...]
    largest_similar: tuple[DuplicateCluster, ...]
    largest_repeated: tuple[DuplicateCluster, ...]

    def summary_lines(self) -> tuple[str, ...]:
        """The findings as sentences."""
        noun = "captions" if self.form == "captions" else "records"
        texts = f"{_share(self.repeated_texts, self.records)} {noun} repeat an earlier one word for word."
        return (*self._image_lines(), texts, *_indented(self.largest_repeated))

    def _image_lines(self) -> Iterator[str]:
        total = self.images
        if not total:
            return
        yield (
            f"{_share(self.identical_images, total)} images repeat an earlier one: equal perceptual hash and equal "
            "size in bytes (their bytes were not compared)."
        )
        yield from _indented(self.largest_identical)
        yield (
            f"{_share(self.similar_images, total)} more are similar to an earlier one: a hash linked to another's by "
            f"at most {MAX_HAMMING_DISTANCE} of 64 bits."
        )
        yield from _indented(self.largest_similar)
        if self.uninformative_images:
            yield (
                f"{_share(self.uninformative_images, total)} images were left out, because they are too uniform to "
                f"apart (fewer than {MIN_INFORMATIVE_BITS} bits of the hash are set, or unset)."
            )
        if self.crowded_images:
            yield (
                f"{_share(self.crowded_images, total)} images have a hash that shares its bits with more than "
                f"{MAX_BUCKET_SIZE:,} others; some similar images may be missing above."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOverlap:
    """A training image whose hash is at most MAX_HAMMING_DISTANCE bits from that of an evaluation image."""

    distance: int
    train_record: RecordLocation
    eval_item: EvalItem

    def __str__(self) -> str:
        return f"{self.train_record} like {self.eval_item} ({self.distance} bits)"


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOverlap:
    """A training record that contains NGRAM_SIZE or more consecutive tokens of an evaluation text."""

    shared_ngrams: int
    shared_text: str
    train_record: RecordLocation
    eval_item: EvalItem

    def __str__(self) -> str:
        return f"{self.train_record} has, as {self.eval_item}: {quote_shortened(self.shared_text)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonPhrase:
    """Words of an evaluation text that are in more than MAX_RARE_RECORDS records."""

    records: int
    shared_text: str
    eval_item: EvalItem

    def __str__(self) -> str:
        return f"{self.records:,} records have, as {self.eval_item}: {quote_shortened(self.shared_text)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlapReport:
    """What a source shares with evaluation sets, and how much was compared."""

    image_overlaps: Sequence[ImageOverlap]
    text_overlaps: Sequence[TextOverlap]
    phrases: Sequence[CommonPhrase]
    images: int
    uninformative_images: int
    records: int
    eval_images: int
    eval_uninformative_images: int
    crowded_images: int
    """Evaluation images that were not compared with all candidates; some matches may be missing."""
    texts: int
    short_texts: int
    """Evaluation texts of fewer than NGRAM_SIZE tokens, which are not searched for."""
    unread: Mapping[str, int]
    broken_items: Sequence[str]
    """Evaluation files and images that are broken."""

    def write(self, folder: Path) -> Path:
        """Write all findings, one per line, to overlap.jsonl in `folder`; returns its path."""
        path = folder / "overlap.jsonl"
        findings = {"picture": self.image_overlaps, "words": self.text_overlaps, "phrase": self.phrases}
        entries = ({"kind": kind, **asdict(finding)} for kind, group in findings.items() for finding in group)
        with open_atomic(path) as file:
            file.writelines(f"{json.dumps(entry, ensure_ascii=False, sort_keys=True)}\n".encode() for entry in entries)
        return path

    def summary_lines(self) -> tuple[str, ...]:
        """The findings as sentences."""
        return (*self._image_lines(), *self._text_lines(), *self._coverage_lines())

    def _image_lines(self) -> Iterator[str]:
        if not (self.images and self.eval_images):
            return
        train = {(overlap.train_record.shard, overlap.train_record.offset) for overlap in self.image_overlaps}
        items = {overlap.eval_item for overlap in self.image_overlaps}
        yield (
            f"{_share(len(train), self.images)} training images are similar to {_share(len(items), self.eval_images)} "
            f"evaluation images: at most {MAX_HAMMING_DISTANCE} of 64 bits of their hashes differ."
        )
        yield from _indented(self.image_overlaps[:PRINTED_FINDINGS])

    def _text_lines(self) -> Iterator[str]:
        if not (searched := self.texts - self.short_texts):
            return
        records = {overlap.train_record.record for overlap in self.text_overlaps}
        items = {overlap.eval_item for overlap in self.text_overlaps}
        yield (
            f"{_share(len(records), self.records)} records contain {NGRAM_SIZE} or more consecutive tokens of "
            f"{_share(len(items), searched)} evaluation texts."
        )
        yield from _indented(self.text_overlaps[:PRINTED_FINDINGS])
        if self.phrases:
            yield (
                f"{len(self.phrases):,} evaluation texts contain words that are in more than {MAX_RARE_RECORDS} "
                "records; they are counted separately, as phrases."
            )
        yield from _indented(self.phrases[:PRINTED_FINDINGS])

    def _coverage_lines(self) -> Iterator[str]:
        if self.uninformative_images + self.eval_uninformative_images:
            yield (
                f"{self.uninformative_images:,} training and {self.eval_uninformative_images:,} evaluation images "
                "were left out, because they are too uniform to distinguish."
            )
        if self.crowded_images:
            yield f"{self.crowded_images:,} evaluation images share bits with too many others; matches may be missing."
        if self.short_texts:
            share = _share(self.short_texts, self.texts)
            yield f"{share} evaluation texts are shorter than {NGRAM_SIZE} tokens: not searched for."
        if self.unread:
            counts = ", ".join(f"{count:,} x {suffix}" for suffix, count in sorted(self.unread.items()))
            yield f"Evaluation files that were not read: {counts}."
        if self.broken_items:
            yield f"{len(self.broken_items):,} evaluation files or images are broken. The first: {self.broken_items[0]}"


def quote_shortened(text: str) -> str:
    """A quoted line of at most 100 characters."""
    line = " ".join(text.split())
    return f'"{line if len(line) <= 100 else line[:97] + "..."}"'


def _share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / max(total, 1):.2%})"


def _indented(findings: Iterable[object]) -> Iterator[str]:
    return (f"  {finding}" for finding in findings)
