"""Changes of a source after it was prepared are detected and named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from firstsight.data.readers.source_reader import RecordReader, check_source_unchanged
from firstsight.errors import DataError
from firstsight.site import Location
from tests.data.conftest import Workshop, words_of
from tests.data.prepared_sources import PreparedSource, caption_members, encode_image, prepare_source, write_tar


@pytest.fixture
def three_shards(workshop: Workshop) -> Path:
    """A source of three shards."""
    folder = workshop.folder("three")
    for number in range(3):
        (folder / f"{number}.jsonl").write_text(json.dumps({"text": words_of([number, number])}) + "\n")
    return folder


def test_changed_bytes_are_refused_and_changed_times_are_not(workshop: Workshop, three_shards: Path) -> None:
    index, location = workshop.prepare(three_shards, "text"), Location(path=str(three_shards))
    check_source_unchanged(index, location, cache=workshop.cache)
    shard = three_shards / "1.jsonl"
    content = shard.read_bytes()
    os.utime(shard, ns=(1, 1))
    check_source_unchanged(index, location, cache=workshop.cache)
    shard.write_bytes(content.replace(b"w1", b"w2"))
    with pytest.raises(DataError, match=r"1\.jsonl: wanted bytes of digest .*prepare the source again"):
        check_source_unchanged(index, location, cache=workshop.cache)
    shard.write_bytes(content + b"\n")
    with pytest.raises(DataError, match=r"1\.jsonl: wanted the \d+ bytes that were prepared"):
        check_source_unchanged(index, location, cache=workshop.cache)
    shard.unlink()
    with pytest.raises(DataError, match=r"1\.jsonl: wanted the file that was prepared\. Got none"):
        check_source_unchanged(index, location, cache=workshop.cache)


def test_a_shard_is_read_again_only_if_its_stamp_changes(
    workshop: Workshop, three_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, location, names = workshop.prepare(three_shards, "text"), Location(path=str(three_shards)), list[str]()
    read = RecordReader.read
    monkeypatch.setattr(RecordReader, "read", lambda self, shard: (names.append(shard.name), read(self, shard))[1])
    check_source_unchanged(index, location, cache=workshop.cache)
    assert names == []
    os.utime(three_shards / "1.jsonl", ns=(1, 1))
    for _ in range(2):
        check_source_unchanged(index, location, cache=workshop.cache)
    assert names == ["1.jsonl"]
    for damage in (b"{", b'{"a": 3}', b"[]"):  # reads all shards rather than trust the file
        (file,) = workshop.cache.rglob("digests.json")
        file.write_bytes(damage)
        names.clear()
        check_source_unchanged(index, location, cache=workshop.cache)
        assert names == ["0.jsonl", "1.jsonl", "2.jsonl"]


def prepare_captions(workshop: Workshop) -> PreparedSource:
    """Two tars with ten different images each, prepared and read once."""
    folder = workshop.folder("source")
    for shard in range(2):
        members = caption_members(10)
        members |= {f"a{n}.png": encode_image(Image.effect_noise((32, 32), 90 + n), "PNG") for n in range(10)}
        write_tar(folder, members, f"0000{shard}.tar")
    prepared = prepare_source(workshop, folder, "captions")
    check_source_unchanged(prepared.index, prepared.location, cache=workshop.cache)
    assert len(prepared.images()) == 20
    return prepared


def test_a_missing_shard_is_named(workshop: Workshop) -> None:
    prepared = prepare_captions(workshop)
    (workshop.root / "source" / "00001.tar").unlink()
    with pytest.raises(DataError, match=r"00001\.tar"):
        check_source_unchanged(prepared.index, prepared.location, cache=workshop.cache)
    with pytest.raises(DataError, match=r"00001\.tar.*prepare it again"):
        prepared.images()


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip_bit(data: bytes) -> bytes:
    """A character of the first caption; sizes and images are unchanged."""
    position = data.index(b"w0")
    return data[: position + 1] + b"9" + data[position + 2 :]


def shift_samples(data: bytes) -> bytes:
    """A sample is moved to the front: sizes are unchanged, all images are at other offsets."""
    return data[2048:-10240] + data[:2048] + data[-10240:]


@pytest.mark.parametrize("change", [truncate, flip_bit, shift_samples])
def test_a_changed_shard_is_named(workshop: Workshop, change: Callable[[bytes], bytes]) -> None:
    prepared = prepare_captions(workshop)
    file = workshop.root / "source" / "00000.tar"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=r"00000\.tar"):
        check_source_unchanged(prepared.index, prepared.location, cache=workshop.cache)
    if change is truncate:
        with pytest.raises(DataError, match=r"00000\.tar.*changed"):
            prepared.images()


def test_a_copied_shard_is_unchanged(workshop: Workshop) -> None:
    prepared = prepare_captions(workshop)
    file = workshop.root / "source" / "00000.tar"
    file.write_bytes(file.read_bytes())
    check_source_unchanged(prepared.index, prepared.location, cache=workshop.cache)
