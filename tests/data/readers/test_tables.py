"""Tables as the Hugging Face hub and `datasets` leave them; `datasets` itself is the second reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from firstsight.data.readers import list_shards
from firstsight.data.records import Dialogue, ImageText
from firstsight.errors import DataError
from firstsight.recipe.mixture import Recaptioned
from firstsight.units import Share

from ..conftest import picture
from .reading import external, read_all, rejected, source_at, valid

COLOURS = [(number, 255 - number, 9) for number in range(0, 250, 25)]
PICTURES = [picture(colour) for colour in COLOURS]


def kept(folder: Path, rows: list[dict[str, Any]], features: datasets.Features | None = None) -> datasets.Dataset:
    """The rows as two parquet shards and as two arrow shards."""
    made = datasets.Dataset.from_list(rows, features=features)
    made.save_to_disk(folder / "disk", num_shards=2)
    (folder / "hub").mkdir()
    for number in range(2):
        made.shard(2, number, contiguous=True).to_parquet(folder / "hub" / f"train-{number:05d}-of-00002.parquet")
    return made


def test_datasets_sees_the_same_captions_and_the_same_pictures(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": data, "path": f"{n}.png"}, "text": f"w{n} é", "id": f"k{n}"}
        for n, data in enumerate(PICTURES)
    ]
    kept(
        tmp_path,
        rows,
        datasets.Features(
            {"image": datasets.Image(), "text": datasets.Value("string"), "id": datasets.Value("string")}
        ),
    )
    disk = datasets.load_from_disk(tmp_path / "disk").cast_column("image", datasets.Image(decode=False))
    hub = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "hub" / "*.parquet"), split="train", cache_dir=str(tmp_path / "c")
    )
    for folder, peer in {"disk": disk, "hub": hub.cast_column("image", datasets.Image(decode=False))}.items():
        found = [one for one in read_all(source_at(tmp_path / folder), "captions") if isinstance(one, ImageText)]
        assert len(found) == len(peer) == 10
        for ours, theirs in zip(found, peer, strict=True):
            assert (ours.id, ours.caption) == (theirs["id"], theirs["text"])
            file, _, column = ours.image.shard.partition("#")
            path = tmp_path / folder / file
            table = (
                pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_stream(path.read_bytes()).read_all()
            )
            data = table[column][ours.image.offset].as_py()["bytes"]
            assert data == theirs["image"]["bytes"]
            assert ours.image.size == len(data)
    assert {shard.split for shard in list_shards(source_at(tmp_path / "hub"), "captions")} == {"train"}


def test_columns_of_other_names_are_mapped(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pic": PICTURES[:2], "alt": ["w1", "w2"], "text": ["no", "no"]}), tmp_path / "a.parquet")
    found = valid(read_all(source_at(tmp_path, columns={"picture": "pic", "caption": "alt"}), "captions"))
    assert [(one.caption, one.image.shard, one.image.offset) for one in found] == [
        ("w1", "a.parquet#pic", 0),
        ("w2", "a.parquet#pic", 1),
    ]
    with pytest.raises(DataError, match=r"wanted columns for picture and caption\. Got pic, alt, text"):
        read_all(source_at(tmp_path), "captions")


def test_pictures_may_be_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(PICTURES[0])
    shown = [
        {"bytes": None, "path": "a.png"},
        {"bytes": None, "path": "gone.png"},
        None,
        {"bytes": b"<html>", "path": None},
    ]
    pq.write_table(pa.table({"image": shown, "text": ["w1"] * 4}), tmp_path / "t.parquet")
    found = read_all(source_at(tmp_path), "captions")
    assert [one.image.shard for one in valid(found)] == ["images/a.png"]
    assert rejected(found) == [("row 1", "no picture"), ("row 2", "no picture"), ("row 3", "not a picture")]


def test_synthetic_captions_of_a_table(tmp_path: Path) -> None:
    rows = {"image": PICTURES[:3], "text": ["real"] * 3, "syn_text": [["s0"], [], None]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    found = read_all(
        source_at(tmp_path), "captions", Recaptioned(external=external("captions"), synthetic_share=Share(1), seed=0)
    )
    assert [(one.caption, one.synthetic) for one in valid(found)] == [("s0", True)]
    assert rejected(found) == [("row 1", "no caption"), ("row 2", "no caption")]
    assert [one.caption for one in valid(read_all(source_at(tmp_path), "captions"))] == ["real"] * 3


TURNS = {
    "conversations": [{"from": "human", "value": "<image>\nw1 ?"}, {"from": "gpt", "value": "w2"}],
    "messages": [{"role": "user", "content": "w1 ?"}, {"role": "assistant", "content": "w2"}],
    "texts": [{"user": "w1 ?", "assistant": "w2", "source": "s"}],
    "turns": [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "w1 ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "w2"}]},
    ],
}


@pytest.mark.parametrize("column", TURNS)
def test_turns_in_all_forms_are_the_same_dialogue(tmp_path: Path, column: str) -> None:
    kept(tmp_path, [{"images": [PICTURES[number]], column: TURNS[column]} for number in range(4)])
    for folder, names in {"disk": 2, "hub": 2}.items():
        found = [one for one in read_all(source_at(tmp_path / folder), "dialogues") if isinstance(one, Dialogue)]
        assert [one.turns for one in found] == [("w1 ?", "w2")] * 4
        assert [one.image is not None and one.image.offset for one in found] == [0, 1, 0, 1]
        assert len({one.image.shard for one in found if one.image}) == names


def test_turns_in_one_list_a_field_and_questions_with_answers(tmp_path: Path) -> None:
    rows = {"picture": [None, PICTURES[0]], "conversations": [{"from": ["human", "gpt"], "value": ["a", "b"]}] * 2}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    pq.write_table(pa.table({"q": ["c", "d"], "a": ["e", None]}), tmp_path / "b.parquet")
    found = read_all(source_at(tmp_path / "a.parquet"), "dialogues")
    assert [(one.turns, one.image is None) for one in found] == [(("a", "b"), True), (("a", "b"), False)]
    found = read_all(source_at(tmp_path / "b.parquet", columns={"question": "q", "answer": "a"}), "dialogues")
    assert [one.turns for one in valid(found)] == [("c", "e")]
    assert rejected(found) == [("row 1", "field missing")]


def test_bad_rows_of_dialogues_are_set_aside(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [
        {"image": [PICTURES[0], PICTURES[1]], "conversations": said},
        {"image": [], "conversations": said},
        {"image": [b""], "conversations": said},
        {"image": [], "conversations": said[:1]},
        {"image": [], "conversations": [{"from": "human", "value": "<image>q"}, said[1]]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert rejected(read_all(source_at(tmp_path), "dialogues")) == [
        ("row 0", "several pictures"),
        ("row 2", "zero bytes"),
        ("row 3", "turns do not alternate"),
        ("row 4", "no picture"),
    ]


def test_an_arrow_file_that_breaks_off_is_named(tmp_path: Path) -> None:
    kept(tmp_path, [{"text": "x" * 1000} for _ in range(50)])
    [file, _] = sorted((tmp_path / "disk").glob("*.arrow"))
    whole = file.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"{}"):
        file.write_bytes(data)
        with pytest.raises(DataError, match="not a table, or truncated"):
            read_all(source_at(tmp_path / "disk"), "text")
