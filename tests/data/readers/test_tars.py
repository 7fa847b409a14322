"""Tars byte by byte: tars of the standard library are read, modified ones are refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.data.file_types import no_data_reason
from firstsight.data.readers import list_tar_members
from firstsight.data.readers.tars import read_tar_members
from firstsight.data.records import Notices
from firstsight.errors import DataError

from ..conftest import Workshop, add
from .reading import RED_IMAGE, read_all, rejected, source_at, valid

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def packed(files: dict[str, bytes], form: int = tarfile.GNU_FORMAT, **headers: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, pax_headers=headers) as tar:
        for name, data in files.items():
            add(tar, name, data)
    return buffer.getvalue()


class Pipe(io.BytesIO):
    """A stream that cannot seek."""

    def seekable(self) -> bool:
        return False

    def seek(self, *position: object) -> int:
        raise AssertionError(f"seek to {position}")


@given(
    files=st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=300)
                          .filter(lambda name: name not in (".", "..") and len(name.encode()) < 700),
                          st.binary(max_size=1200), max_size=4),
    form=st.sampled_from(FORMATS[1:]),
)  # fmt: skip
def test_members_equal_the_standard_library(files: dict[str, bytes], form: int) -> None:
    data = packed(files, form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if not no_data_reason(m.name)]
    for stream in (Pipe(data), io.BytesIO(data)):
        notices = Notices()
        members = list(read_tar_members(stream, "t", needs_content=lambda member: True, notices=notices))
        assert [(member.name, member.offset_data, member.size) for member, _ in members] == expected
        assert [content for _, content in members] == [files[name] for name, _, _ in expected]
        assert sum(count for count, _ in notices.entries.values()) == len(files) - len(expected)
    assert [
        member.offset_data for member, _ in read_tar_members(io.BytesIO(data), "t", needs_content=lambda member: False)
    ] == [offset for _, offset, _ in expected]


@given(st.data())
def test_truncation_anywhere_is_an_error(data: st.DataObject) -> None:
    tar_bytes = packed({"a.txt": b"x" * 700, "b" * 150: b"y"}, data.draw(st.sampled_from(FORMATS[1:])))
    end = len(tar_bytes.rstrip(b"\0"))
    cut = data.draw(st.integers(0, end))
    for stream in (Pipe(tar_bytes[:cut]), io.BytesIO(tar_bytes[:cut])):
        with pytest.raises(DataError, match="Copy it again"):
            list(read_tar_members(stream, "t", needs_content=lambda member: False))


def test_damaged_header_is_an_error() -> None:
    tar_bytes = bytearray(packed({"a": b"1", "b": b"2"}))
    tar_bytes[1024 + 3] ^= 1
    with pytest.raises(DataError, match="bad checksum"):
        list(read_tar_members(io.BytesIO(bytes(tar_bytes)), "t", needs_content=lambda member: False))


def test_two_tars_in_one_file_are_refused() -> None:
    with pytest.raises(DataError, match="continues after its closing block"):
        list(read_tar_members(io.BytesIO(packed({"a": b"1"}) * 2), "t", needs_content=lambda member: False))


def pax(name: str, data: bytes, **headers: str) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.pax_headers = len(data), headers
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("size", ["0", "1", "1536", "-512", "1e3"])
def test_member_with_two_sizes_is_refused(size: str) -> None:
    with pytest.raises(DataError, match="two sizes, 600 and"):
        list(read_tar_members(io.BytesIO(pax("a.png", b"x" * 600, size=size)), "t", needs_content=lambda member: True))


def test_member_with_equal_sizes_is_read() -> None:
    [(member, data)] = read_tar_members(
        io.BytesIO(pax("a.png", b"x" * 600, size="600")), "t", needs_content=lambda member: True
    )
    assert (member.size, data) == (600, b"x" * 600)


@pytest.mark.parametrize("headers", [{"path": "b.png"}, {"size": "3"}])
def test_global_header_that_renames_members_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(DataError, match="for all members"):
        list(
            read_tar_members(
                io.BytesIO(packed({"a": b"1"}, tarfile.PAX_FORMAT, **headers)), "t", needs_content=lambda member: True
            )
        )
    valid_tar = packed({"a": b"1"}, tarfile.PAX_FORMAT, comment="made by hand")
    assert [
        member.name for member, _ in read_tar_members(io.BytesIO(valid_tar), "t", needs_content=lambda member: True)
    ] == ["a"]


def test_names_in_extended_headers_are_checked(tmp_path: Path) -> None:
    deep = "x" * 120
    names = [f"../{deep}.png", f"/{deep}.png", f"a/../../{deep}.png"]
    for form in FORMATS[1:]:
        (tmp_path / "a.tar").write_bytes(packed(dict.fromkeys(names, RED_IMAGE), form))
        assert [reason for _, reason in rejected(read_all(source_at(tmp_path), "captions"))] == ["unsafe path"] * 3


def test_sparse_members_are_rejected_and_the_next_is_read(tmp_path: Path) -> None:
    sparse = pax("0.png", RED_IMAGE, **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    (tmp_path / "a.tar").write_bytes(
        sparse[: -(-len(sparse.rstrip(b"\0")) // 512) * 512] + packed({"1.png": RED_IMAGE, "1.txt": b"w1"})
    )
    members = read_all(source_at(tmp_path), "captions")
    assert rejected(members) == [("0", "not a plain file")]
    assert [member.id for member in valid(members)] == ["1"]


def test_old_gnu_sparse_headers_are_skipped() -> None:
    head = bytearray(tarfile.TarInfo("holes").tobuf(tarfile.GNU_FORMAT))
    head[156:157] = b"S"
    head[124:136] = b"00000000003\0"
    head[482] = 1
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    continuation = bytes(504) + b"\1" + bytes(7)
    tar = bytes(head) + continuation + bytes(512) + b"abc".ljust(512, b"\0") + packed({"next": b"1"})
    members = list(read_tar_members(Pipe(tar), "t", needs_content=lambda member: True))
    assert [(member.name, member.is_regular, data) for member, data in members] == [
        ("holes", False, b"abc"),
        ("next", True, b"1"),
    ]


def test_empty_file_and_html_are_refused(tmp_path: Path) -> None:
    for data in (b"", b"<html>" * 200):
        (tmp_path / "a.tar").write_bytes(data)
        with pytest.raises(DataError, match=r"a\.tar.*Copy it again"):
            list(list_tar_members(tmp_path / "a.tar"))


def test_folders_are_not_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("part")
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    assert list(list_tar_members(tmp_path / "a.tar")) == []


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_truncated_tar_is_an_error(workshop: Workshop, keep: float) -> None:
    file = workshop.captions([f"w{number}" for number in range(30)]) / "00000.tar"
    data = file.read_bytes()
    for cut in (int(len(data) * keep), int(len(data) * keep) // 512 * 512):
        file.write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"00000\.tar.*Copy it again"):
            list(read_all(source_at(file.parent), "captions"))


def test_tar_truncated_between_members_is_an_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "0.png", RED_IMAGE)
        add(tar, "0.txt", b"caption")
    file = tmp_path / "a.tar"
    file.write_bytes(file.read_bytes()[: 512 + -(-len(RED_IMAGE) // 512) * 512 + 2 * 512])
    with pytest.raises(DataError, match="without its closing block"):
        list(read_all(source_at(tmp_path), "captions"))
