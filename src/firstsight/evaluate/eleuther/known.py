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
class Known:
    """One of lm-eval's tasks; its name there is ours."""

    file: str
    """Its definition, below lm_eval/tasks."""
    config: str
    """The data set's configuration, which may be a folder of an offline copy; empty where it has one alone."""
    split: str
    """The split that is judged."""
    columns: tuple[str, ...]
    """What the definition reads of a record."""


TASKS: Mapping[str, Known] = {
    "agieval_sat_en": Known(file="agieval/sat-en.yaml", config="", split="test", columns=("query", "choices", "gold")),
    "arc_easy": Known(
        file="arc/arc_easy.yaml", config="ARC-Easy", split="test", columns=("question", "choices", "answerKey")
    ),
    "bigbench_conceptual_combinations_multiple_choice": Known(
        file="bigbench/multiple_choice/conceptual_combinations.yaml",
        config="conceptual_combinations_zero_shot",
        split="default",
        columns=("inputs", "targets", "multiple_choice_targets"),
    ),
    "bigbench_cs_algorithms_multiple_choice": Known(
        file="bigbench/multiple_choice/cs_algorithms.yaml",
        config="cs_algorithms_zero_shot",
        split="default",
        columns=("inputs", "targets", "multiple_choice_targets"),
    ),
    "boolq": Known(
        file="super_glue/boolq/default.yaml",
        config="boolq",
        split="validation",
        columns=("passage", "question", "label"),
    ),
    "copa": Known(
        file="super_glue/copa/default.yaml",
        config="copa",
        split="validation",
        columns=("premise", "choice1", "choice2", "question", "label"),
    ),
    "hellaswag": Known(
        file="hellaswag/hellaswag.yaml",
        config="",
        split="validation",
        columns=("ctx_a", "ctx_b", "activity_label", "endings", "label"),
    ),
    "mathqa": Known(file="mathqa/mathqa.yaml", config="", split="test", columns=("Problem", "options", "correct")),
    "piqa": Known(file="piqa/piqa.yaml", config="", split="validation", columns=("goal", "sol1", "sol2", "label")),
    "pubmedqa": Known(
        file="pubmedqa/pubmedqa.yaml",
        config="pubmed_qa_labeled_fold0_source",
        split="test",
        columns=("CONTEXTS", "QUESTION", "final_decision"),
    ),
}


def known(name: str) -> Known:
    """The task called `name`; UnknownName lists the nearest."""
    if name not in TASKS:
        raise UnknownName("text task of lm-eval", name, TASKS)
    return TASKS[name]


def definition(name: str) -> Path:
    """The file of lm-eval that defines a task; MissingPackage where lm-eval is not installed."""
    found = find_spec("lm_eval")
    if found is None or found.origin is None:
        raise lacking()
    return Path(found.origin).parent / "tasks" / known(name).file


def lacking() -> MissingPackage:
    """What to tell a user who has no lm-eval."""
    return MissingPackage(
        "lm_eval is not installed; it is for text tasks at the paper's scale. "
        "Install it: pip install 'firstsight[eval]'"
    )


@cache
def text_version(name: str) -> str:
    """What a task's numbers hang on beside the data: lm-eval's version and its version of the task."""
    return f"{_harness()}, {name} {_declared(definition(name))}"


def plain_version(name: str) -> str:
    """As `text_version`, for a task whose questions stand there as they are and not in lm-eval's wording."""
    return f"{_harness()}, {name} as query, choices and gold, 1"


def _harness() -> str:
    try:
        return f"lm-eval {version('lm_eval')}"
    except PackageNotFoundError:
        raise lacking() from None


def _declared(file: Path) -> str:
    """The version that stands in a definition, or in the one that it includes."""
    text = file.read_text(encoding="utf-8")
    own = re.search(r"^metadata:\n(?:\s+.*\n)*?\s+version:\s*(\S+)", text, re.MULTILINE)
    if own:
        return own[1]
    included = re.search(r"^include:\s*(\S+)", text, re.MULTILINE)
    return _declared(file.parent / included[1]) if included else "without a version"
