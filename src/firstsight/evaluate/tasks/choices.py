"""Multiple choice: MMMU, about one image and answered by letter; text tasks, answered by the likeliest choice."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from firstsight.errors import DataError
from firstsight.evaluate.metrics.exact_match import CHOICE_MATCH, LETTER_MATCH
from firstsight.evaluate.task import Question, Task, record_tags, single_file
from firstsight.evaluate.tasks import records
from firstsight.evaluate.tasks.records import BenchmarkRecord, read_records

OPTION_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_IMAGE_MARKER = re.compile(r"\s*<image[ _](\d+)>\s*")
_PROMPT = "\n{q}\nAnswer with the option's letter from the given choices directly."


def read_mmmu(paths: Sequence[Path]) -> tuple[Question, ...]:
    """{"id", "question", "options", "answer", "image" or "image_1"}: a list or lines, in one file or one per subject.

    Questions about several images and questions without options are skipped; `count_skipped_questions` counts them.
    """
    rows = [record for path in paths for record in read_records(path) if not _skip_reason(record)]
    if not rows:
        raise DataError(
            f"{records.join_paths(paths)}: no multiple-choice question about one image. "
            f"Left out: {dict(count_skipped_questions(paths))}. Add the questions with options."
        )
    return records.require_unique_ids([_mmmu_question(record) for record in rows], paths)


def count_skipped_questions(paths: Sequence[Path]) -> Mapping[str, int]:
    """The number of skipped questions by reason."""
    reasons = (_skip_reason(record) for path in paths for record in read_records(path))
    return dict(Counter(filter(None, reasons)))


def _skip_reason(record: BenchmarkRecord) -> str:
    row = record.fields
    if row.get("question_type") == "open" or not _parse_options(record):
        return "without options"
    image_keys = [key for key in row if re.fullmatch(r"image_\d+", key) and row[key] is not None]
    markers = set(_IMAGE_MARKER.findall(str(row.get("question", "")) + str(row["options"])))
    has_image_list = isinstance(row.get("image"), list) and len(row["image"]) > 1
    return "about several images" if len(image_keys) > 1 or len(markers) > 1 or has_image_list else ""


def _parse_options(record: BenchmarkRecord) -> tuple[str, ...]:
    """Options from a list of texts or its Python literal, which is parsed without execution."""
    value = record.value("options")
    try:
        options = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise record.error(f"options is not a list: {value[:80]!r}. Write it as a list of texts.") from error
    is_list = isinstance(options, list) and all(isinstance(option, (str, int, float)) for option in options)
    if not is_list or len(options) > len(OPTION_LETTERS):
        raise record.error(f"options is a list of at most 26 texts. Got {str(value)[:80]!r}. Write it as one.")
    return tuple(map(str, options))


def _mmmu_question(record: BenchmarkRecord) -> Question:
    options = tuple(map(_strip_image_markers, _parse_options(record)))
    letter = record.text("answer").strip()
    if letter not in list(OPTION_LETTERS[: len(options)]):
        raise record.error(f"the answer is a letter, A to {OPTION_LETTERS[len(options) - 1]}. Got {letter!r}.")
    question_id = record.text("id", "question_id")
    text = question_with_options(_strip_image_markers(record.text("question")), options)
    return record.question(question_id=question_id, text=text, truth=(letter, *options), image=_image_name(record))


def question_with_options(question: str, options: Sequence[str]) -> str:
    """The question and one line per option, as LLaVA and the paper's harness write them."""
    lines = (f"{letter}. {option}" for letter, option in zip(OPTION_LETTERS, options, strict=False))
    return "\n".join([question, *lines])


def _strip_image_markers(text: str) -> str:
    return _IMAGE_MARKER.sub(" ", text).strip()


def _image_name(record: BenchmarkRecord) -> str:
    value = next((record.fields[key] for key in ("image", "image_1") if record.fields.get(key) is not None), None)
    if isinstance(value, list) and value:
        value = value[0]
    name = value.get("path") if isinstance(value, dict) else value
    if not isinstance(name, str) or not name:
        raise record.error(f"wanted the image's file name under image or image_1. Got {str(value)[:60]!r}.")
    return name


def read_multiple_choice(paths: Sequence[Path]) -> tuple[Question, ...]:
    """JSON lines of {"query", "choices", "gold"}."""
    path = single_file(paths, "a query, its choices and the right one per line")
    return records.require_unique_ids(list(map(_choice_question, read_records(path))), paths)


def _choice_question(record: BenchmarkRecord) -> Question:
    choices, gold = tuple(record.value("choices")), record.value("gold")
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise record.error(f"gold is the number of a choice, 0 to {len(choices) - 1}. Got {gold!r}.")
    question_id, text = str(record.fields.get("question_id", record.index)), record.value("query")
    return Question(id=question_id, text=text, truth=gold, choices=choices, tags=record_tags(record.fields))


def _text_task(name: str, *, chance: float, baseline: float | None, suffix: str = "\nAnswer:") -> Task:
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


_MMMU = records.vision_task("mmmu", LETTER_MATCH, read_mmmu, prompt=_PROMPT, version=1, chance=0.25)
MMMU = replace(_MMMU, count_skipped=count_skipped_questions)
"""Most questions have four options; the exact chance depends on which questions are not skipped."""

# agieval_sat_en has four choices, so chance is .25; the authors subtract .2, and so does the stable score.
TEXT_TASKS: tuple[Task, ...] = (
    _text_task("agieval_sat_en", chance=0.25, baseline=0.2),
    _text_task("arc_easy", chance=0.25, baseline=0.25),
    _text_task("bigbench_conceptual_combinations_multiple_choice", chance=0.25, baseline=0.25),
    _text_task("bigbench_cs_algorithms_multiple_choice", chance=0.5, baseline=None, suffix=""),
    _text_task("boolq", chance=0.5, baseline=0.5),
    _text_task("copa", chance=0.5, baseline=0.5, suffix=""),
    _text_task("hellaswag", chance=0.25, baseline=0.25, suffix=""),
    _text_task("mathqa", chance=0.2, baseline=0.2),
    _text_task("piqa", chance=0.5, baseline=0.5),
    _text_task("pubmedqa", chance=1 / 3, baseline=0.333),
)
