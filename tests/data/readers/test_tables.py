"""Tables as on the Hugging Face hub and as `datasets` writes them, compared with what `datasets` reads."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from firstsight.data.image_reader import open_image_table
from firstsight.data.readers import list_shards
from firstsight.data.readers.fields import single_image
from firstsight.data.records import Dialogue, ImageText, RejectedRecord
from firstsight.errors import DataError
from firstsight.recipe.mixture import Recaptioned
from firstsight.units import Share

from ..conftest import picture
from .reading import external, read_all, rejected, source_at, valid

COLORS = [(number, 255 - number, 9) for number in range(0, 250, 25)]
IMAGES = [picture(color) for color in COLORS]


def save_as_parquet_and_arrow(
    folder: Path, rows: list[dict[str, Any]], features: datasets.Features | None = None
) -> datasets.Dataset:
    """The rows as two parquet shards and as two arrow shards."""
    dataset = datasets.Dataset.from_list(rows, features=features)
    dataset.save_to_disk(folder / "disk", num_shards=2)
    (folder / "hub").mkdir()
    for number in range(2):
        dataset.shard(2, number, contiguous=True).to_parquet(folder / "hub" / f"train-{number:05d}-of-00002.parquet")
    return dataset


def test_datasets_library_reads_the_same_captions_and_images(tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": data, "path": f"{n}.png"}, "text": f"w{n} é", "id": f"k{n}"}
        for n, data in enumerate(IMAGES)
    ]
    save_as_parquet_and_arrow(
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
    for folder, samples in {"disk": disk, "hub": hub.cast_column("image", datasets.Image(decode=False))}.items():
        records = [
            record for record in read_all(source_at(tmp_path / folder), "captions") if isinstance(record, ImageText)
        ]
        assert len(records) == len(samples) == 10
        for record, sample in zip(records, samples, strict=True):
            assert (record.id, record.caption) == (sample["id"], sample["text"])
            file, _, column = record.image.shard.partition("#")
            path = tmp_path / folder / file
            table = (
                pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_stream(path.read_bytes()).read_all()
            )
            data = table[column][record.image.offset].as_py()["bytes"]
            assert data == sample["image"]["bytes"]
            assert record.image.size == len(data)
    assert {shard.split for shard in list_shards(source_at(tmp_path / "hub"), "captions")} == {"train"}


def test_column_mapping(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pic": IMAGES[:2], "alt": ["w1", "w2"], "text": ["no", "no"]}), tmp_path / "a.parquet")
    records = valid(read_all(source_at(tmp_path, columns={"picture": "pic", "caption": "alt"}), "captions"))
    assert [(record.caption, record.image.shard, record.image.offset) for record in records] == [
        ("w1", "a.parquet#pic", 0),
        ("w2", "a.parquet#pic", 1),
    ]
    with pytest.raises(DataError, match=r"wanted columns for picture and caption\. Got pic, alt, text"):
        read_all(source_at(tmp_path), "captions")


def test_images_by_file_name(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(IMAGES[0])
    cells = [
        {"bytes": None, "path": "a.png"},
        {"bytes": None, "path": "gone.png"},
        None,
        {"bytes": b"<html>", "path": None},
    ]
    pq.write_table(pa.table({"image": cells, "text": ["w1"] * 4}), tmp_path / "t.parquet")
    records = read_all(source_at(tmp_path), "captions")
    assert [record.image.shard for record in valid(records)] == ["images/a.png"]
    assert rejected(records) == [("row 1", "no image"), ("row 2", "no image"), ("row 3", "not an image")]


def test_synthetic_captions_in_a_table(tmp_path: Path) -> None:
    rows = {"image": IMAGES[:3], "text": ["real"] * 3, "syn_text": [["s0"], [], None]}
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    records = read_all(
        source_at(tmp_path), "captions", Recaptioned(external=external("captions"), synthetic_share=Share(1), seed=0)
    )
    assert [(record.caption, record.synthetic) for record in valid(records)] == [("s0", True)]
    assert rejected(records) == [("row 1", "no caption"), ("row 2", "no caption")]
    assert [record.caption for record in valid(read_all(source_at(tmp_path), "captions"))] == ["real"] * 3


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
def test_all_forms_of_turns_are_the_same_dialogue(tmp_path: Path, column: str) -> None:
    save_as_parquet_and_arrow(tmp_path, [{"images": [IMAGES[number]], column: TURNS[column]} for number in range(4)])
    for folder, names in {"disk": 2, "hub": 2}.items():
        records = [
            record for record in read_all(source_at(tmp_path / folder), "dialogues") if isinstance(record, Dialogue)
        ]
        assert [record.turns for record in records] == [("w1 ?", "w2")] * 4
        assert [record.image is not None and record.image.offset for record in records] == [0, 1, 0, 1]
        assert len({record.image.shard for record in records if record.image}) == names


def test_turns_as_columns_and_question_answer_columns(tmp_path: Path) -> None:
    rows = {"picture": [None, IMAGES[0]], "conversations": [{"from": ["human", "gpt"], "value": ["a", "b"]}] * 2}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    pq.write_table(pa.table({"q": ["c", "d"], "a": ["e", None]}), tmp_path / "b.parquet")
    records = read_all(source_at(tmp_path / "a.parquet"), "dialogues")
    assert [(record.turns, record.image is None) for record in records] == [(("a", "b"), True), (("a", "b"), False)]
    records = read_all(source_at(tmp_path / "b.parquet", columns={"question": "q", "answer": "a"}), "dialogues")
    assert [record.turns for record in valid(records)] == [("c", "e")]
    assert rejected(records) == [("row 1", "field missing")]


def test_invalid_dialogue_rows_are_rejected(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [
        {"image": [IMAGES[0], IMAGES[1]], "conversations": turns},
        {"image": [], "conversations": turns},
        {"image": [b""], "conversations": turns},
        {"image": [], "conversations": turns[:1]},
        {"image": [], "conversations": [{"from": "human", "value": "<image>q"}, turns[1]]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert rejected(read_all(source_at(tmp_path), "dialogues")) == [
        ("row 0", "several images"),
        ("row 2", "zero bytes"),
        ("row 3", "turns do not alternate"),
        ("row 4", "no image"),
    ]


def test_truncated_arrow_file_is_an_error(tmp_path: Path) -> None:
    save_as_parquet_and_arrow(tmp_path, [{"text": "x" * 1000} for _ in range(50)])
    [file, _] = sorted((tmp_path / "disk").glob("*.arrow"))
    whole = file.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"{}"):
        file.write_bytes(data)
        with pytest.raises(DataError, match="not a table, or truncated"):
            read_all(source_at(tmp_path / "disk"), "text")


def write_table(file: Path, table: pa.Table) -> None:
    """In the format of a name: parquet, an Arrow stream or file, feather."""
    if file.suffix.lower() == ".parquet":
        pq.write_table(table, file)
    elif file.suffix.lower() == ".feather":
        feather.write_feather(table, str(file))
    else:
        new = pa.ipc.new_file if file.stem == "file" else pa.ipc.new_stream
        with new(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)


@pytest.mark.parametrize("name", ["a.PARQUET", "stream.arrow", "file.ARROW", "a.feather"])
@pytest.mark.parametrize("kind", ["binary", "list<uint8>", "list<int64>", "struct of a list"])
def test_tables_of_all_formats_and_kinds_of_bytes(tmp_path: Path, name: str, kind: str) -> None:
    """8 rows, and the images' bytes are those that were written."""
    images = [picture((n, 0, 0)) for n in range(8)]
    types = {"binary": pa.binary(), "list<uint8>": pa.list_(pa.uint8()), "list<int64>": pa.list_(pa.int64())}
    cells: Any = images if kind == "binary" else [list(image) for image in images]
    if kind == "struct of a list":
        cells = [{"bytes": cell, "path": None} for cell in cells]
    column = pa.array(cells, types.get(kind))
    write_table(tmp_path / name, pa.table({"image": column, "text": [f"w{n}" for n in range(8)]}))
    records = read_all(source_at(tmp_path), "captions")
    assert rejected(records) == []
    locations = [record.image for record in records if isinstance(record, ImageText)]
    table = open_image_table(pa.memory_map(str(tmp_path / name)), name)
    stored = [table.column(table.group_of(at.offset), "image")[at.offset - table.starts[table.group_of(at.offset)]]
              for at in locations]  # fmt: skip
    assert [single_image(cell.as_py()) for cell in stored] == images
    assert [at.size for at in locations] == list(map(len, images))


