"""The paper's text tasks through lm-eval: scored answers in the same form as all other tasks', stored once per task."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstsight.errors import DataError, RequestError
from firstsight.evaluate import tasks
from firstsight.evaluate.answer_cache import AnswerCache, questions_digest
from firstsight.evaluate.lm_eval.doc_adapters import COPY_TYPES, gold_index
from firstsight.evaluate.lm_eval.tasks import definition_version, get_lm_eval_task, missing_lm_eval
from firstsight.evaluate.models.interface import EvalModel, RawAnswer
from firstsight.evaluate.models.native import NativeModel
from firstsight.evaluate.result_files import SoftScore
from firstsight.evaluate.results import ScoredAnswer
from firstsight.evaluate.soft_scores import soft_score
from firstsight.evaluate.task import PromptStyle, Question, Task, record_tags, unread_file_notes
from firstsight.files import file_sha256
from firstsight.site import Progress, ProgressCallback

if TYPE_CHECKING:
    from firstsight.evaluate.lm_eval.task_definitions import LoadedTask

_ID_COLUMNS = ("question_id", "native_id", "id", "idx", "pubid", "ind")


@dataclass(frozen=True, kw_only=True, slots=True)
class LmEvalResult:
    """lm-eval's result of one task."""

    name: str
    version: str
    """The versions of lm-eval and of the definition, or a note that the copy's own questions were used."""
    rows: tuple[ScoredAnswer, ...]
    metrics: Mapping[str, float]
    """Means over questions of the definition's metrics: acc, and for some tasks acc_norm."""


def uses_lm_eval(task: Task, prompt_style: PromptStyle) -> bool:
    """Whether lm-eval runs the task: the paper's text tasks, except in the prompt style "bare"."""
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
    folder = benchmarks_path / task.name  # without files where lm-eval downloads the data
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file_digests = ([path.relative_to(folder).as_posix(), file_sha256(path)] for path in files)
    for note in unread_file_notes(folder, types=COPY_TYPES, pattern="**/*"):
        on_progress(Progress(done=0, total=0, unit="answers", note=note))
    digest = questions_digest([definition_version(task.name), *file_digests])
    header = {"task": task.name, "version": task.version, "style": "lm-eval", "questions": digest}
    answer_cache = AnswerCache(folder=answers_folder, header=header)
    if stored := answer_cache.read():
        return [_from_json(task, question_id, raw.text) for (question_id, _), raw in stored.items()]
    model = get_model()
    if not isinstance(model, NativeModel):
        raise RequestError(
            f"{task.name}: wanted a firstsight checkpoint for lm-eval's text tasks. Got a transformers model. "
            "Run lm-eval itself: lm_eval --model hf --model_args pretrained=FOLDER; or name vision tasks with --tasks."
        )
    [result] = evaluate_lm_eval_tasks(model, [task.name], folder=benchmarks_path, on_progress=on_progress)
    answer_cache.write({(answer.question.id, False): RawAnswer(_to_json(answer)) for answer in result.rows})
    return list(result.rows)


def _to_json(answer: ScoredAnswer) -> str:
    assert answer.soft is not None
    question = answer.question
    fields = {"text": question.text, "truth": question.truth, "choices": question.choices, "tags": dict(question.tags)}
    return json.dumps({**fields, "answer": answer.answer, "score": answer.score, "soft": answer.soft.score})


def _from_json(task: Task, question_id: str, text: str) -> ScoredAnswer:
    fields = json.loads(text)
    answer, score, soft = fields.pop("answer"), fields.pop("score"), SoftScore(score=fields.pop("soft"))
    question = Question(id=question_id, choices=tuple(fields.pop("choices")), **fields)
    return _scored_answer(task, question, answer, score=score, soft=soft)


def _scored_answer(
    task: Task, question: Question, answer: str, *, score: float, soft: SoftScore | None
) -> ScoredAnswer:
    return ScoredAnswer(
        task=task, question=question, prompt=question.text, answer=answer, score=score, is_blind=False, soft=soft
    )


