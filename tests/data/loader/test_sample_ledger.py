"""The sample ledger has every row that was trained on, also after kills."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstsight.data.loader.sample_ledger import LEDGER_DTYPE
from tests.data.loader.ledger_data import make_ledger_mixture, make_ledger_stream, text_source, write_ledger


def test_a_ledger_has_the_row_of_every_position(tmp_path: Path) -> None:
    mixed = make_ledger_stream(make_ledger_mixture(text_source("one", 50)), steps=9)
    entries = np.load(write_ledger(tmp_path / "out", mixed) / "ledger.npy")
    assert entries.dtype == LEDGER_DTYPE
    entries = iter(entries.tolist())
    for step in range(9):
        for [(source_id, record)] in mixed.step_records(step):
            assert next(entries) == (source_id, record), "each row holds the record of its number here"
    assert next(entries, None) is None


@pytest.mark.parametrize("kills", [(1,), (3, 4), (2, 8, 9, 11)])
def test_a_killed_and_resumed_run_writes_the_same_ledger(tmp_path: Path, kills: tuple[int, ...]) -> None:
    mixed = make_ledger_stream(make_ledger_mixture(text_source("one", 50)), steps=12)
    complete, resumed = write_ledger(tmp_path / "whole", mixed), write_ledger(tmp_path / "broken", mixed, kills=kills)
    for name in ("ledger.npy", "ledger.json"):
        assert (complete / name).read_bytes() == (resumed / name).read_bytes()
