"""Metrics beside a step's log, and the files of each tracker, read by their own packages."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight import track
from firstsight.errors import RequestError
from firstsight.track import MetricsWriter, scalars

ADDRESS = "midtrain-0123456789ab"
FIRST, SECOND = ([1, 2, 3, 4], [3, 4, 5])
"""The steps of the records of two attempts; the second continues after step 2."""
RECORD_STEPS = [1, 2, 3, 4, 5]


def record(step: int, attempt: int = 1) -> dict[str, Any]:
    return {"step": step, "loss": 2.0 + step / 8, "losses": {"text": step / 4}, "peak_share": None, "lr": attempt / 2}


def write_attempts(root: Path, names: tuple[str, ...]) -> None:
    (root / "logs").mkdir(exist_ok=True)
    for attempt, steps in enumerate((FIRST, SECOND)):
        with MetricsWriter(root, ADDRESS, names) as writer:
            for step in steps:
                writer.write(record(step, attempt))


def expected(tag: str) -> dict[int, float]:
    """The numbers of a tag by step: those of the last attempt that reached it."""
    numbers = {step: scalars(record(step, attempt)) for attempt, steps in enumerate((FIRST, SECOND)) for step in steps}
    return {step: entry[tag] for step, entry in numbers.items()}


TAGS = ("loss", "losses/text", "lr")


def test_the_last_attempt_replaces_the_lines_of_earlier_ones_from_its_first_step_on(tmp_path: Path) -> None:
    write_attempts(tmp_path, ())
    path = tmp_path / "logs" / f"{ADDRESS}.metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == RECORD_STEPS
    assert {line["step"]: line["lr"] for line in lines} == expected("lr")
    assert lines[0]["peak_share"] is None and lines[0]["losses"] == {"text": 0.25}
    assert not (tmp_path / "track").exists()


@given(tail=st.binary(max_size=40))
def test_what_a_kill_or_a_full_disk_leaves_of_a_line_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    root = tmp_path_factory.mktemp("store")
    write_attempts(root, ())
    path = root / "logs" / f"{ADDRESS}.metrics.jsonl"
    path.write_bytes(path.read_bytes() + tail)
    with MetricsWriter(root, ADDRESS, ()) as writer:
        writer.write(record(6))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [*RECORD_STEPS, 6]


def test_a_log_that_cannot_be_written_costs_no_step(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "nowhere", ADDRESS, ()) as writer:
        writer.write(record(1))


def test_a_tracker_that_fails_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, ends = list[int](), list[str]()

    def log(step: int, numbers: object) -> None:
        steps.append(step)
        if step == 2:
            raise ValueError("no room")

    monkeypatch.setattr(track, "find_spec", lambda name: name)
    monkeypatch.setattr(track, "_OPEN", {"tensorboard": lambda *_: (log, lambda: ends.append("end"))})
    (tmp_path / "logs").mkdir()
    with MetricsWriter(tmp_path, ADDRESS, ("tensorboard",)) as writer:
        for step in (1, 2, 3):
            writer.write(record(step))
    assert (steps, ends) == ([1, 2], [])
    assert "tensorboard of track in the site file has failed and is left out: ValueError('no room')" in (
        capsys.readouterr().err
    )


def test_a_package_that_is_not_installed_fails_the_step_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(track, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"Got wandb, which is not installed\. Install firstsight\[track\]"):
        MetricsWriter(tmp_path, ADDRESS, ("wandb",))


@pytest.fixture
def tracked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The folder of a tracker after two attempts in a process of their own, without a network."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    code = f"from pathlib import Path; from tests.test_track import *; write_attempts(Path({str(tmp_path)!r}), "
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HTTPS_PROXY": "http://127.0.0.1:9"}
    environment |= {"HTTP_PROXY": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", f"{code}({request.param!r},))"]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "has failed" not in done.stderr, done.stderr
    yield tmp_path / "track" / request.param


@pytest.mark.parametrize("tracked", ["tensorboard"], indirect=True)
def test_tensorboard_reads_each_step_once(tracked: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(tracked / ADDRESS)).Reload()
    assert {*events.Tags()["scalars"]} == {"step", *TAGS}
    for tag in TAGS:
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [*expected(tag).items()]


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    position, parts, block = 7, b"", 32_768
    while position + 7 <= len(content):
        if block - position % block < 7:
            position += block - position % block
            continue
        size, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.parametrize("tracked", ["wandb"], indirect=True)
def test_wandb_has_an_offline_run_of_each_attempt(tracked: Path) -> None:
    record_type = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record
    folders = sorted((tracked / "wandb").glob(f"offline-run-*-{ADDRESS}"))
    assert len(folders) in (1, 2)  # two attempts within a second share a folder
    values = dict[int, dict[str, float]]()
    for file in (file for folder in folders for file in sorted(folder.glob("*.wandb"))):
        for data in wandb_records(file.read_bytes()):
            entry = record_type.FromString(data)
            if entry.HasField("history"):
                items = {item.key or "/".join(item.nested_key): item.value_json for item in entry.history.item}
                values[int(items["_step"])] = {tag: json.loads(items[tag]) for tag in TAGS}
    for tag in TAGS:
        assert {step: numbers[tag] for step, numbers in values.items()} == expected(tag)


@pytest.mark.parametrize("tracked", ["trackio"], indirect=True)
def test_trackio_continues_the_run(tracked: Path) -> None:
    with sqlite3.connect(tracked / f"{track.PROJECT}.db") as database:
        rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {name for name, _, _ in rows} == {ADDRESS}
    numbers = {step: json.loads(metrics) for _, step, metrics in rows}
    for tag in TAGS:
        assert {step: entry[tag] for step, entry in numbers.items()} == expected(tag)
