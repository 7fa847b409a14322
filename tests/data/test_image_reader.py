"""Encoded images are read unchanged from local, table and remote sources, with as few requests as possible."""

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

from firstsight.data.image_reader import CHUNK_BYTES, MAX_OPEN_FILES, ImageReader, LRUCache, RemoteFiles
from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, SAMPLE_DTYPE, Index
from firstsight.data.readers.filesystem import SourceFolder, open_folder
from firstsight.data.records import SpecialTokenIds
from firstsight.errors import DataError
from firstsight.recipe.mixture import External
from firstsight.site import Location
from firstsight.units import Tokens
from tests.data.conftest import add, picture

IMAGES = [picture((number, 0, 7), side=8 + number) for number in range(12)]


def image_index(images: Sequence[tuple[int, int, int]], shards: Sequence[str]) -> Index:
    """An index with images only, each as (offset or row, size, shard)."""
    entries = np.zeros(len(images), dtype=IMAGE_DTYPE)
    for number, (offset, size, shard) in enumerate(images):
        entries[number] = (offset, size, 0, shard)
    return Index(
        path=Path(),
        form="captions",
        samples=np.zeros(0, dtype=SAMPLE_DTYPE),
        image_refs=np.zeros(0, dtype=IMAGE_REF_DTYPE),
        tokens=np.zeros(0, dtype=np.uint16),
        loss=np.zeros(0, dtype=np.uint8),
        images=entries,
        image_shards=tuple(shards),
        source_shards=(),
        source=External(name="s", form="captions", tokens=Tokens(0)),
        special_ids=SpecialTokenIds(end=0, human=5, answer=3, pad=6),
        tokenizer_digest="",
        source_digest="",
        digest="",
    )


def write_image_tar(file: Path, contents: Sequence[bytes]) -> list[tuple[int, int, int]]:
    """A tar of images, and (offset, size, 0) of each according to the standard library."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for number, content in enumerate(contents):
            add(tar, f"{number:05d}.png", content)
    with tarfile.open(file) as tar:
        return [(member.offset_data, member.size, 0) for member in tar]


def numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_images_from_tars_and_files_are_in_the_requested_order(tmp_path: Path) -> None:
    tar = write_image_tar(tmp_path / "main" / "sub" / "0.tar", IMAGES[:4])
    (tmp_path / "main" / "a.png").write_bytes(IMAGES[4])
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "b.png").write_bytes(IMAGES[5])
    index = image_index(
        [*tar, (0, len(IMAGES[4]), 1), (0, len(IMAGES[5]), 2)], ["sub/0.tar", "a.png", "pictures:b.png"]
    )
    reader = ImageReader(index, Location(path=str(tmp_path / "main"), pictures=str(tmp_path / "else")), None)
    order = [5, 0, 3, 0, 4, 1, 2, 5]
    assert reader.read_images(numbers(*order)) == [IMAGES[number] for number in order]
    assert reader.read_images(numbers()) == []


def test_changed_source_is_an_error(tmp_path: Path) -> None:
    entries = write_image_tar(tmp_path / "0.tar", IMAGES[:2])
    offset, size, _ = entries[1]
    reader = ImageReader(image_index(entries, ["0.tar"]), Location(path=str(tmp_path)), None)
    shard = str(tmp_path / "0.tar")
    os.truncate(shard, offset + 5)
    with pytest.raises(DataError, match=re.escape(f"{shard}: wanted {size} bytes at {offset}. Got 5. ") + ".*prepare"):
        reader.read_images(numbers(1))
    Path(shard).write_bytes(bytes(offset + size))
    with pytest.raises(DataError, match=r"wanted an image at .*Got b'\\x00"):
        reader.read_images(numbers(1))
    Path(shard).unlink()
    with pytest.raises(DataError, match=re.escape(shard) + ".*No such file.*put it back"):
        ImageReader(image_index(entries, ["0.tar"]), Location(path=str(tmp_path)), None).read_images(numbers(0))
    with pytest.raises(DataError, match="Name `pictures`"):
        ImageReader(image_index(entries, ["pictures:0.tar"]), Location(path=str(tmp_path)), None).read_images(
            numbers(0)
        )


def open_file_count() -> int:
    """The number of open files of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_number_of_open_files_is_bounded(tmp_path: Path) -> None:
    file_count = MAX_OPEN_FILES + 20
    for number in range(file_count):
        (tmp_path / f"{number}.png").write_bytes(IMAGES[number % 12])
    index = image_index(
        [(0, len(IMAGES[n % 12]), n) for n in range(file_count)], [f"{number}.png" for number in range(file_count)]
    )
    reader, before = ImageReader(index, Location(path=str(tmp_path)), None), open_file_count()
    assert reader.read_images(np.arange(file_count)) == [IMAGES[number % 12] for number in range(file_count)]
    assert open_file_count() - before == MAX_OPEN_FILES
    del reader
    assert open_file_count() == before