def evaluate_lm_eval_tasks(
    native_model: NativeModel,
    names: Sequence[str],
    *,
    folder: Path,
    on_progress: ProgressCallback,
    style: PromptStyle = "paper",
) -> list[LmEvalResult]:
    """Answers and metrics of tasks over the copies in FOLDER/NAME; style `bare` uses their `query` texts unchanged.

    lm-eval downloads the data of a task without a folder. Zero-shot, without images, deterministic. Raises DataError
    for data that is in an unknown form or cannot be downloaded, MissingPackage without lm-eval, RequestError for words
    outside a small vocabulary.
    """
    for name in names:
        get_lm_eval_task(name)
    try:
        from firstsight.evaluate.lm_eval import adapter, task_definitions
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise missing_lm_eval() from error
    model = adapter.LmEvalAdapter(native_model, on_progress=on_progress)
    loaded: dict[str, LoadedTask] = {}
    with silence_lm_eval():
        for name in names:
            is_local = style == "bare" or (folder / name).is_dir()
            with _offline() if is_local else contextlib.nullcontext():
                if style == "bare":
                    loaded[name] = task_definitions.load_query_task(name, folder / name, ending="")
                elif is_local:
                    loaded[name] = task_definitions.load_local_task(name, folder / name)
                else:
                    loaded[name] = task_definitions.load_hub_task(name)
        with _offline():
            samples = task_definitions.collect_samples(model, loaded)
    return [_result(name, loaded[name], samples[name]) for name in names]


def _result(name: str, loaded: LoadedTask, samples: Sequence[Mapping[str, Any]]) -> LmEvalResult:
    if not samples:
        raise DataError(f"{name}: wanted questions. Got none. Check that the copy of its data is complete.")
    ids = _doc_ids([sample["doc"] for sample in samples])
    rows = tuple(_row(name, sample, question_id) for sample, question_id in zip(samples, ids, strict=True))
    metrics = {key: sum(float(sample[key]) for sample in samples) / len(samples) for key in samples[0]["metrics"]}
    return LmEvalResult(name=name, version=loaded.version, rows=rows, metrics=metrics)


def _row(name: str, sample: Mapping[str, Any], question_id: str) -> ScoredAnswer:
    prompts, continuations = zip(*sample["arguments"], strict=True)
    choices = tuple(continuation.strip() for continuation in continuations)
    likelihoods = [likelihood for [(likelihood, _)] in sample["resps"]]
    labels = [continuation.removeprefix(" ") for continuation in continuations]
    truth, tags = gold_index(sample["target"], labels, sample["doc"]), record_tags(sample["doc"])
    question = Question(id=question_id, text=prompts[0], truth=truth, choices=choices, tags=tags)
    answer = choices[likelihoods.index(max(likelihoods))]
    task = tasks.get_task(name)
    soft = soft_score(task, question, RawAnswer(answer, tuple(likelihoods)))
    return _scored_answer(task, question, answer, score=float(sample["acc"]), soft=soft)


def _doc_ids(docs: Sequence[Mapping[str, Any]]) -> list[str]:
    for column in _ID_COLUMNS:
        ids = [str(doc[column]) for doc in docs if doc.get(column) is not None]
        if len(set(ids)) == len(docs):
            return ids
    return [str(number) for number in range(len(docs))]


@contextlib.contextmanager
def silence_lm_eval() -> Generator[None, None, None]:
    """Suppress the log lines and progress bars of lm-eval and datasets; errors are raised as usual."""
    import datasets

    levels = {logger: logger.level for logger in map(logging.getLogger, ("lm_eval", "datasets"))}
    bars_disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        if not bars_disabled:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _offline() -> Generator[None, None, None]:
    from datasets import config
    from huggingface_hub import constants

    previous = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = previous
