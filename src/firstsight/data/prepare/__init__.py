"""`prepare`: one streaming pass over a source that checks, tokenizes and indexes it."""

from firstsight.data.prepare.handler import prepare
from firstsight.data.prepare.task import form_of

__all__ = ["form_of", "prepare"]
