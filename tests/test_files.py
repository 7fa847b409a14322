"""Files: whole or not at all, digests as the standard library's, lines with their numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from firstsight.errors import DataError
from firstsight.files import file_lock, file_sha256, link_or_copy, read_jsonl, write_atomic


@pytest.mark.parametrize("sync", [False, True])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "folder" / "file.txt"
    write_atomic(path, "old", sync=sync)
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800", sync=sync)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_digest_and_link_keep_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    write_atomic(tmp_path / "a", content)
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content
    assert file_sha256(tmp_path / "b") == hashlib.sha256(content).hexdigest()


def test_lines_are_numbered_and_blank_ones_left_out(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n\n[2]\n')
    assert list(read_jsonl(tmp_path / "lines.jsonl")) == [(1, {"a": 1}), (3, [2])]


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match=r"lines.jsonl, line 2: wanted JSON"):
        list(read_jsonl(tmp_path / "lines.jsonl"))


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "lock"
    with file_lock(path, is_blocking=True) as is_first_locked, file_lock(path, is_blocking=False) as is_second_locked:
        assert is_first_locked and not is_second_locked
    with file_lock(path, is_blocking=False) as is_locked:
        assert is_locked
