"""Ledgers: what they hold is what was trained on; a proof sees every harm."""

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

from firstsight.data.loader import BatchStream, LoaderMixture, LoaderSource, PrecomputedFeatures
from firstsight.data.loader.sample_ledger import LEDGER_DTYPE, SampleLedgerWriter
from firstsight.data.packing import pack
from firstsight.data.verify_ledger import LedgerCheck, verify_ledgers
from firstsight.errors import MixError, RequestError
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.stages import RowShape

from .rows import Raw, index_of

T, B = 16, 4
ROWS = RowShape(batch_size=B, length=T)
HALF = Fraction(1, 2)


def text(name: str, documents: int) -> LoaderSource:
    """Documents of 16 tokens: as many rows."""
    index = index_of("text", [Raw([0, *range(7, 7 + T)], [1] * (T + 1), []) for _ in range(documents)])
    table = pack(index, length=T, image_tokens=0, packing="best_fit")
    assert table.row_count == documents
    return LoaderSource(name=name, index=index, packed_rows=table, images=None, answers_only=False)


def pictures(count: int) -> LoaderSource:
    index = index_of("captions", [Raw([7, 8, 0], [1] * 3, [(0, n)]) for n in range(count)], images=count)
    table = pack(index, length=T, image_tokens=4, packing="one_image_per_row")
    held = PrecomputedFeatures(array=np.zeros((count, 4, 2), dtype=np.float16))
    return LoaderSource(name="captions", index=index, packed_rows=table, images=held, answers_only=False)


def blend(*feeds: LoaderSource, epochs: int = 3, counted_in: ShareUnit = "rows") -> LoaderMixture:
    shares = (Fraction(1, len(feeds)),) * len(feeds)
    return LoaderMixture(sources=feeds, shares=shares, epochs=(epochs,) * len(feeds), counted_in=counted_in)


def stream(
    texts: LoaderMixture, *, steps: int, seen: int = 0, share: Fraction = HALF, counted_in: ShareUnit = "rows"
) -> BatchStream:
    return BatchStream(
        text_mixture=texts,
        image_mixture=blend(pictures(13), epochs=9) if share else None,
        spans=((steps * B, share),),
        counted_in=counted_in,
        row_shape=ROWS,
        seed=1,
        text_seed=1,
        text_row_offset=seen,
        steps=steps,
    )


def write(out: Path, stream: BatchStream, *, first: int = 0, kills: tuple[int, ...] = ()) -> Path:
    """The ledger of a run that was killed after some steps and went on from the step before the last."""
    out.mkdir(parents=True, exist_ok=True)
    notes, kept = None, first
    for stop in (*kills, stream.steps):
        draws = SampleLedgerWriter(out, stream, first_step=first)
        draws.open(notes)
        for step in range(kept + 1, stop + 1):
            draws.mark_trained(step)
            if step == stop - 1:
                notes, kept = draws.state_dict(), step
        if stop == stream.steps:
            draws.close()
        else:
            draws._write()  # what a kill finds in the file and the resume point does not know
    (out / "achieved.json").write_text(json.dumps(stream.achieved_mix(stream.steps).to_dict()))
    return out


@pytest.fixture
def trunk(tmp_path: Path) -> list[Path]:
    """Two segments of a trunk and a branch with pictures, over two texts of 50 rows."""
    texts = blend(text("one", 50), text("two", 30))
    first = write(tmp_path / "first", stream(texts, steps=5, share=Fraction(0)))
    second = write(tmp_path / "second", stream(texts, steps=12, share=Fraction(0)), first=5)
    branch = write(tmp_path / "branch", stream(texts, steps=30, seen=48))
    return [first, second, branch]


