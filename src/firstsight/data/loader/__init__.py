"""Packed rows to batches: exact mixing of sources, order of rows, tensors, and the ledger of what was drawn."""

from firstsight.data.loader.achieved_mix import AchievedMix
from firstsight.data.loader.collate import Batch
from firstsight.data.loader.mixture import DecodedImages, ImageInputs, LoaderMixture, LoaderSource, PrecomputedFeatures
from firstsight.data.loader.stream import BatchStream, prefetch_batches

__all__ = [
    "AchievedMix",
    "Batch",
    "BatchStream",
    "DecodedImages",
    "ImageInputs",
    "LoaderMixture",
    "LoaderSource",
    "PrecomputedFeatures",
    "prefetch_batches",
]
