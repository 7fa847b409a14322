"""Full disks and damaged indexes: errors name what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from firstsight.data.audit import find_duplicates
from firstsight.data.image_reader import ImageReader
from firstsight.data.index import Index
from firstsight.data.packing import pack
from firstsight.errors import DataError, StepFailed

from .conftest import Workshop, words_of
from .prepared_sources import caption_members, encode_image, prepare_source, write_tar

FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.data.conftest import prepare_spec
from firstsight.data.prepare import prepare
from firstsight.errors import StepFailed
from firstsight.site import Location, Site
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
site = Site(sources={{"s": Location(path={source!r})}}, readers={readers})
try:
    inputs = {{"tokenizer": Path({words!r})}}
    prepare(prepare_spec("text"), inputs=inputs, out=Path({out!r}), site=site, on_progress=str)
except StepFailed as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize(("limit", "readers"), [(100_000, 1), (20_000, 2)])
def test_a_full_disk_is_named_and_a_second_try_succeeds(workshop: Workshop, limit: int, readers: int) -> None:
    """Files end at `limit` bytes: 20,000 is less than one shard's tokens, 100,000 less than those of all."""
    folder = workshop.folder("source")
    for shard in range(3):
        rows = "".join(json.dumps({"text": words_of(range(number % 7, 150))}) + "\n" for number in range(200))
        (folder / f"{shard}.jsonl").write_text(rows)
    out = workshop.folder("index")
    script = FULL.format(
        root=str(Path(__file__).parents[2]),
        source=str(folder),
        words=str(workshop.words()),
        out=str(out),
        limit=limit,
        readers=readers,
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert process.returncode == 7, process.stderr
    assert "wanted room" in process.stdout
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Index.open(out)
    second = prepare_source(workshop, folder, "text")
    reference = prepare_source(workshop, folder, "text", out="whole")
    assert second.index.digest == reference.index.digest
    assert len(second.index.samples) == 600


def damage_array(index: Index, name: str, change: Callable[[np.ndarray], None]) -> Index:
    file = index.path / f"{name}.npy"
    array = np.load(file)
    change(array)
    np.save(file, array)
    return Index.open(index.path)


def swap_samples(array: np.ndarray) -> None:
    array[[2, 3]] = array[[3, 2]]


def lower_start(array: np.ndarray) -> None:
    array["tokens_from"][3] -= 1


def negative_count(array: np.ndarray) -> None:
    array["tokens_count"][3] *= -1


def start_beyond_end(array: np.ndarray) -> None:
    array["shown_from"][3] = 10**6


def overlap(array: np.ndarray) -> None:
    array["tokens_count"][3] += 1


def image_beyond_end(array: np.ndarray) -> None:
    array["picture"][3] = 10**6


def negative_image(array: np.ndarray) -> None:
    array["picture"][3] = -1


def position_beyond_end(array: np.ndarray) -> None:
    array["at"][3] = 100


DAMAGE = [
    *[("samples", damage) for damage in (swap_samples, lower_start, negative_count, start_beyond_end, overlap)],
    *[("shown", damage) for damage in (image_beyond_end, negative_image, position_beyond_end)],
]


@pytest.mark.parametrize(("name", "change"), DAMAGE)
def test_a_damaged_index_is_not_packed(workshop: Workshop, name: str, change: Callable[[np.ndarray], None]) -> None:
    index = prepare_source(workshop, write_tar(workshop.folder("source"), caption_members(8)), "captions").index
    with pytest.raises(DataError, match=r"(?i)prepare it again"):
        pack(damage_array(index, name, change), length=32, image_tokens=4, packing="one_image_per_row")


def test_an_index_with_a_shorter_array_is_refused(workshop: Workshop) -> None:
    index = prepare_source(workshop, write_tar(workshop.folder("source"), caption_members(8)), "captions").index
    for name in ("samples", "shown", "tokens", "loss", "images"):
        file = index.path / f"{name}.npy"
        content = file.read_bytes()
        np.save(file, np.load(file)[:-1])
        with pytest.raises(DataError, match=rf"{name}\.npy: wanted"):
            Index.open(index.path)
        file.write_bytes(content[:-1])
        with pytest.raises(DataError, match=rf"{name}\.npy"):
            Index.open(index.path)
        file.write_bytes(content)


BAD_LOCATIONS = [("offset", 10**9), ("offset", -5), ("size", 3), ("shard", 7), ("shard", -1)]


@pytest.mark.parametrize(("field", "value"), BAD_LOCATIONS)
def test_an_image_outside_its_shard_is_an_error(workshop: Workshop, field: str, value: int) -> None:
    prepared = prepare_source(workshop, write_tar(workshop.folder("source"), caption_members(8)), "captions")

    def change(array: np.ndarray) -> None:
        array[field][3] = value

    index = damage_array(prepared.index, "images", change)
    with pytest.raises(DataError):
        ImageReader(index, prepared.location, None).read_images(np.arange(8))


def test_an_audit_does_not_count_rejected_records(workshop: Workshop) -> None:
    """Rejected images and captions are no duplicates of accepted ones."""
    noise = [encode_image(Image.effect_noise((32, 32), 60 + n), "PNG") for n in range(3)]
    members = {
        "a.png": noise[0],
        "a.txt": b"w1",
        "b.png": noise[1],
        "b.txt": b"w1",
        "c.png": noise[1],
        "c.txt": b"\0w1",
    }
    members |= {"d.png": noise[2], "d.txt": b"w3", "e.png": noise[0], "e.txt": b"w4"}
    report = find_duplicates(prepare_source(workshop, write_tar(workshop.folder("source"), members), "captions").index)
    assert (report.images, report.identical_images, report.records, report.repeated_texts) == (4, 1, 4, 1)


def test_a_full_disk_is_no_data_error() -> None:
    """A full disk must not be handled like a bad source."""
    assert not issubclass(StepFailed, DataError)
