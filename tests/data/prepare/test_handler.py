"""From a source to its index: every file and count, kept apart from how many processes do it and how often it stops."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from firstsight.data.prepare import prepare
from firstsight.site import Location, Progress, Site
from tests.data.conftest import END, WORDS, Workshop, asked

from .conftest import ROWS, SHARDS, equal_folders


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


@pytest.mark.parametrize("readers", [2, 4])
def test_the_bytes_do_not_depend_on_the_number_of_processes(workshop: Workshop, source: Path, readers: int) -> None:
    alone = workshop.prepare(source, "text", "alone")
    crowd = workshop.prepare(source, "text", "crowd", readers=readers)
    assert equal_folders(alone.path, crowd.path)
    assert {file.name for file in alone.path.iterdir()} == {
        *("samples.npy", "shown.npy", "tokens.npy", "loss.npy", "images.npy"),
        *("shards.json", "read.json", "manifest.json", "quarantine.jsonl"),
    }


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


def test_a_finished_index_is_left_alone_until_its_source_changes(
    workshop: Workshop, source: Path, written_shards: list[str]
) -> None:
    first = workshop.prepare(source, "text")
    written_shards.clear()
    assert workshop.prepare(source, "text").digest == first.digest and written_shards == []
    (source / "train-2.jsonl").write_text('{"text": "w3"}\n')
    assert workshop.prepare(source, "text").digest != first.digest
    assert len(written_shards) == SHARDS


def test_an_index_that_is_made_anew_leaves_links_to_the_old_one_alone(workshop: Workshop, source: Path) -> None:
    first, kept = workshop.prepare(source, "text"), workshop.folder("kept")
    for file in first.path.iterdir():
        os.link(file, kept / file.name)
    before = {file.name: file.read_bytes() for file in kept.iterdir()}
    (source / "train-2.jsonl").write_text('{"text": "w3"}\n')
    workshop.prepare(source, "text")
    assert before == {file.name: file.read_bytes() for file in kept.iterdir()}


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


def test_interrupted_while_parts_are_cleared_away(workshop: Workshop, source: Path, written_shards: list[str]) -> None:
    whole = workshop.prepare(source, "text", "whole")
    out = workshop.prepare(source, "text", "out").path
    (out / "manifest.json").rename(out / "merged.json")
    (out / "parts" / "half of it").mkdir(parents=True)
    written_shards.clear()
    assert equal_folders(whole.path, workshop.prepare(source, "text", "out").path) and written_shards == []
    (out / "manifest.json").rename(out / "merged.json")
    (source / "train-0.jsonl").write_text('{"text": "w9"}\n')
    assert len(workshop.prepare(source, "text", "out").samples) == (SHARDS - 1) * ROWS + 1
