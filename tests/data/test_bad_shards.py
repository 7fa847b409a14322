"""Shards that break off, members that are no plain files, names that lead elsewhere, samples that lack a part."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .conftest import Workshop, add, picture, words_of
from .spoilt import GOOD, pairs, refuses, run, tarred


@pytest.mark.parametrize("left", ["nothing", "half a header", "half a picture", "no closing block"])
def test_a_truncated_tar_publishes_nothing(workshop: Workshop, left: str) -> None:
    folder = tarred(workshop.folder("source"), pairs(20))
    file = folder / "00000.tar"
    with tarfile.open(file) as tar:
        picture_at, end = tar.getmembers()[20].offset_data, tar.getmembers()[-1].offset_data + 512
    size = {"nothing": 0, "half a header": 1024 + 200, "half a picture": picture_at + 20, "no closing block": end}[left]
    file.write_bytes(file.read_bytes()[:size])
    refuses(workshop, folder, "captions", r"00000\.tar.*(truncated|closing block|empty)")


def test_a_truncated_tar_among_whole_ones_publishes_nothing(workshop: Workshop) -> None:
    folder = tarred(tarred(workshop.folder("source"), pairs(5)), pairs(5), "00001.tar")
    cut = (folder / "00001.tar").read_bytes()[:3000]
    (folder / "00001.tar").write_bytes(cut)
    refuses(workshop, folder, "captions", r"00001\.tar")


def test_a_packed_tar_that_is_called_plain_publishes_nothing(workshop: Workshop) -> None:
    file = tarred(workshop.folder("source"), pairs(3)) / "00000.tar"
    file.write_bytes(gzip.compress(file.read_bytes()))
    refuses(workshop, file.parent, "captions", r"00000\.tar: a truncated tar, or none")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_table_that_breaks_off_publishes_nothing(workshop: Workshop, share: float) -> None:
    file = workshop.folder("source") / "a.parquet"
    pq.write_table(pa.table({"text": [words_of([n % 200]) for n in range(5000)]}), file, row_group_size=500)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    refuses(workshop, file.parent, "text", r"a\.parquet: not a table, or truncated")


def link(kind: bytes, target: str = "") -> Callable[[str], tarfile.TarInfo]:
    def made(name: str) -> tarfile.TarInfo:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        return member

    return made


STRANGE = {
    "symlink": link(tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": link(tarfile.LNKTYPE, "a0.png"),
    "device": link(tarfile.CHRTYPE),
    "block device": link(tarfile.BLKTYPE),
    "pipe": link(tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_member_that_is_no_plain_file_is_set_aside(workshop: Workshop, kind: str) -> None:
    folder = workshop.folder("source")
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for name, data in pairs(1).items():
            add(tar, name, data)
        tar.addfile(STRANGE[kind]("b.png"))
        add(tar, "b.txt", b"w7")
        add(tar, "c.png", GOOD)
        add(tar, "c.txt", b"w8")
    found = run(workshop, folder, "captions")
    assert found.quarantine == [("not a plain file", "00000.tar", "b")]
    assert found.captions() == [[0], [8]]
    assert found.pictures() == [GOOD, GOOD]


@pytest.mark.parametrize("key", ["../b", "x/../../b", "/b", "/etc/b"])
def test_a_name_that_leads_elsewhere_is_set_aside(workshop: Workshop, key: str) -> None:
    members = [*pairs(1).items(), (f"{key}.png", GOOD), (f"{key}.txt", b"w7"), ("c.png", GOOD), ("c.txt", b"w8")]
    found = run(workshop, tarred(workshop.folder("source"), members), "captions")
    assert [(reason, shard) for reason, shard, _ in found.quarantine] == [("unsafe path", "00000.tar")]
    assert found.captions() == [[0], [8]]
    assert not list(workshop.root.parent.rglob("b.png"))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "x/../../secret.png"])
def test_a_dialogue_that_names_a_file_elsewhere_is_set_aside(workshop: Workshop, name: str) -> None:
    (workshop.root / "secret.png").write_bytes(GOOD)
    said = [{"from": "human", "value": "<image>\nw1"}, {"from": "gpt", "value": "w2"}]
    rows = [{"image": name, "conversations": said}, {"image": "a.png", "conversations": said}]
    found = run(workshop, workshop.dialogues(rows, ["a.png"]), "dialogues")
    assert [(reason, shard) for reason, shard, _ in found.quarantine] == [("unsafe path", "dialogues.json")]
    assert found.captions() == [[1, 2]]


def test_a_key_that_comes_again_later_is_set_aside(workshop: Workshop) -> None:
    members = [*pairs(2).items(), ("a0.png", picture((9, 9, 9))), ("a0.txt", b"w9")]
    found = run(workshop, tarred(workshop.folder("source"), members), "captions")
    assert found.quarantine == [("duplicate key", "00000.tar", "a0")]
    assert (found.captions(), found.pictures()) == ([[0], [1]], [GOOD, GOOD])


def test_a_member_that_stands_twice_in_its_sample_is_set_aside(workshop: Workshop) -> None:
    members = [("a0.png", GOOD), ("a0.txt", b"w1"), ("a0.txt", b"w2"), ("a1.png", GOOD), ("a1.txt", b"w3")]
    found = run(workshop, tarred(workshop.folder("source"), members), "captions")
    assert found.quarantine == [("duplicate key", "00000.tar", "a0")]
    assert found.captions() == [[3]]


@pytest.mark.parametrize(
    ("member", "reason"), [("b_png", "no caption"), ("b_txt", "no picture"), ("b_json", "no picture")]
)
def test_a_sample_without_all_its_members_is_set_aside(workshop: Workshop, member: str, reason: str) -> None:
    data = {"b_png": GOOD, "b_txt": b"w7", "b_json": b"{}"}[member]
    found = run(workshop, tarred(workshop.folder("source"), pairs(2, **{member: data})), "captions")
    assert found.quarantine == [(reason, "00000.tar", "b")]
    assert found.captions() == [[0], [1]]
