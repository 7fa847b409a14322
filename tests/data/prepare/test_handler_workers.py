"""Killed, or without disk space, at any moment: nothing partly published, no process left, equal bytes in the end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from firstsight.data.readers import Shard
from firstsight.errors import StepFailed
from firstsight.site import Location, Site
from firstsight.worker_process import WorkerProcess
from tests.data.conftest import Workshop, prepare_spec, words_of

from .conftest import equal_folders

SHARDS = 12
SLOW = pytest.mark.slow
RUN = """
import resource, sys
from pathlib import Path
from firstsight.data.prepare import prepare
from firstsight.recipe.mixture import External
from firstsight.recipe.stages import Prepare
from firstsight.site import Location, Site
source, words, out, readers, max_bytes = sys.argv[1:]
if int(max_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(max_bytes), int(max_bytes)))
words_source = External(name="t", form="tokenizer", tokens=0)
spec = Prepare(source=External(name="s", form="text", tokens=0), tokenizer=words_source)
site = Site(sources={"s": Location(path=source)}, readers=int(readers))
Path(out).mkdir(exist_ok=True)
print("started", flush=True)
prepare(spec, inputs={"tokenizer": Path(words)}, out=Path(out), site=site, on_progress=lambda progress: None)
print("done", flush=True)
"""


@pytest.fixture
def source(workshop: Workshop) -> Path:
    folder = workshop.folder("source")
    for shard in range(SHARDS):
        lines = [json.dumps({"text": words_of(range(shard, shard + 1 + row % 9))}) + "\n" for row in range(400)]
        (folder / f"{shard:02d}.jsonl").write_text("".join(lines))
    return folder


def start_prepare(workshop: Workshop, source: Path, *, readers: int, max_bytes: int = 0) -> subprocess.Popen[str]:
    """A process group that prepares `source` into out, with files of at most `max_bytes` bytes."""
    words = [str(source), str(workshop.words()), str(workshop.root / "out"), str(readers), str(max_bytes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", RUN, *words], start_new_session=True, **pipes)


def has_ended(group: int, seconds: float = 5.0) -> bool:
    """Whether no process of a group is left within some seconds; zombies do not count."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        states = [stat.read_text().rpartition(")")[2].split() for stat in Path("/proc").glob("[0-9]*/stat")]
        if not any(int(fields[2]) == group and fields[0] != "Z" for fields in states):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(
    ("readers", "times"), [(1, 1), (2, 1), pytest.param(1, 8, marks=SLOW), pytest.param(3, 8, marks=SLOW)]
)
def test_killed_at_any_moment_it_resumes_to_the_same_bytes(
    workshop: Workshop, source: Path, readers: int, times: int
) -> None:
    whole = workshop.prepare(source, "text", "whole")
    rng, parts = random.Random(readers), workshop.root / "out" / "parts"
    for kill in range(times):
        run, parts_before_kill = (
            start_prepare(workshop, source, readers=readers),
            rng.randint(kill * (SHARDS - 4) // times, SHARDS - 4),
        )
        while run.poll() is None and len(list(parts.glob("*/part.json"))) < parts_before_kill:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.01))
        os.kill(run.pid, signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, "it ended before it was killed"
        assert has_ended(run.pid), "its worker processes survived it"
    assert len(list(parts.glob("*/part.json"))) >= parts_before_kill and not (parts.parent / "manifest.json").exists()
    assert equal_folders(whole.path, workshop.prepare(source, "text", "out").path)


@SLOW
def test_killed_while_merging_it_resumes_to_the_same_bytes(workshop: Workshop, source: Path) -> None:
    whole, rng, finished = workshop.prepare(source, "text", "whole"), random.Random(0), 0
    for _ in range(20):
        run = start_prepare(workshop, source, readers=1)
        while run.poll() is None and not (workshop.root / "out" / "quarantine.jsonl").exists():
            time.sleep(0.0005)
        time.sleep(rng.uniform(0.0, 0.03))
        run.kill()
        finished += run.wait() == 0
        again = workshop.prepare(source, "text", "out")
        assert equal_folders(whole.path, again.path)
        shutil.rmtree(again.path)
    assert finished < 20


def test_full_disk_is_reported_and_resumed(workshop: Workshop, source: Path) -> None:
    """Files of at most 40 kB: parts fit, the index does not."""
    whole = workshop.prepare(source, "text", "whole")
    out = workshop.root / "out"
    assert whole.samples.nbytes > 40_000 > max(file.stat().st_size for file in source.iterdir())
    run = start_prepare(workshop, source, readers=1, max_bytes=40_000)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 1 and "StepFailed" in output and "Make room and run the same command again" in output
    assert not (out / "manifest.json").exists() and len(list(out.glob("parts/*/part.json"))) == SHARDS
    assert equal_folders(whole.path, workshop.prepare(source, "text", "out").path)


def test_full_disk_in_a_worker_is_reported_and_resumed(workshop: Workshop, source: Path) -> None:
    whole = workshop.prepare(source, "text", "whole")
    run = start_prepare(workshop, source, readers=2, max_bytes=4_000)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 1 and "StepFailed" in output and "Make room" in output
    assert not list((workshop.root / "out").glob("*.npy")) and has_ended(run.pid)
    assert equal_folders(whole.path, workshop.prepare(source, "text", "out").path)


def test_killed_worker_is_reported(workshop: Workshop, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    send = WorkerProcess.send

    def kill_first(self: WorkerProcess, message: object) -> None:
        if isinstance(message, Shard) and not killed:
            killed.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)
            assert self.exit_code() == -signal.SIGKILL
        send(self, message)

    monkeypatch.setattr(WorkerProcess, "send", kill_first)
    with pytest.raises(StepFailed, match=r"\.jsonl: a reader process was ended by signal 9 .*Try fewer readers"):
        workshop.prepare(source, "text", "out", readers=2)
    assert equal_folders(workshop.prepare(source, "text").path, workshop.prepare(source, "text", "out").path)


def test_prepare_inside_a_step_of_a_run(workshop: Workshop, source: Path) -> None:
    """In a worker of the executor, whose `__main__` is a command line."""
    from firstsight.plan.executor import LocalExecutor, StepJob
    from firstsight.plan.step import Step
    from firstsight.plan.store import Store
    from firstsight.workspace.execute import HANDLERS

    store = Store(workshop.root / "store")
    site = Site(sources={"s": Location(path=str(source))}, readers=2)
    step = Step(kind="prepare", spec=prepare_spec("text"), version=1)
    job = StepJob(
        step=step,
        handler=HANDLERS["prepare"],
        inputs={"tokenizer": workshop.words()},
        site=site,
        store_root=store.root,
    )
    reports = []
    with LocalExecutor(1, site) as local:
        local.submit(job)
        while not any(report.state != "progress" for report in reports):
            reports += local.wait(0.2)
    assert reports[-1].state == "published", reports[-1].reason
    assert any(report.progress is not None for report in reports)
    assert equal_folders(workshop.prepare(source, "text", "whole").path, store.path(step.address))
