from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path

import pytest
import zstandard

from firstsight.data.records import Dialogue, Document, ImageText, RejectedRecord
from firstsight.errors import DataError

from ..conftest import Workshop, add, picture
from .reading import at, everything

RED = picture((255, 0, 0))


def reasons(folder: Path, form: str) -> list[str]:
    return [found.reason for found in everything(at(folder), form) if isinstance(found, RejectedRecord)]


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_all_text_forms_hold_the_same_records(tmp_path: Path, form: str) -> None:
    rows = [{"id": str(number), "text": f"w{number} " * 5 + "é\u2028", "loss": [[0, 2]]} for number in range(3000)]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode().rstrip(b"\n")
    packed = {"jsonl": data, "jsonl.gz": gzip.compress(data), "jsonl.zst": zstandard.compress(data)}
    (tmp_path / f"a.{form}").write_bytes(packed[form])
    found = everything(at(tmp_path), "text")
    assert found == [Document(id=row["id"], text=row["text"], loss=((0, 2),)) for row in rows]


def test_zstandard_frames_behind_each_other_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(
        zstandard.compress(b'{"text": "a"}\n') + zstandard.compress(b'{"text": "b"}\n')
    )
    assert [one.text for one in everything(at(tmp_path), "text") if isinstance(one, Document)] == ["a", "b"]


def test_bad_lines_are_set_aside_with_their_place(tmp_path: Path) -> None:
    lines = [b'{"text": "good"}', b"{", b'{"text": "\xff"}', b"[]", b"", b'{"text": ""}', b'{"text": "good too"}']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = everything(at(tmp_path), "text")
    assert [one.text for one in found if isinstance(one, Document)] == ["good", "good too"]
    assert [(one.reason, one.where) for one in found if isinstance(one, RejectedRecord)] == [
        ("not JSON", "line 2"),
        ("not UTF-8", "line 3"),
        ("not JSON", "line 4"),
        ("empty text", "line 6"),
    ]


@pytest.mark.parametrize(("ending", "packed"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_a_packed_text_that_breaks_off_is_named(tmp_path: Path, ending: str, packed) -> None:
    whole = packed("".join(f'{{"text": "{number * 7919}"}}\n' for number in range(20_000)).encode())
    (tmp_path / f"a.jsonl.{ending}").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=rf"a\.jsonl\.{ending}.*truncated"):
        list(everything(at(tmp_path), "text"))


def test_a_captioned_picture_is_found_again_at_its_place(workshop: Workshop) -> None:
    folder = workshop.captions([f"w{number}" for number in range(20)])
    for number, found in enumerate(everything(at(folder), "captions")):
        assert isinstance(found, ImageText)
        assert found.caption == f"w{number}"
        data = (folder / found.image.shard).read_bytes()
        assert data[found.image.offset :][: found.image.size] == picture((number, 0, 7))


def test_members_of_a_sample_come_in_any_order_and_from_folders(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tar_folder("part"))
        add(tar, "part/1.txt", b" one \n")
        add(tar, "part/1.JPG", picture((0, 0, 0), form="JPEG"))
        add(tar, "part/2.json", b"{}")
        add(tar, "part/2.webp", picture((0, 0, 0), form="WEBP"))
        add(tar, "part/2.txt", b"two")
    assert [(one.id, one.caption) for one in everything(at(tmp_path), "captions") if isinstance(one, ImageText)] == [
        ("part/1", "one"),
        ("part/2", "two"),
    ]


def tar_folder(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


def test_bad_samples_of_a_tar_are_set_aside_by_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in {
            "0.png": RED, "0.txt": b"good",
            "1.png": b"", "1.txt": b"zero",
            "2.png": RED, "2.txt": b" ",
            "3.png": RED, "3.json": b"{}",
            "4.txt": b"no picture",
            "5.png": b"<html>", "5.txt": b"a page",
            "6.png": RED, "6.txt": b"\xff\xfe",
            "../7.png": RED, "../7.txt": b"escapes",
            "/8.png": RED, "/8.txt": b"escapes",
        }.items():  # fmt: skip
            add(tar, name, data)
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE), start=9):
            pointer = tarfile.TarInfo(f"{number}.png")
            pointer.type, pointer.linkname = kind, "0.png"
            tar.addfile(pointer)
            add(tar, f"{number}.txt", b"points elsewhere")
    assert reasons(tmp_path, "captions") == [
        "zero bytes", "empty caption", "no caption", "no picture", "not a picture", "not UTF-8",
        "unsafe path", "unsafe path", *["not a plain file"] * 4,
    ]  # fmt: skip


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_a_tar_that_breaks_off_is_named(workshop: Workshop, keep: float) -> None:
    file = workshop.captions([f"w{number}" for number in range(30)]) / "00000.tar"
    data = file.read_bytes()
    for cut in (int(len(data) * keep), int(len(data) * keep) // 512 * 512):
        file.write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"00000\.tar.*Copy it again"):
            list(everything(at(file.parent), "captions"))


