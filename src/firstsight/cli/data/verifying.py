"""`firstsight data verify`: whether ledgers prove that no row was trained on twice or passed over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from firstsight.cli import show
from firstsight.data.proof import Found, prove


def verify_ledgers(ledgers: Sequence[Path]) -> int:
    """Prints what ledgers say of each source, then "proved" or everything that is wrong; the exit code, 0 or 1.

    Raises RequestError where there is no ledger.
    """
    proof = prove(ledgers)
    if proof.found:
        show.table([("source", "rows", "distinct", "passes", "repeats", "skipped"), *map(_told, proof.found)])
    if not proof.wrong:
        show.lines(["proved: within every pass each row came once, and the text goes on unbroken."])
        return 0
    show.lines([f"wrong: {wrong}" for wrong in proof.wrong])
    return 1


def _told(one: Found) -> tuple[str, ...]:
    counts = (one.rows, one.distinct, one.repeats, one.skipped)
    rows, distinct, repeats, skipped = (f"{count:,}" for count in counts)
    return one.name, rows, distinct, f"{one.passes:.3f}", repeats, skipped
