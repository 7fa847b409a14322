"""Steps as SLURM jobs: submitit's local executor runs them, and a recorded sbatch shows what a cluster would get."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="needs the extra slurm: pip install 'firstsight[slurm]'")
sys.path.insert(0, str(Path(__file__).parents[2] / "plan"))  # the jobs import their handlers from here

import toy_steps

from firstsight.errors import RequestError
from firstsight.plan.executor import StepJob
from firstsight.plan.scheduler import RunSummary, run
from firstsight.plan.store import Store
from firstsight.site import Site
from firstsight.workspace.executors.slurm import SlurmExecutor


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The site file of the machines that run the jobs."""
    file = tmp_path / "site.toml"
    file.write_text('[machine]\ndevice = "cpu"\ncache = "cache"\n[limits]\nrecord = 1000\n')
    monkeypatch.setenv("FIRSTSIGHT_SITE", str(file))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return file


def run_on_slurm(root: Path, **arms: toy_steps.Step) -> RunSummary:
    site, store = Site(slurm={"cluster": "local", "timeout_min": 10}), Store(root)
    with SlurmExecutor(4, site, store) as executor:
        graph = toy_steps.make_graph(**arms)
        return run(graph, store, site=site, executor=executor, handlers=toy_steps.HANDLERS, on_event=lambda event: None)


def test_jobs_leave_the_bytes_of_a_local_run_with_the_site_of_their_machine(tmp_path: Path) -> None:
    trunk = toy_steps.step("slow", "trunk")
    arms = {f"arm{n}": toy_steps.step("write", f"end{n}", checkpoint=trunk) for n in range(2)}
    summary = run_on_slurm(tmp_path / "runs", **arms, facts=toy_steps.step("facts", "facts"))
    assert summary.ok and len(summary.published) == 4
    toy_steps.run_graph(toy_steps.make_graph(**arms), tmp_path / "local")
    local, jobs = (toy_steps.published_digests(tmp_path / name) for name in ("local", "runs"))
    assert local.items() <= jobs.items()
    [facts] = (tmp_path / "runs" / "steps").glob("*/facts.json")
    assert json.loads(facts.read_text())["record"] == 1000


@pytest.mark.parametrize("kind", ["lost", "preempted"])
def test_a_job_that_ends_early_is_queued_again(tmp_path: Path, kind: str) -> None:
    summary = run_on_slurm(tmp_path / "runs", arm=toy_steps.step(kind, "step"))
    assert summary.ok and len(summary.published) == 1
    assert not list((tmp_path / "runs" / "work").iterdir()) and not list((tmp_path / "runs" / "locks").iterdir())


def test_a_failure_has_its_reason(tmp_path: Path) -> None:
    summary = run_on_slurm(tmp_path / "runs", arm=toy_steps.step("fail", "bread"))
    assert summary.failed[0].reason == "bread: wanted bread, got stones. Bake."


def test_alike_steps_are_one_array_with_the_resources_of_the_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    scripts = {
        "srun": "",
        "sacct": "",
        "sbatch": f"cat $1 >> {tmp_path}/batch; echo Submitted batch job 7",
        "scancel": f"echo $1 >> {tmp_path}/cancelled",
    }
    for name, text in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    slurm = {"partition": "long", "mem_gb": 64, "timeout_min": 90, "account": "vision"}
    site, store = Site(device="cuda", processes=4, threads=2, slurm=slurm), Store(tmp_path / "runs")
    with SlurmExecutor(8, site, store) as executor:
        for kind, name in (("midtrain", "seed1"), ("midtrain", "seed2"), ("texts", "text")):
            step, handler = toy_steps.step(kind, name), toy_steps.HANDLERS["write"]
            executor.submit(StepJob(step, handler, inputs={}, site=site, store_root=store.root))
        executor.wait(0.0)
    assert (tmp_path / "cancelled").read_text().split() == ["7_0", "7_1", "7"]
    text = (tmp_path / "batch").read_text()
    array, single = (set(re.findall(r"^#SBATCH --(.*)$", part, re.MULTILINE)) for part in text.split("#!/bin/bash")[1:])
    shared = {"partition=long", "mem=64GB", "time=90", "account=vision", "nodes=1", "ntasks-per-node=1"}
    assert shared <= array and shared <= single
    assert {"array=0-1%2", "gpus-per-node=4", "cpus-per-task=8", "job-name=firstsight-midtrain"} <= array
    assert {"gpus-per-node=0", "cpus-per-task=2", "job-name=firstsight-texts"} <= single
    assert not any(line.startswith("array") for line in single)


@pytest.mark.parametrize("slurm", [{}, {"cluster": "local", "partitoin": "x"}, {"cluster": "local", "mem_gb": "9"}])
def test_no_cluster_and_wrong_parameters_are_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: dict[str, str | int | float]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        RequestError, match=r"^\[slurm\]: wanted a cluster and parameters of submitit. Got: .*site file.$"
    ):
        SlurmExecutor(1, Site(slurm=slurm), Store(tmp_path / "runs"))
