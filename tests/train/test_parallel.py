"""Several processes against one: losses, bytes, resume points and branches; gloo on a CPU.

The gradient is the float32 sum of those of micro-batches, as in one process. For two ranks with one micro-batch each it
is the same sum of two numbers. The gradient norm adds its squares in another order, so that not a bit of the weights
differs without clipping. With more micro-batches the order of the sum differs too: TOLERANCE. Micro-batches of other
sizes would differ by what bf16 rounds.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import FirstsightError, StepFailed
from firstsight.model.tensors import read_tensors
from firstsight.recipe.stages import Midtrain, RowShape, TrunkSegment
from firstsight.site import Progress, Site
from firstsight.train.handlers import pretrain, train_stage
from tests.train import tiny_study
from tests.train.rank_faults import hang_on_the_last_rank

Inputs = dict[str, Path]
ROWS = RowShape(batch_size=6, length=16)
UNCLIPPED = replace(tiny_study.OPTIM, max_grad_norm=1e9)
TOLERANCE = 2e-5
"""Of the losses of ten updates, in nats."""
LEDGER_FILES = ("ledger.npy", "ledger.json", "achieved.json")


def segment(until: str, *, steps: int = 10) -> TrunkSegment:
    spec = tiny_study.segment_spec(steps, "0", until)
    tokens = steps * ROWS.tokens_per_step
    return replace(spec, pretrain=replace(spec.pretrain, row_shape=ROWS, tokens=tokens, optim=UNCLIPPED))


def midtrain(model: Any, share: str, *, steps: int = 6) -> Midtrain:
    spec = tiny_study.midtrain_spec(model, steps, share)
    trains = tiny_study.ENCODER_TRAINS if model is tiny_study.INCLUDED_VLM else tiny_study.TRAINS
    return replace(spec, row_shape=ROWS, tokens=steps * ROWS.tokens_per_step, optim=UNCLIPPED, trains=trains)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def parents(inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A trunk's segment by each number of processes; one process computes the rows of two ranks one after the other."""
    root = tmp_path_factory.mktemp("parents")
    sites = {1: replace(site, rows_at_once=3), 2: replace(site, processes=2)}
    return {n: tiny_study.run_handler(pretrain, segment("2/5"), inputs, root / str(n), sites[n]) for n in sites}


def test_two_processes_leave_the_bytes_of_one_with_half_the_rows_at_once(parents: dict[int, Path]) -> None:
    one, two = (tiny_study.read_files(folder) for folder in parents.values())
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] in ([], ["log.jsonl"])
    assert losses(parents[2]) == pytest.approx(losses(parents[1]), abs=1e-6)


@pytest.mark.parametrize(
    ("model", "settings", "share"),
    [
        (tiny_study.FEATURE_VLM, {"processes": 3, "recompute": True}, "1/6"),  # two ranks have no image row
        (tiny_study.PATCH_VLM, {"processes": 2, "shard_group": 1}, "1/6"),  # a copy of the weights on each rank
        (tiny_study.INCLUDED_VLM, {"processes": 2}, "1/2"),
    ],
    ids=["features", "patches", "included-encoder"],
)
def test_a_branch_of_another_number_of_processes_follows_one_process(
    inputs: Inputs, site: Site, parents: dict[int, Path], tmp_path: Path, model: Any, settings: Any, share: str
) -> None:
    """The moments of the parent by two processes are carried to more parameters; ranks without images do not hang."""
    spec, stage_inputs = midtrain(model, share), {**inputs, "trunk": parents[2]}
    if model is not tiny_study.FEATURE_VLM:
        del stage_inputs["image0.features"]
    one = tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "one", replace(site, rows_at_once=1))
    several = replace(site, rows_at_once=1, **settings)
    out = tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path / "several", several)
    assert losses(out) == pytest.approx(losses(one), abs=TOLERANCE)
    for name in LEDGER_FILES:
        assert (out / name).read_bytes() == (one / name).read_bytes(), name
    left, right = (read_tensors(folder, "optimizer") for folder in (one, out))
    assert left.keys() == right.keys() and left.keys() > read_tensors(parents[2], "optimizer").keys()
    assert {float(right[name]) for name in right if name.endswith(".step")} == {6.0, 10.0}


class Stop(Exception):
    """The training step is stopped from outside."""


def stop_at_point(out: Path) -> Callable[[Progress], None]:
    def stop(_: Progress) -> None:
        if (out / "resume" / "point.json").is_file():
            raise Stop

    return stop


