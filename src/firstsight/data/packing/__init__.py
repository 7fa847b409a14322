"""Records of an index to rows of fixed length: segments, their row and column, and the loss targets of each row."""

from firstsight.data.packing.bins import best_fit
from firstsight.data.packing.pack_index import PackedRows, PackingStats, pack
from firstsight.data.packing.segments import Segments

__all__ = ["PackedRows", "PackingStats", "Segments", "best_fit", "pack"]
