"""The two files of an evaluation: scores.json and answers.jsonl, as dataclasses, with their strict readers and writers.

A file with a missing or unknown key, a value of another type or another version raises a DataError. answers.jsonl has
no version of its own: it belongs to the scores.json next to it. The means over tasks, such as the stable score, are
computed here alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, cast, get_args, get_origin

from firstsight.errors import DataError
from firstsight.evaluate.task import TAGS, TaskKind
from firstsight.evaluate.tasks import TASKS
from firstsight.files import write_atomic
from firstsight.limits import iter_lines, limit_exceeded, parse_json, read_file
from firstsight.recipe.spec import field_types

SCORES_VERSION = 2
"""Version of task scores and their intervals; raised when a number would change."""

ScoreNumber = Literal["scores", "stable", "centred", "raw", "soft"]
"""What has a version: task scores, and each mean over tasks."""

CURRENT_VERSIONS: Mapping[ScoreNumber, int] = {"scores": SCORES_VERSION, "stable": 1, "centred": 1, "raw": 1, "soft": 1}
"""The version of soft is that of the questions' soft scores too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregateScores:
    """Three means over the stable score's tasks of one kind, rounded, and the tasks among these without a score."""

    stable: float | None
    """Accuracy minus the authors' baseline, not divided by (1 - baseline): the paper's number."""
    centred: float | None
    """(accuracy - chance) / (1 - chance), as DCLM centres."""
    raw: float | None
    missing_tasks: tuple[str, ...]


def aggregate_scores(scores: Mapping[str, float], kind: TaskKind) -> AggregateScores:
    """The authors' stable score, the centred and the raw mean over those of their tasks that have a score.

    `scores` is by task; tasks outside the stable score do not count. All three are None without any task.
    Source: paper 5.1; compute_stable_score.py of the authors' open_lm, which skips missing tasks as well.
    """
    baselines = {name: task.baseline for name, task in TASKS.items() if task.kind == kind and task.baseline is not None}
    names = [name for name in baselines if name in scores]
    missing_tasks = tuple(name for name in baselines if name not in scores)
    if not names:
        return AggregateScores(stable=None, centred=None, raw=None, missing_tasks=missing_tasks)
    centred = [(scores[name] - TASKS[name].chance) / (1 - TASKS[name].chance) for name in names]
    return AggregateScores(
        stable=round_score(sum(scores[name] - baselines[name] for name in names) / len(names)),
        centred=round_score(sum(centred) / len(names)),
        raw=round_score(sum(scores[name] for name in names) / len(names)),
        missing_tasks=missing_tasks,
    )


def round_score(value: float) -> float:
    """Nine decimals, as scores are stored: the same on every machine."""
    return round(float(value), 9)


SCORES_FILE, ANSWERS_FILE = "scores.json", "answers.jsonl"

FORMAT_VERSION = 2
"""Version of the keys of both files; raised when one is added, removed or gets another meaning."""

