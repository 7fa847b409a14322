"""A step on another machine: the worker process of `plan.executor` there, with the settings of that machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from firstsight.errors import FirstsightError
from firstsight.leases import remove_if_ended
from firstsight.plan.executor import LocalExecutor, StepJob, StepReport
from firstsight.plan.scheduler import EXTERNAL_KIND, result_path
from firstsight.plan.step import TRAINING_KINDS
from firstsight.plan.store import Store
from firstsight.workspace.sources import check_locations, check_machine, current_site, download_models

DEVICE_KINDS = (*TRAINING_KINDS, "contrast", "encode", "evaluate")
"""Kinds of steps that compute on the device of the site."""
MAX_LOSSES = 3
"""A step is started again so many times after its worker was lost."""
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Resources:
    """What a step needs of a machine."""

    cpus: int
    gpus: int


def step_resources(job: StepJob) -> Resources:
    """CPUs and GPUs of a step by the site: those of all of its processes where it trains the decoder, else of one."""
    kind, site = job.step.kind, job.site
    processes = site.processes if kind in TRAINING_KINDS else 1
    gpus = processes if kind in DEVICE_KINDS and site.device != "cpu" else 0
    return Resources(cpus=max(site.threads * processes, site.readers), gpus=gpus)


def run_here(job: StepJob) -> Iterator[StepReport]:
    """Run a step in a worker process of this machine; its reports, of which the last one is its end.

    The site is this machine's, as a command here would read it; only `processes` is the job's.
    """
    store = Store(job.store_root)
    try:
        site = replace(current_site(), processes=job.site.processes)
        leaves = [parent.spec for _, parent in job.step.needs if parent.kind == EXTERNAL_KIND]
        check_machine(site)
        check_locations(leaves, site)
        site = download_models(leaves, site)
    except FirstsightError as error:
        yield StepReport(job.step.address, "failed", reason=str(error))
        return
    inputs = {role: result_path(parent, store, site) for role, parent in job.step.needs}
    try:
        with LocalExecutor(1, site) as executor:
            executor.submit(replace(job, inputs=inputs, site=site))
            while True:
                for report in executor.wait(POLL_SECONDS):
                    yield report
                    if report.state != "progress":
                        return
    finally:  # another machine cannot see that a killed worker has ended
        remove_if_ended(store.lock_path(job.step.address))


class Losses:
    """How often the worker of each step was lost: with its machine, or ended by the cluster."""

    def __init__(self) -> None:
        self._counts = Counter[str]()

    def add(self, address: str, reason: str) -> StepReport | None:
        """Count a loss; None if the step is to be started again, else its failure."""
        self._counts[address] += 1
        if self._counts[address] <= MAX_LOSSES:
            return None
        lost = f"its worker was lost {self._counts[address]} times, the last time with: {reason.strip()}"
        return StepReport(address, "failed", reason=lost)
