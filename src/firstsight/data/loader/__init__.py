"""Rows to batches."""

from firstsight.data.loader.feeds import Features, Feed, Pictures, Pixels
from firstsight.data.loader.rows import IGNORED, Batch
from firstsight.data.loader.stream import Achieved, Stream

__all__ = ["IGNORED", "Achieved", "Batch", "Features", "Feed", "Pictures", "Pixels", "Stream"]