def test_threads_share_descriptors_that_are_dropped(tmp_path: Path) -> None:
    file_count = MAX_OPEN_FILES + 6
    for number in range(file_count):
        (tmp_path / f"{number}.png").write_bytes(IMAGES[number % 12])
    index = image_index(
        [(0, len(IMAGES[n % 12]), n) for n in range(file_count)], [f"{number}.png" for number in range(file_count)]
    )
    reader, rng = ImageReader(index, Location(path=str(tmp_path)), None), np.random.default_rng(0)
    draws = [rng.integers(0, file_count, 40) for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for draw, images in zip(draws, pool.map(reader.read_images, draws), strict=True):
            assert images == [IMAGES[number % 12] for number in draw.tolist()]


@given(st.integers(1, 20), st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 9)), max_size=40))
def test_lru_cache_drops_the_least_recently_used(max_weight: int, uses: list[tuple[str, int]]) -> None:
    """Oracle: from the latest use backwards, keys are stored while their weights fit."""
    weights = {name: len(name) * 0 + weight for name, weight in reversed(uses)}
    calls = Counter[str]()
    cache = LRUCache[str](max_weight, weight_of=weights.__getitem__)
    stored: list[str] = []
    for name, _ in uses:
        assert cache.get(name, lambda name=name: calls.update([name]) or name) == name
        stored = [item for item in stored if item != name] + [name]
        while sum(weights[item] for item in stored) > max_weight and len(stored) > 1:
            stored.pop(0)
    before = calls.copy()
    for name in stored:
        cache.get(name, lambda name=name: calls.update([name]) or name)
    assert calls == before, "a stored value was made again"


def write_table(root: Path, form: str, cells: list[Any]) -> str:
    """A table of twelve images in groups of five, with a second column `other`."""
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
def test_images_from_tables(tmp_path: Path, form: str, struct: bool) -> None:
    cells = [{"bytes": content, "path": "x"} for content in IMAGES] if struct else IMAGES
    name = write_table(tmp_path, form, cells)
    index = image_index([(row, len(content), 0) for row, content in enumerate(IMAGES)], [f"{name}#shot"])
    order = [11, 0, 4, 5, 9, 10, 0]
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/{form}{struct}/{name}", (tmp_path / name).read_bytes())
    for path in (str(tmp_path), f"memory://{form}{struct}"):
        images = ImageReader(index, Location(path=path), tmp_path / "cache").read_images(numbers(*order))
        assert images == [IMAGES[number] for number in order]


def test_changed_table_is_an_error(tmp_path: Path) -> None:
    name = write_table(tmp_path, "parquet", IMAGES)
    for column, row, message in [("shot", 12, "a table of 12 rows"), ("gone", 0, "gone")]:
        index = image_index([(row, 5, 0)], [f"{name}#{column}"])
        with pytest.raises(DataError, match=message):
            ImageReader(index, Location(path=str(tmp_path)), None).read_images(numbers(0))
    (tmp_path / name).write_bytes(b"what is this?")
    with pytest.raises(DataError, match="neither parquet nor arrow"):
        ImageReader(image_index([(0, 5, 0)], [f"{name}#shot"]), Location(path=str(tmp_path)), None).read_images(
            numbers(0)
        )