@pytest.fixture(scope="module")
def unbroken(inputs: Inputs, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parent by one process, row by row."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    return tiny_study.run_handler(pretrain, segment("2/5"), inputs, out, replace(site, rows_at_once=1))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 3), (1, 2)])
def test_a_point_resumes_on_another_number_of_processes(
    inputs: Inputs, site: Site, unbroken: Path, tmp_path: Path, before: int, after: int
) -> None:
    out, stops = tmp_path / "out", replace(site, processes=before, save_every=0.0, rows_at_once=1)
    out.mkdir()
    with pytest.raises(Stop):
        pretrain(segment("2/5"), inputs=inputs, out=out, site=stops, on_progress=stop_at_point(out))
    copy, notes = Path(shutil.copytree(out, tmp_path / "copy")), list[str]()
    goes_on = replace(site, processes=after, rows_at_once=1)
    pretrain(segment("2/5"), inputs=inputs, out=copy, site=goes_on, on_progress=lambda p: notes.append(p.note))
    assert not any(notes)
    assert losses(copy) == pytest.approx(losses(unbroken), abs=TOLERANCE)
    for name in LEDGER_FILES:
        assert (copy / name).read_bytes() == (unbroken / name).read_bytes(), name


def rank_pids() -> list[int]:
    """The processes of the ranks that this process has started, in the order of their start."""
    pids = [int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]
    return sorted(pid for pid in pids if b"serve_rank" in Path(f"/proc/{pid}/cmdline").read_bytes())


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_killed_rank_ends_the_other_and_the_step_goes_on(
    inputs: Inputs, site: Site, parents: dict[int, Path], tmp_path: Path
) -> None:
    out, step_site = tmp_path / "out", replace(site, processes=2, save_every=0.0)
    out.mkdir()

    def kill(_: Progress) -> None:
        if (out / "resume" / "point.json").is_file() and (pids := rank_pids()):
            os.kill(pids[-1], signal.SIGKILL)

    with pytest.raises(StepFailed, match=r"rank 1 of its processes was ended by signal 9 .* continues from the last"):
        pretrain(segment("2/5"), inputs=inputs, out=out, site=step_site, on_progress=kill)
    assert rank_pids() == []
    pretrain(segment("2/5"), inputs=inputs, out=out, site=step_site, on_progress=tiny_study.ignore_progress)
    undisturbed = tiny_study.read_files(parents[2])
    assert tiny_study.read_files(tiny_study.remove_unfinished(out)) == undisturbed


def test_a_rank_that_hangs_ends_the_step_with_a_message(inputs: Inputs, site: Site, tmp_path: Path) -> None:
    hangs = replace(site, processes=2, collective_timeout=2.0)
    with pytest.raises(StepFailed, match=r"rank \d of 2 processes got no answer of another rank for 2 s: .* continues"):
        hang_on_the_last_rank(None, inputs=inputs, out=tmp_path, site=hangs, on_progress=tiny_study.ignore_progress)
    assert rank_pids() == []


def torchrun(folder: Path, mode: str, **arguments: Any) -> list[int]:
    """Run `launched_step` on two nodes of one process; the exit codes of both."""
    file, script = folder / "arguments", Path(__file__).with_name("launched_step.py")
    file.write_bytes(pickle.dumps(arguments))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", address, str(script), str(file), mode]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parents[2]), *filter(None, sys.path)])}
    nodes = [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    return [node.wait() for node in nodes]


def test_ranks_of_two_nodes_leave_the_bytes_of_two_processes_on_one_and_a_dead_one_ends_them(
    inputs: Inputs, site: Site, parents: dict[int, Path], tmp_path: Path
) -> None:
    out, step_site = tmp_path / "out", replace(site, processes=2, save_every=0.0)
    out.mkdir()
    arguments = {"spec": segment("2/5"), "inputs": inputs, "out": out, "site": step_site}
    assert all(torchrun(tmp_path, "die", **arguments))
    assert (out / "resume" / "point.json").is_file()
    assert torchrun(tmp_path, "live", **arguments) == [0, 0]
    assert tiny_study.read_files(tiny_study.remove_unfinished(out)) == tiny_study.read_files(parents[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 4}, r"divides the 6 rows of a step: 1, 2, 3, 6\. Got 4"),
        ({"processes": 4, "shard_group": 3}, r"shard_group: wanted a divisor of 4 processes\. Got 3"),
        ({"processes": 2, "device": "cuda:1"}, r"device: wanted cuda or cpu for 2 processes\. Got cuda:1"),
    ],
)
def test_numbers_of_processes_that_do_not_fit_are_errors(
    inputs: Inputs, site: Site, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(FirstsightError, match=message):
        pretrain(segment("2/5"), inputs=inputs, out=tmp_path, site=replace(site, **changes), on_progress=print)
