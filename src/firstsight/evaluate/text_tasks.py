"""Text tasks that lm-eval asks, whose rows are kept task by task, so that they are asked once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Any

from firstsight.errors import RequestError
from firstsight.evaluate import answer_cache, tasks
from firstsight.evaluate.answer_cache import AnswerCache
from firstsight.evaluate.models.interface import EvalModel
from firstsight.evaluate.results import ScoredAnswer
from firstsight.evaluate.task import PromptStyle, Question, Task
from firstsight.site import ProgressCallback

_LM_EVAL_STYLE = "lm-eval"


def uses_lm_eval(task: Task, prompt_style: PromptStyle) -> bool:
    """Whether lm-eval's own task is asked: for the paper's text tasks, outside the built-in world."""
    return prompt_style == "paper" and task.kind == "text" and task.name in tasks.TASKS


def evaluate_with_lm_eval(
    task: Task,
    benchmarks_path: Path,
    *,
    get_model: Callable[[], EvalModel],
    answers_folder: Path | None,
    on_progress: ProgressCallback,
) -> list[ScoredAnswer]:
    """The rows of a task as lm-eval asks it; `who` is called only where they are not kept in the folder `sheets`.

    Raises RequestError for a model that is not firstsight's own, MissingPackage without lm-eval.
    """
    from firstsight.evaluate.lm_eval import definition_version, evaluate_text_tasks

    fingerprint = [definition_version(task.name), *_file_digests(benchmarks_path / task.name)]
    header = {
        "task": task.name,
        "version": task.version,
        "style": _LM_EVAL_STYLE,
        "questions": answer_cache.questions_digest(fingerprint),
    }
    task_cache = AnswerCache(folder=answers_folder, header=header)
    cached_rows = task_cache.read()
    if cached_rows:
        return [_from_json(task, question_id, json.loads(answer)) for (question_id, _), answer in cached_rows.items()]
    answers = evaluate_text_tasks(
        _require_native_model(get_model(), task), [task.name], folder=benchmarks_path, on_progress=on_progress
    )
    task_cache.write({(answer.question.id, False): json.dumps(_to_json(answer)) for answer in answers})
    return answers


def _require_native_model(model: EvalModel, task: Task) -> Any:
    from firstsight.evaluate.models.native import NativeModel

    if not isinstance(model, NativeModel):
        raise RequestError(
            f"{task.name}: wanted a checkpoint of firstsight for lm-eval's text tasks. Got a model of transformers. "
            "Ask lm-eval itself: lm_eval --model hf --model_args pretrained=FOLDER; or name vision tasks with --tasks."
        )
    return model


def _file_digests(folder: Path) -> Iterator[list[str]]:
    """Every file of an offline copy, by name and bytes; nothing where lm-eval is to fetch the data."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            yield [path.relative_to(folder).as_posix(), file_digest(file, "sha256").hexdigest()]


def _to_json(answer: ScoredAnswer) -> dict[str, Any]:
    question = answer.question
    return {
        "text": question.text,
        "truth": question.truth,
        "choices": question.choices,
        "tags": dict(question.tags),
        "answer": answer.answer,
        "score": answer.score,
    }


def _from_json(task: Task, question_id: str, values: dict[str, Any]) -> ScoredAnswer:
    truth = values["truth"]
    question = Question(
        id=question_id,
        text=values["text"],
        truth=tuple(truth) if isinstance(truth, list) else truth,
        image=None,
        choices=tuple(values["choices"]),
        split="",
        tags=values["tags"],
    )
    return ScoredAnswer(
        task=task,
        question=question,
        prompt=question.text,
        answer=values["answer"],
        score=values["score"],
        is_blind=False,
    )
