"""Documents to rows of fixed length: who sits in which row at which column, as plain arrays; and prompts."""

from firstsight.data.packing.bins import best_fit
from firstsight.data.packing.pack_index import pack
from firstsight.data.packing.packed_rows import PackedRows, PackingStats, Segments
from firstsight.data.packing.prompts import encode_context, encode_prompt

__all__ = ["PackedRows", "PackingStats", "Segments", "best_fit", "encode_context", "encode_prompt", "pack"]
