"""Documents out of tables and tars, and token ids as their publishers leave them."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from firstsight.data.records import Document, TokenizedChunk
from firstsight.errors import DataError

from ..conftest import add
from .reading import read_all, rejected, source_at, to_jsonl, valid


def tar(folder: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(folder / "shard-0000.tar", "w") as packed:
        for name, data in files.items():
            add(packed, name, data)
    return folder


def ids(*numbers: object) -> bytes:
    return gzip.compress(json.dumps(numbers).encode())


def test_a_table_and_lines_tell_the_same_documents(tmp_path: Path) -> None:
    rows = [{"id": f"n{number}", "content": f"w{number} é"} for number in range(150)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a" / "x.parquet", row_group_size=40)
    (tmp_path / "b" / "x.jsonl").write_bytes(to_jsonl(rows))
    wanted = [Document(id=row["id"], text=row["content"], loss=None) for row in rows]
    for folder in ("a", "b"):
        assert read_all(source_at(tmp_path / folder, columns={"text": "content"}), "text") == wanted


def test_cells_without_text_are_refused_and_a_table_without_the_column_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None, " ", "b\0", "c\x01"]}), tmp_path / "x.parquet")
    found = read_all(source_at(tmp_path), "text")
    assert rejected(found) == [("row 1", "field missing"), ("row 2", "empty text"), ("row 3", "control character")]
    assert [one.text for one in valid(found)] == ["a", "c\x01"]
    with pytest.raises(DataError, match=r"wanted a column 'body' \(text\)\. Got text"):
        read_all(source_at(tmp_path, columns={"text": "body"}), "text")
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"wanted columns for text\. Got body\."):
        read_all(source_at(tmp_path), "text")


def test_a_table_that_breaks_off_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a" * 100] * 1000}), tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"text\na\n"):
        (tmp_path / "x.parquet").write_bytes(data)
        with pytest.raises(DataError, match=r"x\.parquet: not a table, or truncated"):
            read_all(source_at(tmp_path), "text")


def test_a_chunk_of_tokens_keeps_the_ids_as_they_are(tmp_path: Path) -> None:
    tar(tmp_path, {"a.json.gz": ids(5, 0, 7), "part/b.json": b"[1, 2]"})
    assert read_all(source_at(tmp_path), "text") == [
        TokenizedChunk(id="shard-0000.tar:a", tokens=(5, 0, 7)),
        TokenizedChunk(id="shard-0000.tar:part/b", tokens=(1, 2)),
    ]


def test_broken_chunks_are_refused_by_name_and_never_pass_for_text(tmp_path: Path) -> None:
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


def test_a_broken_list_at_the_head_of_a_tar_is_no_text_either(tmp_path: Path) -> None:
    found = read_all(source_at(tar(tmp_path, {"0.json": b"[12, 13,", "1.json": b"[1]"})), "text")
    assert rejected(found) == [("0.json", "bad tokens")]
    assert [one.tokens for one in valid(found)] == [(1,)]


def test_a_tar_of_texts_holds_them_bare_or_as_json(tmp_path: Path) -> None:
    files = {
        "a.json": b"[Verse 1] plain words",
        "b.json": b'"a JSON text"',
        "c.json": b'{"text": "told by name"}',
        "d.txt": b"12",
        "e.json": b'{"body": "of another name"}',
        "f.txt": b"\xff",
        "g.json": b"[1, 2]",
        "h.txt": b"a\0b",
    }
    found = read_all(source_at(tar(tmp_path, files)), "text")
    assert [one.text for one in valid(found)] == ["[Verse 1] plain words", "a JSON text", "told by name", "12"]
    assert [reason for _, reason in rejected(found)] == ["field missing", "not UTF-8", "not JSON", "control character"]


def test_a_gzip_bomb_is_refused(tmp_path: Path) -> None:
    tar(tmp_path, {"a.json.gz": ids(1), "b.json.gz": gzip.compress(b" " * 30_000_000, 1)})
    assert rejected(read_all(source_at(tmp_path), "text")) == [("b.json.gz", "too many bytes")]


def test_a_manifest_beside_tars_is_no_text(tmp_path: Path) -> None:
    tar(tmp_path, {"a.json": b"[1]"})
    (tmp_path / "manifest.jsonl").write_bytes(to_jsonl([{"shard": "shard-0000", "num_sequences": 1}]))
    assert len(read_all(source_at(tmp_path), "text")) == 1


@pytest.mark.shared
def test_real_token_chunks_are_those_of_the_file(shared: Path) -> None:
    found = read_all(source_at(shared / "vla_foundry_shards" / "text"), "text")
    assert [type(one) for one in found] == [TokenizedChunk] * 32
    assert {len(one.tokens) for one in found} == {2049}
    assert found[0].id == "text_dataset_1/shard-0000.tar:0020d948e6cbace46850f403f3487724"
    assert found[0].tokens[:6] == (18, 4385, 670, 346, 3837, 23967)
    assert max(max(one.tokens) for one in found) == 50276
    assert sum(one.tokens.count(0) for one in found) == 82


@pytest.mark.shared
def test_real_untokenized_members_are_bare_texts(shared: Path) -> None:
    """32 members; four hold a NUL, which `grep -c` over the unpacked members counts too."""
    found = read_all(source_at(shared / "vla_foundry_shards" / "text_untokenized"), "text")
    assert len(valid(found)) == 28
    assert [reason for _, reason in rejected(found)] == ["control character"] * 4
    with tarfile.open(shared / "vla_foundry_shards" / "text_untokenized" / "shard-0000.tar") as packed:
        content = packed.extractfile(valid(found)[-1].id.partition(":")[2] + ".json")
        assert content is not None
        assert valid(found)[-1].text == content.read().decode()
