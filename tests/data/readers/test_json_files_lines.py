"""JSON lines, plain and compressed, and lines that are invalid."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from firstsight.data.records import Document, RejectedRecord
from firstsight.errors import DataError

from .reading import read_all, source_at


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_plain_and_compressed_lines_are_equal(tmp_path: Path, form: str) -> None:
    rows = [{"id": str(number), "text": f"w{number} " * 5 + "é\u2028", "loss": [[0, 2]]} for number in range(3000)]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode().rstrip(b"\n")
    packed = {"jsonl": data, "jsonl.gz": gzip.compress(data), "jsonl.zst": zstandard.compress(data)}
    (tmp_path / f"a.{form}").write_bytes(packed[form])
    records = read_all(source_at(tmp_path), "text")
    assert records == [Document(id=row["id"], text=row["text"], loss=((0, 2),)) for row in rows]


def test_concatenated_zstandard_frames(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(
        zstandard.compress(b'{"text": "a"}\n') + zstandard.compress(b'{"text": "b"}\n')
    )
    assert [record.text for record in read_all(source_at(tmp_path), "text") if isinstance(record, Document)] == [
        "a",
        "b",
    ]


@pytest.mark.parametrize("members", [[b""], [b'{"text": "a"}\n'], [b'{"text": "a"}\n', b'{"text": "b"}']])
@pytest.mark.parametrize("zeros", [0, 1, 512, 3 << 20])
def test_gzip_members_followed_by_zeros(tmp_path: Path, members: list[bytes], zeros: int) -> None:
    """Zeros after the last member are tape padding; the gzip program and Python's gzip ignore them."""
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(map(gzip.compress, members)) + bytes(zeros))
    texts = [record.text for record in read_all(source_at(tmp_path), "text") if isinstance(record, Document)]
    assert texts == [json.loads(member)["text"] for member in members if member]


def test_invalid_lines_are_rejected_with_their_number(tmp_path: Path) -> None:
    lines = [b'{"text": "good"}', b"{", b'{"text": "\xff"}', b"[]", b"", b'{"text": ""}', b'{"text": "good too"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    records = read_all(source_at(tmp_path), "text")
    assert [record.text for record in records if isinstance(record, Document)] == ["good", "good too"]
    assert [(record.reason, record.where) for record in records if isinstance(record, RejectedRecord)] == [
        ("not JSON", "line 2"),
        ("not UTF-8", "line 3"),
        ("not JSON", "line 4"),
        ("empty text", "line 6"),
    ]


@pytest.mark.parametrize(("ending", "packed"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_truncated_compressed_file_is_an_error(tmp_path: Path, ending: str, packed) -> None:
    whole = packed("".join(f'{{"text": "{number * 7919}"}}\n' for number in range(20_000)).encode())
    (tmp_path / f"a.jsonl.{ending}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=rf"a\.jsonl\.{ending}.*not a complete (gzip|zstd) file"):
        list(read_all(source_at(tmp_path), "text"))
