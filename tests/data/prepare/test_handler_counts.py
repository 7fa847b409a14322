"""Counts of a source by split and reason, and the limit on rejected records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firstsight.data.index import Index
from firstsight.data.prepare import prepare
from firstsight.errors import DataError
from firstsight.site import Location, Site
from firstsight.units import Share
from tests.data.conftest import Workshop, prepare_spec

from .conftest import ROWS, ignore_progress


def test_manifest_counts_and_splits(workshop: Workshop, source: Path) -> None:
    file = source / "unnamed-4.jsonl"
    file.write_text(file.read_text() + '{"text": " "}\n')
    index = workshop.prepare(source, "text")
    manifest = json.loads((index.path / "manifest.json").read_text())
    words = sum(1 + row % 7 for row in range(ROWS))
    counts = {"samples": ROWS, "shown": 0, "tokens": words + 2 * ROWS, "loss tokens": words + ROWS, "bad": 0}
    train = {name: 5 * count for name, count in counts.items()}
    assert manifest["splits"] == {"train": train, "": counts | {"bad": 1}}
    assert manifest["counts"] == {name: 6 * count for name, count in counts.items()} | {"images": 0, "bad": 1}
    assert manifest["refused"] == {"empty text": 1} and manifest["captions"] == {"real": 0, "synthetic": 0}
    [bad] = [json.loads(line) for line in (index.path / "quarantine.jsonl").read_text().splitlines()]
    assert (bad["reason"], bad["shard"], bad["where"]) == ("empty text", "unnamed-4.jsonl", f"line {ROWS + 1}")


def test_source_with_too_many_rejected_records_is_refused_with_its_counts(
    workshop: Workshop, written_shards: list[str]
) -> None:
    folder = workshop.texts([{"text": "w1" if number % 50 else ""} for number in range(100)])
    with pytest.raises(
        DataError, match=r"at most 1 % rejected .*Got 2 of 100: 2 x empty text \(first: text-00000\.jsonl, l"
    ):
        workshop.prepare(folder, "text", "out")
    out = workshop.folder("out")
    assert not (out / "manifest.json").exists() and not list(out.glob("*.npy"))
    assert json.loads((out / "refused.json").read_text())["counts"]["bad"] == 2
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 2
    written_shards.clear()
    lenient_site = Site(sources={"s": Location(path=str(folder), most_bad=Share(2, 100))})
    prepare(
        prepare_spec("text"),
        inputs={"tokenizer": workshop.words()},
        out=out,
        site=lenient_site,
        on_progress=ignore_progress,
    )
    assert written_shards == [] and len(Index.open(out).samples) == 98
    assert not (out / "refused.json").exists()


def test_source_without_records_is_refused(workshop: Workshop) -> None:
    with pytest.raises(DataError, match="no record at all"):
        workshop.prepare(workshop.texts([], "empty"), "text")
