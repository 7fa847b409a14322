"""What training data shares with evaluation sets: similar images and n-grams of tokens. Nothing is removed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer, UInt32
from numpy.lib.stride_tricks import sliding_window_view

from firstsight.data.audit import report
from firstsight.data.audit.duplicates import hamming_neighbors, uninformative_hashes
from firstsight.data.audit.eval_sets import EvalItem, EvalSets, collect_eval_sets
from firstsight.data.audit.report import NGRAM_SIZE
from firstsight.data.index import Index, ragged_ranges
from firstsight.data.tokenizer import Tokenizer
from firstsight.errors import DataError

NgramHits = tuple[Int64[np.ndarray, "hits"], Int64[np.ndarray, "hits"]]
"""Positions in a token array where n-grams begin, ascending, and the number of the n-gram at each."""
_BASE, _SECOND_BASE = np.uint32(0x9E3779B3), np.uint32(0xC2B2AE35)
_FILTER_FACTOR = np.uint32(0x85EBCA6B)
_CHUNK = 1 << 15
"""Tokens at a time, so that their hashes stay in the processor's cache."""
_SLOTS_PER_NGRAM = 16
"""Bits of a filter for every n-gram: one in 16 other hashes passes; small enough to stay in the processor's cache."""
_FILTER_BITS = (16, 29)
"""Bits of a hash that the smallest and the largest filter use."""


class NgramFilter:
    """A bit for each value of the leading bits of a hash: passes all hashes of a set, and 1/_SLOTS_PER_NGRAM others."""

    def __init__(self, hashes: UInt32[np.ndarray, "G"]) -> None:
        bits = int(np.clip(np.ceil(np.log2(max(len(hashes) * _SLOTS_PER_NGRAM, 1))), *_FILTER_BITS))
        self._shift = np.uint32(32 - bits)
        slots = np.zeros(1 << bits, dtype=np.bool_)
        slots[hashes >> self._shift] = True
        self._bitset = np.packbits(slots, bitorder="little")

    def candidates(self, hashes: UInt32[np.ndarray, "n"]) -> Int64[np.ndarray, "passed"]:
        """Indices of the hashes that may be in the set."""
        slots = hashes >> self._shift
        bits = self._bitset.take(slots >> np.uint32(3)) >> (slots & np.uint32(7)).astype(np.uint8)
        return np.flatnonzero(bits & np.uint8(1))


def rolling_hashes(tokens: UInt32[np.ndarray, "n"], base: np.uint32 = _BASE) -> UInt32[np.ndarray, "windows"]:
    """The hash of every N consecutive tokens: a polynomial modulo 2**32, combined from shorter ones by doubling."""
    hashes, length = tokens, 1
    for bit in f"{NGRAM_SIZE:b}"[1:]:
        head = hashes[:-length] * np.uint32(pow(int(base), length, 1 << 32))
        head += hashes[length:]
        hashes, length = head, 2 * length
        if bit == "1":
            hashes = hashes[:-1] * base
            hashes += tokens[length:]
            length += 1
    return hashes


class NgramSet:
    """The distinct n-grams of tokenized texts, in the order of their hashes.

    `text_numbers` is the number of the text that each of `texts` tokenizes, ascending; `.texts` has for each n-gram
    the number of the first text with it.
    """

    def __init__(self, texts: Sequence[Sequence[int]], text_numbers: Sequence[int]) -> None:
        flat = np.fromiter(chain(*texts, repeat(0, NGRAM_SIZE)), dtype=np.uint32)  # padded to at least a window
        counts = np.array([len(ids) for ids in texts], dtype=np.int64)
        starts, text_ids, _ = ragged_ranges(np.cumsum(counts) - counts, np.maximum(counts - NGRAM_SIZE + 1, 0))
        hashes, second_hashes = (rolling_hashes(flat, base)[starts] for base in (_BASE, _SECOND_BASE))
        ngrams = sliding_window_view(flat, NGRAM_SIZE)[starts]
        order = np.lexsort((second_hashes, hashes))  # stable: among equals the first text stays first
        is_new = np.ones(len(order), dtype=np.bool_)
        is_new[1:] = (ngrams[order][1:] != ngrams[order][:-1]).any(axis=1)
        first = order[is_new]
        self.tokens: UInt32[np.ndarray, "G N"] = ngrams[first]
        self.texts: Int64[np.ndarray, "G"] = np.asarray(text_numbers, dtype=np.int64)[text_ids[first]]
        self.hashes: UInt32[np.ndarray, "G"] = hashes[first]
        self.filters = NgramFilter(self.hashes), NgramFilter(self.hashes * _FILTER_FACTOR)


