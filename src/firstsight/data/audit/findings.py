"""The findings of `overlap` as values, as lines of a file and as sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from firstsight.data.audit.against import Item
from firstsight.data.audit.near import NEAR
from firstsight.data.audit.ngrams import N
from firstsight.data.audit.seen import Seen, part

COMMON = 10
"""Words that more records than these share with an evaluation set are a phrase of the language, not a leak.

Brown et al. 2020 (appendix C) draw the line there too.
"""
NAMED = 3
"""Findings of each kind that the terminal shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """A training picture whose hash is at most NEAR bits from that of an evaluation picture."""

    distance: int
    seen: Seen
    against: Item


@dataclass(frozen=True, kw_only=True, slots=True)
class Says:
    """A training record that holds N or more tokens in a row of an evaluation text."""

    stretches: int
    """How many stretches of N tokens it shares with that text."""
    words: str
    """The longest that is shared in one piece."""
    seen: Seen
    against: Item


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """Words of an evaluation text that stand in more than COMMON records."""

    records: int
    words: str
    against: Item


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """How much was compared."""

    pictures: int
    plain: int
    """Training pictures too plain to compare."""
    records: int
    evaluation_pictures: int
    evaluation_plain: int
    crowded: int
    """Evaluation hashes that share their bits with more than CROWD training hashes; some matches may be missing."""
    texts: int
    short: int
    """Evaluation texts of fewer than N tokens, which nothing can be said of."""
    unread: dict[str, int]
    """Evaluation files of no known ending, by ending."""
    refused: tuple[str, ...]
    """Evaluation files and pictures that are broken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap:
    """Everything that was found, and how much was looked at."""

    pictures: tuple[Looks, ...]
    says: tuple[Says, ...]
    phrases: tuple[Phrase, ...]
    looked: Looked

    def write(self, folder: Path) -> Path:
        """All findings, one a line, as overlap.jsonl in `folder`; where that is."""
        file = folder / "overlap.jsonl"
        findings = (("picture", self.pictures), ("words", self.says), ("phrase", self.phrases))
        with file.open("w", encoding="utf-8") as out:
            for kind, found in findings:
                out.writelines(
                    json.dumps({"kind": kind, **asdict(one)}, ensure_ascii=False, sort_keys=True) + "\n"
                    for one in found
                )
        return file

    def lines(self) -> tuple[str, ...]:
        """The findings as plain sentences."""
        return (*self._pictures(), *self._words(), *self._limits())

    def _pictures(self) -> Iterator[str]:
        ours, theirs = self.looked.pictures, self.looked.evaluation_pictures
        if not (ours and theirs):
            return
        like = len({(one.seen.shard, one.seen.place) for one in self.pictures})
        liked = len({one.against for one in self.pictures})
        yield (
            f"{part(like, ours)} training pictures look like {part(liked, theirs)} evaluation pictures: at most {NEAR} "
            "of 64 bits of their hashes differ."
        )
        for one in self.pictures[:NAMED]:
            yield f"  {one.seen} like {one.against} ({one.distance} bits)"

    def _words(self) -> Iterator[str]:
        searched = self.looked.texts - self.looked.short
        if not searched:
            return
        held = len({one.seen.record for one in self.says})
        yield (
            f"{part(held, self.looked.records)} records hold {N} or more tokens in a row of "
            f"{part(len({one.against for one in self.says}), searched)} evaluation texts."
        )
        for one in self.says[:NAMED]:
            yield f"  {one.seen} has, as {one.against}: {shortened(one.words)}"
        if self.phrases:
            yield (
                f"{len(self.phrases):,} evaluation texts hold words that stand in more than {COMMON} records; they are "
                "counted apart, as phrases."
            )
        for one in self.phrases[:NAMED]:
            yield f"  {one.records:,} records have, as {one.against}: {shortened(one.words)}"

    def _limits(self) -> Iterator[str]:
        """What could not be compared."""
        looked = self.looked
        if looked.plain + looked.evaluation_plain:
            yield (
                f"{looked.plain:,} training and {looked.evaluation_plain:,} evaluation pictures were left out, because "
                "they are too plain to tell apart."
            )
        if looked.crowded:
            yield f"{looked.crowded:,} evaluation pictures have bits that too many share; matches may be missing."
        if looked.short:
            yield f"{part(looked.short, looked.texts)} evaluation texts are shorter than {N} tokens: not looked for."
        if looked.unread:
            kinds = ", ".join(f"{count:,} x {ending}" for ending, count in sorted(looked.unread.items()))
            yield f"Evaluation files that were not read: {kinds}."
        if looked.refused:
            yield f"{len(looked.refused):,} evaluation files or pictures are broken. The first: {looked.refused[0]}"


def shortened(words: str) -> str:
    """One line of at most 100 characters."""
    line = " ".join(words.split())
    return f'"{line if len(line) <= 100 else line[:97] + "..."}"'
