"""Steps as tasks of a Ray cluster: each on one node that has the CPUs and GPUs that it needs."""

from __future__ import annotations

import time
from contextlib import suppress
from importlib import import_module
from typing import Any

from firstsight.plan.executor import StepJob, StepReport
from firstsight.site import Site
from firstsight.workspace.executors.remote import Losses, run_here, step_resources


class RayExecutor:
    """Tasks of Ray, at most `workers` at once. Use it in a `with` statement, which cancels them at its end.

    The cluster is that of $RAY_ADDRESS, else the one that runs on this machine, else a new one of this machine alone.
    A step whose worker or node is lost starts again, elsewhere.
    """

    def __init__(self, workers: int, site: Site) -> None:
        ray: Any = import_module("ray")
        self.workers, self._ray = workers, ray
        self._is_own = not ray.is_initialized()
        if self._is_own:
            ray.init(log_to_driver=False, logging_level="error", configure_logging=False)
        # Ray wants a generator function, which `run_here` is not once a run-time type checker has wrapped it.
        stream = ray.remote(num_returns="streaming", max_retries=0)
        self._task = stream(lambda job: (yield from run_here(job)))  # pyright: ignore[reportReturnType]
        self._running: dict[str, tuple[StepJob, Any]] = {}
        self._losses = Losses()

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running.values():
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(running[1], force=True)
        self._running.clear()
        if self._is_own:
            self._ray.shutdown()

    def stop(self) -> list[StepReport]:
        """Tasks are cancelled at the end of the `with` statement, and not waited for."""
        return []

    def submit(self, job: StepJob) -> None:
        """Start `job` as soon as a node has its CPUs and GPUs."""
        resources = step_resources(job)
        task = self._task.options(num_cpus=resources.cpus, num_gpus=resources.gpus, name=job.step.address)
        self._running[job.step.address] = job, task.remote(job)

    def wait(self, timeout: float) -> list[StepReport]:
        """The reports since the last call; returns at the first report, at the latest after `timeout` seconds."""
        by_stream = {stream: address for address, (_, stream) in self._running.items()}
        if not by_stream:
            time.sleep(timeout)
            return []
        ready, _ = self._ray.wait(list(by_stream), num_returns=1, timeout=timeout)
        return [report for stream in ready if (report := self._receive(by_stream[stream])) is not None]

    def _receive(self, address: str) -> StepReport | None:
        job, stream = self._running[address]
        try:
            report: StepReport = self._ray.get(next(stream))
        except self._ray.exceptions.RayTaskError as error:
            del self._running[address]
            return StepReport(address, "failed", reason=f"its Ray task: {error.cause!r}")
        except (self._ray.exceptions.RayError, StopIteration) as error:
            del self._running[address]
            failure = self._losses.add(address, str(error))
            if failure is None:
                self.submit(job)
            return failure
        if report.state != "progress":
            del self._running[address]
        return report
