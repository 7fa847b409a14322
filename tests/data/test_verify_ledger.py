"""Verification of ledgers: correct ones pass, every kind of damage is reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from firstsight.data.verify_ledger import LedgerCheck, verify_ledgers
from firstsight.errors import MixError, RequestError
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.stages import RowShape
from tests.data.loader.ledger_data import B, T, make_ledger_mixture, make_ledger_stream, text_source, write_ledger


@pytest.fixture
def trunk(tmp_path: Path) -> list[Path]:
    """Two segments of a trunk and a branch with images, with texts of 50 and 30 rows."""
    texts = make_ledger_mixture(text_source("one", 50), text_source("two", 30))
    first = write_ledger(tmp_path / "first", make_ledger_stream(texts, steps=5, share=Fraction(0)))
    second = write_ledger(tmp_path / "second", make_ledger_stream(texts, steps=12, share=Fraction(0)), first=5)
    branch = write_ledger(tmp_path / "branch", make_ledger_stream(texts, steps=30, text_row_offset=48))
    return [first, second, branch]


def test_segments_and_a_branch_pass_together_and_alone(trunk: list[Path]) -> None:
    for folders in ([trunk[0]], [trunk[1]], [trunk[2]], trunk[:2], trunk[1:], trunk, [trunk[0] / "ledger.npy"]):
        assert not verify_ledgers(folders).problems, folders
    check = verify_ledgers(trunk)
    assert [(source.name, source.rows, source.distinct_rows) for source in check.coverage] == [
        ("one", 54, 50),
        ("two", 54, 30),
        ("captions", 60, 13),
    ]
    assert [source.passes for source in check.coverage] == pytest.approx([54 / 50, 54 / 30, 60 / 13])


@pytest.mark.parametrize("counted_in", ["tokens", "loss_tokens"])
def test_mixes_of_tokens_pass(tmp_path: Path, counted_in: ShareUnit) -> None:
    texts = make_ledger_mixture(text_source("one", 90), text_source("two", 90), counted_in=counted_in)
    assert not verify_ledgers(
        [write_ledger(tmp_path / "out", make_ledger_stream(texts, steps=30, counted_in=counted_in))]
    ).problems


def test_a_branch_of_shorter_rows_continues_within_a_row_of_the_trunk(tmp_path: Path) -> None:
    long_rows = text_source("text", 50)
    first = write_ledger(
        tmp_path / "trunk", make_ledger_stream(make_ledger_mixture(long_rows), steps=9, share=Fraction(0))
    )
    halves = replace(long_rows, packed_rows=long_rows.packed_rows.split_rows(2), group_size=2)
    branch = make_ledger_stream(make_ledger_mixture(long_rows), steps=9, share=Fraction(0))
    branch = replace(
        branch,
        text_mixture=make_ledger_mixture(halves),
        row_shape=RowShape(batch_size=B, length=T // 2),
        text_row_offset=72,
    )
    second = write_ledger(tmp_path / "branch", branch)
    assert not verify_ledgers([first, second]).problems
    early = write_ledger(tmp_path / "early", replace(branch, text_row_offset=70))
    assert "an overlap" in problems_text(verify_ledgers([first, early]))
    late = write_ledger(tmp_path / "late", replace(branch, text_row_offset=74))
    assert "a gap" in problems_text(verify_ledgers([first, late]))


def problems_text(check: LedgerCheck) -> str:
    return "\n".join(map(str, check.problems))


def damage(folder: Path, change: Callable[[np.ndarray], np.ndarray], *, is_consistent: bool) -> None:
    """Damage a ledger; a consistent one gets a matching header, count and digest, so that only its rows are wrong."""
    path, metadata_path = folder / "ledger.npy", folder / "ledger.json"
    entries = change(np.load(path))
    np.save(path, entries)
    if is_consistent:
        metadata = json.loads(metadata_path.read_text()) | {
            "positions": len(entries),
            "sha256": sha256(path.read_bytes()).hexdigest(),
        }
        metadata_path.write_text(json.dumps(metadata))
        (folder / "achieved.json").unlink()


def repeat_row(entries: np.ndarray) -> np.ndarray:
    """The text row of position 6 is repeated at the next text row."""
    text_source = np.flatnonzero(entries["source"] == 0)
    entries["row"][text_source[4]] = entries["row"][text_source[3]]
    return entries


def swap_source(entries: np.ndarray) -> np.ndarray:
    entries["source"][9] = 1 - entries["source"][9]
    entries["row"][9] = 0
    return entries


def unknown_source(entries: np.ndarray) -> np.ndarray:
    entries["source"][5] = 7
    return entries


def unknown_row(entries: np.ndarray) -> np.ndarray:
    entries["row"][5] = 10_000
    return entries


def replace_row(entries: np.ndarray) -> np.ndarray:
    """A row that the incomplete pass has not read replaces one that it has: only the digest shows it."""
    text_source = np.flatnonzero(entries["source"] == 0)
    unread = set(range(50)) - set(entries["row"][text_source].tolist())
    entries["row"][text_source[7]] = unread.pop()
    return entries


@pytest.mark.parametrize("is_consistent", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (repeat_row, "position 8: row "),
        (swap_source, "position 9: wanted "),
        (lambda entries: np.delete(entries, 11), "11: wanted"),
        (lambda entries: np.insert(entries, 11, entries[11]), ""),
        (unknown_source, "position 5: wanted one of 2 sources. Got number 7"),
        (unknown_row, "Got 10,000"),
    ],
    ids=["doubled", "swapped", "dropped", "inserted", "strange", "outside"],
)
def test_every_damage_is_reported_at_its_first_position(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], message: str, is_consistent: bool
) -> None:
    folder = write_ledger(tmp_path / "out", make_ledger_stream(make_ledger_mixture(text_source("one", 50)), steps=20))
    assert not verify_ledgers([folder]).problems
    damage(folder, change, is_consistent=is_consistent)
    entries = problems_text(verify_ledgers([folder]))
    assert entries
    assert message in entries or (not is_consistent and "wanted 80 records" in entries)


def test_a_change_that_breaks_no_law_is_detected_by_the_digest(tmp_path: Path) -> None:
    folder = write_ledger(tmp_path / "out", make_ledger_stream(make_ledger_mixture(text_source("one", 50)), steps=20))
    damage(folder, replace_row, is_consistent=False)
    assert problems_text(verify_ledgers([folder])).endswith("their digest differs.")


def test_a_truncated_file_is_reported(tmp_path: Path) -> None:
    folder = write_ledger(tmp_path / "out", make_ledger_stream(make_ledger_mixture(text_source("one", 50)), steps=20))
    data = (folder / "ledger.npy").read_bytes()
    for cut in (len(data) - 5, len(data) - 2, 40, 0):
        (folder / "ledger.npy").write_bytes(data[:cut])
        assert "Train the step again" in problems_text(verify_ledgers([folder]))


def test_ledgers_in_the_wrong_order_or_of_another_text_are_reported(trunk: list[Path], tmp_path: Path) -> None:
    first, second, branch = trunk
    assert "an overlap" in problems_text(verify_ledgers([second, first]))
    assert "an overlap" in problems_text(verify_ledgers([first, second, second]))
    assert "a gap" in problems_text(verify_ledgers([first, branch]))
    assert "an overlap" in problems_text(verify_ledgers([branch, first, second]))
    texts = make_ledger_mixture(text_source("one", 51), text_source("two", 30))
    another = write_ledger(tmp_path / "another", make_ledger_stream(texts, steps=30, text_row_offset=48))
    assert "is not the source" in problems_text(verify_ledgers([first, second, another]))


def test_too_many_passes_and_wrong_counts_are_reported(tmp_path: Path) -> None:
    folder = write_ledger(tmp_path / "out", make_ledger_stream(make_ledger_mixture(text_source("one", 20)), steps=20))
    metadata_path = json.loads((folder / "ledger.json").read_text())
    metadata_path["sources"][0]["epochs"] = 1
    (folder / "ledger.json").write_text(json.dumps(metadata_path))
    assert "more than 1 passes through one" in problems_text(verify_ledgers([folder]))
    metadata = json.loads((folder / "achieved.json").read_text())
    metadata["rows"]["captions"] += 1
    (folder / "achieved.json").write_text(json.dumps(metadata))
    assert "40 rows of captions. achieved.json has 41" in problems_text(verify_ledgers([folder]))
    with pytest.raises(MixError, match="may be read 1 times"):
        make_ledger_stream(make_ledger_mixture(text_source("one", 20), epochs=1), steps=20)


def test_a_folder_without_a_ledger_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Got no ledger in it"):
        verify_ledgers([tmp_path])
    folder = write_ledger(tmp_path / "out", make_ledger_stream(make_ledger_mixture(text_source("one", 50)), steps=2))
    shutil.rmtree(folder)
    with pytest.raises(RequestError, match="Got no ledger in it"):
        verify_ledgers([folder / "ledger.npy"])