def test_a_tar_cut_exactly_between_members_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.png", RED)
        add(tar, "0.txt", b"caption")
    file = tmp_path / "a.tar"
    file.write_bytes(file.read_bytes()[: 512 + -(-len(RED) // 512) * 512 + 2 * 512])
    with pytest.raises(DataError, match="without its closing block"):
        list(everything(at(tmp_path), "captions"))


def llava(image: str | None, number: int = 0) -> dict[str, object]:
    turns = [{"from": "human", "value": ("<image>\n" if image else "") + "w1 ?"}, {"from": "gpt", "value": "w2"}]
    return {"id": str(number), "conversations": turns} | ({"image": image} if image else {})


def test_dialogues_find_pictures_in_tars_in_the_folder_and_in_images(workshop: Workshop) -> None:
    names = ["packed.png", "loose.png", "deep/inside.png"]
    folder = workshop.dialogues([llava(name) for name in names] + [llava(None)], ["packed.png"])
    (folder / "loose.png").write_bytes(RED)
    (folder / "images" / "deep").mkdir(parents=True)
    (folder / "images" / "deep" / "inside.png").write_bytes(RED)
    found = [one for one in everything(at(folder), "dialogues") if isinstance(one, Dialogue)]
    assert [one.image and one.image.shard for one in found] == [
        "images.tar",
        "loose.png",
        "images/deep/inside.png",
        None,
    ]
    assert all(one.turns == ("w1 ?", "w2") for one in found)


def test_bad_dialogues_are_set_aside_by_name(workshop: Workshop) -> None:
    rows = [llava("gone.png"), llava("../a.png"), llava("/etc/a.png"), llava("a.png"), {"id": "no turns"}]
    folder = workshop.dialogues([*rows, llava("empty.png")], ["a.png"])
    (folder / "empty.png").write_bytes(b"")
    assert reasons(folder, "dialogues") == ["no picture", "unsafe path", "unsafe path", "field missing", "zero bytes"]


def test_a_folder_without_the_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Got no such file"):
        list(everything(at(tmp_path), "captions"))
    with pytest.raises(DataError, match="no reader"):
        list(everything(at(tmp_path), "encoder"))


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "count"), [("vla_foundry_shards/image_caption", 48), ("torchtitan_cc12m", 32)])
def test_real_tars_read(shared: Path, folder: str, count: int) -> None:
    found = list(everything(at(shared / folder), "captions"))
    assert not [one for one in found if isinstance(one, RejectedRecord)]
    assert len(found) == count
    captions = {one.id: one.caption for one in found if isinstance(one, ImageText)}
    for tar_file in sorted((shared / folder).glob("*.tar")):
        with tarfile.open(tar_file) as tar:
            for name in tar.getnames():
                if name.endswith(".txt"):
                    text = tar.extractfile(name)
                    assert text is not None
                    assert captions[name.removesuffix(".txt")] == text.read().decode().strip()
