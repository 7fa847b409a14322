"""`firstsight data verify`: whether ledgers prove that no row was trained on twice or passed over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from firstsight.cli import terminal
from firstsight.data.verify_ledger import SourceCoverage, verify_ledgers


def print_ledger_check(ledgers: Sequence[Path]) -> int:
    """Prints what ledgers say of each source, then "proved" or everything that is wrong; the exit code, 0 or 1.

    Raises RequestError where there is no ledger.
    """
    proof = verify_ledgers(ledgers)
    if proof.coverage:
        terminal.table([("source", "rows", "distinct", "passes", "repeats", "skipped"), *map(_told, proof.coverage)])
    if not proof.problems:
        terminal.lines(["proved: within every pass each row came once, and the text goes on unbroken."])
        return 0
    terminal.lines([f"wrong: {wrong}" for wrong in proof.problems])
    return 1


def _told(one: SourceCoverage) -> tuple[str, ...]:
    counts = (one.rows, one.distinct_rows, one.repeated_rows, one.skipped_rows)
    rows, distinct, repeats, skipped = (f"{count:,}" for count in counts)
    return one.name, rows, distinct, f"{one.passes:.3f}", repeats, skipped
