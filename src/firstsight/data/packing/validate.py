"""Whether an index says what can be: checked where its arrays are read from end to end anyway."""

from __future__ import annotations

import numpy as np

from firstsight.data.index import Index
from firstsight.errors import DataError


def validate_samples(index: Index, start: int, stop: int) -> None:
    """Raise DataError where samples [low, high) of an index overlap, leave gaps or point outside its arrays."""
    samples = index.samples[start:stop]
    counts = samples["tokens_count"].astype(np.int64)
    ends = samples["tokens_from"] + counts
    previous_end = (
        index.samples["tokens_from"][start - 1 : start] + index.samples["tokens_count"][start - 1 : start]
        if start
        else [0]
    )
    is_invalid = (
        (samples["tokens_from"] != np.concatenate([previous_end, ends[:-1]]))
        | (counts < 1)
        | (ends > len(index.tokens))
    )
    _raise_if_any(index, is_invalid, start, "samples", "tokens that go on where those of the sample before end")
    if stop == len(index.samples) and not int(ends[-1:].sum()) == len(index.tokens) == len(index.loss):
        description = (
            f"{int(ends[-1:].sum())} in samples.npy, {len(index.tokens)} in tokens.npy, {len(index.loss)} in loss.npy"
        )
        raise DataError(f"{index.path}: wanted as many tokens everywhere. Got {description}. Prepare it again.")
    _validate_images(index, samples, start)


def _validate_images(index: Index, samples: np.ndarray, start: int) -> None:
    sample_ids = np.flatnonzero(samples["shown_count"])
    image_samples = samples[sample_ids]
    starts, counts = image_samples["shown_from"], image_samples["shown_count"].astype(np.int64)
    ends = starts + counts
    has_gap = np.zeros(len(samples), dtype=bool)
    has_gap[sample_ids] = (
        (counts < 0) | (starts < 0) | (ends > len(index.image_refs)) | (starts != np.append(starts[:1], ends[:-1]))
    )
    _raise_if_any(index, has_gap, start, "samples", "pictures that go on where those of the sample before end")
    if not len(sample_ids):
        return
    image_refs, owners = index.image_refs[starts[0] : ends[-1]], np.repeat(sample_ids, counts)
    is_same_sample = np.append(False, owners[1:] == owners[:-1])
    is_out_of_order = is_same_sample & (np.append(0, np.diff(image_refs["at"])) < 0)
    is_invalid = (
        is_out_of_order
        | (image_refs["at"] < 0)
        | (image_refs["at"] >= np.repeat(image_samples["tokens_count"], counts))
    )
    is_invalid |= (image_refs["picture"] < 0) | (image_refs["picture"] >= len(index.images))
    _raise_if_any(
        index, is_invalid, int(starts[0]), "shown", "pictures of images.npy before tokens of their sample, in order"
    )


def _raise_if_any(index: Index, is_invalid: np.ndarray, start: int, name: str, expected: str) -> None:
    if is_invalid.any():
        entry = start + int(np.argmax(is_invalid))
        raise DataError(
            f"{index.path / name}.npy: wanted {expected}. Got entry {entry:,}: {getattr(index, 'image_refs' if name == 'shown' else name)[entry]}. "
            "Its files are not of one index, or damaged: prepare it again."
        )
