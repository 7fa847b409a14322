"""Documents of texts and pictures in the layouts of OBELICS and MMC4."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from firstsight.data.records import ImageLocation, InterleavedDocument, Record

from ..conftest import add, picture
from .reading import read_all, rejected, source_at, to_jsonl, valid

COLOURS = {"a.png": (250, 0, 0), "b.png": (0, 250, 0), "c.png": (0, 0, 250)}
DATA = {name: picture(colour) for name, colour in COLOURS.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures in a tar with img2dataset's notes, one loose."""
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            add(tar, name, DATA[name])
            add(tar, name.replace("png", "json"), json.dumps({"url": f"http://x.org/{name}?w=1"}).encode())
    (tmp_path / "c.png").write_bytes(DATA["c.png"])
    return tmp_path


def told(folder: Path, record: Record) -> list[str]:
    """Parts in reading order, pictures by what lies at their place."""
    assert isinstance(record, InterleavedDocument)
    names = {data: name for name, data in DATA.items()}
    return [
        part if isinstance(part, str) else names[(folder / part.shard).read_bytes()[part.offset :][: part.size]]
        for part in record.parts
    ]


def test_obelics_keeps_the_order_in_lines_and_in_tables(folder: Path) -> None:
    rows = [
        {"images": ["http://x.org/a.png?w=1", None, None, "c.png"], "texts": [None, "one", "two", None]},
        {"images": [None, "b.png", "b.png", None], "texts": ["head", None, None, "tail"]},
    ]
    wanted = [["a.png", "one\n\ntwo", "c.png"], ["head", "b.png", "b.png", "tail"]]
    (folder / "docs.jsonl").write_bytes(to_jsonl(rows))
    assert [told(folder, one) for one in read_all(source_at(folder), "interleaved")] == wanted
    (folder / "docs.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist(rows), folder / "docs.parquet")
    pq.write_table(pa.table({"url": ["u"]}), folder / "00000.parquet")
    assert [told(folder, one) for one in read_all(source_at(folder), "interleaved")] == wanted


def info(name: str, source_at: object, url: str = "") -> dict[str, object]:
    return {"image_name": name, "raw_url": url, "matched_text_index": source_at, "matched_sim": 0.3}


@pytest.mark.parametrize("packed", [lambda data: data, gzip.compress, zstandard.compress])
def test_mmc4_puts_a_picture_before_the_text_that_it_is_matched_to(folder: Path, packed) -> None:
    row = {
        "text_list": ["First.", "Second.", "Third.", "Fourth."],
        "image_info": [info("c.png", 3), info("gone", 1, "http://x.org/a.png?w=1"), info("b.png", 1)],
    }
    ending = {b"{": "", b"\x1f": ".gz", b"\x28": ".zst"}[packed(to_jsonl([row]))[:1]]
    (folder / f"docs.jsonl{ending}").write_bytes(packed(to_jsonl([row])))
    [found] = read_all(source_at(folder), "interleaved")
    assert told(folder, found) == ["First.", "a.png", "b.png", "Second. Third.", "c.png", "Fourth."]


def test_a_document_goes_on_without_a_missing_picture_and_ends_without_all(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"<html>")
    rows = [
        {"images": ["gone.png", None, "a.png", None, "broken.png"], "texts": [None, "one", None, "two", None]},
        {"images": ["gone.png", None], "texts": [None, "one"]},
        {"images": [None], "texts": ["never had one"]},
        {"images": ["a.png"], "texts": [None]},
    ]
    (folder / "docs.jsonl").write_bytes(to_jsonl(rows))
    found = read_all(source_at(folder), "interleaved")
    assert [told(folder, one) for one in valid(found)] == [["one", "a.png", "two"]]
    assert rejected(found) == [
        ("line 1, part 1", "no picture"),
        ("line 1, part 5", "not a picture"),
        ("line 2, part 1", "no picture"),
        ("line 2", "no picture"),
        ("line 3", "no picture"),
        ("line 4", "empty text"),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"images": ["a.png"], "texts": [None, "one"]}, "bad layout"),
        ({"images": ["a.png", None], "texts": ["both", "one"]}, "bad layout"),
        ({"images": ["a.png", None], "texts": [None, None]}, "bad layout"),
        ({"images": [3, None], "texts": [None, "one"]}, "bad layout"),
        ({"images": "a.png", "texts": ["one"]}, "field missing"),
        ({"texts": ["one"]}, "field missing"),
        ({"text_list": ["one"], "image_info": [info("a.png", 1)]}, "bad layout"),
        ({"text_list": ["one"], "image_info": [info("a.png", -1)]}, "bad layout"),
        ({"text_list": ["one"], "image_info": [info("a.png", None)]}, "bad layout"),
        ({"text_list": [1], "image_info": [info("a.png", 0)]}, "bad layout"),
        ({"text_list": ["one"]}, "field missing"),
        ({"images": ["a.png", None], "texts": [None, "a\0b"]}, "control character"),
        ({"images": ["a.png", None], "texts": [None, "a\ud800"]}, "not UTF-8"),
    ],
)
def test_documents_that_contradict_themselves_are_refused(folder: Path, row: dict[str, object], reason: str) -> None:
    (folder / "docs.jsonl").write_bytes(to_jsonl([row]))
    assert rejected(read_all(source_at(folder), "interleaved")) == [("line 1", reason)]


def test_a_name_in_two_tars_is_refused_and_pictures_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    rows = [{"images": ["a.png", None], "texts": [None, "one"]}, {"images": ["b.png", None], "texts": [None, "two"]}]
    (folder / "docs.jsonl").write_bytes(to_jsonl(rows))
    with tarfile.open(folder / "00001.tar", "w") as tar:
        add(tar, "a.png", DATA["c.png"])
    assert ("line 1, part 1", "duplicate key") in rejected(read_all(source_at(folder), "interleaved"))
    (folder / "more").mkdir()
    (folder / "00001.tar").rename(folder / "more" / "00001.tar")
    apart = read_all(source_at(folder / "docs.jsonl", pictures=str(folder / "more" / "*.tar")), "interleaved")
    [found] = valid(apart)
    assert isinstance(found, InterleavedDocument)
    [place] = [part for part in found.parts if isinstance(part, ImageLocation)]
    assert (place.shard, place.size) == ("pictures:00001.tar", len(DATA["c.png"]))
    assert rejected(apart) == [("line 2, part 1", "no picture"), ("line 2", "no picture")]
