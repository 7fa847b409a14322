"""Documents in tables and tars, and token ids as published."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from firstsight.data.readers import RecordReader, list_shards
from firstsight.data.records import Document, TokenizedChunk
from firstsight.errors import DataError

from ..conftest import add
from .reading import external, read_all, rejected, source_at, to_jsonl, valid


def tar(folder: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(folder / "shard-0000.tar", "w") as packed:
        for name, data in files.items():
            add(packed, name, data)
    return folder


def ids(*numbers: object) -> bytes:
    return gzip.compress(json.dumps(numbers).encode())


def test_table_and_lines_contain_the_same_documents(tmp_path: Path) -> None:
    rows = [{"id": f"n{number}", "content": f"w{number} é"} for number in range(150)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a" / "x.parquet", row_group_size=40)
    (tmp_path / "b" / "x.jsonl").write_bytes(to_jsonl(rows))
    expected = [Document(id=row["id"], text=row["content"], loss=None) for row in rows]
    for folder in ("a", "b"):
        assert read_all(source_at(tmp_path / folder, columns={"text": "content"}), "text") == expected


def test_missing_cells_are_rejected_and_a_missing_column_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None, " ", "b\0", "c\x01"]}), tmp_path / "x.parquet")
    records = read_all(source_at(tmp_path), "text")
    assert rejected(records) == [("row 1", "field missing"), ("row 2", "empty text"), ("row 3", "control character")]
    assert [record.text for record in valid(records)] == ["a", "c\x01"]
    with pytest.raises(DataError, match=r"wanted a column 'body' \(text\)\. Got text"):
        read_all(source_at(tmp_path, columns={"text": "body"}), "text")
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"wanted columns for text\. Got body\."):
        read_all(source_at(tmp_path), "text")


def test_truncated_table_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a" * 100] * 1000}), tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"text\na\n"):
        (tmp_path / "x.parquet").write_bytes(data)
        with pytest.raises(DataError, match=r"x\.parquet: not a table, or truncated"):
            read_all(source_at(tmp_path), "text")


def test_token_chunks_keep_their_ids(tmp_path: Path) -> None:
    tar(tmp_path, {"a.json.gz": ids(5, 0, 7), "part/b.json": b"[1, 2]"})
    assert read_all(source_at(tmp_path), "text") == [
        TokenizedChunk(id="shard-0000.tar:a", tokens=(5, 0, 7)),
        TokenizedChunk(id="shard-0000.tar:part/b", tokens=(1, 2)),
    ]


def test_invalid_token_chunks_are_never_read_as_text(tmp_path: Path) -> None:
    files = {
        "0.json.gz": ids(1, 2),
        "1.json.gz": ids(),
        "2.json.gz": ids(1, -1),
        "3.json.gz": ids(1, 2.0),
        "4.json.gz": ids(1, True),
        "5.json.gz": ids(1, "2"),
        "6.json.gz": ids(1, 2)[:-9],
        "7.json.gz": gzip.compress(b"[1, 2"),
        "8.json.gz": b"[1, 2]",
        "9.json.gz": gzip.compress(b'"words"'),
        "0.json": b"[3]",
        "a.json.gz": b"",
        "b.npy": b"\x93NUMPY",
    }
    assert rejected(read_all(source_at(tar(tmp_path, files)), "text")) == [
        ("1.json.gz", "bad tokens"),
        ("2.json.gz", "bad tokens"),
        ("3.json.gz", "bad tokens"),
        ("4.json.gz", "bad tokens"),
        ("5.json.gz", "bad tokens"),
        ("6.json.gz", "not JSON"),
        ("7.json.gz", "bad tokens"),
        ("8.json.gz", "not JSON"),
        ("9.json.gz", "not JSON"),
        ("0.json", "duplicate key"),
        ("a.json.gz", "zero bytes"),
        ("b.npy", "field missing"),
    ]


def test_broken_first_list_is_not_text(tmp_path: Path) -> None:
    records = read_all(source_at(tar(tmp_path, {"0.json": b"[12, 13,", "1.json": b"[1]"})), "text")
    assert rejected(records) == [("0.json", "bad tokens")]
    assert [record.tokens for record in valid(records)] == [(1,)]


def test_tar_of_plain_and_json_texts(tmp_path: Path) -> None:
    files = {
        "a.json": b"[Verse 1] plain words",
        "b.json": b'"a JSON text"',
        "c.json": b'{"text": "text by name"}',
        "d.txt": b"12",
        "e.json": b'{"body": "of another name"}',
        "f.txt": b"\xff",
        "g.json": b"[1, 2]",
        "h.txt": b"a\0b",
    }
    records = read_all(source_at(tar(tmp_path, files)), "text")
    assert [record.text for record in valid(records)] == ["[Verse 1] plain words", "a JSON text", "text by name", "12"]
    assert [reason for _, reason in rejected(records)] == [
        "field missing",
        "not UTF-8",
        "not JSON",
        "control character",
    ]


def test_gzip_bomb_is_rejected(tmp_path: Path) -> None:
    tar(tmp_path, {"a.json.gz": ids(1), "b.json.gz": gzip.compress(b" " * 30_000_000, 1)})
    assert rejected(read_all(source_at(tmp_path), "text")) == [("b.json.gz", "too many bytes")]


def test_manifest_beside_tars_is_not_read_as_text(tmp_path: Path) -> None:
    tar(tmp_path, {"a.json": b"[1]"})
    (tmp_path / "manifest.jsonl").write_bytes(to_jsonl([{"shard": "shard-0000", "num_sequences": 1}]))
    assert len(read_all(source_at(tmp_path), "text")) == 1


@pytest.mark.shared
def test_real_token_chunks(shared: Path) -> None:
    records = read_all(source_at(shared / "vla_foundry_shards" / "text"), "text")
    assert [type(record) for record in records] == [TokenizedChunk] * 32
    assert {len(record.tokens) for record in records} == {2049}
    assert records[0].id == "text_dataset_1/shard-0000.tar:0020d948e6cbace46850f403f3487724"
    assert records[0].tokens[:6] == (18, 4385, 670, 346, 3837, 23967)
    assert max(max(record.tokens) for record in records) == 50276
    assert sum(record.tokens.count(0) for record in records) == 82


@pytest.mark.shared
def test_real_untokenized_members(shared: Path) -> None:
    """32 members; four contain a NUL (counted with `grep -c`)."""
    records = read_all(source_at(shared / "vla_foundry_shards" / "text_untokenized"), "text")
    assert len(valid(records)) == 28
    assert [reason for _, reason in rejected(records)] == ["control character"] * 4
    with tarfile.open(shared / "vla_foundry_shards" / "text_untokenized" / "shard-0000.tar") as packed:
        content = packed.extractfile(valid(records)[-1].id.partition(":")[2] + ".json")
        assert content is not None
        assert valid(records)[-1].text == content.read().decode()


MARK = b"\xef\xbb\xbf"
COMPRESSIONS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("form", ["text", "dialogues"])
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("mark", [b"", MARK])
@pytest.mark.parametrize("codec", COMPRESSIONS)
@pytest.mark.parametrize("ending", ["jsonl", "ndjson", "json", "list.json"])
def test_json_of_all_endings_has_the_same_records(
    tmp_path: Path, ending: str, codec: str, mark: bytes, upper: bool, form: str
) -> None:
    rows = [{"id": f"n{n}", "text": f"w{n}", "question": f"w{n}", "answer": "w"} for n in range(7)]
    data = mark + (json.dumps(rows, indent=1).encode() if ending.startswith("list") else to_jsonl(rows))
    name = f"a.{ending}{codec}"
    (tmp_path / (name.upper() if upper else name)).write_bytes(COMPRESSIONS[codec](data))
    records = read_all(source_at(tmp_path), form)
    assert rejected(records) == []
    assert [record.id for record in valid(records)] == [row["id"] for row in rows]


def test_marks_at_every_place_of_text(tmp_path: Path) -> None:
    lines = b"".join(MARK + line for line in to_jsonl([{"text": "a"}, {"text": "b"}]).splitlines(keepends=True))
    (tmp_path / "a.jsonl").write_bytes(lines)
    tar(tmp_path, {"1.txt": MARK + b"c", "2.json": MARK + b'{"text": "d"}', "3.json.gz": gzip.compress(MARK + b'"e"')})
    (tmp_path / "z.jsonl").write_bytes('{"text": "\ufefff"}\n'.encode() + "g".encode("utf-16"))
    records = read_all(source_at(tmp_path), "text")
    texts = sorted(record.text for record in records if isinstance(record, Document))
    assert texts == ["a", "b", "c", "d", "e", "f"]
    [refused] = [record for record in records if not isinstance(record, Document)]
    assert refused.reason == "not UTF-8"
    assert "UTF-16" in refused.detail


def test_a_missing_text_is_refused_with_the_names_of_the_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(to_jsonl([{"content": "x", "meta": {}}]))
    [record] = read_all(source_at(tmp_path), "text")
    assert record.detail == "no text among content, meta. Say columns = {text = ...} in the site file"
    assert len(valid(read_all(source_at(tmp_path, columns={"text": "content"}), "text"))) == 1


def test_members_that_are_no_texts_are_counted(tmp_path: Path) -> None:
    members = {
        "._1.json": b"\0",
        "README.md": b"r",
        "a/data": b"l",
        "a/.DS_Store": b"",
        "1.json": b'"w1"',
        "a.1.txt": b"",
    }
    tar(tmp_path, members)
    [shard] = list_shards(source_at(tmp_path), "text")
    records = RecordReader(source_at(tmp_path), "text", source=external("text")).read(shard)
    assert rejected(list(records)) == [("a.1.txt", "dots in key")]
    assert {reason: count for reason, (count, _) in records.notices.entries.items()} == {
        "tar member: macOS file": 2,
        "tar member: documentation": 1,
        "tar member: no ending": 1,
    }


@pytest.mark.parametrize("window_log", [27, 28])
def test_zstandard_windows_above_the_decoders_are_named(tmp_path: Path, window_log: int) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, enable_ldm=False, compression_level=1)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = compressor.compress(to_jsonl([{"text": "w1"}])) + compressor.flush()
    (tmp_path / "a.jsonl.zst").write_bytes(data)
    if window_log == 27:
        assert len(read_all(source_at(tmp_path), "text")) == 1
    else:
        with pytest.raises(DataError, match=r"window of at most 128 MB.*Pack it again"):
            read_all(source_at(tmp_path), "text")
