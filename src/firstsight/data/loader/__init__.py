"""Rows to batches."""

from firstsight.data.loader.achieved_mix import AchievedMix
from firstsight.data.loader.collate import IGNORE_INDEX, Batch
from firstsight.data.loader.mixture import LoaderMixture
from firstsight.data.loader.prefetch import prefetch_batches
from firstsight.data.loader.sources import DecodedImages, ImageInputs, LoaderSource, PrecomputedFeatures
from firstsight.data.loader.stream import BatchStream

__all__ = [
    "IGNORE_INDEX",
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
