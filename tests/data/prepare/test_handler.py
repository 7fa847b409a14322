"""The index of a source: equal bytes for any number of processes and restarts, progress."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.data.prepare import prepare
from firstsight.data.prepare.handler import prepare_job
from firstsight.site import Location, Progress, Site
from firstsight.units import Share
from tests.damage import DAMAGES, damage_file
from tests.data.conftest import END, WORDS, Workshop, prepare_spec

from .conftest import ROWS, SHARDS, equal_folders


def test_shards_are_in_the_order_of_names(workshop: Workshop, source: Path) -> None:
    index = workshop.prepare(source, "text")
    expected: list[int] = []
    for shard in (0, 1, 2, 3, 5, 4):
        for row in range(ROWS):
            expected += [END, *(WORDS + shard + word for word in range(1 + row % 7)), END]
    assert index.tokens.tolist() == expected
    assert len(index.samples) == SHARDS * ROWS
    ends = index.samples["tokens_from"] + index.samples["tokens_count"]
    assert (ends[:-1] == index.samples["tokens_from"][1:]).all() and ends[-1] == len(expected)


@pytest.mark.parametrize("readers", [2, 4])
def test_bytes_do_not_depend_on_the_number_of_processes(workshop: Workshop, source: Path, readers: int) -> None:
    one_process = workshop.prepare(source, "text", "alone")
    processes = workshop.prepare(source, "text", "crowd", readers=readers)
    assert equal_folders(one_process.path, processes.path)
    assert {file.name for file in one_process.path.iterdir()} == {
        *("samples.npy", "shown.npy", "tokens.npy", "loss.npy", "images.npy"),
        *("shards.json", "read.json", "manifest.json", "quarantine.jsonl", "complete.json"),
    }


def test_bytes_do_not_depend_on_the_machine(workshop: Workshop, source: Path) -> None:
    """On neither the place nor the times of the files; one record is rejected, with its place."""
    (source / "train-1.jsonl").write_text('{"text": "w7"}\n{"text": 3}\n' + '{"text": "w8"}\n' * 200)
    first = workshop.prepare(source, "text", "one")
    moved = source.rename(source.with_name("elsewhere"))
    for number, file in enumerate(moved.iterdir()):
        os.utime(file, ns=(number, number))
    second = workshop.prepare(moved, "text", "two")
    assert equal_folders(first.path, second.path)
    assert (first.path / "quarantine.jsonl").read_text().count("\n") == 1
    (moved / "train-0.jsonl").write_text('{"text": "w7"}\n')
    third = workshop.prepare(moved, "text", "three")
    assert third.source_digest != first.source_digest and third.digest != first.digest


def test_finished_index_is_kept_until_its_source_changes(
    workshop: Workshop, source: Path, written_shards: list[str]
) -> None:
    first = workshop.prepare(source, "text")
    written_shards.clear()
    assert workshop.prepare(source, "text").digest == first.digest and written_shards == []
    (source / "train-2.jsonl").write_text('{"text": "w3"}\n')
    assert workshop.prepare(source, "text").digest != first.digest
    assert len(written_shards) == SHARDS


def test_rewritten_index_does_not_change_hard_links(workshop: Workshop, source: Path) -> None:
    first, linked = workshop.prepare(source, "text"), workshop.folder("kept")
    for file in first.path.iterdir():
        os.link(file, linked / file.name)
    before = {file.name: file.read_bytes() for file in linked.iterdir()}
    (source / "train-2.jsonl").write_text('{"text": "w3"}\n')
    workshop.prepare(source, "text")
    assert before == {file.name: file.read_bytes() for file in linked.iterdir()}


def test_progress_in_bytes_adds_up(workshop: Workshop, source: Path, monkeypatch) -> None:
    monkeypatch.setattr("firstsight.data.prepare.handler._REPORT_INTERVAL", 0.0)
    reports: list[Progress] = []
    site = Site(sources={"s": Location(path=str(source))})
    prepare(
        prepare_spec("text"),
        inputs={"tokenizer": workshop.words()},
        out=workshop.folder("o"),
        site=site,
        on_progress=reports.append,
    )
    total = sum(file.stat().st_size for file in source.iterdir())
    assert {report.total for report in reports} == {total} and {report.unit for report in reports} == {"bytes"}
    done = [report.done for report in reports]
    assert done == sorted(done) and done[-1] == total
    assert reports[-1].metrics["records"] == SHARDS * ROWS


def test_resumes_after_a_kill_while_parts_are_removed(
    workshop: Workshop, source: Path, written_shards: list[str]
) -> None:
    whole = workshop.prepare(source, "text", "whole")
    out = workshop.prepare(source, "text", "out").path
    (out / "parts" / "half of it").mkdir(parents=True)
    written_shards.clear()
    assert equal_folders(whole.path, workshop.prepare(source, "text", "out").path) and written_shards == []
    (out / "parts" / "half of it").mkdir(parents=True)
    (source / "train-0.jsonl").write_text('{"text": "w9"}\n')
    assert len(workshop.prepare(source, "text", "out").samples) == (SHARDS - 1) * ROWS + 1


def test_temporary_files_of_a_killed_run_are_removed(workshop: Workshop, source: Path) -> None:
    whole = workshop.prepare(source, "text", "whole")
    for name in ("read.json", "merged.json", "shards.json", "samples.npy"):
        (workshop.folder("out") / f".{name}.1a2b3c4d.tmp").write_text("{")
    assert equal_folders(whole.path, workshop.prepare(source, "text", "out").path)


def test_key_depends_on_what_changes_a_part(workshop: Workshop, source: Path) -> None:
    def key(**changes: object) -> str:
        site = Site(sources={"s": replace(Location(path=str(source)), **changes)})
        spec, inputs = prepare_spec("text"), {"tokenizer": workshop.words()}
        return prepare_job(spec, inputs=inputs, out=workshop.root, site=site).key

    assert key() == key(most_bad=Share(1, 2))
    assert len({key(), key(columns={"text": "content"}), key(split="train"), key(path="/elsewhere")}) == 4


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", ["tokens.npy", "read.json", "manifest.json", "quarantine.jsonl", "complete.json"])
def test_a_damaged_index_is_prepared_again(
    workshop: Workshop, source: Path, written_shards: list[str], name: str, kind: str
) -> None:
    whole, out = workshop.prepare(source, "text", "whole"), workshop.prepare(source, "text", "out").path
    if not (out / name).stat().st_size:
        (source / "train-0.jsonl").open("a").write("no JSON\n")
        whole, out = workshop.prepare(source, "text", "whole"), workshop.prepare(source, "text", "out").path
    written_shards.clear()
    damage_file(out / name, kind)
    again = workshop.prepare(source, "text", "out")
    assert equal_folders(whole.path, again.path) and len(written_shards) == SHARDS
    written_shards.clear()
    workshop.prepare(source, "text", "out")
    assert written_shards == [], "the new one is complete"


def test_a_copy_with_other_times_is_complete(workshop: Workshop, source: Path, written_shards: list[str]) -> None:
    out = workshop.prepare(source, "text", "out").path
    for file in out.iterdir():
        os.utime(file, (1, 1))
    written_shards.clear()
    workshop.prepare(source, "text", "out")
    assert written_shards == []
