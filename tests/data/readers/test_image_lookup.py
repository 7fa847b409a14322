"""Images by name: members of tars, files in the folder and in images/, and names that match nothing."""

from __future__ import annotations

from firstsight.data.records import Dialogue

from ..conftest import Workshop
from .reading import RED_IMAGE, read_all, rejection_reasons, source_at


def image_row(image: str | None) -> dict[str, object]:
    turns = [{"from": "human", "value": ("<image>\n" if image else "") + "w1 ?"}, {"from": "gpt", "value": "w2"}]
    return {"conversations": turns} | ({"image": image} if image else {})


def test_dialogues_find_pictures_in_tars_in_the_folder_and_in_images(workshop: Workshop) -> None:
    names = ["packed.png", "loose.png", "deep/inside.png"]
    folder = workshop.dialogues([image_row(name) for name in names] + [image_row(None)], ["packed.png"])
    (folder / "loose.png").write_bytes(RED_IMAGE)
    (folder / "images" / "deep").mkdir(parents=True)
    (folder / "images" / "deep" / "inside.png").write_bytes(RED_IMAGE)
    found = [one for one in read_all(source_at(folder), "dialogues") if isinstance(one, Dialogue)]
    assert [one.image and one.image.shard for one in found] == [
        "images.tar",
        "loose.png",
        "images/deep/inside.png",
        None,
    ]
    assert all(one.turns == ("w1 ?", "w2") for one in found)


def test_bad_dialogues_are_set_aside_by_name(workshop: Workshop) -> None:
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
        "no picture",
        "unsafe path",
        "unsafe path",
        "field missing",
        "zero bytes",
    ]
