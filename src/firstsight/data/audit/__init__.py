"""What a prepared source holds twice, and what of evaluation sets it holds; found and told, never removed."""

from firstsight.data.audit.contamination import find_overlap
from firstsight.data.audit.duplicates import DuplicateReport, find_duplicates
from firstsight.data.audit.overlap_report import OverlapReport

__all__ = ["DuplicateReport", "OverlapReport", "find_duplicates", "find_overlap"]
