"""The paper's text tasks through lm-eval: scored answers in the same form as all other tasks', stored once per task."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstsight.errors import DataError, RequestError
from firstsight.evaluate import tasks
from firstsight.evaluate.answer_cache import AnswerCache, questions_digest
from firstsight.evaluate.lm_eval.tasks import definition_version, get_lm_eval_task, missing_lm_eval
from firstsight.evaluate.models.interface import EvalModel
from firstsight.evaluate.models.native import NativeModel
from firstsight.evaluate.results import ScoredAnswer
from firstsight.evaluate.task import PromptStyle, Question, Task, record_tags
from firstsight.files import file_sha256
from firstsight.site import ProgressCallback

if TYPE_CHECKING:
    from firstsight.evaluate.lm_eval.task_definitions import LoadedTask

_ID_COLUMNS = ("question_id", "native_id", "id", "idx", "pubid", "ind")
"""Columns by which data sets know their records."""
_LM_EVAL_STYLE = "lm-eval"
"""The prompt style in the name and header of a stored answer file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LmEvalResult:
    """What lm-eval found of one task."""

    name: str
    version: str
    """Of lm-eval and of its task; says so where the questions were asked as they stand."""
    rows: tuple[ScoredAnswer, ...]
    metrics: Mapping[str, float]
    """Means over questions of all that the definition measures: acc, and for some acc_norm."""


def uses_lm_eval(task: Task, prompt_style: PromptStyle) -> bool:
    """Whether lm-eval runs the task: the paper's text tasks, except on the synthetic benchmarks (prompt style "bare")."""
    return prompt_style == "paper" and task.kind == "text" and task.name in tasks.TASKS


def evaluate_with_lm_eval(
    task: Task,
    benchmarks_path: Path,
    *,
    get_model: Callable[[], EvalModel],
    answers_folder: Path | None,
    on_progress: ProgressCallback,
) -> list[ScoredAnswer]:
    """The scored answers of one task; `get_model` is called only if `answers_folder` does not contain them already.

    Raises RequestError for a model that is not a firstsight checkpoint, MissingPackage without lm-eval.
    """
    fingerprint = [definition_version(task.name), *_file_digests(benchmarks_path / task.name)]
    header = {
        "task": task.name,
        "version": task.version,
        "style": _LM_EVAL_STYLE,
        "questions": questions_digest(fingerprint),
    }
    answer_cache = AnswerCache(folder=answers_folder, header=header)
    if stored := answer_cache.read():
        return [_from_json(task, question_id, json.loads(answer)) for (question_id, _), answer in stored.items()]
    model = get_model()
    if not isinstance(model, NativeModel):
        raise RequestError(
            f"{task.name}: wanted a firstsight checkpoint for lm-eval's text tasks. Got a transformers model. "
            "Run lm-eval itself: lm_eval --model hf --model_args pretrained=FOLDER; or name vision tasks with --tasks."
        )
    answers = evaluate_text_tasks(model, [task.name], folder=benchmarks_path, on_progress=on_progress)
    answer_cache.write({(answer.question.id, False): json.dumps(_to_json(answer)) for answer in answers})
    return answers


def _file_digests(folder: Path) -> Iterator[list[str]]:
    """[relative path, sha256] of every file of an offline copy; nothing where lm-eval downloads the data."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield [path.relative_to(folder).as_posix(), file_sha256(path)]


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


def evaluate_text_tasks(
    native_model: NativeModel, names: Sequence[str], *, folder: Path, on_progress: ProgressCallback
) -> list[ScoredAnswer]:
    """Rows of the tasks `names` in lm-eval's wording, over the copies in FOLDER/NAME; see `examine`."""
    return [
        row
        for result in evaluate_lm_eval_tasks(native_model, names, folder=folder, on_progress=on_progress, style="paper")
        for row in result.rows
    ]


def evaluate_lm_eval_tasks(
    native_model: NativeModel, names: Sequence[str], *, folder: Path, on_progress: ProgressCallback, style: PromptStyle
) -> list[LmEvalResult]:
    """Every task's rows and measures; style `bare` asks questions in query form as they stand.

    A task without a folder is fetched by lm-eval. Zero examples, no picture, the same answers every time.
    Raises DataError for data in no known form or that cannot be fetched, MissingPackage without lm-eval, RequestError
    for words outside a small vocabulary.
    """
    for name in names:
        get_lm_eval_task(name)
    try:
        from firstsight.evaluate.lm_eval import adapter
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise missing_lm_eval() from error
    with silence_lm_eval():
        loaded_tasks = {name: _load_task(name, folder, style) for name in names}
        adapter_model = adapter.LmEvalAdapter(
            native_model, batch_contexts=None, max_length=adapter.DEFAULT_MAX_LENGTH, on_progress=on_progress
        )
        samples = _collect_samples(adapter_model, loaded_tasks)
    return [_result(name, loaded_tasks[name], samples[name]) for name in names]