def find_ngrams(tokens: Integer[np.ndarray, "tokens"], ngrams: NgramSet) -> Iterator[NgramHits]:
    """Where `tokens` contain the n-grams, chunk by chunk; every hit is compared token by token."""
    first, second = ngrams.filters
    for start in range(0, max(len(tokens) - NGRAM_SIZE + 1, 0), _CHUNK):
        chunk = tokens[start : start + _CHUNK + NGRAM_SIZE - 1].astype(np.uint32)
        hashes = rolling_hashes(chunk)
        candidates = first.candidates(hashes)
        candidates = candidates[second.candidates(hashes[candidates] * _FILTER_FACTOR)]
        if len(candidates):
            low, high = (np.searchsorted(ngrams.hashes, hashes[candidates], side=side) for side in ("left", "right"))
            ids, owners, _ = ragged_ranges(low, high - low)
            positions = candidates[owners]
            is_equal = (sliding_window_view(chunk, NGRAM_SIZE)[positions] == ngrams.tokens[ids]).all(axis=1)
            yield positions[is_equal] + start, ids[is_equal]


_BATCH = 4096


def find_overlap(index: Index, *, eval_paths: Sequence[Path], tokenizer: Tokenizer) -> report.OverlapReport:
    """What an index shares with the evaluation sets at `eval_paths` (files or folders).

    Raises DataError if `tokenizer` is not the index's, or if the evaluation sets have no image and no text.
    """
    if tokenizer.digest != index.tokenizer_digest:
        raise DataError(
            f"{index.path}: wanted the tokenizer that it was prepared with ({index.tokenizer_digest[:12]}). "
            f"Got {tokenizer.path} ({tokenizer.digest[:12]}). Name that tokenizer."
        )
    eval_sets = collect_eval_sets(eval_paths, with_hashes=len(index.images) > 0)
    eval_hashes = np.array(eval_sets.hashes, dtype=np.uint64)
    image_overlaps, crowded = _image_overlaps(index, eval_sets.images, eval_hashes)
    ngrams, searchable = _eval_ngrams(eval_sets, tokenizer)
    counter = _NgramCounter(index, ngrams)
    for hits in find_ngrams(index.tokens, ngrams):
        counter.add_hits(*hits)
    items = tuple(eval_sets.texts.values())
    return report.OverlapReport(
        image_overlaps=image_overlaps,
        text_overlaps=tuple(counter.rare_overlaps(items, tokenizer)),
        phrases=tuple(counter.frequent_phrases(items, tokenizer)),
        images=len(index.images),
        uninformative_images=int(uninformative_hashes(index.images["hash"]).sum()),
        records=len(index.samples),
        eval_images=len(eval_sets.images),
        eval_uninformative_images=int(uninformative_hashes(eval_hashes).sum()),
        crowded_images=crowded,
        texts=len(items),
        short_texts=len(items) - searchable,
        unread=eval_sets.unread,
        broken_items=eval_sets.broken_items,
    )


def _image_overlaps(
    index: Index, items: Sequence[EvalItem], eval_hashes: np.ndarray
) -> tuple[tuple[report.ImageOverlap, ...], int]:
    """Pairs of similar training and evaluation images, nearest first; number of incompletely compared eval images."""
    if not len(index.images):
        return (), 0
    hashes = np.ascontiguousarray(index.images["hash"])
    train_ids = np.flatnonzero(~uninformative_hashes(hashes))
    eval_ids = np.flatnonzero(~uninformative_hashes(eval_hashes))
    distinct, hash_ids = np.unique(hashes[train_ids], return_inverse=True)
    order = np.argsort(hash_ids, kind="stable")
    edges = np.searchsorted(hash_ids[order], np.arange(len(distinct) + 1))
    distances, crowded = dict[tuple[int, int], int](), set[int]()
    for pairs in hamming_neighbors(eval_hashes[eval_ids], distinct):
        crowded.update(pairs.crowded.tolist())
        for left, right, distance in zip(pairs.left, pairs.right, pairs.distance, strict=True):
            for image in train_ids[order[edges[right] : edges[right + 1]]].tolist():
                distances[image, int(eval_ids[left])] = int(distance)
    finder = report.ImageRecordFinder(index)
    overlaps = (
        report.ImageOverlap(distance=distance, train_record=finder.locate(image), eval_item=items[item])
        for (image, item), distance in sorted(distances.items(), key=lambda entry: (entry[1], entry[0]))
    )
    return tuple(overlaps), len(crowded)


