"""Pictures' bytes come back as they were written, from wherever, asked for no more often than needed."""

from __future__ import annotations

import multiprocessing
import os
import re
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from firstsight.data.image_reader import MAX_OPEN_FILES, ImageReader, LRUCache, RemoteFiles
from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, SAMPLE_DTYPE, Index
from firstsight.data.readers.filesystem import SourceFolder, open_folder
from firstsight.data.records import SpecialTokenIds
from firstsight.errors import DataError
from firstsight.recipe.mixture import External
from firstsight.site import Location
from firstsight.units import Tokens
from tests.data.conftest import add, picture

SHOTS = [picture((number, 0, 7), side=8 + number) for number in range(12)]


def indexed(images: Sequence[tuple[int, int, int]], shards: Sequence[str]) -> Index:
    """An index of pictures alone: (offset or row, size, shard) each."""
    held = np.zeros(len(images), dtype=IMAGE_DTYPE)
    for number, (offset, size, shard) in enumerate(images):
        held[number] = (offset, size, 0, shard)
    return Index(
        path=Path(),
        form="captions",
        samples=np.zeros(0, dtype=SAMPLE_DTYPE),
        image_refs=np.zeros(0, dtype=IMAGE_REF_DTYPE),
        tokens=np.zeros(0, dtype=np.uint16),
        loss=np.zeros(0, dtype=np.uint8),
        images=held,
        image_shards=tuple(shards),
        source_shards=(),
        source=External(name="s", form="captions", tokens=Tokens(0)),
        special_ids=SpecialTokenIds(end=0, human=5, answer=3, pad=6),
        tokenizer_digest="",
        source_digest="",
        digest="",
    )


def packed(file: Path, shots: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """A tar of pictures, and where each lies in shard 0 as the standard library reads it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for number, shot in enumerate(shots):
            add(tar, f"{number:05d}.png", shot)
    with tarfile.open(file) as tar:
        return [(member.offset_data, member.size, 0) for member in tar]


def numbers(*wanted: int) -> np.ndarray:
    return np.array(wanted, dtype=np.int64)


def test_tars_loose_files_and_pictures_elsewhere_come_in_the_order_asked_for(tmp_path: Path) -> None:
    tar = packed(tmp_path / "main" / "sub" / "0.tar", SHOTS[:4])
    (tmp_path / "main" / "a.png").write_bytes(SHOTS[4])
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "b.png").write_bytes(SHOTS[5])
    index = indexed([*tar, (0, len(SHOTS[4]), 1), (0, len(SHOTS[5]), 2)], ["sub/0.tar", "a.png", "pictures:b.png"])
    fetch = ImageReader(index, Location(path=str(tmp_path / "main"), pictures=str(tmp_path / "else")), None)
    order = [5, 0, 3, 0, 4, 1, 2, 5]
    assert fetch.read_images(numbers(*order)) == [SHOTS[number] for number in order]
    assert fetch.read_images(numbers()) == []


def test_what_changed_is_refused_by_name(tmp_path: Path) -> None:
    places = packed(tmp_path / "0.tar", SHOTS[:2])
    offset, size, _ = places[1]
    fetch = ImageReader(indexed(places, ["0.tar"]), Location(path=str(tmp_path)), None)
    shard = str(tmp_path / "0.tar")
    os.truncate(shard, offset + 5)
    with pytest.raises(DataError, match=re.escape(f"{shard}: wanted {size} bytes at {offset}. Got 5. ") + ".*prepare"):
        fetch.read_images(numbers(1))
    Path(shard).write_bytes(bytes(offset + size))
    with pytest.raises(DataError, match=r"wanted an image at .*Got b'\\x00"):
        fetch.read_images(numbers(1))
    Path(shard).unlink()
    with pytest.raises(DataError, match=re.escape(shard) + ".*No such file.*put it back"):
        ImageReader(indexed(places, ["0.tar"]), Location(path=str(tmp_path)), None).read_images(numbers(0))
    with pytest.raises(DataError, match="Name `pictures`"):
        ImageReader(indexed(places, ["pictures:0.tar"]), Location(path=str(tmp_path)), None).read_images(numbers(0))


def handles() -> int:
    """Files that this process holds open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_few_handles_stay_open(tmp_path: Path) -> None:
    many = MAX_OPEN_FILES + 20
    for number in range(many):
        (tmp_path / f"{number}.png").write_bytes(SHOTS[number % 12])
    index = indexed([(0, len(SHOTS[n % 12]), n) for n in range(many)], [f"{number}.png" for number in range(many)])
    fetch, before = ImageReader(index, Location(path=str(tmp_path)), None), handles()
    assert fetch.read_images(np.arange(many)) == [SHOTS[number % 12] for number in range(many)]
    assert handles() - before == MAX_OPEN_FILES
    del fetch
    assert handles() == before


def test_threads_share_handles_that_are_dropped_meanwhile(tmp_path: Path) -> None:
    many = MAX_OPEN_FILES + 6
    for number in range(many):
        (tmp_path / f"{number}.png").write_bytes(SHOTS[number % 12])
    index = indexed([(0, len(SHOTS[n % 12]), n) for n in range(many)], [f"{number}.png" for number in range(many)])
    fetch, rng = ImageReader(index, Location(path=str(tmp_path)), None), np.random.default_rng(0)
    asked = [rng.integers(0, many, 40) for _ in range(40)]
    with ThreadPoolExecutor(4) as crew:
        for wanted, found in zip(asked, crew.map(fetch.read_images, asked), strict=True):
            assert found == [SHOTS[number % 12] for number in wanted.tolist()]


@given(st.integers(1, 20), st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 9)), max_size=40))
def test_the_recent_weigh_no_more_than_allowed(most: int, asked: list[tuple[str, int]]) -> None:
    """Oracle: walk back from the latest use and keep while there is room."""
    weights = {name: len(name) * 0 + weight for name, weight in reversed(asked)}
    made = Counter[str]()
    recent = LRUCache[str](most, weight_of=weights.__getitem__)
    kept: list[str] = []
    for name, _ in asked:
        assert recent.get(name, lambda name=name: made.update([name]) or name) == name
        kept = [one for one in kept if one != name] + [name]
        while sum(weights[one] for one in kept) > most and len(kept) > 1:
            kept.pop(0)
    before = made.copy()
    for name in kept:
        recent.get(name, lambda name=name: made.update([name]) or name)
    assert made == before, "what should be kept was made again"