_ADVICE = "Evaluate the checkpoint again; of a step of a study, delete its folder first."
_TYPE_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a finite number"}
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineDifference:
    """A task's score minus that of a baseline on the same questions, with its 95 % interval."""

    difference: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class SubsetScore:
    """The score of the questions with one value of a tag."""

    n: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitScores:
    """POPE's metrics of one split."""

    n: int
    accuracy: float
    f1: float
    precision: float
    recall: float
    yes: float
    """Share of answers that are yes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftTaskScores:
    """Means of a task's soft scores over its questions; see `SoftScore`. All but `blind` are with the image."""

    n: int
    """How many of the answers have a soft score."""
    score: float | None
    interval: tuple[float, float] | None
    """95 % over questions."""
    blind: float | None
    mean: float | None
    best: float | None
    bits_per_byte: float | None
    best_bits_per_byte: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScores:
    """One task's entry in scores.json. Scores are shares of 1 (of CIDEr up to 10); None was not evaluated."""

    kind: TaskKind
    metric: str
    version: int
    """The task's version: of its prompts, its questions and its metric."""
    n: int
    """The number of questions."""
    benchmark: str
    """The published version of the questions, as a sentence."""
    left_out: Mapping[str, int]
    """Questions of the files that were not evaluated: their number by reason."""
    boxes: str | None
    """The unit in which the model writes boxes, if it does not write shares of the image."""
    unreadable: int
    """Answers without the form that the metric expects."""
    score: float | None
    """With the image: the mean over splits of means over questions."""
    interval: tuple[float, float] | None
    """95 % over questions."""
    chance: float
    """What the stable score subtracts."""
    guess: float
    """The score of guessing, which centring uses."""
    stable: bool
    """Whether the task is part of the stable score."""
    blind: float | None
    text_only: float | None
    """The score of the text model that the checkpoint was trained from."""
    over: Mapping[str, BaselineDifference]
    """The score minus each baseline that was evaluated: blind, text_only, question_blind."""
    question_blind: float | None
    heldout: float | None
    """The score of the questions with a part that was held out of training."""
    by: Mapping[str, Mapping[str, SubsetScore]]
    """By tag and value: {"combination": {"heldout": ..., "seen": ...}}."""
    splits: Mapping[str, SplitScores]
    soft: SoftTaskScores | None
    """None for answers without probabilities, such as those of files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The content of scores.json: tasks in their order of evaluation, and three means over tasks by kind."""

    tasks: Mapping[str, TaskScores]
    stable: Mapping[TaskKind, float | None]
    centred: Mapping[TaskKind, float | None]
    raw: Mapping[TaskKind, float | None]
    soft: Mapping[TaskKind, float | None]
    """The soft stable score: the stable score's mean, of the tasks' soft scores minus the same baselines."""
    missing: Mapping[TaskKind, tuple[str, ...]]
    """Tasks of the stable score without a score, which the means leave out."""
    missing_soft: Mapping[TaskKind, tuple[str, ...]]
    """Those without a soft score, which its mean leaves out."""
    versions: Mapping[ScoreNumber, int]


def build_scores(tasks: Mapping[str, TaskScores]) -> Scores:
    """The scores of tasks with the means over them."""
    scores = {name: task.score for name, task in tasks.items() if task.score is not None}
    soft = {name: task.soft.score for name, task in tasks.items() if task.soft and task.soft.score is not None}
    kinds: tuple[TaskKind, ...] = get_args(TaskKind)
    means: dict[TaskKind, AggregateScores] = {kind: aggregate_scores(scores, kind) for kind in kinds}
    soft_means: dict[TaskKind, AggregateScores] = {kind: aggregate_scores(soft, kind) for kind in kinds}
    return Scores(
        tasks=dict(tasks),
        stable={kind: means[kind].stable for kind in kinds},
        centred={kind: means[kind].centred for kind in kinds},
        raw={kind: means[kind].raw for kind in kinds},
        soft={kind: soft_means[kind].stable for kind in kinds},
        missing={kind: means[kind].missing_tasks for kind in kinds},
        missing_soft={kind: soft_means[kind].missing_tasks for kind in kinds},
        versions=CURRENT_VERSIONS,
    )


def write_scores(scores: Scores, folder: Path) -> None:
    """Write scores.json into `folder`."""
    content = {"format": FORMAT_VERSION, **asdict(scores)}
    write_atomic(folder / SCORES_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_scores(folder: Path) -> Scores:
    """The scores.json of `folder`; DataError names the file, the key, what was wanted, what it has and the remedy."""
    path = folder / SCORES_FILE
    try:
        content = _parse_object(read_file(path, "settings"), path)
        format_version = content.pop("format", "none")
        if format_version != FORMAT_VERSION:
            raise _invalid("format", str(FORMAT_VERSION), format_version)
        scores = _decode(Scores, content)
        if scores.versions != CURRENT_VERSIONS:
            raise _invalid("versions", json.dumps(CURRENT_VERSIONS), scores.versions)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error} {_ADVICE}") from error
    return scores


