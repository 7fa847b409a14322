"""What runs the steps of a study: worker processes of this machine, jobs of SLURM, or tasks of Ray."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec

from firstsight.errors import MissingPackage, UnknownName
from firstsight.plan.executor import LocalExecutor, StepExecutor
from firstsight.plan.store import Store
from firstsight.site import Site

EXECUTORS = {"local": "", "slurm": "submitit", "ray": "ray"}
"""The name of each executor, and the optional package that it needs."""


def check_executor(name: str) -> None:
    """UnknownName for an executor that does not exist, MissingPackage for one whose package is not installed."""
    if name not in EXECUTORS:
        raise UnknownName("executor", name, EXECUTORS)
    package = EXECUTORS[name]
    if package and find_spec(package) is None:
        problem = f"--executor {name}: wanted the package {package}. Got none"
        raise MissingPackage(f"{problem}. Install it: pip install 'firstsight[{name}]'")


def start_executor(name: str, *, workers: int, site: Site, store: Store) -> AbstractContextManager[StepExecutor]:
    """The executor of that name, to be used in a `with` statement, which ends everything that it runs."""
    check_executor(name)
    if name == "slurm":
        from firstsight.workspace.executors.slurm import SlurmExecutor

        return SlurmExecutor(workers, site, store)
    if name == "ray":
        from firstsight.workspace.executors.ray_tasks import RayExecutor

        return RayExecutor(workers, site)
    return LocalExecutor(workers, site)
