"""What training data shares with evaluation sets, before anything is trained: pictures that look alike, words in a row.

Nothing is removed. Whoever reads this decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from firstsight.data.audit.against import Evaluation, Item, collect
from firstsight.data.audit.findings import COMMON, Looked, Looks, Overlap, Phrase, Says
from firstsight.data.audit.near import near, plain
from firstsight.data.audit.ngrams import Grams, Hits, N, grams, scan
from firstsight.data.audit.seen import Shown, records_at, text_at
from firstsight.data.index import Index
from firstsight.data.tokenizer import Tokenizer
from firstsight.errors import DataError

_BATCH = 4096


def overlap(index: Index, *, against: Sequence[Path], words: Tokenizer) -> Overlap:
    """What an index shares with the evaluation sets in `against` (files or folders); nothing is removed.

    Raises DataError when `words` is not the index's tokenizer, or `against` holds nothing to compare with.
    """
    if words.digest != index.tokenizer_digest:
        raise DataError(
            f"{index.path}: wanted the tokenizer that it was prepared with ({index.tokenizer_digest[:12]}). "
            f"Got {words.path} ({words.digest[:12]}). Name that tokenizer."
        )
    sets = collect(against, hashing=len(index.images) > 0)
    pictures, crowded = _alike(index, sets)
    wanted, searchable = _wanted(sets, words)
    says, phrases = _Tally(index, wanted).take(scan(index.tokens, wanted)).told(sets, words)
    looked = Looked(
        pictures=len(index.images),
        plain=int(plain(index.images["hash"]).sum()),
        records=len(index.samples),
        evaluation_pictures=len(sets.pictures),
        evaluation_plain=int(plain(sets.hashes).sum()),
        crowded=crowded,
        texts=len(sets.texts),
        short=len(sets.texts) - searchable,
        unread=sets.unread,
        refused=sets.refused,
    )
    return Overlap(pictures=pictures, says=says, phrases=phrases, looked=looked)


def _alike(index: Index, sets: Evaluation) -> tuple[tuple[Looks, ...], int]:
    """Training pictures near an evaluation picture, nearest first; how many evaluation pictures had too many rivals."""
    if not len(index.images):
        return (), 0
    hashes = np.ascontiguousarray(index.images["hash"])
    ours, theirs = np.flatnonzero(~plain(hashes)), np.flatnonzero(~plain(sets.hashes))
    distinct, which = np.unique(hashes[ours], return_inverse=True)
    order = np.argsort(which, kind="stable")
    edges = np.searchsorted(which[order], np.arange(len(distinct) + 1))
    find, found, crowded = Shown(index), dict[tuple[int, int], int](), set[int]()
    for pairs in near(sets.hashes[theirs], distinct):
        crowded.update(pairs.crowded.tolist())
        for one, other, distance in zip(pairs.left, pairs.right, pairs.distance, strict=True):
            for picture in ours[order[edges[other] : edges[other + 1]]].tolist():
                found[picture, int(theirs[one])] = int(distance)
    ranked = sorted(found.items(), key=lambda one: (one[1], one[0]))
    looks = (
        Looks(distance=distance, seen=find.seen(picture), against=sets.pictures[other])
        for (picture, other), distance in ranked
    )
    return tuple(looks), len(crowded)


def _wanted(sets: Evaluation, words: Tokenizer) -> tuple[Grams, int]:
    """Stretches of every text, as it stands alone and behind a space; how many texts have any."""
    texts = list(sets.texts)
    ids: list[list[int]] = []
    numbers: list[int] = []
    for start in range(0, len(texts), _BATCH):
        some = texts[start : start + _BATCH]
        both = zip(words.encode(some), words.encode([f" {text}" for text in some]), strict=True)
        for number, forms in enumerate(both, start=start):
            long = [form for form in forms if len(form) >= N]
            ids += long
            numbers += [number] * len(long)
    return grams(ids, numbers), len(set(numbers))


class _Tally:
    """Which records hold which stretches; where many hold one, only how many."""

    def __init__(self, index: Index, wanted: Grams) -> None:
        self._index, self._wanted = index, wanted
        self._records = np.zeros(len(wanted.hashes), dtype=np.int64)
        self._last = np.full(len(wanted.hashes), -1)
        self._held: list[Hits] = []

    def take(self, found: Iterator[Hits]) -> _Tally:
        """Count all hits that lie within one record."""
        samples = self._index.samples
        for hits in found:
            record = records_at(self._index, hits.positions)
            ends = samples["tokens_from"][record] + samples["tokens_count"][record]
            inside = hits.positions + N <= ends
            self._count(record[inside], hits.positions[inside], hits.grams[inside])
        return self

    def _count(self, record: np.ndarray, positions: np.ndarray, named: np.ndarray) -> None:
        rare = self._records[named] <= COMMON
        self._held.append(Hits(positions=positions[rare], grams=named[rare]))
        # Positions rise, so a stretch that comes again in its record does so behind the record that counted it.
        pairs = np.unique(np.stack([named, record]), axis=1)
        new = pairs[:, self._last[pairs[0]] != pairs[1]]
        np.add.at(self._records, new[0], 1)
        np.maximum.at(self._last, pairs[0], pairs[1])

    def told(self, sets: Evaluation, words: Tokenizer) -> tuple[tuple[Says, ...], tuple[Phrase, ...]]:
        """Records with rare stretches, those with the most first; and texts with common ones."""
        items = list(sets.texts.values())
        named = np.concatenate([hits.grams for hits in self._held] or [self._last[:0]])
        positions = np.concatenate([hits.positions for hits in self._held] or [self._last[:0]])
        rare = self._records[named] <= COMMON
        said = defaultdict[tuple[int, int], list[int]](list)
        for record, text, at in zip(
            records_at(self._index, positions[rare]), self._wanted.texts[named[rare]], positions[rare], strict=True
        ):
            said[int(record), int(text)].append(int(at))
        ranked = sorted(said.items(), key=lambda one: (-len(one[1]), one[0]))
        says = tuple(
            Says(
                stretches=len(places),
                words=words.decode(self._longest(places)),
                seen=text_at(record),
                against=items[text],
            )
            for (record, text), places in ranked
        )
        return says, tuple(self._phrases(items, words))

    def _longest(self, places: list[int]) -> list[int]:
        """Tokens of the longest run of stretches that follow one another."""
        places = sorted(places)
        cuts = np.flatnonzero(np.diff(places) != 1) + 1
        runs = [run for run in np.split(np.asarray(places), cuts) if len(run)]
        longest = max(runs, key=len)
        return self._index.tokens[int(longest[0]) : int(longest[-1]) + N].tolist()

    def _phrases(self, items: list[Item], words: Tokenizer) -> Iterator[Phrase]:
        """The commonest stretch of every text that has one."""
        common = np.flatnonzero(self._records > COMMON)
        best = dict[int, int]()
        for gram in common[np.argsort(-self._records[common], kind="stable")].tolist():
            best.setdefault(int(self._wanted.texts[gram]), gram)
        for text, gram in best.items():
            yield Phrase(
                records=int(self._records[gram]),
                words=words.decode(self._wanted.tokens[gram].tolist()),
                against=items[text],
            )