def test_a_ledger_holds_each_row_that_a_batch_was_made_of(tmp_path: Path) -> None:
    mixed = stream(blend(text("one", 50)), steps=9)
    held = np.load(write(tmp_path / "out", mixed) / "ledger.npy")
    assert held.dtype == LEDGER_DTYPE
    found = iter(held.tolist())
    for step in range(9):
        for [(kind, record)] in mixed.step_records(step):
            assert next(found) == (kind, record), "each row holds the record of its number here"
    assert next(found, None) is None


@pytest.mark.parametrize("kills", [(1,), (3, 4), (2, 8, 9, 11)])
def test_a_killed_run_leaves_the_same_ledger(tmp_path: Path, kills: tuple[int, ...]) -> None:
    mixed = stream(blend(text("one", 50)), steps=12)
    whole, broken = write(tmp_path / "whole", mixed), write(tmp_path / "broken", mixed, kills=kills)
    for name in ("ledger.npy", "ledger.json"):
        assert (whole / name).read_bytes() == (broken / name).read_bytes()


def test_segments_and_branch_are_proved_together_and_apart(trunk: list[Path]) -> None:
    for places in ([trunk[0]], [trunk[1]], [trunk[2]], trunk[:2], trunk[1:], trunk, [trunk[0] / "ledger.npy"]):
        assert not verify_ledgers(places).problems, places
    proof = verify_ledgers(trunk)
    assert [(one.name, one.rows, one.distinct_rows) for one in proof.coverage] == [
        ("one", 54, 50),
        ("two", 54, 30),
        ("captions", 60, 13),
    ]
    assert [one.passes for one in proof.coverage] == pytest.approx([54 / 50, 54 / 30, 60 / 13])


@pytest.mark.parametrize("counted_in", ["tokens", "loss_tokens"])
def test_mixes_of_tokens_are_proved_too(tmp_path: Path, counted_in: ShareUnit) -> None:
    texts = blend(text("one", 90), text("two", 90), counted_in=counted_in)
    assert not verify_ledgers([write(tmp_path / "out", stream(texts, steps=30, counted_in=counted_in))]).problems


def test_a_branch_of_shorter_rows_goes_on_in_the_middle_of_the_trunks(tmp_path: Path) -> None:
    long = text("text", 50)
    first = write(tmp_path / "trunk", stream(blend(long), steps=9, share=Fraction(0)))
    halves = replace(long, packed_rows=long.packed_rows.split_rows(2), group_size=2)
    short = stream(blend(long), steps=9, share=Fraction(0))
    short = replace(
        short, text_mixture=blend(halves), row_shape=RowShape(batch_size=B, length=T // 2), text_row_offset=72
    )
    second = write(tmp_path / "branch", short)
    assert not verify_ledgers([first, second]).problems
    early = write(tmp_path / "early", replace(short, text_row_offset=70))
    assert "an overlap" in said(verify_ledgers([first, early]))
    late = write(tmp_path / "late", replace(short, text_row_offset=74))
    assert "a gap" in said(verify_ledgers([first, late]))


def said(proof: LedgerCheck) -> str:
    return "\n".join(map(str, proof.problems))


def rewrite(folder: Path, change: Callable[[np.ndarray], np.ndarray], *, honest: bool) -> None:
    """Harm a ledger; an honest one gets a header, a count and a digest that fit, so that only its rows betray it."""
    file, note = folder / "ledger.npy", folder / "ledger.json"
    held = change(np.load(file))
    np.save(file, held)
    if honest:
        told = json.loads(note.read_text()) | {"positions": len(held), "sha256": sha256(file.read_bytes()).hexdigest()}
        note.write_text(json.dumps(told))
        (folder / "achieved.json").unlink()


def doubled(held: np.ndarray) -> np.ndarray:
    """The text row of position 6 again at the next text row."""
    text = np.flatnonzero(held["source"] == 0)
    held["row"][text[4]] = held["row"][text[3]]
    return held


def swapped(held: np.ndarray) -> np.ndarray:
    held["source"][9] = 1 - held["source"][9]
    held["row"][9] = 0
    return held


def strange(held: np.ndarray) -> np.ndarray:
    held["source"][5] = 7
    return held


def outside(held: np.ndarray) -> np.ndarray:
    held["row"][5] = 10_000
    return held


def other(held: np.ndarray) -> np.ndarray:
    """A row that the unfinished pass has not had yet in place of one that it has: only the digest can tell."""
    text = np.flatnonzero(held["source"] == 0)
    free = set(range(50)) - set(held["row"][text].tolist())
    held["row"][text[7]] = free.pop()
    return held


@pytest.mark.parametrize("honest", [False, True])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (doubled, "position 8: row "),
        (swapped, "position 9: wanted "),
        (lambda held: np.delete(held, 11), "11: wanted"),
        (lambda held: np.insert(held, 11, held[11]), ""),
        (strange, "position 5: source 7 of 2"),
        (outside, "position 5: row 10,000 of "),
    ],
    ids=["doubled", "swapped", "dropped", "inserted", "strange", "outside"],
)
def test_every_harm_is_seen_where_it_begins(
    tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], words: str, honest: bool
) -> None:
    place = write(tmp_path / "out", stream(blend(text("one", 50)), steps=20))
    assert not verify_ledgers([place]).problems
    rewrite(place, change, honest=honest)
    found = said(verify_ledgers([place]))
    assert found
    assert words in found or (not honest and "wanted 80 records" in found)


