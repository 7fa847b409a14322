"""Images by name: members of tars, files in the folder and in images/, and names that match nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight.data.readers import RecordReader, list_shards
from firstsight.data.records import Dialogue
from firstsight.errors import DataError

from ..conftest import Workshop
from .reading import RED_IMAGE, external, read_all, rejection_reasons, source_at, to_jsonl, write_tar


def image_row(image: str | None) -> dict[str, object]:
    turns = [{"from": "human", "value": ("<image>\n" if image else "") + "w1 ?"}, {"from": "gpt", "value": "w2"}]
    return {"conversations": turns} | ({"image": image} if image else {})


def test_images_in_tars_in_the_folder_and_in_images(workshop: Workshop) -> None:
    names = ["packed.png", "loose.png", "deep/inside.png"]
    folder = workshop.dialogues([image_row(name) for name in names] + [image_row(None)], ["packed.png"])
    (folder / "loose.png").write_bytes(RED_IMAGE)
    (folder / "images" / "deep").mkdir(parents=True)
    (folder / "images" / "deep" / "inside.png").write_bytes(RED_IMAGE)
    records = [record for record in read_all(source_at(folder), "dialogues") if isinstance(record, Dialogue)]
    assert [record.image and record.image.shard for record in records] == [
        "images.tar",
        "loose.png",
        "images/deep/inside.png",
        None,
    ]
    assert all(record.turns == ("w1 ?", "w2") for record in records)


def test_names_without_a_valid_image_are_rejected(workshop: Workshop) -> None:
    rows = [
        image_row("gone.png"),
        image_row("../a.png"),
        image_row("/etc/a.png"),
        image_row("a.png"),
        {"id": "no turns"},
    ]
    folder = workshop.dialogues([*rows, image_row("empty.png")], ["a.png"])
    (folder / "empty.png").write_bytes(b"")
    assert rejection_reasons(folder, "dialogues") == [
        "no image",
        "unsafe path",
        "unsafe path",
        "field missing",
        "zero bytes",
    ]


@pytest.mark.parametrize("store", ["folder", "images/", "tar"])
@pytest.mark.parametrize(("name", "file"), [("o/0.jpg", "o/0.gif"), ("o/0.jpg", "o/0.JPG"), ("o/0", "o/0.png")])
def test_an_image_is_found_with_another_ending(tmp_path: Path, store: str, name: str, file: str) -> None:
    if store == "tar":
        write_tar(tmp_path / "x.tar", [(file, RED_IMAGE), (f"o/._{file[2:]}", b"x")])
    else:
        path = tmp_path / ("images" if store == "images/" else "") / file
        path.parent.mkdir(parents=True)
        path.write_bytes(RED_IMAGE)
        path.with_name(f"._{path.name}").write_bytes(b"x")
    (tmp_path / "a.jsonl").write_bytes(to_jsonl([image_row(name), image_row(name)]))
    [shard] = list_shards(source_at(tmp_path), "dialogues")
    records = RecordReader(source_at(tmp_path), "dialogues", source=external("dialogues")).read(shard)
    assert [record.image is not None for record in records if isinstance(record, Dialogue)] == [True, True]
    [(reason, (count, first))] = records.notices.entries.items()
    assert (reason, count) == ("image found with another ending", 1)
    assert first.startswith(f"{name}: ")


def test_several_images_with_other_endings_and_archives_are_named(tmp_path: Path) -> None:
    for file in ("0.gif", "0.png", "train2017.zip"):
        (tmp_path / file).write_bytes(RED_IMAGE)
    (tmp_path / "a.jsonl").write_bytes(to_jsonl([image_row("0.jpg"), image_row("1.jpg")]))
    ambiguous, missing = read_all(source_at(tmp_path), "dialogues")
    assert "0.jpg may be any of 0.gif, 0.png" in ambiguous.detail
    assert "train2017.zip is an archive, which is not read: unpack it" in missing.detail
    with pytest.raises(DataError, match=r"Got a \.zip archive, which is not read\. Unpack it"):
        read_all(source_at(tmp_path, pictures=str(tmp_path / "train2017.zip")), "dialogues")
