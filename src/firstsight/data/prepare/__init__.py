"""`prepare`: one streaming pass over a source that checks, tokenizes and indexes it."""

from firstsight.data.prepare.handler import prepare

__all__ = ["prepare"]