class CountingFileSystem(LocalFileSystem):
    """A file system that logs the requested ranges."""

    protocol = "counting"
    cachable = False

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.log = log

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        with self.log.open("a") as log:
            log.write(f"{Path(path).name} {start} {end}\n")
        return super().cat_file(path, start=start, end=end, **options)


def counting_folder(root: Path, contents: bytes) -> tuple[SourceFolder, Path]:
    (root / "far").mkdir()
    (root / "far" / "shard").write_bytes(contents)
    log = root / "log"
    log.touch()
    return SourceFolder(
        original_path="far", filesystem=CountingFileSystem(log), base_path=str(root / "far"), selected_names=None
    ), log


CONTENTS = np.random.default_rng(0).bytes(10_000)


@given(offset=st.integers(0, 10_100), size=st.integers(0, 4_000), block=st.integers(1_000, 12_000))
def test_blocks_join_to_the_file(tmp_path_factory: pytest.TempPathFactory, offset: int, size: int, block: int) -> None:
    root = tmp_path_factory.mktemp("blocks")
    folder, _ = counting_folder(root, CONTENTS)
    assert (
        RemoteFiles(folder, root / "cache", block_size=block).read("shard", offset, size)
        == CONTENTS[offset : offset + size]
    )
    assert RemoteFiles(folder, None).read("shard", offset, size) == CONTENTS[offset : offset + size]


def test_each_block_is_fetched_once_by_all_threads_and_processes(tmp_path: Path) -> None:
    folder, log = counting_folder(tmp_path, CONTENTS)
    ranges = [(start, 700) for start in range(0, 9_300, 310)]

    def work() -> None:
        files = RemoteFiles(folder, tmp_path / "cache", block_size=1_000)
        with ThreadPoolExecutor(4) as pool:
            images = list(pool.map(lambda item: files.read("shard", *item), ranges))
        assert images == [CONTENTS[start : start + size] for start, size in ranges]

    processes = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    work()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(log.read_text().splitlines()) == sorted(f"shard {at} {at + 1_000}" for at in range(0, 10_000, 1_000))


