"""Text tasks asked by lm-eval, as rows of answers like every other task's."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from firstsight.errors import DataError
from firstsight.evaluate import tasks
from firstsight.evaluate.eleuther.known import known, lacking
from firstsight.evaluate.question import Question, Style, tags
from firstsight.evaluate.speakers.own import Own
from firstsight.evaluate.summary import Row
from firstsight.site import Tell

if TYPE_CHECKING:
    from firstsight.evaluate.eleuther.definitions import Ready

_IDS = ("question_id", "native_id", "id", "idx", "pubid", "ind")
"""Columns by which data sets know their records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What lm-eval found of one task."""

    name: str
    version: str
    """Of lm-eval and of its task; says so where the questions were asked as they stand."""
    rows: tuple[Row, ...]
    measures: Mapping[str, float]
    """Means over questions of all that the definition measures: acc, and for some acc_norm."""


def judge_text(who: Own, names: Sequence[str], *, folder: Path, tell: Tell) -> list[Row]:
    """Rows of the tasks `names` in lm-eval's wording, over the copies in FOLDER/NAME; see `examine`."""
    return [row for result in examine(who, names, folder=folder, tell=tell, style="paper") for row in result.rows]


def examine(who: Own, names: Sequence[str], *, folder: Path, tell: Tell, style: Style) -> list[Result]:
    """Every task's rows and measures; style `bare` asks questions in query form as they stand.

    A task without a folder is fetched by lm-eval. Zero examples, no picture, the same answers every time.
    Raises DataError for data in no known form or that cannot be fetched, MissingPackage without lm-eval, RequestError
    for words outside a small vocabulary.
    """
    for name in names:
        known(name)
    try:
        from firstsight.evaluate.eleuther import adapter
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise lacking() from error
    with quiet():
        made = {name: _ready(name, folder, style) for name in names}
        model = adapter.Adapter(who, batch=None, longest=adapter.LONGEST, tell=tell)
        samples = _asked(model, made)
    return [_result(name, made[name], samples[name]) for name in names]


def _ready(name: str, folder: Path, style: Style) -> Ready:
    from firstsight.evaluate.eleuther import definitions

    place = folder / name
    if style == "bare":
        return definitions.plain(name, place, ending="")
    if not place.is_dir():
        return definitions.from_hub(name)
    with _offline():
        return definitions.ready(name, place)


def _asked(model: Any, made: Mapping[str, Ready]) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples by task, in the order of the task's documents.

    `evaluate` and not `simple_evaluate`, which sets the process's seeds and asks the machine for its drivers.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    from firstsight.evaluate.eleuther.definitions import readable

    for ready in made.values():
        ready.task.set_config(key="num_fewshot", value=0)
    with _offline():
        loaded = TaskManager(include_defaults=False).load([ready.task for ready in made.values()])
        with readable(", ".join(made)):
            found = evaluate(model, loaded, bootstrap_iters=0, log_samples=True)
    samples: dict[str, list[Any]] = (found or {}).get("samples", {})
    return {name: sorted(some, key=lambda sample: sample["doc_id"]) for name, some in samples.items()}


def _result(name: str, ready: Ready, samples: Sequence[dict[str, Any]]) -> Result:
    if not samples:
        raise DataError(f"{name}: wanted questions. Got none. Check that the copy of its data is complete.")
    ids = _ids([sample["doc"] for sample in samples])
    rows = tuple(_row(name, sample, key) for sample, key in zip(samples, ids, strict=True))
    measures = {
        measure: sum(float(sample[measure]) for sample in samples) / len(samples) for measure in samples[0]["metrics"]
    }
    return Result(name=name, version=ready.version, rows=rows, measures=measures)


def _row(name: str, sample: Mapping[str, Any], key: str) -> Row:
    from firstsight.evaluate.eleuther.definitions import gold

    said = [more for _, more in sample["arguments"]]
    choices = tuple(more.strip() for more in said)
    likely = [total for [(total, _)] in sample["resps"]]
    question = Question(
        id=key,
        text=sample["arguments"][0][0],
        truth=gold(sample["target"], [more.removeprefix(" ") for more in said], sample["doc"]),
        image=None,
        choices=choices,
        split="",
        tags=tags(sample["doc"]),
    )
    chosen = choices[max(range(len(likely)), key=likely.__getitem__)]
    return Row(
        task=tasks.task(name),
        question=question,
        prompt=question.text,
        answer=chosen,
        score=float(sample["acc"]),
        blind=False,
    )


def _ids(docs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The data set's own ids where they tell its records apart, else their numbers."""
    for column in _IDS:
        told = [str(doc[column]) for doc in docs if doc.get(column) is not None]
        if len(set(told)) == len(docs):
            return told
    return [str(number) for number in range(len(docs))]


@contextlib.contextmanager
def quiet() -> Generator[None, None, None]:
    """Without the log lines and bars of lm-eval and datasets; errors are raised as ever."""
    import datasets

    logs = {name: logging.getLogger(name) for name in ("lm_eval", "datasets")}
    levels = {name: log.level for name, log in logs.items()}
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for log in logs.values():
        log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, log in logs.items():
            log.setLevel(levels[name])
        if not bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _offline() -> Generator[None, None, None]:
    """While it lasts datasets and the hub refuse to fetch; both read these switches at every request."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
