"""Captioned pictures: the layouts of DataComp, DataComp-DR and CC12M, manifests, and every bad sample."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
import webdataset

from firstsight.data.readers import list_shards
from firstsight.data.records import ImageText, RejectedRecord
from firstsight.errors import DataError
from firstsight.units import Share

from ..conftest import Workshop, add, picture
from .reading import (
    RED_IMAGE,
    captioned_members,
    read_all,
    read_shards,
    recaptioned,
    rejected,
    rejection_reasons,
    source_at,
    valid,
    write_tar,
)


def syn(*texts: object) -> bytes:
    return json.dumps({"syn_text": texts}).encode()


def test_a_caption_is_txt_or_else_what_json_says(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [
            *[("1.jpg", RED_IMAGE), ("1.txt", b" of txt\n"), ("1.json", b'{"caption": "of json"}')],
            *[("2.jpeg", RED_IMAGE), ("2.json", b'{"caption": "of json"}'), ("2.syn.json", syn("synthetic"))],
            *[("3.png", RED_IMAGE), ("3.json", b'{"uid": "7"}'), ("4.webp", RED_IMAGE), ("4.json", b'{"caption": 4}')],
            *[("5.png", RED_IMAGE), ("5.json", b"{"), ("6.png", RED_IMAGE), ("6.paug.json", b"{}")],
        ],
    )
    found = read_all(source_at(tmp_path), "captions")
    assert [(one.id, one.caption, one.synthetic) for one in valid(found)] == [
        ("1", "of txt", False),
        ("2", "of json", False),
    ]
    assert rejected(found) == [("3", "no caption"), ("4", "field missing"), ("5", "not JSON"), ("6", "no caption")]


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("a\x00b", "control character"),
        ("a\x07", "control character"),
        ("a\x7f", "control character"),
        ("a\x85b", "control character"),
        ("x" * 10_001, "too long"),
        ("\u3000", "empty caption"),
        ("a\tb\nc\rd", None),
        ("x" * 10_000, None),
    ],
)
def test_captions_that_are_none_are_refused_by_name(tmp_path: Path, caption: str, reason: str | None) -> None:
    write_tar(tmp_path / "a.tar", [("1.png", RED_IMAGE), ("1.txt", caption.encode())])
    found = read_all(source_at(tmp_path), "captions")
    assert [why for _, why in rejected(found)] == ([] if reason is None else [reason])


def test_keys_and_members_that_stand_twice_are_refused(tmp_path: Path) -> None:
    one = [("1.png", RED_IMAGE), ("1.txt", b"w1")]
    write_tar(
        tmp_path / "a.tar",
        [
            *one,
            ("2.png", RED_IMAGE),
            ("2.png", RED_IMAGE),
            ("2.txt", b"w2"),
            ("3.png", RED_IMAGE),
            ("3.txt", b"w3"),
            *one,
        ],
    )
    found = read_all(source_at(tmp_path), "captions")
    assert [one.id for one in valid(found)] == ["1", "3"]
    assert rejected(found) == [("2", "duplicate key"), ("1", "duplicate key")]


def test_a_picture_that_is_too_large_is_passed_over(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar", [("1.png", bytes(20_000_001)), ("1.txt", b"w1"), ("2.png", RED_IMAGE), ("2.txt", b"w2")]
    )
    found = read_all(source_at(tmp_path), "captions")
    assert rejected(found) == [("1", "too many bytes")]
    assert [one.id for one in valid(found)] == ["2"]


def synthetic(count: int, key: str = "{:06d}") -> list[tuple[str, bytes]]:
    return [
        (key.format(number) + ".syn.json", syn(*(f"syn {number} {n}" for n in range(3)))) for number in range(count)
    ]


def test_synthetic_captions_come_from_the_sample_or_from_a_tar_apart(tmp_path: Path) -> None:
    """Four ways to keep the same captions tell the same records; real and synthetic come as often as asked."""
    count = 60
    own = [
        one
        for number in range(count)
        for one in (*captioned_members(count)[3 * number :][:3], synthetic(count)[number])
    ]
    uids = [(f"u{number}.json", json.dumps({"uid": f"u{number}"}).encode()) for number in range(count)]
    write_tar(tmp_path / "own" / "0.tar", own)
    write_tar(tmp_path / "pictures" / "0.tar", captioned_members(count))
    write_tar(tmp_path / "apart" / "0.tar", synthetic(count))
    write_tar(
        tmp_path / "by-uid" / "0.tar", [one for pair in zip(uids, synthetic(count, "u{}"), strict=True) for one in pair]
    )
    source = recaptioned(Share(1, 3))
    found = [
        read_all(source_at(tmp_path / "own"), "captions", source),
        read_all(source_at(tmp_path / "pictures", captions=str(tmp_path / "apart")), "captions", source),
        read_all(source_at(tmp_path / "pictures", captions=str(tmp_path / "by-uid")), "captions", source),
    ]
    told = [[(one.id, one.caption, one.synthetic) for one in records] for records in found]
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == count
    for number, (key, caption, made) in enumerate(told[0]):
        assert key == f"{number:06d}"
        assert caption.startswith(f"syn {number} " if made else f"real {number}")
    assert {caption[-1] for _, caption, made in told[0] if made} == {"0", "1", "2"}
    assert 10 <= sum(made for _, _, made in told[0]) <= 30


def test_a_folder_of_captions_inside_the_source_is_not_read_as_pictures(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", captioned_members(2))
    write_tar(tmp_path / "captions" / "0.tar", synthetic(2))
    location = source_at(tmp_path, captions=str(tmp_path / "captions"))
    assert [shard.name for shard in list_shards(location, "captions")] == ["0.tar"]
    assert {one.synthetic for one in valid(read_all(location, "captions", recaptioned(Share(1))))} == {True}


def test_a_record_that_wants_a_synthetic_caption_and_has_none_is_refused(tmp_path: Path) -> None:
    sample = [("png", RED_IMAGE), ("txt", b"real")]
    files = {
        "1": [],
        "2": [("syn.json", syn())],
        "3": [("syn.json", b'{"syn_text": "no list"}')],
        "4": [("syn.json", b"[")],
    }
    write_tar(
        tmp_path / "a.tar", [(f"{key}.{end}", data) for key, more in files.items() for end, data in sample + more]
    )
    found = read_all(source_at(tmp_path), "captions", recaptioned(Share(1)))
    assert rejected(found) == [("1", "no caption"), ("2", "no caption"), ("3", "no caption"), ("4", "not JSON")]
    assert len(valid(read_all(source_at(tmp_path), "captions", recaptioned(Share(0))))) == 4
    write_tar(tmp_path / "b" / "a.tar", [("9.syn.json", syn("of another key"))])
    location = source_at(tmp_path / "a.tar", captions=str(tmp_path / "b"))
    assert [why for _, why in rejected(read_all(location, "captions", recaptioned(Share(1))))] == ["no caption"] * 4


def test_a_shard_without_its_captions_is_named_and_they_count_for_the_digest(tmp_path: Path) -> None:
    write_tar(tmp_path / "p" / "0.tar", captioned_members(1))
    write_tar(tmp_path / "c" / "1.tar", synthetic(1))
    location = source_at(tmp_path / "p", captions=str(tmp_path / "c"))
    with pytest.raises(DataError, match=r"wanted synthetic captions in 0\.tar"):
        read_all(location, "captions", recaptioned(Share(1)))
    (tmp_path / "c" / "1.tar").rename(tmp_path / "c" / "0.tar")
    [(_, before)] = read_shards(location, "captions", recaptioned(Share(0)))
    write_tar(tmp_path / "c" / "0.tar", [*synthetic(1), ("more.txt", b"")])
    [(_, after)] = read_shards(location, "captions", recaptioned(Share(0)))
    alone = hashlib.sha256((tmp_path / "p" / "0.tar").read_bytes()).hexdigest()
    assert len({before, after, alone}) == 3
    assert [digest for _, digest in read_shards(location, "captions")] == [alone]


@pytest.mark.shared
@pytest.mark.parametrize("folder", ["vla_foundry_shards/image_caption", "torchtitan_cc12m"])
def test_webdataset_sees_the_same_samples_and_the_same_bytes_at_our_offsets(shared: Path, folder: str) -> None:
    found = [one for one in read_all(source_at(shared / folder), "captions") if isinstance(one, ImageText)]
    files = sorted(str(file) for file in (shared / folder).glob("*.tar"))
    peer = list(webdataset.WebDataset(files, shardshuffle=False))
    assert len(found) == len(peer)
    for ours, theirs in zip(found, peer, strict=True):
        data = (shared / folder / ours.image.shard).read_bytes()[ours.image.offset :][: ours.image.size]
        assert ours.id == theirs["__key__"]
        assert ours.caption == theirs["txt"].decode().strip()
        assert data == next(theirs[kind] for kind in ("jpg", "webp") if kind in theirs)


@pytest.mark.shared
def test_the_digest_of_a_real_shard_is_the_published_one(shared: Path) -> None:
    """The first 16 digits stand in the README that came with the files."""
    digests = [
        digest for _, digest in read_shards(source_at(shared / "vla_foundry_shards" / "image_caption"), "captions")
    ]
    assert [digest[:16] for digest in digests] == [
        "30c666630a20d724", "f017661f8cbb3b82", "921e0319b82f2bf8",
        "376c5f7eb1e2e260", "087fe50885700ec9", "06e7629a340fcd8d",
    ]  # fmt: skip


def test_a_captioned_picture_is_found_again_at_its_place(workshop: Workshop) -> None:
    folder = workshop.captions([f"w{number}" for number in range(20)])
    for number, found in enumerate(read_all(source_at(folder), "captions")):
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
    assert [
        (one.id, one.caption) for one in read_all(source_at(tmp_path), "captions") if isinstance(one, ImageText)
    ] == [
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
            "0.png": RED_IMAGE, "0.txt": b"good",
            "1.png": b"", "1.txt": b"zero",
            "2.png": RED_IMAGE, "2.txt": b" ",
            "3.png": RED_IMAGE, "3.json": b"{}",
            "4.txt": b"no picture",
            "5.png": b"<html>", "5.txt": b"a page",
            "6.png": RED_IMAGE, "6.txt": b"\xff\xfe",
            "../7.png": RED_IMAGE, "../7.txt": b"escapes",
            "/8.png": RED_IMAGE, "/8.txt": b"escapes",
        }.items():  # fmt: skip
            add(tar, name, data)
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE), start=9):
            pointer = tarfile.TarInfo(f"{number}.png")
            pointer.type, pointer.linkname = kind, "0.png"
            tar.addfile(pointer)
            add(tar, f"{number}.txt", b"points elsewhere")
    assert rejection_reasons(tmp_path, "captions") == [
        "zero bytes", "empty caption", "no caption", "no picture", "not a picture", "not UTF-8",
        "unsafe path", "unsafe path", *["not a plain file"] * 4,
    ]  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "count"), [("vla_foundry_shards/image_caption", 48), ("torchtitan_cc12m", 32)])
def test_real_tars_read(shared: Path, folder: str, count: int) -> None:
    found = list(read_all(source_at(shared / folder), "captions"))
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
