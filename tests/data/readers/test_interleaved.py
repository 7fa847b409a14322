"""Documents of texts and images in the layouts of OBELICS and MMC4."""

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

COLORS = {"a.png": (250, 0, 0), "b.png": (0, 250, 0), "c.png": (0, 0, 250)}
DATA = {name: picture(color) for name, color in COLORS.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images in a tar with img2dataset's json members, one as a file."""
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            add(tar, name, DATA[name])
            add(tar, name.replace("png", "json"), json.dumps({"url": f"http://x.org/{name}?w=1"}).encode())
    (tmp_path / "c.png").write_bytes(DATA["c.png"])
    return tmp_path


def part_names(folder: Path, record: Record) -> list[str]:
    """Parts in reading order, images by the name of the bytes at their location."""
    assert isinstance(record, InterleavedDocument)
    names = {data: name for name, data in DATA.items()}
    return [
        part if isinstance(part, str) else names[(folder / part.shard).read_bytes()[part.offset :][: part.size]]
        for part in record.parts
    ]


def test_obelics_order_in_lines_and_tables(folder: Path) -> None:
    rows = [
        {"images": ["http://x.org/a.png?w=1", None, None, "c.png"], "texts": [None, "one", "two", None]},
        {"images": [None, "b.png", "b.png", None], "texts": ["head", None, None, "tail"]},
    ]
    expected = [["a.png", "one\n\ntwo", "c.png"], ["head", "b.png", "b.png", "tail"]]
    (folder / "docs.jsonl").write_bytes(to_jsonl(rows))
    assert [part_names(folder, record) for record in read_all(source_at(folder), "interleaved")] == expected
    (folder / "docs.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist(rows), folder / "docs.parquet")
    pq.write_table(pa.table({"url": ["u"]}), folder / "00000.parquet")
    assert [part_names(folder, record) for record in read_all(source_at(folder), "interleaved")] == expected


def info(name: str, source_at: object, url: str = "") -> dict[str, object]:
    return {"image_name": name, "raw_url": url, "matched_text_index": source_at, "matched_sim": 0.3}


@pytest.mark.parametrize("packed", [lambda data: data, gzip.compress, zstandard.compress])
def test_mmc4_image_precedes_its_matched_text(folder: Path, packed) -> None:
    row = {
        "text_list": ["First.", "Second.", "Third.", "Fourth."],
        "image_info": [info("c.png", 3), info("gone", 1, "http://x.org/a.png?w=1"), info("b.png", 1)],
    }
    ending = {b"{": "", b"\x1f": ".gz", b"\x28": ".zst"}[packed(to_jsonl([row]))[:1]]
    (folder / f"docs.jsonl{ending}").write_bytes(packed(to_jsonl([row])))
    [record] = read_all(source_at(folder), "interleaved")
    assert part_names(folder, record) == ["First.", "a.png", "b.png", "Second. Third.", "c.png", "Fourth."]


def test_missing_images_are_left_out_and_documents_without_any_rejected(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"<html>")
    rows = [
        {"images": ["gone.png", None, "a.png", None, "broken.png"], "texts": [None, "one", None, "two", None]},
        {"images": ["gone.png", None], "texts": [None, "one"]},
        {"images": [None], "texts": ["never had one"]},
        {"images": ["a.png"], "texts": [None]},
    ]
    (folder / "docs.jsonl").write_bytes(to_jsonl(rows))
    records = read_all(source_at(folder), "interleaved")
    assert [part_names(folder, record) for record in valid(records)] == [["one", "a.png", "two"]]
    assert rejected(records) == [
        ("line 1, part 1", "no image"),
        ("line 1, part 5", "not an image"),
        ("line 2, part 1", "no image"),
        ("line 2", "no image"),
        ("line 3", "no image"),
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
def test_inconsistent_documents_are_rejected(folder: Path, row: dict[str, object], reason: str) -> None:
    (folder / "docs.jsonl").write_bytes(to_jsonl([row]))
    assert rejected(read_all(source_at(folder), "interleaved")) == [("line 1", reason)]


def test_ambiguous_name_is_rejected_and_images_may_be_in_another_folder(folder: Path, tmp_path: Path) -> None:
    rows = [{"images": ["a.png", None], "texts": [None, "one"]}, {"images": ["b.png", None], "texts": [None, "two"]}]
    (folder / "docs.jsonl").write_bytes(to_jsonl(rows))
    with tarfile.open(folder / "00001.tar", "w") as tar:
        add(tar, "a.png", DATA["c.png"])
    assert ("line 1, part 1", "duplicate key") in rejected(read_all(source_at(folder), "interleaved"))
    (folder / "more").mkdir()
    (folder / "00001.tar").rename(folder / "more" / "00001.tar")
    records_apart = read_all(source_at(folder / "docs.jsonl", pictures=str(folder / "more" / "*.tar")), "interleaved")
    [record] = valid(records_apart)
    assert isinstance(record, InterleavedDocument)
    [image] = [part for part in record.parts if isinstance(part, ImageLocation)]
    assert (image.shard, image.size) == ("pictures:00001.tar", len(DATA["c.png"]))
    assert rejected(records_apart) == [("line 2, part 1", "no image"), ("line 2", "no image")]
