"""Sources that change behind their index, disks that fill up, and indexes that were damaged: each is named."""

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
from firstsight.data.source_check import check_source_unchanged
from firstsight.errors import DataError, StepFailed

from .conftest import Workshop, words_of
from .prepared_sources import PreparedSource, caption_members, encode_image, prepare_source, write_tar


def captioned(workshop: Workshop) -> PreparedSource:
    """Two tars with ten different pictures each, prepared and read once."""
    folder = workshop.folder("source")
    for shard in range(2):
        members = caption_members(10)
        members |= {f"a{n}.png": encode_image(Image.effect_noise((32, 32), 90 + n), "PNG") for n in range(10)}
        write_tar(folder, members, f"0000{shard}.tar")
    found = prepare_source(workshop, folder, "captions")
    check_source_unchanged(found.index, found.location)
    assert len(found.images()) == 20
    return found


def test_a_shard_that_vanishes_is_named(workshop: Workshop) -> None:
    found = captioned(workshop)
    (workshop.root / "source" / "00001.tar").unlink()
    with pytest.raises(DataError, match=r"00001\.tar"):
        check_source_unchanged(found.index, found.location)
    with pytest.raises(DataError, match=r"00001\.tar.*prepare it again"):
        found.images()


def shortened(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """One bit of the first caption: the size stays, and so do the pictures."""
    at = data.index(b"w0")
    return data[: at + 1] + b"9" + data[at + 2 :]


def shifted(data: bytes) -> bytes:
    """Another sample in front and one behind it less: sizes stay, every picture lies elsewhere."""
    return data[2048:-10240] + data[:2048] + data[-10240:]


@pytest.mark.parametrize("change", [shortened, flipped, shifted])
def test_a_shard_that_changes_is_named(workshop: Workshop, change: Callable[[bytes], bytes]) -> None:
    found = captioned(workshop)
    file = workshop.root / "source" / "00000.tar"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=r"00000\.tar"):
        check_source_unchanged(found.index, found.location)
    if change is shortened:
        with pytest.raises(DataError, match=r"00000\.tar.*changed"):
            found.images()


def test_a_shard_that_was_only_copied_is_the_same(workshop: Workshop) -> None:
    found = captioned(workshop)
    file = workshop.root / "source" / "00000.tar"
    file.write_bytes(file.read_bytes())
    check_source_unchanged(found.index, found.location)


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.data.conftest import asked
from firstsight.data.prepare import prepare
from firstsight.errors import StepFailed
from firstsight.site import Location, Site
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
site = Site(sources={{"s": Location(path={source!r})}}, readers={readers})
try:
    prepare(asked("text"), inputs={{"tokenizer": Path({words!r})}}, out=Path({out!r}), site=site, on_progress=str)
except StepFailed as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize(("limit", "readers"), [(100_000, 1), (20_000, 2)])
def test_a_full_disk_is_named_and_the_next_try_is_whole(workshop: Workshop, limit: int, readers: int) -> None:
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
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 7, done.stderr
    assert "wanted room" in done.stdout
    with pytest.raises(DataError, match=r"no manifest\.json"):
        Index.open(out)
    again = prepare_source(workshop, folder, "text")
    whole = prepare_source(workshop, folder, "text", out="whole")
    assert again.index.digest == whole.index.digest
    assert len(again.index.samples) == 600


def tampered(index: Index, name: str, change: Callable[[np.ndarray], None]) -> Index:
    file = index.path / f"{name}.npy"
    array = np.load(file)
    change(array)
    np.save(file, array)
    return Index.open(index.path)


def swapped(array: np.ndarray) -> None:
    array[[2, 3]] = array[[3, 2]]


def lowered(array: np.ndarray) -> None:
    array["tokens_from"][3] -= 1


def negative(array: np.ndarray) -> None:
    array["tokens_count"][3] *= -1


def beyond(array: np.ndarray) -> None:
    array["shown_from"][3] = 10**6


def overlapping(array: np.ndarray) -> None:
    array["tokens_count"][3] += 1


def nowhere(array: np.ndarray) -> None:
    array["picture"][3] = 10**6


def below(array: np.ndarray) -> None:
    array["picture"][3] = -1


def late(array: np.ndarray) -> None:
    array["at"][3] = 100


DAMAGE = [
    *[("samples", one) for one in (swapped, lowered, negative, beyond, overlapping)],
    *[("shown", one) for one in (nowhere, below, late)],
]


@pytest.mark.parametrize(("name", "change"), DAMAGE)
def test_a_damaged_index_makes_no_rows(workshop: Workshop, name: str, change: Callable[[np.ndarray], None]) -> None:
    index = prepare_source(workshop, write_tar(workshop.folder("source"), caption_members(8)), "captions").index
    with pytest.raises(DataError, match=r"(?i)prepare it again"):
        pack(tampered(index, name, change), length=32, image_tokens=4, packing="one_image_per_row")


def test_an_index_with_a_shorter_array_is_refused(workshop: Workshop) -> None:
    index = prepare_source(workshop, write_tar(workshop.folder("source"), caption_members(8)), "captions").index
    for name in ("samples", "shown", "tokens", "loss", "images"):
        file = index.path / f"{name}.npy"
        kept = file.read_bytes()
        np.save(file, np.load(file)[:-1])
        with pytest.raises(DataError, match=rf"{name}\.npy: wanted"):
            Index.open(index.path)
        file.write_bytes(kept[:-1])
        with pytest.raises(DataError, match=rf"{name}\.npy"):
            Index.open(index.path)
        file.write_bytes(kept)


NOWHERE = [("offset", 10**9), ("offset", -5), ("size", 3), ("shard", 7), ("shard", -1)]


@pytest.mark.parametrize(("field", "value"), NOWHERE)
def test_a_picture_that_lies_nowhere_is_named(workshop: Workshop, field: str, value: int) -> None:
    found = prepare_source(workshop, write_tar(workshop.folder("source"), caption_members(8)), "captions")

    def change(array: np.ndarray) -> None:
        array[field][3] = value

    index = tampered(found.index, "images", change)
    with pytest.raises(DataError):
        ImageReader(index, found.location, None).read_images(np.arange(8))


def test_an_audit_of_what_is_left_counts_only_what_is_left(workshop: Workshop) -> None:
    """Pictures and captions that were set aside are no duplicates of those that stayed."""
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
    seen = find_duplicates(prepare_source(workshop, write_tar(workshop.folder("source"), members), "captions").index)
    assert (seen.images, seen.identical_images, seen.records, seen.repeated_texts) == (4, 1, 4, 1)


def test_step_failed_is_no_data_error() -> None:
    """A full disk is not the data's fault, so nothing may take it for a bad source."""
    assert not issubclass(StepFailed, DataError)
