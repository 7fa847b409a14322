"""Documents to rows of fixed length: who sits in which row at which column, as plain arrays; and prompts."""

from firstsight.data.pack.fit import best_fit
from firstsight.data.pack.prompts import context, prompt
from firstsight.data.pack.rows import pack
from firstsight.data.pack.table import Numbers, Pieces, RowTable

__all__ = ["Numbers", "Pieces", "RowTable", "best_fit", "context", "pack", "prompt"]
