"""Duplicates inside a prepared source, and what it shares with evaluation sets. Findings are reported, not removed."""

from firstsight.data.audit.contamination import find_overlap
from firstsight.data.audit.duplicates import find_duplicates
from firstsight.data.audit.report import DuplicateReport, OverlapReport

__all__ = ["DuplicateReport", "OverlapReport", "find_duplicates", "find_overlap"]