def _parse_object(text: bytes, place: object) -> dict[str, Any]:
    try:
        content = parse_json(text.decode(), place)
    except ValueError as error:
        raise ValueError(f"wanted JSON. Got {error}.") from error
    if not isinstance(content, dict):
        raise _invalid("", "an object", content)
    return content


def _invalid(key: str, wanted: str, value: object) -> ValueError:
    text = value if isinstance(value, str) else json.dumps(value)
    return ValueError(f"{f'{key}: ' if key else ''}wanted {wanted}. Got {text[:80]}.")


def _check_keys(value: Any, wanted: Collection[str], key: str, *, optional: Collection[str] = ()) -> None:
    """ValueError unless `value` is an object with all wanted keys and, besides these, at most the optional ones."""
    if not isinstance(value, dict):
        raise _invalid(key, "an object", value)
    if missing := [name for name in wanted if name not in value]:
        raise _invalid(_join(key, missing[0]), "this key", f"only {', '.join(value) or 'none'}")
    if unknown := [name for name in value if name not in wanted and name not in optional]:
        raise _invalid(_join(key, unknown[0]), f"only {', '.join((*wanted, *optional))}", "this key too")


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


@cache
def _type_parts(expected: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """Origin and arguments of a type, and whether it is a dataclass: asked for every value of a file."""
    return get_origin(expected), get_args(expected), is_dataclass(expected)


def _decode(expected: Any, value: Any, key: str = "") -> Any:
    """`value`, parsed from JSON, as a value of the type `expected`; ValueError names the key, which is below `key`."""
    origin, options, has_fields = _type_parts(expected)
    if origin is UnionType:
        return None if value is None else _decode(options[0], value, key)
    if has_fields:
        types = field_types(cast(type, expected))
        _check_keys(value, types, key)
        return cast(Any, expected)(**{name: _decode(types[name], value[name], _join(key, name)) for name in types})
    if origin is tuple:
        count = None if options[1] is Ellipsis else len(options)
        if not isinstance(value, list) or count not in (None, len(value)):
            raise _invalid(key, f"a list of {count} values" if count else "a list", value)
        return tuple(_decode(options[0], item, _join(key, index)) for index, item in enumerate(value))
    if origin is Mapping:
        literal_keys = get_args(options[0])
        _check_keys(value, literal_keys or value, key)
        return {name: _decode(options[1], item, _join(key, name)) for name, item in value.items()}
    if origin is Literal:
        if value not in options:
            raise _invalid(key, " or ".join(options), value)
        return value
    return _decode_scalar(expected, value, key)


def _decode_scalar(expected: type, value: Any, key: str) -> Any:
    """A boolean does not count as a number, and a number is finite."""
    accepted = (int, float) if expected is float else expected
    if isinstance(value, bool) != (expected is bool) or not isinstance(value, accepted):
        raise _invalid(key, _TYPE_NAMES[expected], value)
    if isinstance(value, float) and not math.isfinite(value):
        raise _invalid(key, _TYPE_NAMES[expected], value)
    return float(value) if expected is float else value


_KEYS = ("task", "question_id", "image", "prompt", "answer", "truth", "score", "blind")
_OPTIONAL_KEYS = ("readable", "split", *TAGS, "missing", "soft")


class SoftScore(NamedTuple):
    """The continuous score of one answer, from 0 to 1; the other numbers are those of generated words only."""

    score: float
    """The expected score of an answer drawn from the model, as `evaluate.soft_scores` defines it."""
    mean: float | None = None
    """The probability of a reference answer: the mean over annotators."""
    best: float | None = None
    """The probability of the likeliest reference answer."""
    bits_per_byte: float | None = None
    """-log2(probability) / bytes in UTF-8 of a reference answer: the mean over annotators."""
    best_bits_per_byte: float | None = None
    """Of the reference answer with the fewest bits per byte."""


# Files have millions of lines, and a named tuple is made faster than a frozen dataclass.
class StoredAnswer(NamedTuple):
    """One line of answers.jsonl: one model's answer to one question in one condition."""

    task: str
    question: str
    """The question's id."""
    image_name: str
    """Empty for a question without an image."""
    prompt: str
    text: str
    truth: Any
    """A text, or the four edges of a box."""
    score: float
    blind: bool
    """Answered without the image."""
    readable: bool = True
    """The answer has the form that the metric expects."""
    split: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    """(name, value) of those of TAGS that the question has."""
    missing: bool = False
    """`firstsight score` got no answer to this question."""
    soft: SoftScore | None = None
    """None for an answer without probabilities."""

    @property
    def truth_text(self) -> str:
        """The truth as text: a box as JSON."""
        return self.truth if isinstance(self.truth, str) else json.dumps(self.truth)


def answer_line(answer: StoredAnswer) -> str:
    """The line of an answer, with its line break. Optional keys are only there where they say something."""
    fields = {
        **dict(zip(_KEYS, answer, strict=False)),
        "image": answer.image_name or None,
        **({} if answer.readable else {"readable": False}),
        **({"split": answer.split} if answer.split else {}),
        **dict(answer.tags),
        **({"missing": True} if answer.missing else {}),
        **({"soft": _without_none(answer.soft._asdict())} if answer.soft else {}),
    }
    line = json.dumps(fields, ensure_ascii=False)
    # A truncated answer may end with half of a surrogate pair, which UTF-8 cannot encode.
    return f"{json.dumps(fields) if _SURROGATE.search(line) else line}\n"


def _without_none(fields: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in fields.items() if value is not None}


def iter_answers(path: Path) -> Iterator[tuple[int, StoredAnswer]]:
    """(byte offset, record) of each line that is not blank; DataError names the first line that is not an answer."""
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter_lines(file), start=1):
                if line is None:
                    raise limit_exceeded(f"{path}:{number}", "record")
                if line.strip():
                    yield offset, _parse_answer(line, path, number)
                offset += len(line)
    except OSError as error:
        raise DataError(f"{path}: wanted a file of answers. Got: {error.strerror}. Name {ANSWERS_FILE}.") from error