def test_cache_is_bounded_and_drops_the_least_recently_used(tmp_path: Path) -> None:
    folder, log = counting_folder(tmp_path, CONTENTS)
    stored_size = 1_000 + 32  # with its digest
    files = RemoteFiles(folder, tmp_path / "cache", block_size=1_000, max_bytes=3 * stored_size)

    def blocks() -> list[Path]:
        return [file for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"]

    for age, number in enumerate([0, 1, 2]):
        before = set(blocks())
        files.read("shard", number * 1_000, 10)
        [fresh] = set(blocks()) - before
        os.utime(fresh, (age, age))
    files.read("shard", 5, 10)
    files.read("shard", 7_000, 10)
    assert sum(file.stat().st_size for file in blocks()) == 3 * stored_size
    requests = len(log.read_text().splitlines())
    files.read("shard", 0, 10)
    files.read("shard", 2_000, 10)
    assert len(log.read_text().splitlines()) == requests, "block 0 was used again and block 2 is newer than block 1"
    assert files.read("shard", 1_000, 10) == CONTENTS[1_000:1_010]
    assert len(log.read_text().splitlines()) == requests + 1


LONG_CONTENTS = np.random.default_rng(1).bytes(200_000)


@given(damage=st.sampled_from(["flip", "cut"]), position=st.integers(0), first=st.integers(0, 199_999))
def test_no_changed_byte_of_a_cached_block_is_used(
    tmp_path_factory: pytest.TempPathFactory, damage: str, position: int, first: int
) -> None:
    root = tmp_path_factory.mktemp("damage")
    folder, log = counting_folder(root, LONG_CONTENTS)
    files = RemoteFiles(folder, root / "cache")
    files.read("shard", 0, 10)
    [block] = (file for file in (root / "cache").iterdir() if file.suffix != ".lock")
    stored = bytearray(block.read_bytes())
    position %= len(stored)
    if damage == "flip":
        stored[position] ^= 1
    block.write_bytes(stored if damage == "flip" else stored[:position])
    size = min(40_000, len(LONG_CONTENTS) - first)
    assert files.read("shard", first, size) == LONG_CONTENTS[first : first + size]
    chunks = range(first // CHUNK_BYTES, (first + size - 1) // CHUNK_BYTES + 1)
    damaged_chunk = position // (CHUNK_BYTES + 32)
    is_read = damaged_chunk in chunks if damage == "flip" else damaged_chunk <= chunks[-1]
    assert len(log.read_text().splitlines()) == 1 + is_read


def test_a_folder_in_place_of_a_block_is_replaced(tmp_path: Path) -> None:
    folder, _ = counting_folder(tmp_path, CONTENTS)
    files = RemoteFiles(folder, tmp_path / "cache")
    files.read("shard", 0, 10)
    [block] = (file for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock")
    block.unlink()
    (block / "x").mkdir(parents=True)
    assert files.read("shard", 5, 100) == CONTENTS[5:105]


def test_damaged_block_and_new_version_are_fetched_again(tmp_path: Path) -> None:
    folder, log = counting_folder(tmp_path, CONTENTS)
    files = RemoteFiles(folder, tmp_path / "cache", block_size=20_000)
    files.read("shard", 0, 10)
    [block] = [file for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"]
    os.truncate(block, 100)
    assert files.read("shard", 50, 100) == CONTENTS[50:150]
    (tmp_path / "far" / "shard").write_bytes(CONTENTS[::-1])
    os.utime(tmp_path / "far" / "shard", (5, 5))
    assert RemoteFiles(folder, tmp_path / "cache", block_size=20_000).read("shard", 0, 10) == CONTENTS[::-1][:10]
    assert len(log.read_text().splitlines()) == 3


class RangeHandler(SimpleHTTPRequestHandler):
    """A file server with range requests that counts the ranges it sends."""

    sent_ranges: Counter[str]

    def do_GET(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(byte_range[1]), min(int(byte_range[2]), len(data) - 1)) if byte_range else (0, len(data) - 1)
        self.sent_ranges[f"{first}-{last}"] += 1
        self.send_response(206 if byte_range else 200)
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
    handler = type("Handler", (RangeHandler,), {"sent_ranges": Counter[str]()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "far")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", handler.sent_ranges
    server.shutdown()
    thread.join()
    server.server_close()


def test_web_server_equals_disk_in_one_request(tmp_path: Path, served: tuple[str, Counter[str]]) -> None:
    pytest.importorskip("aiohttp")
    url, counts = served
    index = image_index(write_image_tar(tmp_path / "far" / "0.tar", IMAGES), ["0.tar"])
    local_reader, expected = ImageReader(index, Location(path=str(tmp_path / "far")), None), numbers(7, 3, 11, 0)
    folder = ImageReader(index, Location(path=url), tmp_path / "cache")
    assert (
        folder.read_images(expected)
        == local_reader.read_images(expected)
        == [IMAGES[7], IMAGES[3], IMAGES[11], IMAGES[0]]
    )
    assert ImageReader(index, Location(path=url), tmp_path / "cache").read_images(np.arange(12)) == IMAGES
    whole = (tmp_path / "far" / "0.tar").stat().st_size
    assert dict(counts) == {f"0-{whole - 1}": 1}, "all images are in one block"
    os.truncate(tmp_path / "far" / "0.tar", whole // 2)
    with pytest.raises(DataError, match=re.escape(url)):
        ImageReader(index, Location(path=url), tmp_path / "other").read_images(numbers(11))


def test_memory_filesystem(tmp_path: Path) -> None:
    entries = write_image_tar(tmp_path / "0.tar", IMAGES)
    fsspec.filesystem("memory").pipe("/room/0.tar", (tmp_path / "0.tar").read_bytes())
    index = image_index(entries, ["0.tar"])
    assert not open_folder("memory://room").is_local
    for cache in (tmp_path / "cache", None):
        assert ImageReader(index, Location(path="memory://room"), cache).read_images(np.arange(12)) == IMAGES
