"""Instructions: JSON lists cut into stretches and streamed, JSON lines, and the forms that real samples have."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.data.readers import RecordReader, json_list, list_shards
from firstsight.data.readers.json_list import json_list_items
from firstsight.data.records import Dialogue, RejectedRecord
from firstsight.errors import DataError

from ..conftest import picture
from .reading import at, bad, everything, good, lines, named, passes

RED = picture((255, 0, 0))


def llava(number: int, said: str = "w2", **more: object) -> dict[str, object]:
    turns = [{"from": "human", "value": "w1 ?"}, {"from": "gpt", "value": said}]
    return {"id": f"n{number}", "conversations": turns, **more}


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
def test_items_are_those_of_the_standard_library_at_their_bytes(
    values: list[object], indent: int | None, ascii_only: bool, around: str
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    data = (around + text + around).encode("utf-8", "surrogatepass")
    found = list(json_list_items(io.BytesIO(data), "f", start=0, list_continues=False))
    assert [json.loads(item.decode("utf-8", "surrogatepass")) for _, item in found] == values
    assert all(data[begin:][: len(item)] == item for begin, item in found)


@given(st.data())
def test_every_cut_of_a_list_is_found(data: st.DataObject) -> None:
    whole = json.dumps([{"a": [1, "x]"]}, "é", 12, {}], ensure_ascii=False).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DataError, match="wanted a JSON list"):
        list(json_list_items(io.BytesIO(whole[:cut]), "f", start=0, list_continues=False))


@pytest.mark.parametrize(
    "text", ["{}", "1", "", "[1 2]", "[1,]", "[,1]", "[1]]", "[1] x", "[tru]", "[1,,2]", '["a" "b"]']
)
def test_what_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: wanted a JSON list of records\. Got"):
        everything(at(tmp_path), "dialogues")


def test_a_mark_before_the_list_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([llava(0)]).encode())
    assert len(good(everything(at(tmp_path), "dialogues"))) == 1


def test_a_list_is_cut_into_stretches_of_whole_items_that_hold_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [llava(number, "w" * (number % 97)) for number in range(600)]
    data = json.dumps(rows, indent=2).encode()
    (tmp_path / "a.json").write_bytes(data)
    [whole] = passes(at(tmp_path), "dialogues")
    monkeypatch.setattr(json_list, "RANGE_ITEMS", 250)
    by_count = list_shards(at(tmp_path), "dialogues")
    assert [len(list(RecordReader(at(tmp_path), "dialogues", source=named("dialogues")).read(one))) for one in by_count] == [
        250, 250, 100,
    ]  # fmt: skip
    monkeypatch.setattr(json_list, "RANGE_BYTES", 9_000)
    cut = list_shards(at(tmp_path), "dialogues")
    assert [one.start for one in cut] == [0, *(one.stop for one in cut[:-1])]
    assert cut[-1].stop == cut[-1].size == len(data)
    assert all(9_000 <= one.stop - one.start < 10_000 for one in cut[1:-1])
    parts = list(passes(at(tmp_path), "dialogues"))
    assert [record for records, _ in parts for record in records] == whole[0]
    wanted = [hashlib.sha256(data[one.start : one.stop]).hexdigest() for one in cut]
    assert [digest for _, digest in parts] == wanted
    assert [one.id for one in good(whole[0])] == [f"n{n}" for n in range(600) if n % 97]
    assert len(bad(whole[0])) == 7


def test_a_list_of_ten_thousand_and_one_is_two_stretches_as_shipped(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([0] * 10_001))
    assert [(one.start, one.stop) for one in list_shards(at(tmp_path), "dialogues")] == [(0, 30_001), (30_001, 30_003)]


def test_an_item_that_is_not_utf8_harms_nothing_but_itself(tmp_path: Path) -> None:
    good_item = json.dumps(llava(1)).encode()
    (tmp_path / "a.json").write_bytes(b"[" + good_item + b', {"id": "\xff"}, 7, ' + good_item + b"]")
    found = everything(at(tmp_path), "dialogues")
    assert [one.reason for one in found if isinstance(one, RejectedRecord)] == ["not UTF-8", "not JSON"]
    assert bad(found)[0][0] == f"byte {len(good_item) + 3}"
    assert len(good(found)) == 2


def test_a_long_list_is_never_held_as_a_whole(tmp_path: Path) -> None:
    """The stream is asked for a stretch at a time, while items already come out."""

    class Watched(io.BytesIO):
        asked = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.asked += 1
            assert size is not None and 0 < size <= 2 << 20
            return super().read(size)

    data = json.dumps([llava(number, "x" * 1000) for number in range(5000)]).encode()
    stream = Watched(data)
    found = json_list_items(stream, "f", start=0, list_continues=False)
    next(found)
    assert stream.asked == 1
    assert len(list(found)) == 4999
    assert stream.asked > len(data) >> 20


def test_lines_hold_llava_records_and_single_questions(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    rows = [
        llava(0, image="a.png"),
        {"id": 5, "image": "a.png", "instruction": "q", "output": "a", "type": "conv"},
        {"instruction": "add", "input": "1 and 2", "output": "3"},
        {"instruction": "q", "input": "", "output": "a"},
        {"prompt": "q", "response": "a"},
        {"question": "q", "answer": "a", "image": None},
        llava(6, image=""),
    ]
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    found = [one for one in everything(at(tmp_path), "dialogues") if isinstance(one, Dialogue)]
    assert [(one.id, one.image is not None, one.turns) for one in found] == [
        ("n0", True, ("w1 ?", "w2")),
        ("5", True, ("q", "a")),
        ("a.jsonl:3", False, ("add\n1 and 2", "3")),
        ("a.jsonl:4", False, ("q", "a")),
        ("a.jsonl:5", False, ("q", "a")),
        ("a.jsonl:6", False, ("q", "a")),
        ("n6", False, ("w1 ?", "w2")),
    ]


def test_bad_lines_are_refused_by_name(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q"},
        {"prompt": " ", "response": "a"},
        {"prompt": "q", "response": 3},
        {"prompt": "<image>q", "response": "a"},
        llava(0, image=["a.png", "b.png"]),
        {"conversations": ["q", "a"]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}, {"role": "assistant", "content": "a"}]},
        {"conversations": []},
        {"prompt": "q\0", "response": "a"},
    ]
    (tmp_path / "a.jsonl").write_bytes(lines(rows) + b"{\n[]\n")
    assert [reason for _, reason in bad(everything(at(tmp_path), "dialogues"))] == [
        "field missing", "empty turn", "field missing", "no picture", "several pictures", "field missing",
        "unknown role", "field missing", "field missing", "control character", "not JSON", "not JSON",
    ]  # fmt: skip


def test_a_shared_picture_counts_for_the_digest_of_every_shard_that_shows_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps([llava(0, image="a.png"), llava(1, image="a.png")]))
    before = [digest for _, digest in passes(at(tmp_path), "dialogues")]
    own = hashlib.sha256((tmp_path / "a.json").read_bytes()).hexdigest()
    shown = hashlib.sha256(RED).hexdigest()
    assert before == [hashlib.sha256((own + shown).encode()).hexdigest()] * 2
    (tmp_path / "a.png").write_bytes(picture((0, 0, 0)))
    assert not set(before) & {digest for _, digest in passes(at(tmp_path), "dialogues")}


@pytest.mark.shared
def test_real_questions_of_llava_miss_their_pictures_and_nothing_else(shared: Path, tmp_path: Path) -> None:
    """90 records, `wc -l`, about 30 pictures, which do not lie beside them; with stand-ins all read."""
    file = shared / "instruct_samples" / "llava" / "coco2014_val_gpt4_qa_30x3.jsonl"
    assert [reason for _, reason in bad(everything(at(file), "dialogues"))] == ["no picture"] * 90
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows:
        (tmp_path / row["image"]).write_bytes(RED)
    found = [one for one in everything(at(file, pictures=str(tmp_path)), "dialogues") if isinstance(one, Dialogue)]
    assert [one.turns for one in found] == [(row["instruction"], row["output"]) for row in rows]
    assert len({one.image for one in found}) == 30


@pytest.mark.shared
def test_real_prompts_and_responses_read(shared: Path) -> None:
    """1,000 rows, `zcat | wc -l`; the other file has a question and choices, which are no dialogue."""
    found = everything(at(shared / "instruct_samples" / "dolly_hhrlhf_train_small.jsonl.gz"), "dialogues")
    assert len(good(found)) == 1000
    assert all(len(one.turns) == 2 and one.image is None for one in good(found))
    other = everything(at(shared / "instruct_samples" / "finetune_example_train.jsonl"), "dialogues")
    assert [reason for _, reason in bad(other)] == ["field missing"] * 100
