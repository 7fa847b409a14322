"""What training data shares with evaluation sets, before anything is trained: pictures that look alike, words in a row.

Nothing is removed. Whoever reads this decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from firstsight.data.audit.eval_sets import EvalItem, EvalSets, collect_eval_sets
from firstsight.data.audit.hamming import hamming_neighbors, uninformative_hashes
from firstsight.data.audit.ngrams import NGRAM_SIZE, NgramHits, NgramSet, build_ngrams, find_ngrams
from firstsight.data.audit.overlap_report import (
    MAX_RARE_RECORDS,
    CommonPhrase,
    ImageOverlap,
    OverlapCoverage,
    OverlapReport,
    TextOverlap,
)
from firstsight.data.audit.record_locations import ImageRecordFinder, records_at, text_location
from firstsight.data.index import Index
from firstsight.data.tokenizer import Tokenizer
from firstsight.errors import DataError

_BATCH = 4096


def find_overlap(index: Index, *, eval_paths: Sequence[Path], tokenizer: Tokenizer) -> OverlapReport:
    """What an index shares with the evaluation sets in `against` (files or folders); nothing is removed.

    Raises DataError when `words` is not the index's tokenizer, or `against` holds nothing to compare with.
    """
    if tokenizer.digest != index.tokenizer_digest:
        raise DataError(
            f"{index.path}: wanted the tokenizer that it was prepared with ({index.tokenizer_digest[:12]}). "
            f"Got {tokenizer.path} ({tokenizer.digest[:12]}). Name that tokenizer."
        )
    eval_sets = collect_eval_sets(eval_paths, with_hashes=len(index.images) > 0)
    image_overlaps, crowded = _image_overlaps(index, eval_sets)
    ngrams, searchable_count = _eval_ngrams(eval_sets, tokenizer)
    text_overlaps, phrases = (
        _NgramCounter(index, ngrams).add_hits(find_ngrams(index.tokens, ngrams)).overlaps(eval_sets, tokenizer)
    )
    coverage = OverlapCoverage(
        images=len(index.images),
        uninformative_images=int(uninformative_hashes(index.images["hash"]).sum()),
        records=len(index.samples),
        eval_images=len(eval_sets.images),
        eval_uninformative_images=int(uninformative_hashes(eval_sets.hashes).sum()),
        crowded_images=crowded,
        texts=len(eval_sets.texts),
        short_texts=len(eval_sets.texts) - searchable_count,
        unread=eval_sets.unread,
        refused=eval_sets.refused,
    )
    return OverlapReport(image_overlaps=image_overlaps, text_overlaps=text_overlaps, phrases=phrases, coverage=coverage)


def _image_overlaps(index: Index, eval_sets: EvalSets) -> tuple[tuple[ImageOverlap, ...], int]:
    """Training pictures near an evaluation picture, nearest first; how many evaluation pictures had too many rivals."""
    if not len(index.images):
        return (), 0
    hashes = np.ascontiguousarray(index.images["hash"])
    train_images, eval_images = (
        np.flatnonzero(~uninformative_hashes(hashes)),
        np.flatnonzero(~uninformative_hashes(eval_sets.hashes)),
    )
    distinct_hashes, hash_ids = np.unique(hashes[train_images], return_inverse=True)
    order = np.argsort(hash_ids, kind="stable")
    edges = np.searchsorted(hash_ids[order], np.arange(len(distinct_hashes) + 1))
    record_finder, distances, crowded = ImageRecordFinder(index), dict[tuple[int, int], int](), set[int]()
    for pairs in hamming_neighbors(eval_sets.hashes[eval_images], distinct_hashes):
        crowded.update(pairs.crowded.tolist())
        for left, right, distance in zip(pairs.left, pairs.right, pairs.distance, strict=True):
            for image in train_images[order[edges[right] : edges[right + 1]]].tolist():
                distances[image, int(eval_images[left])] = int(distance)
    ranked = sorted(distances.items(), key=lambda left: (left[1], left[0]))
    overlaps = (
        ImageOverlap(distance=distance, train_record=record_finder.locate(image), eval_item=eval_sets.images[right])
        for (image, right), distance in ranked
    )
    return tuple(overlaps), len(crowded)


def _eval_ngrams(eval_sets: EvalSets, tokenizer: Tokenizer) -> tuple[NgramSet, int]:
    """Stretches of every text, as it stands alone and behind a space; how many texts have any."""
    texts = list(eval_sets.texts)
    ids: list[list[int]] = []
    text_numbers: list[int] = []
    for start in range(0, len(texts), _BATCH):
        batch_texts = texts[start : start + _BATCH]
        encodings = zip(
            tokenizer.encode(batch_texts), tokenizer.encode([f" {text}" for text in batch_texts]), strict=True
        )
        for text_number, text_forms in enumerate(encodings, start=start):
            long_forms = [form for form in text_forms if len(form) >= NGRAM_SIZE]
            ids += long_forms
            text_numbers += [text_number] * len(long_forms)
    return build_ngrams(ids, text_numbers), len(set(text_numbers))


class _NgramCounter:
    """Which records hold which stretches; where many hold one, only how many."""

    def __init__(self, index: Index, ngrams: NgramSet) -> None:
        self._index, self._ngrams = index, ngrams
        self._record_counts = np.zeros(len(ngrams.hashes), dtype=np.int64)
        self._last_records = np.full(len(ngrams.hashes), -1)
        self._hits: list[NgramHits] = []

    def add_hits(self, hit_batches: Iterator[NgramHits]) -> _NgramCounter:
        """Count all hits that lie within one record."""
        samples = self._index.samples
        for hits in hit_batches:
            records = records_at(self._index, hits.positions)
            ends = samples["tokens_from"][records] + samples["tokens_count"][records]
            is_inside = hits.positions + NGRAM_SIZE <= ends
            self._count_hits(records[is_inside], hits.positions[is_inside], hits.ngram_ids[is_inside])
        return self

    def _count_hits(self, records: np.ndarray, positions: np.ndarray, ngram_ids: np.ndarray) -> None:
        is_rare = self._record_counts[ngram_ids] <= MAX_RARE_RECORDS
        self._hits.append(NgramHits(positions=positions[is_rare], ngram_ids=ngram_ids[is_rare]))
        # Positions rise, so a stretch that comes again in its record does so behind the record that counted it.
        pairs = np.unique(np.stack([ngram_ids, records]), axis=1)
        new_pairs = pairs[:, self._last_records[pairs[0]] != pairs[1]]
        np.add.at(self._record_counts, new_pairs[0], 1)
        np.maximum.at(self._last_records, pairs[0], pairs[1])

    def overlaps(
        self, eval_sets: EvalSets, tokenizer: Tokenizer
    ) -> tuple[tuple[TextOverlap, ...], tuple[CommonPhrase, ...]]:
        """Records with rare stretches, those with the most first; and texts with common ones."""
        items = list(eval_sets.texts.values())
        ngram_ids = np.concatenate([hits.ngram_ids for hits in self._hits] or [self._last_records[:0]])
        positions = np.concatenate([hits.positions for hits in self._hits] or [self._last_records[:0]])
        is_rare = self._record_counts[ngram_ids] <= MAX_RARE_RECORDS
        positions_by_pair = defaultdict[tuple[int, int], list[int]](list)
        for record, text, position in zip(
            records_at(self._index, positions[is_rare]),
            self._ngrams.texts[ngram_ids[is_rare]],
            positions[is_rare],
            strict=True,
        ):
            positions_by_pair[int(record), int(text)].append(int(position))
        ranked = sorted(positions_by_pair.items(), key=lambda entry: (-len(entry[1]), entry[0]))
        text_overlaps = tuple(
            TextOverlap(
                shared_ngrams=len(pair_positions),
                shared_text=tokenizer.decode(self._longest_run(pair_positions)),
                train_record=text_location(record),
                eval_item=items[text],
            )
            for (record, text), pair_positions in ranked
        )
        return text_overlaps, tuple(self._common_phrases(items, tokenizer))

    def _longest_run(self, positions: list[int]) -> list[int]:
        """Tokens of the longest run of stretches that follow one another."""
        positions = sorted(positions)
        cuts = np.flatnonzero(np.diff(positions) != 1) + 1
        runs = [run for run in np.split(np.asarray(positions), cuts) if len(run)]
        longest = max(runs, key=len)
        return self._index.tokens[int(longest[0]) : int(longest[-1]) + NGRAM_SIZE].tolist()

    def _common_phrases(self, items: list[EvalItem], tokenizer: Tokenizer) -> Iterator[CommonPhrase]:
        """The commonest stretch of every text that has one."""
        common_ngrams = np.flatnonzero(self._record_counts > MAX_RARE_RECORDS)
        most_common = dict[int, int]()
        for ngram in common_ngrams[np.argsort(-self._record_counts[common_ngrams], kind="stable")].tolist():
            most_common.setdefault(int(self._ngrams.texts[ngram]), ngram)
        for text, ngram in most_common.items():
            yield CommonPhrase(
                records=int(self._record_counts[ngram]),
                shared_text=tokenizer.decode(self._ngrams.tokens[ngram].tolist()),
                eval_item=items[text],
            )
