"""Whether an index says what can be: checked where its arrays are read from end to end anyway."""

from __future__ import annotations

import numpy as np

from firstsight.data.index import Index
from firstsight.errors import DataError


def check(index: Index, low: int, high: int) -> None:
    """Raise DataError where samples [low, high) of an index overlap, leave gaps or point outside its arrays."""
    samples = index.samples[low:high]
    counts = samples["tokens_count"].astype(np.int64)
    ends = samples["tokens_from"] + counts
    before = index.samples["tokens_from"][low - 1 : low] + index.samples["tokens_count"][low - 1 : low] if low else [0]
    wrong = (samples["tokens_from"] != np.concatenate([before, ends[:-1]])) | (counts < 1) | (ends > len(index.tokens))
    _refuse(index, wrong, low, "samples", "tokens that go on where those of the sample before end")
    if high == len(index.samples) and not int(ends[-1:].sum()) == len(index.tokens) == len(index.loss):
        told = (
            f"{int(ends[-1:].sum())} in samples.npy, {len(index.tokens)} in tokens.npy, {len(index.loss)} in loss.npy"
        )
        raise DataError(f"{index.path}: wanted as many tokens everywhere. Got {told}. Prepare it again.")
    _check_shown(index, samples, low)


def _check_shown(index: Index, samples: np.ndarray, low: int) -> None:
    number = np.flatnonzero(samples["shown_count"])
    some = samples[number]
    begin, counts = some["shown_from"], some["shown_count"].astype(np.int64)
    ends = begin + counts
    gap = np.zeros(len(samples), dtype=bool)
    gap[number] = (counts < 0) | (begin < 0) | (ends > len(index.shown)) | (begin != np.append(begin[:1], ends[:-1]))
    _refuse(index, gap, low, "samples", "pictures that go on where those of the sample before end")
    if not len(number):
        return
    shown, owner = index.shown[begin[0] : ends[-1]], np.repeat(number, counts)
    again = np.append(False, owner[1:] == owner[:-1])
    back = again & (np.append(0, np.diff(shown["at"])) < 0)
    wrong = back | (shown["at"] < 0) | (shown["at"] >= np.repeat(some["tokens_count"], counts))
    wrong |= (shown["picture"] < 0) | (shown["picture"] >= len(index.images))
    _refuse(index, wrong, int(begin[0]), "shown", "pictures of images.npy before tokens of their sample, in order")


def _refuse(index: Index, wrong: np.ndarray, low: int, name: str, wanted: str) -> None:
    if wrong.any():
        entry = low + int(np.argmax(wrong))
        raise DataError(
            f"{index.path / name}.npy: wanted {wanted}. Got entry {entry:,}: {getattr(index, name)[entry]}. "
            "Its files are not of one index, or damaged: prepare it again."
        )
