"""Text tasks: which ending is likeliest? In llm-foundry's form, scored as lm-eval's `acc`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.words import CHOICE
from firstsight.evaluate.question import Question, Task, lines, single, tags, take
from firstsight.evaluate.tasks.records import distinct


def read(given: Sequence[Path]) -> tuple[Question, ...]:
    """One JSON object a line: {"query", "choices", "gold"}."""
    path = single(given, "a query, its choices and the right one a line")
    return distinct([_question(row, number, path) for number, row in enumerate(lines(path))], given)


def _question(row: dict[str, Any], number: int, path: Path) -> Question:
    choices, gold = tuple(take(row, "choices", path)), take(row, "gold", path)
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise DataError(f"{path}:{number + 1}: gold is the number of a choice, 0 to {len(choices) - 1}. Got {gold!r}.")
    return Question(
        id=str(row.get("question_id", number)),
        text=take(row, "query", path),
        truth=gold,
        image=None,
        choices=choices,
        split="",
        tags=tags(row),
    )


def _task(name: str, *, chance: float, baseline: float | None, ending: str) -> Task:
    return Task(
        name=name,
        kind="text",
        answered="choice",
        metric=CHOICE,
        chance=chance,
        baseline=baseline,
        read=read,
        wording={"bare": "{q}", "paper": "{q}" + ending},
        version=1,
    )


_ANSWER = "\nAnswer:"

# agieval_sat_en has four choices, so chance is .25; the authors subtract .2, and so does the stable score.
TEXT: tuple[Task, ...] = (
    _task("agieval_sat_en", chance=0.25, baseline=0.2, ending=_ANSWER),
    _task("arc_easy", chance=0.25, baseline=0.25, ending=_ANSWER),
    _task("bigbench_conceptual_combinations_multiple_choice", chance=0.25, baseline=0.25, ending=_ANSWER),
    _task("bigbench_cs_algorithms_multiple_choice", chance=0.5, baseline=None, ending=""),
    _task("boolq", chance=0.5, baseline=0.5, ending=_ANSWER),
    _task("copa", chance=0.5, baseline=0.5, ending=""),
    _task("hellaswag", chance=0.25, baseline=0.25, ending=""),
    _task("mathqa", chance=0.2, baseline=0.2, ending=_ANSWER),
    _task("piqa", chance=0.5, baseline=0.5, ending=_ANSWER),
    _task("pubmedqa", chance=1 / 3, baseline=0.333, ending=_ANSWER),
)
