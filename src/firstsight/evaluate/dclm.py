"""DCLM's aggregates Core and Extended of its own text tasks, beside the paper's stable score.

Both are means of centred accuracies, (accuracy - chance) / (1 - chance), over 22 and over 53 tasks of llm-foundry, with
DCLM's own numbers of shots. Source: mlfoundations/dclm, eval/aggregated_metrics.py, version v2: eval_meta_data.csv has
chance and category of each task, additional_aggregation.json the tasks of Core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.result_files import round_score
from firstsight.evaluate.task import load_json

_TASKS_BY_CATEGORY = {
    "world knowledge": (
        "mmlu_zeroshot 25, jeopardy 0, triviaqa_sm_sub 0, bigbench_qa_wikidata 0, arc_easy 25, "
        "arc_challenge 25, mmlu_fewshot 25, bigbench_misconceptions 50, gpqa_main 25, gpqa_diamond 25"
    ),
    "language understanding": (
        "hellaswag_zeroshot 25, lambada_openai 0, hellaswag 25, winograd 50, winogrande 50, "
        "bigbench_conlang_translation 0, bigbench_language_identification 25, "
        "bigbench_conceptual_combinations 33"
    ),
    "symbolic problem solving": (
        "gsm8k_cot 0, agi_eval_sat_math_cot 0, aqua_cot 0, svamp_cot 0, bigbench_elementary_math_qa 25, "
        "bigbench_dyck_languages 0, agi_eval_lsat_ar 25, bigbench_cs_algorithms 0, "
        "bigbench_logical_deduction 25, bigbench_operators 0, bigbench_repeat_copy_logic 0, "
        "simple_arithmetic_nospaces 0, simple_arithmetic_withspaces 0, math_qa 20, logi_qa 25"
    ),
    "commonsense reasoning": (
        "copa 50, siqa 50, commonsense_qa 40.3, piqa 50, openbook_qa 25, bigbench_novel_concepts 25, "
        "bigbench_strange_stories 50, bigbench_strategy_qa 50"
    ),
    "reading comprehension": (
        "pubmed_qa_labeled 0, squad 0, agi_eval_lsat_rc 25, agi_eval_lsat_lr 25, coqa 0, "
        "bigbench_understanding_fables 25, boolq 62, agi_eval_sat_en 25"
    ),
    "safety": ("winogender_mc_female 50, winogender_mc_male 50, enterprise_pii_classification 50, bbq 50"),
}
"""Names of tasks with their chance in percent, by category."""
BASELINES: Mapping[str, float] = {
    name: float(percent) / 100
    for tasks in _TASKS_BY_CATEGORY.values()
    for name, percent in (task.split() for task in tasks.split(", "))
}
"""The accuracy of chance by task; the tasks of Extended."""
_CORE = (
    "hellaswag_zeroshot jeopardy bigbench_qa_wikidata arc_easy arc_challenge copa commonsense_qa piqa "
    "openbook_qa lambada_openai hellaswag winograd winogrande bigbench_dyck_languages agi_eval_lsat_ar "
    "bigbench_cs_algorithms bigbench_operators bigbench_repeat_copy_logic squad coqa boolq "
    "bigbench_language_identification"
)
CORE_TASKS: tuple[str, ...] = tuple(_CORE.split())
"""The 22 tasks of Core, whose scores vary little between small models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DclmScores:
    """DCLM's aggregates; an aggregate without one of its tasks is None, as in DCLM's script."""

    core: float | None
    extended: float | None
    categories: Mapping[str, float]
    """The mean over the tasks of each category that have a score."""
    missing_core: tuple[str, ...]
    missing_extended: tuple[str, ...]
    unknown: tuple[str, ...]
    """Names that are no task of DCLM's."""


def dclm_scores(accuracies: Mapping[str, float]) -> DclmScores:
    """Core and Extended of accuracies, shares of 1, by DCLM's names of tasks."""
    centred = {
        name: (accuracies[name] - chance) / (1 - chance) for name, chance in BASELINES.items() if name in accuracies
    }
    missing_core = tuple(name for name in CORE_TASKS if name not in centred)
    missing_extended = tuple(name for name in BASELINES if name not in centred)
    categories: dict[str, float] = {}
    for category, tasks in _TASKS_BY_CATEGORY.items():
        scores = [centred[name] for name in (task.split()[0] for task in tasks.split(", ")) if name in centred]
        categories |= {category: round_score(sum(scores) / len(scores))} if scores else {}
    return DclmScores(
        core=None if missing_core else round_score(sum(centred[name] for name in CORE_TASKS) / len(CORE_TASKS)),
        extended=None if missing_extended else round_score(sum(centred.values()) / len(centred)),
        categories=categories,
        missing_core=missing_core,
        missing_extended=missing_extended,
        unknown=tuple(name for name in accuracies if name not in BASELINES),
    )


def read_accuracies(path: Path) -> dict[str, float]:
    """The accuracies by task in DCLM's results, {"eval_metrics": {"icl": {task: accuracy}}}, or in {task: accuracy}.

    DataError for another form and for a value that is no share of 1.
    """
    content: Any = load_json(path)
    metrics = content.get("eval_metrics") if isinstance(content, dict) else None
    accuracies = metrics.get("icl") if isinstance(metrics, dict) else content
    if not isinstance(accuracies, dict) or not accuracies:
        raise DataError(
            f"{path}: wanted DCLM's results, with eval_metrics and icl, or an object of accuracies by task."
        )
    for name, value in accuracies.items():
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise DataError(f"{path}: the accuracy of {name} is a share from 0 to 1. Got {value!r:.40}.")
    return {name: float(value) for name, value in accuracies.items()}
