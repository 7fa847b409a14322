"""The paper's ten text tasks as lm-eval defines them; read without importing it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from firstsight.errors import MissingPackage, UnknownName


@dataclass(frozen=True, kw_only=True, slots=True)
class LmEvalTask:
    """One of lm-eval's tasks; its name there is ours."""

    file: str
    """Its definition, below lm_eval/tasks."""
    config: str
    """The data set's configuration, which may be a folder of an offline copy; empty where it has one alone."""
    split: str
    """The split that is judged."""
    columns: tuple[str, ...]
    """What the definition reads of a record."""


LM_EVAL_TASKS: Mapping[str, LmEvalTask] = {
    "agieval_sat_en": LmEvalTask(
        file="agieval/sat-en.yaml", config="", split="test", columns=("query", "choices", "gold")
    ),
    "arc_easy": LmEvalTask(
        file="arc/arc_easy.yaml", config="ARC-Easy", split="test", columns=("question", "choices", "answerKey")
    ),
    "bigbench_conceptual_combinations_multiple_choice": LmEvalTask(
        file="bigbench/multiple_choice/conceptual_combinations.yaml",
        config="conceptual_combinations_zero_shot",
        split="default",
        columns=("inputs", "targets", "multiple_choice_targets"),
    ),
    "bigbench_cs_algorithms_multiple_choice": LmEvalTask(
        file="bigbench/multiple_choice/cs_algorithms.yaml",
        config="cs_algorithms_zero_shot",
        split="default",
        columns=("inputs", "targets", "multiple_choice_targets"),
    ),
    "boolq": LmEvalTask(
        file="super_glue/boolq/default.yaml",
        config="boolq",
        split="validation",
        columns=("passage", "question", "label"),
    ),
    "copa": LmEvalTask(
        file="super_glue/copa/default.yaml",
        config="copa",
        split="validation",
        columns=("premise", "choice1", "choice2", "question", "label"),
    ),
    "hellaswag": LmEvalTask(
        file="hellaswag/hellaswag.yaml",
        config="",
        split="validation",
        columns=("ctx_a", "ctx_b", "activity_label", "endings", "label"),
    ),
    "mathqa": LmEvalTask(file="mathqa/mathqa.yaml", config="", split="test", columns=("Problem", "options", "correct")),
    "piqa": LmEvalTask(file="piqa/piqa.yaml", config="", split="validation", columns=("goal", "sol1", "sol2", "label")),
    "pubmedqa": LmEvalTask(
        file="pubmedqa/pubmedqa.yaml",
        config="pubmed_qa_labeled_fold0_source",
        split="test",
        columns=("CONTEXTS", "QUESTION", "final_decision"),
    ),
}


def get_lm_eval_task(name: str) -> LmEvalTask:
    """The task called `name`; UnknownName lists the nearest."""
    if name not in LM_EVAL_TASKS:
        raise UnknownName("text task of lm-eval", name, LM_EVAL_TASKS)
    return LM_EVAL_TASKS[name]


def find_definition(name: str) -> Path:
    """The file of lm-eval that defines a task; MissingPackage where lm-eval is not installed."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise missing_lm_eval()
    return Path(spec.origin).parent / "tasks" / get_lm_eval_task(name).file


def missing_lm_eval() -> MissingPackage:
    """What to tell a user who has no lm-eval."""
    return MissingPackage(
        "lm_eval is not installed; it is for text tasks at the paper's scale. "
        "Install it: pip install 'firstsight[eval]'"
    )


@cache
def definition_version(name: str) -> str:
    """What a task's numbers hang on beside the data: lm-eval's version and its version of the task."""
    return f"{_lm_eval_version()}, {name} {_declared_version(find_definition(name))}"


def query_version(name: str) -> str:
    """As `text_version`, for a task whose questions stand there as they are and not in lm-eval's wording."""
    return f"{_lm_eval_version()}, {name} as query, choices and gold, 1"


def _lm_eval_version() -> str:
    try:
        return f"lm-eval {version('lm_eval')}"
    except PackageNotFoundError:
        raise missing_lm_eval() from None


def _declared_version(file: Path) -> str:
    """The version that stands in a definition, or in the one that it includes."""
    text = file.read_text(encoding="utf-8")
    version_match = re.search(r"^metadata:\n(?:\s+.*\n)*?\s+version:\s*(\S+)", text, re.MULTILINE)
    if version_match:
        return version_match[1]
    include_match = re.search(r"^include:\s*(\S+)", text, re.MULTILINE)
    return _declared_version(file.parent / include_match[1]) if include_match else "without a version"