def _load_task(name: str, folder: Path, style: PromptStyle) -> LoadedTask:
    from firstsight.evaluate.lm_eval import task_definitions

    task_folder = folder / name
    if style == "bare":
        return task_definitions.load_query_task(name, task_folder, ending="")
    if not task_folder.is_dir():
        return task_definitions.load_hub_task(name)
    with _offline():
        return task_definitions.load_local_task(name, task_folder)


def _collect_samples(model: Any, loaded_tasks: Mapping[str, LoadedTask]) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples by task, in the order of the task's documents.

    `evaluate` and not `simple_evaluate`, which sets the process's seeds and asks the machine for its drivers.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    from firstsight.evaluate.lm_eval.task_definitions import convert_record_errors

    for loaded_task in loaded_tasks.values():
        loaded_task.task.set_config(key="num_fewshot", value=0)
    with _offline():
        task_dict = TaskManager(include_defaults=False).load(
            [loaded_task.task for loaded_task in loaded_tasks.values()]
        )
        with convert_record_errors(", ".join(loaded_tasks)):
            results = evaluate(model, task_dict, bootstrap_iters=0, log_samples=True)
    samples: dict[str, list[Any]] = (results or {}).get("samples", {})
    return {name: sorted(task_samples, key=lambda sample: sample["doc_id"]) for name, task_samples in samples.items()}


def _result(name: str, loaded_task: LoadedTask, samples: Sequence[dict[str, Any]]) -> LmEvalResult:
    if not samples:
        raise DataError(f"{name}: wanted questions. Got none. Check that the copy of its data is complete.")
    ids = _doc_ids([sample["doc"] for sample in samples])
    rows = tuple(_row(name, sample, question_id) for sample, question_id in zip(samples, ids, strict=True))
    metrics = {
        metric: sum(float(sample[metric]) for sample in samples) / len(samples) for metric in samples[0]["metrics"]
    }
    return LmEvalResult(name=name, version=loaded_task.version, rows=rows, metrics=metrics)


def _row(name: str, sample: Mapping[str, Any], question_id: str) -> ScoredAnswer:
    from firstsight.evaluate.lm_eval.task_definitions import gold_index

    continuations = [continuation for _, continuation in sample["arguments"]]
    choices = tuple(continuation.strip() for continuation in continuations)
    likelihoods = [total for [(total, _)] in sample["resps"]]
    question = Question(
        id=question_id,
        text=sample["arguments"][0][0],
        truth=gold_index(
            sample["target"], [continuation.removeprefix(" ") for continuation in continuations], sample["doc"]
        ),
        image=None,
        choices=choices,
        split="",
        tags=record_tags(sample["doc"]),
    )
    answer = choices[max(range(len(likelihoods)), key=likelihoods.__getitem__)]
    return ScoredAnswer(
        task=tasks.get_task(name),
        question=question,
        prompt=question.text,
        answer=answer,
        score=float(sample["acc"]),
        is_blind=False,
    )


def _doc_ids(docs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The data set's own ids where they tell its records apart, else their numbers."""
    for column in _ID_COLUMNS:
        ids = [str(doc[column]) for doc in docs if doc.get(column) is not None]
        if len(set(ids)) == len(docs):
            return ids
    return [str(number) for number in range(len(docs))]


@contextlib.contextmanager
def silence_lm_eval() -> Generator[None, None, None]:
    """Without the log lines and bars of lm-eval and datasets; errors are raised as ever."""
    import datasets

    loggers = {name: logging.getLogger(name) for name in ("lm_eval", "datasets")}
    levels = {name: logger.level for name, logger in loggers.items()}
    bars_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
        if not bars_disabled:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _offline() -> Generator[None, None, None]:
    """While it lasts datasets and the hub refuse to fetch; both read these switches at every request."""
    from datasets import config
    from huggingface_hub import constants

    previous = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = previous
