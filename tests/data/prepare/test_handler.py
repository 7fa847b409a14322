"""From a source to its index: every file and count, kept apart from how many processes do it and how often it stops."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firstsight.data.index import Index
from firstsight.data.prepare import prepare, shard_writer
from firstsight.data.readers import Shard
from firstsight.errors import DataError
from firstsight.site import Location, Progress, Site
from firstsight.units import Share
from tests.data.conftest import END, WORDS, Workshop, asked, words_of

SHARDS, ROWS = 6, 30


def quiet(progress: Progress) -> None:
    del progress


def same(first: Path, second: Path) -> bool:
    """Whether two folders hold the same names with the same bytes, at any depth."""
    names = [sorted(file.relative_to(root).as_posix() for file in root.rglob("*")) for root in (first, second)]
    files = [name for name in names[0] if (first / name).is_file()]
    return names[0] == names[1] and all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


def rows(shard: int) -> list[dict[str, object]]:
    return [{"text": words_of(range(shard, shard + 1 + row % 7))} for row in range(ROWS)]


@pytest.fixture
def source(workshop: Workshop) -> Path:
    folder = workshop.folder("source")
    for shard in range(SHARDS):
        split = "unnamed" if shard == 4 else "train"
        lines = "".join(json.dumps(row) + "\n" for row in rows(shard))
        (folder / f"{split}-{shard}.jsonl").write_text(lines)
    return folder


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the shards that this process makes parts of."""
    names: list[str] = []
    make = shard_writer.ShardWriter.write

    def counted(self: shard_writer.ShardWriter, shard: Shard) -> Iterator[shard_writer.ShardProgress]:
        names.append(shard.name)
        return make(self, shard)

    monkeypatch.setattr(shard_writer.ShardWriter, "write", counted)
    return names


def test_shards_follow_each_other_in_order_of_name(workshop: Workshop, source: Path) -> None:
    index = workshop.prepare(source, "text")
    wanted: list[int] = []
    for shard in (0, 1, 2, 3, 5, 4):
        for row in range(ROWS):
            wanted += [END, *(WORDS + shard + word for word in range(1 + row % 7)), END]
    assert index.tokens.tolist() == wanted
    assert len(index.samples) == SHARDS * ROWS
    ends = index.samples["tokens_from"] + index.samples["tokens_count"]
    assert (ends[:-1] == index.samples["tokens_from"][1:]).all() and ends[-1] == len(wanted)


def test_the_manifest_counts_and_splits(workshop: Workshop, source: Path) -> None:
    file = source / "unnamed-4.jsonl"
    file.write_text(file.read_text() + '{"text": " "}\n')
    index = workshop.prepare(source, "text")
    manifest = json.loads((index.path / "manifest.json").read_text())
    words = sum(1 + row % 7 for row in range(ROWS))
    one = {"samples": ROWS, "shown": 0, "tokens": words + 2 * ROWS, "loss tokens": words + ROWS, "bad": 0}
    train = {name: 5 * count for name, count in one.items()}
    assert manifest["splits"] == {"train": train, "": one | {"bad": 1}}
    assert manifest["counts"] == {name: 6 * count for name, count in one.items()} | {"images": 0, "bad": 1}
    assert manifest["refused"] == {"empty text": 1} and manifest["captions"] == {"real": 0, "synthetic": 0}
    [bad] = [json.loads(line) for line in (index.path / "quarantine.jsonl").read_text().splitlines()]
    assert (bad["reason"], bad["shard"], bad["where"]) == ("empty text", "unnamed-4.jsonl", f"line {ROWS + 1}")


@pytest.mark.parametrize("readers", [2, 4])
def test_the_bytes_do_not_depend_on_the_number_of_processes(workshop: Workshop, source: Path, readers: int) -> None:
    alone = workshop.prepare(source, "text", "alone")
    crowd = workshop.prepare(source, "text", "crowd", readers=readers)
    assert same(alone.path, crowd.path)
    assert {file.name for file in alone.path.iterdir()} == {
        *("samples.npy", "shown.npy", "tokens.npy", "loss.npy", "images.npy"),
        *("shards.json", "read.json", "manifest.json", "quarantine.jsonl"),
    }


