"""Copies of data sets, from folders that fsspec reads under file:// and memory://."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import RequestError
from firstsight.hub import fetch
from firstsight.hub.fetch import Fetched, RemoteFile, fetch_files
from firstsight.site import Progress
from tests.cli.command_line import refused

CONTENT = {
    "a.tar": b"a" * 300,
    "b.tar": b"b" * 500,
    "c/d.tar": b"d" * 200,
    "run.py": b"exit",
    "z.tar": b"z",
}


class Stopped(Exception):
    """A stop in the middle of a copy."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for name, data in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def copy(source: Path, out: Path, limit: int = 10_000, on_progress: Any = lambda _: None) -> Fetched:
    return fetch_files(f"file://{source}", out, limit=limit, pattern="*.tar", on_progress=on_progress)


def copied(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "fetch.json"}


def test_only_files_of_data_are_copied_with_their_digests(source: Path, tmp_path: Path) -> None:
    """Oracle: the source's own bytes, hashed by hashlib."""
    out, seen = tmp_path / "out", list[Progress]()
    assert copy(source, out, on_progress=seen.append) == Fetched(files=4, size=1001, files_left_out=0)
    expected = {name: data for name, data in CONTENT.items() if name.endswith(".tar")}
    assert copied(out) == expected
    record = json.loads((out / "fetch.json").read_bytes())["files"]
    assert {name: entry["sha256"] for name, entry in record.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in expected.items()
    }
    assert seen[-1].done == seen[-1].total == 1001
    assert [p.done for p in seen] == sorted(p.done for p in seen)


@pytest.mark.parametrize(("limit", "names"), [(300, 1), (799, 1), (800, 2), (999, 2), (1000, 3), (1001, 4)])
def test_the_limit_is_exact_in_bytes_of_files(source: Path, tmp_path: Path, limit: int, names: int) -> None:
    """Oracle: running sums of 300, 500, 200 and 1 bytes."""
    result = copy(source, tmp_path / "out", limit)
    assert (result.files, result.files_left_out) == (names, 4 - names)
    assert sum(len(data) for data in copied(tmp_path / "out").values()) == result.size <= limit


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 200))
@settings(max_examples=50)
def test_the_longest_beginning_within_the_limit_is_chosen(sizes: list[int], limit: int) -> None:
    files = [RemoteFile(name=str(n), path=str(n), size=size, sha256="", version="") for n, size in enumerate(sizes)]
    chosen, total = fetch._within_limit(files, limit)  # pyright: ignore[reportPrivateUsage]
    assert chosen == files[: len(chosen)] and total == sum(sizes[: len(chosen)]) <= limit
    assert len(chosen) == len(files) or total + sizes[len(chosen)] > limit


def test_a_stopped_copy_continues_inside_a_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the bytes that the source is asked for, and the whole copy."""
    monkeypatch.setattr(fetch, "CHUNK_BYTES", 100)
    out = tmp_path / "out"

    def stop(progress: Progress) -> None:
        if progress.done == 500:
            raise Stopped

    with pytest.raises(Stopped):
        copy(source, out, on_progress=stop)
    assert (out / "a.tar").read_bytes() == CONTENT["a.tar"] and not (out / "b.tar").exists()
    (part,) = out.glob("b.tar.*.part")
    assert part.read_bytes() == CONTENT["b.tar"][:200]
    steps = list[int]()
    copy(source, out, on_progress=lambda progress: steps.append(progress.done))
    assert steps[:3] == [300, 600, 700], "a is whole, and b goes on after 200 of its bytes"
    assert copied(out) == {name: data for name, data in CONTENT.items() if name.endswith(".tar")}
    steps.clear()
    copy(source, out, on_progress=lambda progress: steps.append(progress.done))
    assert steps == [300, 800, 1000, 1001], "nothing is copied again"


def test_another_version_of_a_file_starts_over(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    copy(source, out)
    (source / "a.tar").write_bytes(b"changed")
    copy(source, out)
    assert (out / "a.tar").read_bytes() == b"changed"


def test_a_digest_that_is_not_the_stated_one_is_refused(source: Path, tmp_path: Path) -> None:
    from fsspec.implementations.local import LocalFileSystem

    file = RemoteFile(name="a.tar", path=str(source / "a.tar"), size=300, sha256="0" * 64, version="v")
    target = tmp_path / "a.tar"
    with pytest.raises(RequestError, match="SHA-256 0000"):
        fetch._copy(LocalFileSystem(), file, target, done=0, total=300, on_progress=lambda _: None)  # pyright: ignore[reportPrivateUsage]
    assert not list(tmp_path.glob("a.tar*"))


def test_refusals_name_what_to_do(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RequestError, match=r"first a\.tar, with 300 B\. Raise --limit"):
        copy(source, out, 299)
    with pytest.raises(RequestError, match="Got none"):
        fetch_files(f"file://{source}", out, limit=9, pattern="*.zip", on_progress=lambda _: None)
    with pytest.raises(RequestError, match="nowhere"):
        fetch_files("nowhere://x", out, limit=9, pattern="*", on_progress=lambda _: None)
    copy(source, out)
    with pytest.raises(RequestError, match="Name a new folder"):
        fetch_files(f"file://{source / 'c'}", out, limit=900, pattern="*", on_progress=lambda _: None)


def test_a_wrong_limit_names_its_option(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, "fetch", "cc12m", "--limit", "foo", "--out", tmp_path / "new")
    assert message.startswith("error: --limit: wanted a size such as 64 MB") and not (tmp_path / "new").exists()
