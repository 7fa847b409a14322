"""Parts of shards: which are kept for the next run, batches, memory."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from firstsight.data.prepare import prepare, shard_writer
from firstsight.errors import DataError
from firstsight.site import Location, Site
from tests.damage import DAMAGES, damage_file
from tests.data.conftest import Workshop, prepare_spec, words_of

from .conftest import ROWS, SHARDS, equal_folders, ignore_progress, shard_rows


def test_bytes_do_not_depend_on_batches(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = workshop.captions([words_of(range(1 + number % 5)) for number in range(50)])
    whole = workshop.prepare(folder, "captions", "whole")
    for constant, size in (("BATCH_RECORDS", 7), ("BATCH_CHARACTERS", 20)):
        monkeypatch.setattr(shard_writer, constant, size)
        assert equal_folders(whole.path, workshop.prepare(folder, "captions", constant).path)


def test_truncated_shard_is_an_error_and_finished_parts_are_kept(
    workshop: Workshop, source: Path, written_shards: list[str]
) -> None:
    whole = gzip.compress(b'{"text": "w1"}\n' * 500)
    shard = source / "train-9.jsonl.gz"
    shard.write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"train-9\.jsonl\.gz: not a complete gzip file"):
        workshop.prepare(source, "text")
    shard.write_bytes(whole)
    written_shards.clear()
    index = workshop.prepare(source, "text")
    assert written_shards == ["train-9.jsonl.gz", "unnamed-4.jsonl"]
    assert equal_folders(index.path, workshop.prepare(source, "text", "unbroken").path)


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["part.json", "tokens.npy", "samples.npy", "loss.npy", "quarantine.jsonl"])
def test_a_damaged_part_is_written_again(
    workshop: Workshop, source: Path, written_shards: list[str], name: str, kind: str
) -> None:
    (source / "train-0.jsonl").open("a").write("no JSON\n")
    whole = workshop.prepare(source, "text", "whole")
    (source / "unnamed-9.jsonl.gz").write_bytes(b"nothing packed")
    with pytest.raises(DataError):
        workshop.prepare(source, "text", "out")
    (source / "unnamed-9.jsonl.gz").unlink()
    parts = [
        part for part in (workshop.root / "out" / "parts").glob("*/") if (part / "quarantine.jsonl").stat().st_size
    ]
    damage_file(parts[0] / name, kind)
    written_shards.clear()
    assert equal_folders(whole.path, workshop.prepare(source, "text", "out").path)
    assert written_shards == ["train-0.jsonl"]


def test_part_of_a_changed_shard_is_written_again(workshop: Workshop, source: Path, written_shards: list[str]) -> None:
    (source / "unnamed-9.jsonl.gz").write_bytes(b"nothing packed")
    with pytest.raises(DataError):
        workshop.prepare(source, "text")
    (source / "unnamed-9.jsonl.gz").unlink()
    (source / "train-2.jsonl").write_text('{"text": "w3"}\n')
    written_shards.clear()
    index = workshop.prepare(source, "text")
    assert written_shards == ["train-2.jsonl"]
    assert len(index.samples) == (SHARDS - 1) * ROWS + 1
    assert equal_folders(index.path, workshop.prepare(source, "text", "unbroken").path)


def test_parts_of_another_tokenizer_are_not_used(workshop: Workshop, source: Path, written_shards: list[str]) -> None:
    shard = source / "unnamed-9.jsonl.gz"
    shard.write_bytes(b"nothing packed")
    with pytest.raises(DataError):
        workshop.prepare(source, "text", "out")
    shard.unlink()
    words = workshop.words() / "tokenizer.json"
    other_tokenizer = workshop.folder("other") / "tokenizer.json"
    other_tokenizer.write_text(words.read_text().replace('"w199"', '"x199"'))
    written_shards.clear()
    site = Site(sources={"s": Location(path=str(source))})
    prepare(
        prepare_spec("text"),
        inputs={"tokenizer": other_tokenizer},
        out=workshop.folder("out"),
        site=site,
        on_progress=ignore_progress,
    )
    assert len(written_shards) == SHARDS


def test_memory_does_not_grow_with_the_source(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six times the shards, at most a fifth more memory."""
    workshop.prepare(workshop.texts([{"text": "w1"}]), "text")
    monkeypatch.setattr(shard_writer, "BATCH_RECORDS", 16)
    monkeypatch.setattr("firstsight.data.prepare.merge_shards.COPY_ENTRIES", 64)
    peaks = []
    for count in (4, 24):
        folder = workshop.folder(f"of-{count}")
        for shard in range(count):
            (folder / f"{shard:02d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shard_rows(shard)))
        tracemalloc.start()
        workshop.prepare(folder, "text", f"out-{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000