def tables(root: Path, form: str, cells: list[Any]) -> str:
    """A table of twelve pictures in groups of five; a whole column `other` stands beside it."""
    table = pa.table({"other": list(range(12)), "shot": cells})
    name = f"{form}.table"
    if form == "parquet":
        parquet.write_table(table, root / name, row_group_size=5)
    else:
        opener = ipc.new_file if form == "file" else ipc.new_stream
        with opener(str(root / name), table.schema) as out:
            out.write_table(table, max_chunksize=5)
    return name


@pytest.mark.parametrize("form", ["parquet", "file", "stream"])
@pytest.mark.parametrize("struct", [False, True])
def test_tables_give_the_cell(tmp_path: Path, form: str, struct: bool) -> None:
    cells = [{"bytes": shot, "path": "x"} for shot in SHOTS] if struct else SHOTS
    name = tables(tmp_path, form, cells)
    index = indexed([(row, len(shot), 0) for row, shot in enumerate(SHOTS)], [f"{name}#shot"])
    order = [11, 0, 4, 5, 9, 10, 0]
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/{form}{struct}/{name}", (tmp_path / name).read_bytes())
    for place in (str(tmp_path), f"memory://{form}{struct}"):
        found = ImageReader(index, Location(path=place), tmp_path / "cache").read_images(numbers(*order))
        assert found == [SHOTS[number] for number in order]


def test_a_table_that_changed_is_refused(tmp_path: Path) -> None:
    name = tables(tmp_path, "parquet", SHOTS)
    for column, row, told in [("shot", 12, "a table of 12 rows"), ("gone", 0, "gone")]:
        index = indexed([(row, 5, 0)], [f"{name}#{column}"])
        with pytest.raises(DataError, match=told):
            ImageReader(index, Location(path=str(tmp_path)), None).read_images(numbers(0))
    (tmp_path / name).write_bytes(b"what is this?")
    with pytest.raises(DataError, match="neither parquet nor arrow"):
        ImageReader(indexed([(0, 5, 0)], [f"{name}#shot"]), Location(path=str(tmp_path)), None).read_images(numbers(0))


class Counting(LocalFileSystem):
    """A remote on this disk that writes down what it is asked for."""

    protocol = "counting"
    cachable = False

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        with self.log.open("a") as log:
            log.write(f"{Path(path).name} {start} {end}\n")
        return super().cat_file(path, start=start, end=end, **more)


def counting(root: Path, contents: bytes) -> tuple[SourceFolder, Path]:
    (root / "far").mkdir()
    (root / "far" / "shard").write_bytes(contents)
    log = root / "log"
    log.touch()
    return SourceFolder(
        original_path="far", filesystem=Counting(log), base_path=str(root / "far"), selected_names=None
    ), log


CONTENTS = np.random.default_rng(0).bytes(10_000)


@given(offset=st.integers(0, 10_100), size=st.integers(0, 4_000), block=st.integers(1_000, 12_000))
def test_blocks_join_to_what_lies_there(
    tmp_path_factory: pytest.TempPathFactory, offset: int, size: int, block: int
) -> None:
    root = tmp_path_factory.mktemp("blocks")
    far, _ = counting(root, CONTENTS)
    assert (
        RemoteFiles(far, root / "cache", block_size=block).read("shard", offset, size)
        == CONTENTS[offset : offset + size]
    )
    assert RemoteFiles(far, None).read("shard", offset, size) == CONTENTS[offset : offset + size]


