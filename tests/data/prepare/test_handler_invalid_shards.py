"""Truncated shards, members that are not regular files, unsafe names, incomplete samples."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ..conftest import Workshop, add, picture, words_of
from ..prepared_sources import VALID_IMAGE, caption_members, check_refused, prepare_source, write_tar


@pytest.mark.parametrize("cut", ["nothing", "half a header", "half an image", "no closing block"])
def test_truncated_tar_writes_no_index(workshop: Workshop, cut: str) -> None:
    folder = write_tar(workshop.folder("source"), caption_members(20))
    file = folder / "00000.tar"
    with tarfile.open(file) as tar:
        image_offset, end = tar.getmembers()[20].offset_data, tar.getmembers()[-1].offset_data + 512
    size = {"nothing": 0, "half a header": 1024 + 200, "half an image": image_offset + 20, "no closing block": end}[cut]
    file.write_bytes(file.read_bytes()[:size])
    check_refused(workshop, folder, "captions", r"00000\.tar.*(truncated|closing block|empty)")


def test_truncated_tar_among_complete_ones_writes_no_index(workshop: Workshop) -> None:
    folder = write_tar(write_tar(workshop.folder("source"), caption_members(5)), caption_members(5), "00001.tar")
    data = (folder / "00001.tar").read_bytes()[:3000]
    (folder / "00001.tar").write_bytes(data)
    check_refused(workshop, folder, "captions", r"00001\.tar")


def test_compressed_tar_named_tar_writes_no_index(workshop: Workshop) -> None:
    file = write_tar(workshop.folder("source"), caption_members(3)) / "00000.tar"
    file.write_bytes(gzip.compress(file.read_bytes()))
    check_refused(workshop, file.parent, "captions", r"00000\.tar: a truncated tar, or none")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_table_writes_no_index(workshop: Workshop, share: float) -> None:
    file = workshop.folder("source") / "a.parquet"
    pq.write_table(pa.table({"text": [words_of([n % 200]) for n in range(5000)]}), file, row_group_size=500)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    check_refused(workshop, file.parent, "text", r"a\.parquet: not a table, or truncated")


def special_member(kind: bytes, target: str = "") -> Callable[[str], tarfile.TarInfo]:
    def make_member(name: str) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        return member

    return make_member


SPECIAL_MEMBERS = {
    "symlink": special_member(tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": special_member(tarfile.LNKTYPE, "a0.png"),
    "device": special_member(tarfile.CHRTYPE),
    "block device": special_member(tarfile.BLKTYPE),
    "pipe": special_member(tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", SPECIAL_MEMBERS)
def test_special_member_is_rejected(workshop: Workshop, kind: str) -> None:
    folder = workshop.folder("source")
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for name, data in caption_members(1).items():
            add(tar, name, data)
        tar.addfile(SPECIAL_MEMBERS[kind]("b.png"))
        add(tar, "b.txt", b"w7")
        add(tar, "c.png", VALID_IMAGE)
        add(tar, "c.txt", b"w8")
    prepared = prepare_source(workshop, folder, "captions")
    assert prepared.quarantine == [("not a plain file", "00000.tar", "b")]
    assert prepared.caption_words() == [[0], [8]]
    assert prepared.images() == [VALID_IMAGE, VALID_IMAGE]


@pytest.mark.parametrize("key", ["../escaped", "x/../../escaped", "/escaped", "/etc/escaped"])
def test_unsafe_name_is_rejected(workshop: Workshop, key: str) -> None:
    members = [
        *caption_members(1).items(),
        (f"{key}.png", VALID_IMAGE),
        (f"{key}.txt", b"w7"),
        ("c.png", VALID_IMAGE),
        ("c.txt", b"w8"),
    ]
    prepared = prepare_source(workshop, write_tar(workshop.folder("source"), members), "captions")
    assert [(reason, shard) for reason, shard, _ in prepared.quarantine] == [("unsafe path", "00000.tar")]
    assert prepared.caption_words() == [[0], [8]]
    assert not list(workshop.root.parent.rglob("escaped.png"))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "x/../../secret.png"])
def test_unsafe_image_name_is_rejected(workshop: Workshop, name: str) -> None:
    (workshop.root / "secret.png").write_bytes(VALID_IMAGE)
    turns = [{"from": "human", "value": "<image>\nw1"}, {"from": "gpt", "value": "w2"}]
    rows = [{"image": name, "conversations": turns}, {"image": "a.png", "conversations": turns}]
    prepared = prepare_source(workshop, workshop.dialogues(rows, ["a.png"]), "dialogues")
    assert [(reason, shard) for reason, shard, _ in prepared.quarantine] == [("unsafe path", "dialogues.json")]
    assert prepared.caption_words() == [[1, 2]]


def test_repeated_key_is_rejected(workshop: Workshop) -> None:
    members = [*caption_members(2).items(), ("a0.png", picture((9, 9, 9))), ("a0.txt", b"w9")]
    prepared = prepare_source(workshop, write_tar(workshop.folder("source"), members), "captions")
    assert prepared.quarantine == [("duplicate key", "00000.tar", "a0")]
    assert (prepared.caption_words(), prepared.images()) == ([[0], [1]], [VALID_IMAGE, VALID_IMAGE])


def test_repeated_member_is_rejected(workshop: Workshop) -> None:
    members = [
        ("a0.png", VALID_IMAGE),
        ("a0.txt", b"w1"),
        ("a0.txt", b"w2"),
        ("a1.png", VALID_IMAGE),
        ("a1.txt", b"w3"),
    ]
    prepared = prepare_source(workshop, write_tar(workshop.folder("source"), members), "captions")
    assert prepared.quarantine == [("duplicate key", "00000.tar", "a0")]
    assert prepared.caption_words() == [[3]]


@pytest.mark.parametrize(("member", "reason"), [("b_png", "no caption"), ("b_txt", "no image"), ("b_json", "no image")])
def test_incomplete_sample_is_rejected(workshop: Workshop, member: str, reason: str) -> None:
    data = {"b_png": VALID_IMAGE, "b_txt": b"w7", "b_json": b"{}"}[member]
    prepared = prepare_source(
        workshop, write_tar(workshop.folder("source"), caption_members(2, **{member: data})), "captions"
    )
    assert prepared.quarantine == [(reason, "00000.tar", "b")]
    assert prepared.caption_words() == [[0], [1]]
