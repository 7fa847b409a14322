"""The paper's ten text tasks in lm-eval: where their definitions and data are; without importing lm-eval."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from firstsight.errors import MissingPackage, UnknownName


@dataclass(frozen=True, kw_only=True, slots=True)
class LmEvalTask:
    """A task that has the same name in lm-eval and in firstsight."""

    file: str
    """The path of its definition in lm_eval/tasks."""
    config: str
    """The data set's configuration, which may be a subfolder of an offline copy; empty if there is only one."""
    split: str
    columns: Sequence[str]


_TASKS = json.loads(files("firstsight.evaluate.lm_eval").joinpath("tasks.json").read_text(encoding="utf-8"))
LM_EVAL_TASKS: Mapping[str, LmEvalTask] = {name: LmEvalTask(**fields) for name, fields in _TASKS.items()}


def get_lm_eval_task(name: str) -> LmEvalTask:
    """The task called `name`; UnknownName with the nearest names."""
    if name not in LM_EVAL_TASKS:
        raise UnknownName("text task of lm-eval", name, LM_EVAL_TASKS)
    return LM_EVAL_TASKS[name]


def find_definition(name: str) -> Path:
    """lm-eval's definition file of a task; MissingPackage if lm-eval is not installed."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise missing_lm_eval()
    return Path(spec.origin).parent / "tasks" / get_lm_eval_task(name).file


def missing_lm_eval() -> MissingPackage:
    """The error for a machine without lm-eval."""
    purpose = "it is for text tasks at the paper's scale"
    return MissingPackage(f"lm_eval is not installed; {purpose}. Install it: pip install 'firstsight[eval]'")


@cache
def definition_version(name: str) -> str:
    """The versions of lm-eval and of a task's definition; the task's scores depend on both, and on its data."""
    return f"{_lm_eval_version()}, {name} {_declared_version(find_definition(name))}"


def query_version(name: str) -> str:
    """As `definition_version`, for a copy's own questions instead of lm-eval's wording."""
    return f"{_lm_eval_version()}, {name} as query, choices and gold, 1"


def _lm_eval_version() -> str:
    try:
        return f"lm-eval {version('lm_eval')}"
    except PackageNotFoundError:
        raise missing_lm_eval() from None


def _declared_version(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    declared = re.search(r"^metadata:\n(?:\s+.*\n)*?\s+version:\s*(\S+)", text, re.MULTILINE)
    if declared:
        return declared[1]
    included = re.search(r"^include:\s*(\S+)", text, re.MULTILINE)
    return _declared_version(file.parent / included[1]) if included else "without a version"
