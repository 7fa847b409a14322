"""Files of a source: folders, files, patterns, URLs, splits, stamps and digests."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.data.readers import list_shards
from firstsight.data.readers.filesystem import expand_braces, open_folder
from firstsight.errors import DataError, RequestError

from ..conftest import Workshop
from .reading import read_all, read_shards, shard_names, source_at, valid, write_texts


def test_folder_is_read_recursively_by_name_without_hidden_files(tmp_path: Path) -> None:
    write_texts(tmp_path, "b.jsonl", "a/z.JSONL", "a/y.txt", ".cache/c.jsonl", "._b.jsonl")
    assert shard_names(source_at(tmp_path)) == ["a/z.JSONL", "b.jsonl"]
    assert shard_names(source_at(tmp_path / "b.jsonl")) == ["b.jsonl"]


def test_folder_links_are_followed_once(tmp_path: Path) -> None:
    write_texts(tmp_path / "real", "a.jsonl")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "back").symlink_to(tmp_path / "here")
    assert shard_names(source_at(tmp_path / "here")) == ["linked/a.jsonl"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("t-*.jsonl", ["t-0008.jsonl", "t-0009.jsonl", "t-0010.jsonl"]),
        ("t-{0009..0010}.jsonl", ["t-0009.jsonl", "t-0010.jsonl"]),
        ("{t-0008,u}.jsonl", ["t-0008.jsonl", "u.jsonl"]),
        ("t-00{08..09}.json?", ["t-0008.jsonl", "t-0009.jsonl"]),
        ("d?ep/*.jsonl", ["deep/v.jsonl"]),
    ],
)
def test_webdataset_patterns(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    write_texts(tmp_path, "t-0008.jsonl", "t-0009.jsonl", "t-0010.jsonl", "u.jsonl", "deep/v.jsonl")
    assert shard_names(source_at(tmp_path / pattern)) == expected


def test_range_with_gap_and_pattern_without_files_are_refused(tmp_path: Path) -> None:
    write_texts(tmp_path, "t-0.jsonl", "t-2.jsonl")
    for path, expected in {
        "t-{0..2}.jsonl": r"t-1\.jsonl, which does not exist",
        "x*": "Got none",
        "no": "Got no such path",
    }.items():
        with pytest.raises(DataError, match=expected):
            shard_names(source_at(tmp_path / path))


@given(first=st.integers(0, 300), count=st.integers(0, 20), width=st.integers(1, 5))
def test_brace_range_counts_with_leading_zeros(first: int, count: int, width: int) -> None:
    start = str(first).zfill(width)
    names = expand_braces(f"a{{{start}..{first + count}}}b")
    assert [int(name[1:-1]) for name in names] == list(range(first, first + count + 1))
    assert all(len(name) - 2 == max(len(start), len(str(int(name[1:-1])))) for name in names)


def test_several_braces_multiply() -> None:
    assert expand_braces("{a,b}-{1..2}") == ["a-1", "a-2", "b-1", "b-2"]


def test_stamp_changes_with_the_file_and_digest_is_sha256(tmp_path: Path) -> None:
    write_texts(tmp_path, "a.jsonl")
    [before] = list_shards(source_at(tmp_path), "text")
    [(_, digest)] = read_shards(source_at(tmp_path), "text")
    assert digest == hashlib.sha256((tmp_path / "a.jsonl").read_bytes()).hexdigest()
    os.utime(tmp_path / "a.jsonl", ns=(1, 1))
    [after] = list_shards(source_at(tmp_path), "text")
    assert (before.size, before.start, before.stop) == (after.size, 0, after.size)
    assert before.stamp != after.stamp


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[str]:
    """The URL of tmp_path/www on a web server without range requests."""
    pytest.importorskip("aiohttp", reason="http:// needs fsspec[http]")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *message: object) -> None:
            del message

    (tmp_path / "www").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www")))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def check_equal(local: Path, url: str, form: str) -> None:
    """A local folder and a URL have the same records and digests."""
    expected, records = list(read_shards(source_at(local), form)), list(read_shards(source_at(url), form))
    assert records == expected
    assert valid(read_all(source_at(url), form))


def sources(workshop: Workshop) -> dict[str, Path]:
    turns = [{"from": "human", "value": "<image>w1"}, {"from": "gpt", "value": "w2"}]
    rows = [{"id": str(number), "image": f"{number}.png", "conversations": turns} for number in range(3)]
    return {
        "text": workshop.texts([{"text": "w1"}, {"text": ""}]),
        "captions": workshop.captions(["w1", "w2 w3"]),
        "dialogues": workshop.dialogues(rows, ["0.png", "1.png"]),
    }


@pytest.mark.parametrize("form", ["text", "captions", "dialogues"])
def test_memory_filesystem_equals_disk(workshop: Workshop, form: str) -> None:
    local = sources(workshop)[form]
    memory = fsspec.filesystem("memory")
    for file in local.iterdir():
        memory.pipe(f"/{workshop.root.name}/{form}/{file.name}", file.read_bytes())
    url = f"memory://{workshop.root.name}/{form}"
    check_equal(local, url, form)
    stamps = [shard.stamp for shard in list_shards(source_at(url), form)]
    assert all(stamps)
    [pattern] = list_shards(
        source_at(f"{url}/*.{ {'text': 'jsonl', 'captions': 'tar', 'dialogues': 'json'}[form] }"), form
    )
    assert [pattern.stamp] == stamps


@pytest.mark.parametrize("form", ["text", "captions", "dialogues"])
def test_http_equals_disk(workshop: Workshop, remote: str, form: str) -> None:
    local = sources(workshop)[form]
    local.rename(workshop.root / "www" / form)
    check_equal(workshop.root / "www" / form, f"{remote}{form}/", form)
    if form == "text":
        assert shard_names(source_at(f"{remote}text/text-{{00000..00000}}.jsonl")) == ["text-00000.jsonl"]


def test_unknown_protocol_is_refused() -> None:
    with pytest.raises(RequestError, match="fsspec supports"):
        open_folder("gopher-x://a/b")


@pytest.mark.parametrize("closed", ["outer", "outer/source", "outer/source/a.jsonl"])
def test_a_place_without_permission_is_named(tmp_path: Path, closed: str) -> None:
    """It looks empty or absent to fsspec."""
    source, place = tmp_path / "outer" / "source", tmp_path / closed
    source.mkdir(parents=True)
    (source / "a.jsonl").write_text("{}")
    place.chmod(0)
    if os.access(place, os.R_OK):
        pytest.skip("this user may read everything")
    try:
        with pytest.raises(DataError, match=rf"Got no permission for {place}\. Give this user access"):
            open_folder(str(source / "a.jsonl" if place.suffix else source))
    finally:
        place.chmod(0o700)