def test_base64_in_a_table_is_refused_in_a_short_line(tmp_path: Path) -> None:
    text = base64.b64encode(picture((1, 2, 3), side=64)).decode()
    for cells in ([text], [text.encode()], [f"data:image/png;base64,{text}"]):
        write_table(tmp_path / "a.parquet", pa.table({"image": cells, "text": ["w"]}))
        [record] = read_all(source_at(tmp_path), "captions")
        assert isinstance(record, RejectedRecord)
        assert record.reason == "not an image"
        assert "base64" in record.detail
        assert len(record.detail) < 200


def test_two_columns_of_images_are_rejected_where_both_have_one(tmp_path: Path) -> None:
    red, blue = picture((255, 0, 0)), picture((0, 0, 255))
    columns = {"png": [red, None, red, None], "jpg": [blue, blue, red, None], "text": ["w"] * 4, "url": ["u"] * 4}
    write_table(tmp_path / "a.parquet", pa.table(columns))
    records = read_all(source_at(tmp_path), "captions")
    assert rejected(records) == [("row 0", "several images"), ("row 3", "no image")]
    assert [record.image.shard for record in valid(records)] == ["a.parquet#jpg", "a.parquet#jpg"]
    chosen = read_all(source_at(tmp_path, columns={"picture": "png"}), "captions")
    assert len(valid(chosen)) == 2


def test_dialogues_of_a_table_do_not_lose_images_or_videos(tmp_path: Path) -> None:
    turns = {"question": ["q", "q"], "answer": ["a", "a"]}
    write_table(tmp_path / "a.parquet", pa.table({**turns, "video": [None, b"v"], "image_id": ["7", "x.jpg"]}))
    assert [reason for _, reason in rejected(read_all(source_at(tmp_path), "dialogues"))] == ["video or audio"]
    write_table(tmp_path / "a.parquet", pa.table({**turns, "image_id": ["7", "x.jpg"]}))
    assert rejected(read_all(source_at(tmp_path), "dialogues")) == [("row 1", "no image")]
    write_table(tmp_path / "a.parquet", pa.table({**turns, "frame": [b"x", b"y"]}))
    with pytest.raises(DataError, match=r"Got bytes in frame, not read.*columns = \{picture = 'frame'\}"):
        read_all(source_at(tmp_path), "dialogues")