def test_the_bytes_do_not_depend_on_how_records_are_batched(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workshop.captions([words_of(range(1 + number % 5)) for number in range(50)])
    whole = workshop.prepare(folder, "captions", "whole")
    for limit, size in (("BATCH_RECORDS", 7), ("BATCH_CHARACTERS", 20)):
        monkeypatch.setattr(shard_writer, limit, size)
        assert same(whole.path, workshop.prepare(folder, "captions", limit).path)


def test_the_digest_tells_nothing_of_the_machine(workshop: Workshop, source: Path) -> None:
    first = workshop.prepare(source, "text", "one")
    moved = source.rename(source.with_name("elsewhere"))
    for file in moved.iterdir():
        file.write_bytes(file.read_bytes())
    second = workshop.prepare(moved, "text", "two")
    assert [one.stamp for one in first.source_shards] != [one.stamp for one in second.source_shards]
    assert (first.path / "manifest.json").read_bytes() == (second.path / "manifest.json").read_bytes()
    (moved / "train-0.jsonl").write_text('{"text": "w7"}\n')
    third = workshop.prepare(moved, "text", "three")
    assert third.source_digest != first.source_digest and third.digest != first.digest


def test_a_torn_shard_stops_it_and_what_was_made_is_kept(workshop: Workshop, source: Path, made: list[str]) -> None:
    whole = gzip.compress(b'{"text": "w1"}\n' * 500)
    torn = source / "train-9.jsonl.gz"
    torn.write_bytes(whole[:-9])
    with pytest.raises(DataError, match=r"train-9\.jsonl\.gz: a truncated gzip file"):
        workshop.prepare(source, "text")
    torn.write_bytes(whole)
    made.clear()
    index = workshop.prepare(source, "text")
    assert made == ["train-9.jsonl.gz", "unnamed-4.jsonl"]
    assert same(index.path, workshop.prepare(source, "text", "unbroken").path)


def test_a_shard_that_changed_since_its_part_was_made_is_made_again(
    workshop: Workshop, source: Path, made: list[str]
) -> None:
    (source / "unnamed-9.jsonl.gz").write_bytes(b"nothing packed")
    with pytest.raises(DataError):
        workshop.prepare(source, "text")
    (source / "unnamed-9.jsonl.gz").unlink()
    (source / "train-2.jsonl").write_text('{"text": "w3"}\n')
    made.clear()
    index = workshop.prepare(source, "text")
    assert made == ["train-2.jsonl"]
    assert len(index.samples) == (SHARDS - 1) * ROWS + 1
    assert same(index.path, workshop.prepare(source, "text", "unbroken").path)


def test_a_finished_index_is_left_alone_until_its_source_changes(
    workshop: Workshop, source: Path, made: list[str]
) -> None:
    first = workshop.prepare(source, "text")
    made.clear()
    assert workshop.prepare(source, "text").digest == first.digest and made == []
    (source / "train-2.jsonl").write_text('{"text": "w3"}\n')
    assert workshop.prepare(source, "text").digest != first.digest
    assert len(made) == SHARDS


def test_an_index_that_is_made_anew_leaves_links_to_the_old_one_alone(workshop: Workshop, source: Path) -> None:
    first, kept = workshop.prepare(source, "text"), workshop.folder("kept")
    for file in first.path.iterdir():
        os.link(file, kept / file.name)
    before = {file.name: file.read_bytes() for file in kept.iterdir()}
    (source / "train-2.jsonl").write_text('{"text": "w3"}\n')
    workshop.prepare(source, "text")
    assert before == {file.name: file.read_bytes() for file in kept.iterdir()}


def test_parts_of_another_tokenizer_are_not_taken(workshop: Workshop, source: Path, made: list[str]) -> None:
    torn = source / "unnamed-9.jsonl.gz"
    torn.write_bytes(b"nothing packed")
    with pytest.raises(DataError):
        workshop.prepare(source, "text", "out")
    torn.unlink()
    words = workshop.words() / "tokenizer.json"
    other = workshop.folder("other") / "tokenizer.json"
    other.write_text(words.read_text().replace('"w199"', '"x199"'))
    made.clear()
    site = Site(sources={"s": Location(path=str(source))})
    prepare(asked("text"), inputs={"tokenizer": other}, out=workshop.folder("out"), site=site, on_progress=quiet)
    assert len(made) == SHARDS


def test_a_rotten_source_is_refused_and_can_be_read_about(workshop: Workshop, made: list[str]) -> None:
    folder = workshop.texts([{"text": "w1" if number % 50 else ""} for number in range(100)])
    with pytest.raises(
        DataError, match=r"at most 1 % bad .*Got 2 of 100: 2 x empty text \(first: text-00000\.jsonl, l"
    ):
        workshop.prepare(folder, "text", "out")
    out = workshop.folder("out")
    assert not (out / "manifest.json").exists() and not list(out.glob("*.npy"))
    assert json.loads((out / "refused.json").read_text())["counts"]["bad"] == 2
    assert len((out / "quarantine.jsonl").read_text().splitlines()) == 2
    made.clear()
    lenient = Site(sources={"s": Location(path=str(folder), most_bad=Share(2, 100))})
    prepare(asked("text"), inputs={"tokenizer": workshop.words()}, out=out, site=lenient, on_progress=quiet)
    assert made == [] and len(Index.open(out).samples) == 98
    assert not (out / "refused.json").exists()


def test_a_source_without_a_record_is_refused(workshop: Workshop) -> None:
    with pytest.raises(DataError, match="no record at all"):
        workshop.prepare(workshop.texts([], "empty"), "text")


def test_progress_is_told_in_bytes_that_add_up(workshop: Workshop, source: Path, monkeypatch) -> None:
    monkeypatch.setattr("firstsight.data.prepare.handler._REPORT_INTERVAL", 0.0)
    told: list[Progress] = []
    site = Site(sources={"s": Location(path=str(source))})
    prepare(
        asked("text"),
        inputs={"tokenizer": workshop.words()},
        out=workshop.folder("o"),
        site=site,
        on_progress=told.append,
    )
    total = sum(file.stat().st_size for file in source.iterdir())
    assert {one.total for one in told} == {total} and {one.unit for one in told} == {"bytes"}
    done = [one.done for one in told]
    assert done == sorted(done) and done[-1] == total
    assert told[-1].metrics["records"] == SHARDS * ROWS


def said(picture: str, word: int) -> dict[str, object]:
    turns = [("human", f"<image>\nw{word}"), ("gpt", "w1")]
    return {"image": picture, "conversations": [{"from": role, "value": value} for role, value in turns]}


def test_a_picture_has_one_number_whichever_shard_shows_it(workshop: Workshop) -> None:
    folder = workshop.dialogues([said("b.png", 0), said("a.png", 1), said("b.png", 2)], ["a.png", "b.png", "c.png"])
    more = [said("c.png", 3), said("b.png", 4), said("a.png", 5)]
    (folder / "more.json").write_text(json.dumps(more))
    index = workshop.prepare(folder, "dialogues")
    assert index.image_refs["picture"].tolist() == [0, 1, 0, 2, 0, 1]
    assert len(index.images) == 3 == len(set(index.images["offset"].tolist()))
    assert same(index.path, workshop.prepare(folder, "dialogues", "two", readers=2).path)


def test_pictures_of_several_tars_are_numbered_on(workshop: Workshop) -> None:
    folder = workshop.captions(["w1", "w2", "w3"])
    (folder / "00001.tar").write_bytes((folder / "00000.tar").read_bytes())
    index = workshop.prepare(folder, "captions")
    assert index.image_refs["picture"].tolist() == list(range(6))
    assert index.images["shard"].tolist() == [0, 0, 0, 1, 1, 1] and index.image_shards == ("00000.tar", "00001.tar")
    assert np.array_equal(index.images["offset"][:3], index.images["offset"][3:])
    manifest = json.loads((index.path / "manifest.json").read_text())
    assert manifest["captions"] == {"real": 6, "synthetic": 0} and manifest["counts"]["images"] == 6


def test_memory_does_not_grow_with_the_source(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six times the shards, at most a fifth more memory."""
    workshop.prepare(workshop.texts([{"text": "w1"}]), "text")
    monkeypatch.setattr(shard_writer, "BATCH_RECORDS", 16)
    monkeypatch.setattr("firstsight.data.prepare.merge_shards.COPY_ENTRIES", 64)
    peaks = []
    for count in (4, 24):
        folder = workshop.folder(f"of-{count}")
        for shard in range(count):
            (folder / f"{shard:02d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(shard)))
        tracemalloc.start()
        workshop.prepare(folder, "text", f"out-{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 100_000


def test_interrupted_while_parts_are_cleared_away(workshop: Workshop, source: Path, made: list[str]) -> None:
    whole = workshop.prepare(source, "text", "whole")
    out = workshop.prepare(source, "text", "out").path
    (out / "manifest.json").rename(out / "merged.json")
    (out / "parts" / "half of it").mkdir(parents=True)
    made.clear()
    assert same(whole.path, workshop.prepare(source, "text", "out").path) and made == []
    (out / "manifest.json").rename(out / "merged.json")
    (source / "train-0.jsonl").write_text('{"text": "w9"}\n')
    assert len(workshop.prepare(source, "text", "out").samples) == (SHARDS - 1) * ROWS + 1


def test_equal_keys_for_what_a_part_depends_on_only(workshop: Workshop, source: Path) -> None:
    from firstsight.data.prepare.job import prepare_job

    def key(**changes: object) -> str:
        site = Site(sources={"s": replace(Location(path=str(source)), **changes)})
        spec, inputs = asked("text"), {"tokenizer": workshop.words()}
        return prepare_job(spec, inputs=inputs, out=workshop.root, site=site).key

    assert key() == key(most_bad=Share(1, 2))
    assert len({key(), key(columns={"text": "content"}), key(split="train"), key(path="/elsewhere")}) == 4
