"""Text tasks answered by the likeliest choice, in llm-foundry's form; scored as lm-eval's `acc`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.exact_match import CHOICE_MATCH
from firstsight.evaluate.task import Question, Task, load_json_records, record_tags, require_key, single_file
from firstsight.evaluate.tasks.records import require_unique_ids


def read_multiple_choice(paths: Sequence[Path]) -> tuple[Question, ...]:
    """JSON lines of {"query", "choices", "gold"}."""
    path = single_file(paths, "a query, its choices and the right one a line")
    return require_unique_ids([_question(row, index, path) for index, row in enumerate(load_json_records(path))], paths)


def _question(row: dict[str, Any], index: int, path: Path) -> Question:
    choices, gold = tuple(require_key(row, "choices", path)), require_key(row, "gold", path)
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise DataError(f"{path}:{index + 1}: gold is the number of a choice, 0 to {len(choices) - 1}. Got {gold!r}.")
    return Question(
        id=str(row.get("question_id", index)),
        text=require_key(row, "query", path),
        truth=gold,
        image=None,
        choices=choices,
        split="",
        tags=record_tags(row),
    )


def _text_task(name: str, *, chance: float, baseline: float | None, suffix: str) -> Task:
    return Task(
        name=name,
        kind="text",
        answer_type="choice",
        metric=CHOICE_MATCH,
        chance=chance,
        baseline=baseline,
        read_questions=read_multiple_choice,
        prompt_templates={"bare": "{q}", "paper": "{q}" + suffix},
        version=1,
    )


_ANSWER_SUFFIX = "\nAnswer:"

# agieval_sat_en has four choices, so chance is .25; the authors subtract .2, and so does the stable score.
TEXT_TASKS: tuple[Task, ...] = (
    _text_task("agieval_sat_en", chance=0.25, baseline=0.2, suffix=_ANSWER_SUFFIX),
    _text_task("arc_easy", chance=0.25, baseline=0.25, suffix=_ANSWER_SUFFIX),
    _text_task("bigbench_conceptual_combinations_multiple_choice", chance=0.25, baseline=0.25, suffix=_ANSWER_SUFFIX),
    _text_task("bigbench_cs_algorithms_multiple_choice", chance=0.5, baseline=None, suffix=""),
    _text_task("boolq", chance=0.5, baseline=0.5, suffix=_ANSWER_SUFFIX),
    _text_task("copa", chance=0.5, baseline=0.5, suffix=""),
    _text_task("hellaswag", chance=0.25, baseline=0.25, suffix=""),
    _text_task("mathqa", chance=0.2, baseline=0.2, suffix=_ANSWER_SUFFIX),
    _text_task("piqa", chance=0.5, baseline=0.5, suffix=_ANSWER_SUFFIX),
    _text_task("pubmedqa", chance=1 / 3, baseline=0.333, suffix=_ANSWER_SUFFIX),
)