def test_each_block_is_fetched_once_by_all_threads_and_processes(tmp_path: Path) -> None:
    far, log = counting(tmp_path, CONTENTS)
    ranges = [(start, 700) for start in range(0, 9_300, 310)]

    def work() -> None:
        shelf = RemoteFiles(far, tmp_path / "cache", block_size=1_000)
        with ThreadPoolExecutor(4) as crew:
            found = list(crew.map(lambda one: shelf.read("shard", *one), ranges))
        assert found == [CONTENTS[start : start + size] for start, size in ranges]

    crew = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
    for one in crew:
        one.start()
    work()
    for one in crew:
        one.join()
        assert one.exitcode == 0
    assert sorted(log.read_text().splitlines()) == sorted(f"shard {at} {at + 1_000}" for at in range(0, 10_000, 1_000))


def test_the_cache_stays_below_its_bound_and_the_longest_unused_go(tmp_path: Path) -> None:
    far, log = counting(tmp_path, CONTENTS)
    shelf = RemoteFiles(far, tmp_path / "cache", block_size=1_000, max_bytes=3_000)

    def blocks() -> list[Path]:
        return [file for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"]

    for age, number in enumerate([0, 1, 2]):
        before = set(blocks())
        shelf.read("shard", number * 1_000, 10)
        [fresh] = set(blocks()) - before
        os.utime(fresh, (age, age))
    shelf.read("shard", 5, 10)
    shelf.read("shard", 7_000, 10)
    assert sum(file.stat().st_size for file in blocks()) == 3_000
    asked = len(log.read_text().splitlines())
    shelf.read("shard", 0, 10)
    shelf.read("shard", 2_000, 10)
    assert len(log.read_text().splitlines()) == asked, "0 was used again and 2 is younger than 1"
    assert shelf.read("shard", 1_000, 10) == CONTENTS[1_000:1_010]
    assert len(log.read_text().splitlines()) == asked + 1


def test_a_damaged_block_and_another_version_are_fetched_anew(tmp_path: Path) -> None:
    far, log = counting(tmp_path, CONTENTS)
    shelf = RemoteFiles(far, tmp_path / "cache", block_size=20_000)
    shelf.read("shard", 0, 10)
    [block] = [file for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"]
    os.truncate(block, 100)
    assert shelf.read("shard", 50, 100) == CONTENTS[50:150]
    (tmp_path / "far" / "shard").write_bytes(CONTENTS[::-1])
    os.utime(tmp_path / "far" / "shard", (5, 5))
    assert RemoteFiles(far, tmp_path / "cache", block_size=20_000).read("shard", 0, 10) == CONTENTS[::-1][:10]
    assert len(log.read_text().splitlines()) == 3


class Ranges(SimpleHTTPRequestHandler):
    """A file server that knows ranges and counts what it sends."""

    sent: Counter[str]

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2]), len(data) - 1)) if asked else (0, len(data) - 1)
        self.sent[f"{first}-{last}"] += 1
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Counter[str]]]:
    """(URL of tmp_path/far, counts of the ranges that were sent)."""
    (tmp_path / "far").mkdir()
    handler = type("Handler", (Ranges,), {"sent": Counter[str]()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "far")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", handler.sent
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_server_gives_what_the_disk_gives_in_one_request(
    tmp_path: Path, served: tuple[str, Counter[str]]
) -> None:
    pytest.importorskip("aiohttp")
    url, sent = served
    index = indexed(packed(tmp_path / "far" / "0.tar", SHOTS), ["0.tar"])
    near, wanted = ImageReader(index, Location(path=str(tmp_path / "far")), None), numbers(7, 3, 11, 0)
    far = ImageReader(index, Location(path=url), tmp_path / "cache")
    assert far.read_images(wanted) == near.read_images(wanted) == [SHOTS[7], SHOTS[3], SHOTS[11], SHOTS[0]]
    assert ImageReader(index, Location(path=url), tmp_path / "cache").read_images(np.arange(12)) == SHOTS
    whole = (tmp_path / "far" / "0.tar").stat().st_size
    assert dict(sent) == {f"0-{whole - 1}": 1}, "all pictures lie in one block"
    os.truncate(tmp_path / "far" / "0.tar", whole // 2)
    with pytest.raises(DataError, match=re.escape(url)):
        ImageReader(index, Location(path=url), tmp_path / "other").read_images(numbers(11))


def test_memory_is_a_remote_too(tmp_path: Path) -> None:
    places = packed(tmp_path / "0.tar", SHOTS)
    fsspec.filesystem("memory").pipe("/room/0.tar", (tmp_path / "0.tar").read_bytes())
    index = indexed(places, ["0.tar"])
    assert not open_folder("memory://room").is_local
    for cache in (tmp_path / "cache", None):
        assert ImageReader(index, Location(path="memory://room"), cache).read_images(np.arange(12)) == SHOTS
