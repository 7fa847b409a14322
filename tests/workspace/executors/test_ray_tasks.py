"""Steps as Ray tasks, on a cluster of two nodes on this machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra ray: pip install 'firstsight[ray]'")
sys.path.insert(0, str(Path(__file__).parents[2] / "plan"))  # the tasks import their handlers from here

import toy_steps

from firstsight.plan.scheduler import RunSummary, StepEvent, run
from firstsight.plan.store import Store
from firstsight.site import Site
from firstsight.workspace.executors.ray_tasks import RayExecutor

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A node with one CPU, and one with two CPUs and two GPUs, as far as Ray counts them."""
    import ray
    from ray.cluster_utils import Cluster

    file = tmp_path_factory.mktemp("machine") / "site.toml"
    file.write_text('[machine]\ndevice = "cpu"\ncache = "cache"\n[limits]\nrecord = 1000\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIRSTSIGHT_SITE", str(file))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
        nodes.add_node(num_cpus=2, num_gpus=2)
        ray.init(address=nodes.address, log_to_driver=False)
        yield
        ray.shutdown()
        nodes.shutdown()


def run_on_ray(root: Path, site: Site, events: list[StepEvent] | None = None, **arms: toy_steps.Step) -> RunSummary:
    handlers = toy_steps.HANDLERS | {"pretrain": toy_steps.HANDLERS["facts"]}
    received = [] if events is None else events
    with RayExecutor(4, site) as executor:
        graph = toy_steps.make_graph(**arms)
        return run(graph, Store(root), site=site, executor=executor, handlers=handlers, on_event=received.append)


@pytest.mark.usefixtures("cluster")
def test_tasks_leave_the_bytes_of_a_local_run_and_report_progress(tmp_path: Path) -> None:
    trunk, events = toy_steps.step("slow", "trunk"), list[StepEvent]()
    arms = {f"arm{n}": toy_steps.step("write", f"end{n}", checkpoint=trunk) for n in range(2)}
    bad = toy_steps.step("fail", "bread")
    summary = run_on_ray(tmp_path / "runs", Site(), events, **arms, bad=bad)
    assert len(summary.published) == 3 and summary.failed[0].reason == "bread: wanted bread, got stones. Bake."
    toy_steps.run_graph(toy_steps.make_graph(**arms), tmp_path / "local")
    assert toy_steps.published_digests(tmp_path / "local") == toy_steps.published_digests(tmp_path / "runs")
    assert any(event.progress and event.progress.unit == "slices" for event in events)


@pytest.mark.usefixtures("cluster")
def test_a_step_of_several_processes_gets_their_gpus_on_one_node(tmp_path: Path) -> None:
    site = Site(device="cuda", processes=2)
    summary = run_on_ray(tmp_path, site, arm=toy_steps.step("pretrain", "trunk"))
    assert summary.ok
    [facts] = (tmp_path / "steps").glob("*/facts.json")
    found = json.loads(facts.read_text())
    assert found["gpus"] == "0,1" and found["record"] == 1000


@pytest.mark.usefixtures("cluster")
def test_a_lost_worker_is_replaced(tmp_path: Path) -> None:
    summary = run_on_ray(tmp_path, Site(), arm=toy_steps.step("lost", "step"))
    assert summary.ok and len(summary.published) == 1
    assert not list((tmp_path / "work").iterdir()) and not list((tmp_path / "locks").iterdir())
