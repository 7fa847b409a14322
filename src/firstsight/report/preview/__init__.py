"""What a model would see: rows of a stage as one page, made before anybody pays for the run."""

from firstsight.report.preview.page import Count, Facts, Where, render
from firstsight.report.preview.rows import Record, Row, read
from firstsight.report.preview.spelling import Speller
from firstsight.report.preview.stage import facts, rows_of

__all__ = ["Count", "Facts", "Record", "Row", "Speller", "Where", "facts", "read", "render", "rows_of"]
