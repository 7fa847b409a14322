"""Text tasks that lm-eval asks, whose rows are kept task by task, so that they are asked once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Any

from firstsight.errors import RequestError
from firstsight.evaluate import cache, tasks
from firstsight.evaluate.cache import Sheet
from firstsight.evaluate.question import Question, Style, Task
from firstsight.evaluate.speakers.speaker import Speaker
from firstsight.evaluate.summary import Row
from firstsight.site import Tell

_STYLE = "lm-eval"


def lm_evals(task: Task, style: Style) -> bool:
    """Whether lm-eval's own task is asked: for the paper's text tasks, outside the built-in world."""
    return style == "paper" and task.kind == "text" and task.name in tasks.TASKS


def told(task: Task, benchmarks: Path, *, who: Callable[[], Speaker], sheets: Path | None, tell: Tell) -> list[Row]:
    """The rows of a task as lm-eval asks it; `who` is called only where they are not kept in the folder `sheets`.

    Raises RequestError for a model that is not firstsight's own, MissingPackage without lm-eval.
    """
    from firstsight.evaluate.eleuther import judge_text, text_version

    asked = [text_version(task.name), *_content(benchmarks / task.name)]
    head = {"task": task.name, "version": task.version, "style": _STYLE, "questions": cache.questions_digest(asked)}
    sheet = Sheet(folder=sheets, head=head)
    kept = sheet.read()
    if kept:
        return [_row(task, name, json.loads(row)) for (name, _), row in kept.items()]
    rows = judge_text(_own(who(), task), [task.name], folder=benchmarks, tell=tell)
    sheet.put({(row.question.id, False): json.dumps(_kept(row)) for row in rows})
    return rows


def _own(who: Speaker, task: Task) -> Any:
    from firstsight.evaluate.speakers.own import Own

    if not isinstance(who, Own):
        raise RequestError(
            f"{task.name}: wanted a checkpoint of firstsight for lm-eval's text tasks. Got a model of transformers. "
            "Ask lm-eval itself: lm_eval --model hf --model_args pretrained=FOLDER; or name vision tasks with --tasks."
        )
    return who


def _content(folder: Path) -> Iterator[list[str]]:
    """Every file of an offline copy, by name and bytes; nothing where lm-eval is to fetch the data."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as data:
            yield [path.relative_to(folder).as_posix(), file_digest(data, "sha256").hexdigest()]


def _kept(row: Row) -> dict[str, Any]:
    asked = row.question
    return {
        "text": asked.text,
        "truth": asked.truth,
        "choices": asked.choices,
        "tags": dict(asked.tags),
        "answer": row.answer,
        "score": row.score,
    }


def _row(task: Task, name: str, kept: dict[str, Any]) -> Row:
    truth = kept["truth"]
    question = Question(
        id=name,
        text=kept["text"],
        truth=tuple(truth) if isinstance(truth, list) else truth,
        image=None,
        choices=tuple(kept["choices"]),
        split="",
        tags=kept["tags"],
    )
    return Row(
        task=task, question=question, prompt=question.text, answer=kept["answer"], score=kept["score"], blind=False
    )
