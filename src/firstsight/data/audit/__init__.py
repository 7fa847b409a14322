"""What a prepared source holds twice, and what of evaluation sets it holds; found and told, never removed."""

from firstsight.data.audit.contamination import overlap
from firstsight.data.audit.findings import Overlap
from firstsight.data.audit.repeats import Duplicates, duplicates

__all__ = ["Duplicates", "Overlap", "duplicates", "overlap"]
