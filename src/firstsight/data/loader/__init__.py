"""Rows to batches."""

from firstsight.data.loader.achieved import Achieved
from firstsight.data.loader.ahead import ahead
from firstsight.data.loader.blend import Blended
from firstsight.data.loader.feeds import Features, Feed, Pictures, Pixels
from firstsight.data.loader.rows import IGNORED, Batch
from firstsight.data.loader.stream import Stream

__all__ = ["IGNORED", "Achieved", "Batch", "Blended", "Features", "Feed", "Pictures", "Pixels", "Stream", "ahead"]
