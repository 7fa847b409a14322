"""The findings of `overlap` as values, as lines of a file and as sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from firstsight.data.audit.eval_sets import EvalItem
from firstsight.data.audit.hamming import MAX_HAMMING_DISTANCE
from firstsight.data.audit.ngrams import NGRAM_SIZE
from firstsight.data.audit.record_locations import RecordLocation, format_share

MAX_RARE_RECORDS = 10
"""Words that more records than these share with an evaluation set are a phrase of the language, not a leak.

Brown et al. 2020 (appendix C) draw the line there too.
"""
PRINTED_FINDINGS = 3
"""Findings of each kind that the terminal shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOverlap:
    """A training picture whose hash is at most NEAR bits from that of an evaluation picture."""

    distance: int
    train_record: RecordLocation
    eval_item: EvalItem


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOverlap:
    """A training record that holds N or more tokens in a row of an evaluation text."""

    shared_ngrams: int
    """How many stretches of N tokens it shares with that text."""
    shared_text: str
    """The longest that is shared in one piece."""
    train_record: RecordLocation
    eval_item: EvalItem


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonPhrase:
    """Words of an evaluation text that stand in more than COMMON records."""

    records: int
    shared_text: str
    eval_item: EvalItem


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlapCoverage:
    """How much was compared."""

    images: int
    uninformative_images: int
    """Training pictures too plain to compare."""
    records: int
    eval_images: int
    eval_uninformative_images: int
    crowded_images: int
    """Evaluation hashes that share their bits with more than CROWD training hashes; some matches may be missing."""
    texts: int
    short_texts: int
    """Evaluation texts of fewer than N tokens, which nothing can be said of."""
    unread: dict[str, int]
    """Evaluation files of no known ending, by ending."""
    refused: tuple[str, ...]
    """Evaluation files and pictures that are broken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OverlapReport:
    """Everything that was found, and how much was looked at."""

    image_overlaps: tuple[ImageOverlap, ...]
    text_overlaps: tuple[TextOverlap, ...]
    phrases: tuple[CommonPhrase, ...]
    coverage: OverlapCoverage

    def write(self, folder: Path) -> Path:
        """All findings, one a line, as overlap.jsonl in `folder`; where that is."""
        file = folder / "overlap.jsonl"
        findings = (("picture", self.image_overlaps), ("words", self.text_overlaps), ("phrase", self.phrases))
        with file.open("w", encoding="utf-8") as out:
            for kind, overlaps in findings:
                out.writelines(
                    json.dumps({"kind": kind, **asdict(finding)}, ensure_ascii=False, sort_keys=True) + "\n"
                    for finding in overlaps
                )
        return file

    def summary_lines(self) -> tuple[str, ...]:
        """The findings as plain sentences."""
        return (*self._image_lines(), *self._text_lines(), *self._coverage_lines())

    def _image_lines(self) -> Iterator[str]:
        train_count, eval_count = self.coverage.images, self.coverage.eval_images
        if not (train_count and eval_count):
            return
        similar_train_count = len(
            {(finding.train_record.shard, finding.train_record.offset) for finding in self.image_overlaps}
        )
        similar_eval_count = len({finding.eval_item for finding in self.image_overlaps})
        yield (
            f"{format_share(similar_train_count, train_count)} training pictures look like {format_share(similar_eval_count, eval_count)} evaluation pictures: at most {MAX_HAMMING_DISTANCE} "
            "of 64 bits of their hashes differ."
        )
        for finding in self.image_overlaps[:PRINTED_FINDINGS]:
            yield f"  {finding.train_record} like {finding.eval_item} ({finding.distance} bits)"

    def _text_lines(self) -> Iterator[str]:
        searched_count = self.coverage.texts - self.coverage.short_texts
        if not searched_count:
            return
        record_count = len({finding.train_record.record for finding in self.text_overlaps})
        yield (
            f"{format_share(record_count, self.coverage.records)} records hold {NGRAM_SIZE} or more tokens in a row of "
            f"{format_share(len({finding.eval_item for finding in self.text_overlaps}), searched_count)} evaluation texts."
        )
        for finding in self.text_overlaps[:PRINTED_FINDINGS]:
            yield f"  {finding.train_record} has, as {finding.eval_item}: {quote_shortened(finding.shared_text)}"
        if self.phrases:
            yield (
                f"{len(self.phrases):,} evaluation texts hold words that stand in more than {MAX_RARE_RECORDS} records; they are "
                "counted apart, as phrases."
            )
        for finding in self.phrases[:PRINTED_FINDINGS]:
            yield f"  {finding.records:,} records have, as {finding.eval_item}: {quote_shortened(finding.shared_text)}"

    def _coverage_lines(self) -> Iterator[str]:
        """What could not be compared."""
        coverage = self.coverage
        if coverage.uninformative_images + coverage.eval_uninformative_images:
            yield (
                f"{coverage.uninformative_images:,} training and {coverage.eval_uninformative_images:,} evaluation pictures were left out, because "
                "they are too plain to tell apart."
            )
        if coverage.crowded_images:
            yield f"{coverage.crowded_images:,} evaluation pictures have bits that too many share; matches may be missing."
        if coverage.short_texts:
            yield f"{format_share(coverage.short_texts, coverage.texts)} evaluation texts are shorter than {NGRAM_SIZE} tokens: not looked for."
        if coverage.unread:
            suffix_counts = ", ".join(f"{count:,} x {suffix}" for suffix, count in sorted(coverage.unread.items()))
            yield f"Evaluation files that were not read: {suffix_counts}."
        if coverage.refused:
            yield f"{len(coverage.refused):,} evaluation files or pictures are broken. The first: {coverage.refused[0]}"


def quote_shortened(text: str) -> str:
    """One line of at most 100 characters."""
    line = " ".join(text.split())
    return f'"{line if len(line) <= 100 else line[:97] + "..."}"'