def _eval_ngrams(eval_sets: EvalSets, tokenizer: Tokenizer) -> tuple[NgramSet, int]:
    """N-grams of every text, tokenized alone and after a space; the number of texts with any."""
    texts, ids, text_numbers = list(eval_sets.texts), list[list[int]](), list[int]()
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        spaced = tokenizer.encode([f" {text}" for text in batch])
        for number, forms in enumerate(zip(tokenizer.encode(batch), spaced, strict=True), start=start):
            long_forms = [form for form in forms if len(form) >= NGRAM_SIZE]
            ids += long_forms
            text_numbers += [number] * len(long_forms)
    return NgramSet(ids, text_numbers), len(set(text_numbers))


class _NgramCounter:
    """Positions of rare n-grams in the records of an index; of common ones only the number of records."""

    def __init__(self, index: Index, ngrams: NgramSet) -> None:
        self._index, self._ngrams = index, ngrams
        self._record_counts = np.zeros(len(ngrams.hashes), dtype=np.int64)
        self._last_records = np.full(len(ngrams.hashes), -1)
        self._hits: list[NgramHits] = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))]

    def _records_at(self, positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._index.samples["tokens_from"], positions, side="right") - 1

    def add_hits(self, positions: np.ndarray, ngram_ids: np.ndarray) -> None:
        """Count the hits that are within a single record; positions rise from call to call."""
        samples, records = self._index.samples, self._records_at(positions)
        is_inside = positions + NGRAM_SIZE <= samples["tokens_from"][records] + samples["tokens_count"][records]
        records, positions, ngram_ids = records[is_inside], positions[is_inside], ngram_ids[is_inside]
        is_rare = self._record_counts[ngram_ids] <= report.MAX_RARE_RECORDS
        self._hits.append((positions[is_rare], ngram_ids[is_rare]))
        # As positions rise, a second hit of an n-gram in a record comes after the hit that counted this record.
        pairs = np.unique(np.stack([ngram_ids, records]), axis=1)
        new_pairs = pairs[:, self._last_records[pairs[0]] != pairs[1]]
        np.add.at(self._record_counts, new_pairs[0], 1)
        np.maximum.at(self._last_records, pairs[0], pairs[1])

    def rare_overlaps(self, items: Sequence[EvalItem], tokenizer: Tokenizer) -> Iterator[report.TextOverlap]:
        """Records with rare n-grams, those with the most first."""
        positions, ngram_ids = map(np.concatenate, zip(*self._hits, strict=True))
        is_rare = self._record_counts[ngram_ids] <= report.MAX_RARE_RECORDS
        columns = self._records_at(positions), self._ngrams.texts[ngram_ids], positions
        by_pair = defaultdict[tuple[int, int], list[int]](list)
        for record, text, position in np.stack(columns, axis=1)[is_rare].tolist():
            by_pair[record, text].append(position)
        for (record, text), pair_positions in sorted(by_pair.items(), key=lambda entry: (-len(entry[1]), entry[0])):
            ascending = np.sort(pair_positions)
            longest_run = max(np.split(ascending, np.flatnonzero(np.diff(ascending) != 1) + 1), key=len)
            shared_tokens = self._index.tokens[int(longest_run[0]) : int(longest_run[-1]) + NGRAM_SIZE]
            yield report.TextOverlap(
                shared_ngrams=len(pair_positions),
                shared_text=tokenizer.decode(shared_tokens.tolist()),
                train_record=report.RecordLocation(record),
                eval_item=items[text],
            )

    def frequent_phrases(self, items: Sequence[EvalItem], tokenizer: Tokenizer) -> Iterator[report.CommonPhrase]:
        """The most common n-gram of every text that has a common one."""
        common = np.flatnonzero(self._record_counts > report.MAX_RARE_RECORDS)
        most_common = dict[int, int]()
        for ngram in common[np.argsort(-self._record_counts[common], kind="stable")].tolist():
            most_common.setdefault(int(self._ngrams.texts[ngram]), ngram)
        for text, ngram in most_common.items():
            yield report.CommonPhrase(
                records=int(self._record_counts[ngram]),
                shared_text=tokenizer.decode(self._ngrams.tokens[ngram].tolist()),
                eval_item=items[text],
            )