def read_answer_at(path: Path, offset: int) -> StoredAnswer:
    """The record whose line starts at byte `offset`."""
    with path.open("rb") as file:
        file.seek(offset)
        return _parse_answer(file.readline(), path, f" byte {offset}")


def _parse_answer(line: bytes, path: Path, position: int | str) -> StoredAnswer:
    try:
        return _decode_answer(_parse_object(line, f"{path}:{position}"))
    except ValueError as error:
        raise DataError(f"{path}:{position}: {error} {_ADVICE}") from error


def _decode_answer(row: dict[str, Any]) -> StoredAnswer:
    _check_keys(row, _KEYS, "", optional=_OPTIONAL_KEYS)
    image = row["image"]
    return StoredAnswer(
        task=_text(row, "task"),
        question=_text(row, "question_id"),
        image_name="" if image is None else _text(row, "image"),
        prompt=_text(row, "prompt"),
        text=_text(row, "answer"),
        truth=_truth(row),
        score=_decode_scalar(float, row["score"], "score"),
        blind=_decode_scalar(bool, row["blind"], "blind"),
        readable="readable" not in row or _decode_scalar(bool, row["readable"], "readable"),
        split=_text(row, "split") if "split" in row else "",
        tags=tuple([(tag, _text(row, tag)) for tag in row if tag in TAGS]),
        missing="missing" in row and _decode_scalar(bool, row["missing"], "missing"),
        soft=_decode_soft(row["soft"]) if "soft" in row else None,
    )


def _decode_soft(value: Any) -> SoftScore:
    _check_keys(value, SoftScore._fields[:1], "soft", optional=SoftScore._fields[1:])
    return SoftScore(**{name: _decode_scalar(float, number, f"soft.{name}") for name, number in value.items()})


def _truth(row: Mapping[str, Any]) -> Any:
    if not isinstance(row["truth"], list):
        return _text(row, "truth")
    return list(_decode(tuple[float, float, float, float], row["truth"], "truth"))


def _text(row: Mapping[str, Any], key: str) -> str:
    text: str = _decode_scalar(str, row[key], key)
    # Half of a surrogate pair becomes a question mark, since UTF-8 cannot encode it.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
