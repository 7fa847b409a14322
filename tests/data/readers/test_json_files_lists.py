"""JSON lists: items at their byte offsets, byte ranges, bounded memory, invalid lists."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.data.readers import RecordReader, json_files, list_shards
from firstsight.data.readers.json_files import json_list_items
from firstsight.data.records import RejectedRecord
from firstsight.errors import DataError

from .reading import external, llava_row, read_all, read_shards, rejected, source_at, valid

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=8,
)


@given(
    values=st.lists(json_values, max_size=8),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    around=st.sampled_from(["", " \n", "\t"]),
)
def test_items_and_offsets_equal_the_standard_library(
    values: list[object], indent: int | None, ascii_only: bool, around: str
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    data = (around + text + around).encode("utf-8", "surrogatepass")
    items = list(json_list_items(io.BytesIO(data), "f", start=0, list_continues=False))
    assert [json.loads(item.decode("utf-8", "surrogatepass")) for _, item in items] == values
    assert all(data[begin:][: len(item)] == item for begin, item in items)


@given(st.data())
def test_truncation_at_any_byte_is_an_error(data: st.DataObject) -> None:
    whole = json.dumps([{"a": [1, "x]"]}, "é", 12, {}], ensure_ascii=False).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DataError, match="wanted a JSON list"):
        list(json_list_items(io.BytesIO(whole[:cut]), "f", start=0, list_continues=False))


@pytest.mark.parametrize(
    "text", ["{}", "1", "", "[1 2]", "[1,]", "[,1]", "[1]]", "[1] x", "[tru]", "[1,,2]", '["a" "b"]']
)
def test_invalid_lists_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: wanted a JSON list of records\. Got"):
        read_all(source_at(tmp_path), "dialogues")


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([llava_row(0)]).encode())
    assert len(valid(read_all(source_at(tmp_path), "dialogues"))) == 1


def test_ranges_contain_whole_items_and_cover_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [llava_row(number, "w" * (number % 97)) for number in range(600)]
    data = json.dumps(rows, indent=2).encode()
    (tmp_path / "a.json").write_bytes(data)
    [whole] = read_shards(source_at(tmp_path), "dialogues")
    monkeypatch.setattr(json_files, "RANGE_ITEMS", 250)
    by_count = list_shards(source_at(tmp_path), "dialogues")
    reader = RecordReader(source_at(tmp_path), "dialogues", source=external("dialogues"))
    assert [len(list(reader.read(shard))) for shard in by_count] == [250, 250, 100]
    monkeypatch.setattr(json_files, "RANGE_BYTES", 9_000)
    cut = list_shards(source_at(tmp_path), "dialogues")
    assert [shard.start for shard in cut] == [0, *(shard.stop for shard in cut[:-1])]
    assert cut[-1].stop == cut[-1].size == len(data)
    assert all(9_000 <= shard.stop - shard.start < 10_000 for shard in cut[1:-1])
    parts = list(read_shards(source_at(tmp_path), "dialogues"))
    assert [record for records, _ in parts for record in records] == whole[0]
    expected = [hashlib.sha256(data[shard.start : shard.stop]).hexdigest() for shard in cut]
    assert [digest for _, digest in parts] == expected
    assert [record.id for record in valid(whole[0])] == [f"n{n}" for n in range(600) if n % 97]
    assert len(rejected(whole[0])) == 7


def test_default_range_is_ten_thousand_items(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([0] * 10_001))
    assert [(shard.start, shard.stop) for shard in list_shards(source_at(tmp_path), "dialogues")] == [
        (0, 30_001),
        (30_001, 30_003),
    ]


def test_item_that_is_not_utf8_does_not_affect_others(tmp_path: Path) -> None:
    good_item = json.dumps(llava_row(1)).encode()
    (tmp_path / "a.json").write_bytes(b"[" + good_item + b', {"id": "\xff"}, 7, ' + good_item + b"]")
    records = read_all(source_at(tmp_path), "dialogues")
    assert [record.reason for record in records if isinstance(record, RejectedRecord)] == ["not UTF-8", "not JSON"]
    assert rejected(records)[0][0] == f"byte {len(good_item) + 3}"
    assert len(valid(records)) == 2


def test_long_list_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """The stream is read in small chunks, and items are yielded in between."""

    class CountingStream(io.BytesIO):
        read_count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.read_count += 1
            assert size is not None and 0 < size <= 2 << 20
            return super().read(size)

    data = json.dumps([llava_row(number, "x" * 1000) for number in range(5000)]).encode()
    stream = CountingStream(data)
    items = json_list_items(stream, "f", start=0, list_continues=False)
    next(items)
    assert stream.read_count == 1
    assert len(list(items)) == 4999
    assert stream.read_count > len(data) >> 20
