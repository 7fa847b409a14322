"""Captioned pictures: the layouts of DataComp, DataComp-DR and CC12M, manifests, and every bad sample."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
import webdataset

from firstsight.data.readers import RecordReader, list_shards
from firstsight.data.records import ImageText, RejectedRecord
from firstsight.errors import DataError
from firstsight.units import Share

from ..conftest import Workshop, add, picture
from .reading import (
    RED_IMAGE,
    captioned_members,
    external,
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


def test_caption_is_txt_else_json(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [
            *[("1.jpg", RED_IMAGE), ("1.txt", b" of txt\n"), ("1.json", b'{"caption": "of json"}')],
            *[("2.jpeg", RED_IMAGE), ("2.json", b'{"caption": "of json"}'), ("2.syn.json", syn("synthetic"))],
            *[("3.png", RED_IMAGE), ("3.json", b'{"uid": "7"}'), ("4.webp", RED_IMAGE), ("4.json", b'{"caption": 4}')],
            *[("5.png", RED_IMAGE), ("5.json", b"{"), ("6.png", RED_IMAGE), ("6.paug.json", b"{}")],
        ],
    )
    records = read_all(source_at(tmp_path), "captions")
    assert [(record.id, record.caption, record.synthetic) for record in valid(records)] == [
        ("1", "of txt", False),
        ("2", "of json", False),
    ]
    assert rejected(records) == [("3", "no caption"), ("4", "field missing"), ("5", "not JSON"), ("6", "no caption")]


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
def test_invalid_captions_are_rejected_with_a_reason(tmp_path: Path, caption: str, reason: str | None) -> None:
    write_tar(tmp_path / "a.tar", [("1.png", RED_IMAGE), ("1.txt", caption.encode())])
    records = read_all(source_at(tmp_path), "captions")
    assert [reason for _, reason in rejected(records)] == ([] if reason is None else [reason])


def test_duplicate_keys_and_members_are_rejected(tmp_path: Path) -> None:
    sample = [("1.png", RED_IMAGE), ("1.txt", b"w1")]
    write_tar(
        tmp_path / "a.tar",
        [
            *sample,
            ("2.png", RED_IMAGE),
            ("2.png", RED_IMAGE),
            ("2.txt", b"w2"),
            ("3.png", RED_IMAGE),
            ("3.txt", b"w3"),
            *sample,
        ],
    )
    records = read_all(source_at(tmp_path), "captions")
    assert [record.id for record in valid(records)] == ["1", "3"]
    assert rejected(records) == [("2", "duplicate key"), ("1", "duplicate key")]


def test_too_large_image_is_rejected(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar", [("1.png", bytes(20_000_001)), ("1.txt", b"w1"), ("2.png", RED_IMAGE), ("2.txt", b"w2")]
    )
    records = read_all(source_at(tmp_path), "captions")
    assert rejected(records) == [("1", "too many bytes")]
    assert [record.id for record in valid(records)] == ["2"]


def synthetic(count: int, key: str = "{:06d}") -> list[tuple[str, bytes]]:
    return [
        (key.format(number) + ".syn.json", syn(*(f"syn {number} {n}" for n in range(3)))) for number in range(count)
    ]


def test_synthetic_captions_from_the_sample_or_another_tar(tmp_path: Path) -> None:
    """Captions in the sample, in another tar by key and by uid give the same records, in the requested shares."""
    count = 60
    own = [
        member
        for number in range(count)
        for member in (*captioned_members(count)[3 * number :][:3], synthetic(count)[number])
    ]
    uids = [(f"u{number}.json", json.dumps({"uid": f"u{number}"}).encode()) for number in range(count)]
    write_tar(tmp_path / "own" / "0.tar", own)
    write_tar(tmp_path / "images" / "0.tar", captioned_members(count))
    write_tar(tmp_path / "apart" / "0.tar", synthetic(count))
    write_tar(
        tmp_path / "by-uid" / "0.tar",
        [record for pair in zip(uids, synthetic(count, "u{}"), strict=True) for record in pair],
    )
    source = recaptioned(Share(1, 3))
    records = [
        read_all(source_at(tmp_path / "own"), "captions", source),
        read_all(source_at(tmp_path / "images", captions=str(tmp_path / "apart")), "captions", source),
        read_all(source_at(tmp_path / "images", captions=str(tmp_path / "by-uid")), "captions", source),
    ]
    captions = [[(record.id, record.caption, record.synthetic) for record in records] for records in records]
    assert captions[0] == captions[1] == captions[2]
    assert len(captions[0]) == count
    for number, (key, caption, is_synthetic) in enumerate(captions[0]):
        assert key == f"{number:06d}"
        assert caption.startswith(f"syn {number} " if is_synthetic else f"real {number}")
    assert {caption[-1] for _, caption, is_synthetic in captions[0] if is_synthetic} == {"0", "1", "2"}
    assert 10 <= sum(is_synthetic for _, _, is_synthetic in captions[0]) <= 30


def test_captions_folder_inside_the_source_is_not_read_as_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", captioned_members(2))
    write_tar(tmp_path / "captions" / "0.tar", synthetic(2))
    location = source_at(tmp_path, captions=str(tmp_path / "captions"))
    assert [shard.name for shard in list_shards(location, "captions")] == ["0.tar"]
    assert {record.synthetic for record in valid(read_all(location, "captions", recaptioned(Share(1))))} == {True}


def test_missing_synthetic_caption_is_rejected(tmp_path: Path) -> None:
    sample = [("png", RED_IMAGE), ("txt", b"real")]
    files = {
        "1": [],
        "2": [("syn.json", syn())],
        "3": [("syn.json", b'{"syn_text": "no list"}')],
        "4": [("syn.json", b"[")],
    }
    write_tar(
        tmp_path / "a.tar", [(f"{key}.{end}", data) for key, extra in files.items() for end, data in sample + extra]
    )
    records = read_all(source_at(tmp_path), "captions", recaptioned(Share(1)))
    assert rejected(records) == [("1", "no caption"), ("2", "no caption"), ("3", "no caption"), ("4", "not JSON")]
    assert len(valid(read_all(source_at(tmp_path), "captions", recaptioned(Share(0))))) == 4
    write_tar(tmp_path / "b" / "a.tar", [("9.syn.json", syn("of another key"))])
    location = source_at(tmp_path / "a.tar", captions=str(tmp_path / "b"))
    assert [reason for _, reason in rejected(read_all(location, "captions", recaptioned(Share(1))))] == [
        "no caption"
    ] * 4


def test_captions_tar_is_required_and_enters_the_digest(tmp_path: Path) -> None:
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
def test_webdataset_reads_the_same_samples_and_bytes(shared: Path, folder: str) -> None:
    records = [record for record in read_all(source_at(shared / folder), "captions") if isinstance(record, ImageText)]
    files = sorted(str(file) for file in (shared / folder).glob("*.tar"))
    samples = list(webdataset.WebDataset(files, shardshuffle=False))
    assert len(records) == len(samples)
    for record, sample in zip(records, samples, strict=True):
        data = (shared / folder / record.image.shard).read_bytes()[record.image.offset :][: record.image.size]
        assert record.id == sample["__key__"]
        assert record.caption == sample["txt"].decode().strip()
        assert data == next(sample[kind] for kind in ("jpg", "webp") if kind in sample)


@pytest.mark.shared
def test_real_shard_digest_is_the_published_one(shared: Path) -> None:
    """The first 16 digits are in the README of the files."""
    digests = [
        digest for _, digest in read_shards(source_at(shared / "vla_foundry_shards" / "image_caption"), "captions")
    ]
    assert [digest[:16] for digest in digests] == [
        "30c666630a20d724", "f017661f8cbb3b82", "921e0319b82f2bf8",
        "376c5f7eb1e2e260", "087fe50885700ec9", "06e7629a340fcd8d",
    ]  # fmt: skip


def test_image_bytes_are_at_the_recorded_offset(workshop: Workshop) -> None:
    folder = workshop.captions([f"w{number}" for number in range(20)])
    for number, record in enumerate(read_all(source_at(folder), "captions")):
        assert isinstance(record, ImageText)
        assert record.caption == f"w{number}"
        data = (folder / record.image.shard).read_bytes()
        assert data[record.image.offset :][: record.image.size] == picture((number, 0, 7))


def test_members_in_any_order_and_in_folders(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(tar_folder("part"))
        add(tar, "part/1.txt", b" one \n")
        add(tar, "part/1.JPG", picture((0, 0, 0), form="JPEG"))
        add(tar, "part/2.json", b"{}")
        add(tar, "part/2.webp", picture((0, 0, 0), form="WEBP"))
        add(tar, "part/2.txt", b"two")
    assert [
        (record.id, record.caption)
        for record in read_all(source_at(tmp_path), "captions")
        if isinstance(record, ImageText)
    ] == [
        ("part/1", "one"),
        ("part/2", "two"),
    ]


def tar_folder(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


def test_invalid_samples_are_rejected_with_a_reason(tmp_path: Path) -> None:
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
        "zero bytes", "empty caption", "no caption", "no image", "not an image", "not UTF-8",
        "unsafe path", "unsafe path", *["not a plain file"] * 4,
    ]  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "count"), [("vla_foundry_shards/image_caption", 48), ("torchtitan_cc12m", 32)])
def test_real_tars(shared: Path, folder: str, count: int) -> None:
    records = list(read_all(source_at(shared / folder), "captions"))
    assert not [record for record in records if isinstance(record, RejectedRecord)]
    assert len(records) == count
    captions = {record.id: record.caption for record in records if isinstance(record, ImageText)}
    for tar_file in sorted((shared / folder).glob("*.tar")):
        with tarfile.open(tar_file) as tar:
            for name in tar.getnames():
                if name.endswith(".txt"):
                    text = tar.extractfile(name)
                    assert text is not None
                    assert captions[name.removesuffix(".txt")] == text.read().decode().strip()


def captions_and_notices(folder: Path) -> tuple[list[object], dict[str, int]]:
    [shard] = list_shards(source_at(folder), "captions")
    records = RecordReader(source_at(folder), "captions", source=external("captions")).read(shard)
    return list(records), {reason: count for reason, (count, _) in records.notices.entries.items()}


def test_members_that_are_no_samples_are_counted_and_webdataset_reads_the_same(tmp_path: Path) -> None:
    members = [
        *[("./__readme__.txt", b"r"), ("./.DS_Store", b"d"), ("__MACOSX/._0.jpg", b"x"), ("./LICENSE", b"l")],
        *[(f"./{prefix}{n}.{ending}", RED_IMAGE if ending == "jpg" else b"w") for n in range(4)
          for ending in ("jpg", "txt") for prefix in ("._", "")],
        *[("./README.md", b"r"), ("./license.jpg", RED_IMAGE), ("./license.txt", b"l"), ("./license.cls", b"1")],
    ]  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    records, notices = captions_and_notices(tmp_path)
    samples = webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    expected = [sample["__key__"].removeprefix("./") for sample in samples if "jpg" in sample]
    assert [record.id for record in records] == [key for key in expected if "__MACOSX" not in key]
    assert notices == {
        "tar member: metadata file": 1, "tar member: macOS file": 10, "tar member: no ending": 1,
        "tar member: documentation": 1, "tar member: .cls of a sample": 1,
    }  # fmt: skip


def test_samples_with_dots_in_their_names_are_rejected_one_by_one(tmp_path: Path) -> None:
    dotted = [
        (f"s.{n}.{ending}", RED_IMAGE if ending == "jpg" else b"w") for n in range(9) for ending in ("jpg", "txt")
    ]
    images = [(f"t.{n}.png", RED_IMAGE) for n in range(3)]
    texts = [(f"u.{n}.txt", b"w") for n in range(2)]
    whole = [("s.jpg", RED_IMAGE), ("s.txt", b"w"), ("s.mask.png", RED_IMAGE)]
    odd = [("v.input.jpg", RED_IMAGE), ("v.output.txt", b"w")]
    write_tar(tmp_path / "a.tar", [*dotted, *whole, *images, *texts, *odd])
    records, notices = captions_and_notices(tmp_path)
    assert [reason for _, reason in rejected(records)] == ["dots in key"] * 14 + ["no image"]
    assert [record.id for record in valid(records)] == ["s"]
    assert notices["tar member: .mask.png of a sample"] == 1


@pytest.mark.parametrize("second", ["png", "jpeg", "webp", "gif", "JPG"])
def test_two_images_of_one_key_are_rejected(tmp_path: Path, second: str) -> None:
    write_tar(tmp_path / "a.tar", [("1.jpg", RED_IMAGE), (f"1.{second}", RED_IMAGE), ("1.txt", b"w")])
    reason = "duplicate key" if second == "JPG" else "several images"
    assert rejection_reasons(tmp_path, "captions") == [reason]


@pytest.mark.parametrize("ending", ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "JPG", "Png"])
def test_images_of_every_ending_are_read(tmp_path: Path, ending: str) -> None:
    write_tar(tmp_path / "a.TAR", [(f"1.{ending}", RED_IMAGE), ("1.TXT", b"\xef\xbb\xbfw")])
    [record] = read_all(source_at(tmp_path), "captions")
    assert isinstance(record, ImageText)
    assert record.caption == "w"


def test_marks_in_json_members_and_captions(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    members = [("1.png", RED_IMAGE), ("1.json", mark + b'{"caption": "w"}'), ("2.png", RED_IMAGE), ("2.txt", mark)]
    write_tar(tmp_path / "a.tar", [*members, ("3.png", RED_IMAGE), ("3.txt", "\u200b".encode())])
    records = read_all(source_at(tmp_path), "captions")
    assert [record.caption for record in valid(records)] == ["w"]
    assert [reason for _, reason in rejected(records)] == ["empty caption"] * 2
    write_tar(tmp_path / "a.tar", [("1.png", RED_IMAGE), ("1.syn.json", mark + syn("s"))])
    [record] = read_all(source_at(tmp_path), "captions", recaptioned(Share(1)))
    assert isinstance(record, ImageText)
    assert record.caption == "s"