def test_harm_that_no_law_forbids_is_seen_by_the_digest(tmp_path: Path) -> None:
    place = write(tmp_path / "out", stream(blend(text("one", 50)), steps=20))
    rewrite(place, other, honest=False)
    assert said(verify_ledgers([place])).endswith("their digest differs.")


def test_a_truncated_file_is_seen(tmp_path: Path) -> None:
    place = write(tmp_path / "out", stream(blend(text("one", 50)), steps=20))
    data = (place / "ledger.npy").read_bytes()
    for cut in (len(data) - 5, len(data) - 2, 40, 0):
        (place / "ledger.npy").write_bytes(data[:cut])
        assert "Train the step again" in said(verify_ledgers([place]))


def test_ledgers_in_the_wrong_order_or_of_another_text_are_seen(trunk: list[Path], tmp_path: Path) -> None:
    first, second, branch = trunk
    assert "an overlap" in said(verify_ledgers([second, first]))
    assert "an overlap" in said(verify_ledgers([first, second, second]))
    assert "a gap" in said(verify_ledgers([first, branch]))
    assert "an overlap" in said(verify_ledgers([branch, first, second]))
    texts = blend(text("one", 51), text("two", 30))
    another = write(tmp_path / "another", stream(texts, steps=30, seen=48))
    assert "is not the source" in said(verify_ledgers([first, second, another]))


def test_more_passes_than_declared_and_other_counts_are_seen(tmp_path: Path) -> None:
    place = write(tmp_path / "out", stream(blend(text("one", 20)), steps=20))
    note = json.loads((place / "ledger.json").read_text())
    note["sources"][0]["epochs"] = 1
    (place / "ledger.json").write_text(json.dumps(note))
    assert "more than 1 passes through one" in said(verify_ledgers([place]))
    told = json.loads((place / "achieved.json").read_text())
    told["rows"]["captions"] += 1
    (place / "achieved.json").write_text(json.dumps(told))
    assert "40 rows of captions. achieved.json says 41" in said(verify_ledgers([place]))
    with pytest.raises(MixError, match="may be gone through 1 times"):
        stream(blend(text("one", 20), epochs=1), steps=20)


def test_where_there_is_no_ledger_the_request_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Got no ledger in it"):
        verify_ledgers([tmp_path])
    place = write(tmp_path / "out", stream(blend(text("one", 50)), steps=2))
    shutil.rmtree(place)
    with pytest.raises(RequestError, match="Got no ledger in it"):
        verify_ledgers([place / "ledger.npy"])
