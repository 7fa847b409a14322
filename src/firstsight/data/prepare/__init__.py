"""`prepare`: one streaming pass over a source that checks, tokenizes and indexes it."""

from firstsight.data.prepare.handler import prepare
from firstsight.data.prepare.job import source_form

__all__ = ["prepare", "source_form"]
