"""Images by name: members of tars, files in the folder and in images/, and names that match nothing."""

from __future__ import annotations

from firstsight.data.records import Dialogue

from ..conftest import Workshop
from .reading import RED_IMAGE, read_all, rejection_reasons, source_at


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
