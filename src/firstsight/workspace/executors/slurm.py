"""Steps as jobs of SLURM, through submitit: one job a step, one array for the steps that are ready together."""

from __future__ import annotations

import time
from typing import Any

from firstsight.errors import RequestError
from firstsight.plan.executor import StepJob, StepReport
from firstsight.plan.store import Store
from firstsight.site import Site
from firstsight.workspace.executors.remote import Losses, Resources, run_here, step_resources

SHARED_PARAMETERS = ("timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node")
"""submitit's names for every cluster; the other keys of [slurm] are those of sbatch, with `_` for `-`."""
TIMEOUT_MINUTES = 24 * 60


class SlurmStep:
    """What a job of SLURM does; a job that is preempted or reaches its time limit is queued again."""

    def __call__(self, job: StepJob) -> StepReport:
        *_, last = run_here(job)
        return last

    def checkpoint(self, job: StepJob) -> Any:
        """submitit's hook before a job is ended: what is to be queued again. The step resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


class SlurmExecutor:
    """Jobs of SLURM, at most `workers` at once. Use it in a `with` statement, which cancels them at its end."""

    def __init__(self, workers: int, site: Site, store: Store) -> None:
        import submitit

        self.workers = workers
        self._parameters = {"timeout_min": TIMEOUT_MINUTES, **site.slurm}
        cluster, folder = self._parameters.pop("cluster", "slurm"), store.root / "logs" / "slurm"
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=str(cluster))
            self._set_resources(Resources(cpus=1, gpus=0), kind="step")
        except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
            reason = str(error).strip().replace("\n", " ")
            advice = "Run it where sbatch is, and correct [slurm] in the site file"
            raise RequestError(
                f"[slurm]: wanted a cluster and parameters of submitit. Got: {reason}. {advice}."
            ) from error
        self._queue: list[StepJob] = []
        self._jobs: dict[str, tuple[StepJob, Any]] = {}
        self._losses = Losses()

    def __enter__(self) -> SlurmExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        for submission in self._jobs.values():
            submission[1].cancel(check=False)
        self._jobs.clear()

    def stop(self) -> list[StepReport]:
        """Jobs are cancelled at the end of the `with` statement, and not waited for."""
        return []

    def submit(self, job: StepJob) -> None:
        """Put `job` in the queue that the next `wait` submits."""
        self._queue.append(job)

    def wait(self, timeout: float) -> list[StepReport]:
        """The steps that have ended; returns after `timeout` seconds, or at once where one has."""
        self._submit_queue()
        ended = [address for address, (_, submitted) in self._jobs.items() if submitted.done()]
        if not ended:
            time.sleep(timeout)
        return [report for address in ended if (report := self._end(address)) is not None]

    def _submit_queue(self) -> None:
        """One array for each kind of step and need of resources: the same step of several seeds or arms."""
        groups: dict[tuple[str, Resources], list[StepJob]] = {}
        for job in self._queue:
            groups.setdefault((job.step.kind, step_resources(job)), []).append(job)
        self._queue.clear()
        for (kind, resources), steps in groups.items():
            self._set_resources(resources, kind=kind)
            with self._executor.batch():
                jobs = [self._executor.submit(SlurmStep(), step) for step in steps]
            self._jobs |= {step.step.address: (step, job) for step, job in zip(steps, jobs, strict=True)}

    def _set_resources(self, resources: Resources, *, kind: str) -> None:
        parameters = {"cpus_per_task": resources.cpus, "gpus_per_node": resources.gpus, **self._parameters}
        if not resources.gpus:
            parameters["gpus_per_node"] = 0
        prefixed = {key if key in SHARED_PARAMETERS else f"slurm_{key}": value for key, value in parameters.items()}
        self._executor.update_parameters(name=f"firstsight-{kind}", nodes=1, tasks_per_node=1, **prefixed)

    def _end(self, address: str) -> StepReport | None:
        from submitit.core.utils import FailedJobError, UncompletedJobError

        job, submitted = self._jobs.pop(address)
        try:
            return submitted.result()
        except FailedJobError as error:  # it could not begin: firstsight does not run there
            return StepReport(address, "failed", reason=f"SLURM job {submitted.job_id}: {error}")
        except UncompletedJobError as error:
            failure = self._losses.add(address, f"{submitted.state}: {error}")
            if failure is None:
                self.submit(job)
            return failure
