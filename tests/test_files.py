"""Files: whole or not at all, digests as the standard library's, lines with their numbers."""

from __future__ import annotations

import ast
import errno
import fcntl
import hashlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight import files
from firstsight.errors import DataError, ModelError, StoreError
from firstsight.files import (
    atomic_file,
    cached_bytes,
    file_lock,
    file_sha256,
    is_temporary,
    link_or_copy,
    read_cached_json,
    read_json,
    read_jsonl,
    read_weight_map,
    staged_folder,
    write_atomic,
    write_json,
)


@pytest.mark.parametrize("sync", [False, True])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "folder" / "file.txt"
    write_atomic(path, "old", sync=sync)
    with pytest.raises(UnicodeEncodeError):
        write_atomic(path, "\ud800", sync=sync)
    assert path.read_text() == "old"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


@given(name=st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_every_unfinished_file_has_a_temporary_name(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("folder", numbered=True) / f"a{name}"
    with atomic_file(path) as temporary:
        assert temporary.parent == path.parent and is_temporary(temporary) and not is_temporary(path)
        temporary.touch()
    assert list(path.parent.iterdir()) == [path]


WRITE_PART = """
import os, resource, signal, sys
from pathlib import Path
from typing import BinaryIO
from firstsight.files import atomic_file
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with atomic_file(Path(sys.argv[1])) as temporary, temporary.open("wb") as file:
    file.write(b"new" * 1000)
    file.flush()
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    file.write(b"new" * 100_000)
"""


@pytest.mark.parametrize("fault", ["kill", "full disk"])
def test_a_part_of_a_file_never_has_its_name(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    process = subprocess.run([sys.executable, "-c", WRITE_PART, path, fault], capture_output=True, text=True)
    assert path.read_text() == "old"
    leftovers = [file for file in tmp_path.iterdir() if file != path]
    if fault == "kill":
        assert process.returncode == -signal.SIGKILL
        assert len(leftovers) == 1 and is_temporary(leftovers[0])
    else:
        assert "File too large" in process.stderr and not leftovers
    write_atomic(path, "newer")
    assert path.read_text() == "newer" and list(tmp_path.iterdir()) == [path]


def test_the_temporaries_of_a_folder_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, scandir = list[object](), os.scandir
    monkeypatch.setattr("os.scandir", lambda folder: (listed.append(folder), scandir(folder))[1])
    abandoned = [tmp_path / f".{name}.0123abcd.tmp" for name in ("0", "another")]
    for path in abandoned:
        path.touch()
    for number in range(50):
        write_atomic(tmp_path / str(number), "")
    assert listed == [tmp_path] and not any(map(os.path.exists, abandoned))


def test_a_temporary_that_was_removed_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, count = fcntl.flock, 0

    def remove_first(file: BinaryIO, operation: int) -> None:
        nonlocal count
        count += 1
        if count == 1:
            Path(file.name).unlink()
        lock(file, operation)

    monkeypatch.setattr("fcntl.flock", remove_first)
    write_atomic(tmp_path / "a", "content")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and count == 2


def test_a_file_system_without_locks_has_no_abandoned_temporaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    other = tmp_path / ".b.0123abcd.tmp"  # of a process that may live: nothing tells
    other.touch()
    write_atomic(tmp_path / "a", "content")
    assert (tmp_path / "a").read_text() == "content" and other.exists()


@given(content=st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()))
def test_equal_json_has_equal_bytes(tmp_path_factory: pytest.TempPathFactory, content: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("folder", numbered=True) / "a.json"
    write_json(path, content)
    first = path.read_bytes()
    write_json(path, dict(reversed(content.items())))
    assert path.read_bytes() == first and first.endswith(b"}\n") and read_json(path, advice="") == content


def test_numbers_that_json_does_not_have_are_not_written(tmp_path: Path) -> None:
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "a.json", {"loss": number})
    assert not list(tmp_path.iterdir())


def test_writers_of_one_file_leave_each_other_alone(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "file.txt"
    with atomic_file(path) as first, atomic_file(other) as third:
        for temporary in (first, third):
            temporary.write_text(temporary.name)
        with atomic_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == first.name and other.read_text() == third.name


DIRECT_WRITES = {
    "files.py": "atomic_file itself",
    "cli/score.py": "into a pipe or a device",
    "cli/terminal.py": "/dev/null",
    "data/prepare/shard_writer.py": "a part under another name",
    "evaluate/answer_cache.py": "appended, line by line",
    "evaluate/lm_eval/task_definitions.py": "in a temporary folder",
    "hub/export.py": "in a staged folder",
    "hub/fetch.py": "a part under another name, then renamed",
    "hub/import_.py": "in a staged folder",
    "hub/sidecars.py": "in a staged folder",
    "model/tensors.py": "in a hidden folder, then renamed",
    "plan/executor.py": "the log of a step",
    "report/pages/report_page.py": "a table into the file of open_atomic",
    "resume_folder.py": "appended, cut to the last resume point",
    "track.py": "appended, line by line",
    "train/encoder.py": "in a hidden folder, then renamed",
    "worker_process.py": "the log of a step",
    "workspace/preview.py": "in a temporary folder",
}
WRITERS = {"write_text", "write_bytes", "save_pretrained", "save_file", "write_parquet", "write_csv", "copyfile"}


def writes(node: ast.AST) -> bool:
    """Whether a call writes a file: a writer's method with a path, or `open` with a mode other than reading."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return (name in WRITERS and bool(node.args)) or (name == "open" and any(set(mode) & set("wax+") for mode in modes))


def test_files_are_written_through_atomic_file() -> None:
    package = Path(files.__file__).parent
    direct = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(map(writes, ast.walk(ast.parse(path.read_text()))))
    }
    assert direct == DIRECT_WRITES.keys()


@given(st.binary(max_size=64), st.data())
def test_cached_bytes_are_computed_once_and_again_where_the_file_is_damaged(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, data: st.DataObject
) -> None:
    calls: list[bytes] = []

    def compute() -> bytes:
        calls.append(content)
        return content

    path = tmp_path_factory.mktemp("cache") / "new" / "file"
    assert [cached_bytes(path, compute) for _ in range(3)] == [content] * 3 and len(calls) == 1
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = [whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], whole + b"x"]
    path.write_bytes(data.draw(st.sampled_from(damaged)))
    assert [cached_bytes(path, compute) for _ in range(2)] == [content] * 2 and len(calls) == 2
    assert path.read_bytes() == whole


def test_cached_bytes_without_a_folder_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert cached_bytes(tmp_path / "file" / "below", lambda: b"content") == b"content"


def test_a_linked_file_is_linked_or_copied_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the folders of the hub's cache, whose files are links."""
    (tmp_path / "blob").write_text("content")
    (tmp_path / "snapshot").mkdir()
    link = tmp_path / "snapshot" / "file"
    link.symlink_to("../blob")
    link_or_copy(link, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(tmp_path / "blob") and not (tmp_path / "linked").is_symlink()

    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    link_or_copy(link, tmp_path / "copied")
    assert (tmp_path / "copied").read_text() == "content" and not (tmp_path / "copied").is_symlink()
    assert not (tmp_path / "copied").samefile(tmp_path / "blob")


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


def test_a_staged_folder_replaces_the_old_one_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "stale").write_text("of a killed process")
    for content in ("first", "second"):
        with staged_folder(out) as folder:
            (folder / "file").write_text(content)
            assert not out.exists() or (out / "file").read_text() == "first"
        assert (out / "file").read_text() == content
        assert [path.name for path in out.iterdir()] == ["file"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_was_replaced_when_the_process_died_is_whole(tmp_path: Path) -> None:
    out, previous = tmp_path / "out", tmp_path / ".out.old"
    for existing in ((previous,), (previous, out)):  # killed between the renames, and before the old one was removed
        for folder in existing:
            folder.mkdir()
            (folder / "file").write_text(folder.name)
        with pytest.raises(StoreError), staged_folder(out):
            raise OSError(28, "No space left")
        assert list(tmp_path.iterdir()) == [out] and (out / "file").read_text() == existing[-1].name
        (out / "file").unlink()
        out.rmdir()


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyError("No space left"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_folder(tmp_path: Path, error: BaseException) -> None:
    with staged_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("old")
    kind = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StoreError
    with pytest.raises(kind), staged_folder(tmp_path / "out", errors=(KeyError,)) as folder:
        (folder / "file").write_text("new")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_a_shard_index_is_read_or_refused(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "one", "b": "two"}}')
    assert read_weight_map(index) == {"a": "one", "b": "two"}
    for text in ("{", "[]", '{"weight_map": 3}', "{}"):
        index.write_text(text)
        with pytest.raises(ModelError, match="wanted an index with a weight_map"):
            read_weight_map(index)


def test_a_full_disk_is_an_error_with_the_name_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as error_info, atomic_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error_info.value.filename == str(tmp_path / "a") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "wanted a record. Got Expecting property name"),
        (b"\xff\xfe{", "wanted a record. Got 'utf-16"),
        (b"\x80", "wanted a record. Got 'utf-8' codec"),
        (b"[" * 100_000, "wanted a record. Got maximum recursion depth"),
        (b"[1]", "wanted a record, a dict. Got [1]."),
        (b'{"a": 1}', "wanted a record with b. Got none."),
        (None, "wanted a record. Got No such file or directory."),
    ],
)
def test_damaged_json_of_firstsight_is_an_error_with_file_and_advice(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError) as error_info:
        read_json(tmp_path / "a.json", "a record", keys=["a", "b"], advice="Delete it.")
    assert str(error_info.value).startswith(f"{tmp_path}/a.json: {message}")
    assert str(error_info.value).endswith(" Delete it.")
    assert read_cached_json(tmp_path / "a.json") == ({"a": 1} if content == b'{"a": 1}' else None)
