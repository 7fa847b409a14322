"""Answers that exist already: read in any usual form, joined to their questions by identity, scored without a model."""

from __future__ import annotations

from typing import Literal

Rules = Literal["own", "paper"]
"""Whose rules score the answers: ours, or those of the paper's harness."""
