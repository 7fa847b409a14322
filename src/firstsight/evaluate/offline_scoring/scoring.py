"""Answers and references in, one score with everything that stands behind it out; loads no model."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.exact_match import YES_NO_MATCH, is_yes_answer, pope_report
from firstsight.evaluate.offline_scoring import join_errors
from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord, read_answer_files
from firstsight.evaluate.offline_scoring.box_units import normalize_answer_boxes
from firstsight.evaluate.offline_scoring.joining import JoinedAnswers, join_answers
from firstsight.evaluate.offline_scoring.question_index import has_box_truth
from firstsight.evaluate.offline_scoring.references import References
from firstsight.evaluate.offline_scoring.references import read_references as read_references
from firstsight.evaluate.results import ScoredAnswer, question_scores
from firstsight.evaluate.score import SCORES_VERSION, QuestionScores, task_score, task_score_interval
from firstsight.evaluate.task import Question, Task, describe_version

_DECIMALS = 9
_NO_PATTERN = re.compile(r"\W*(?:no|not)\b", re.IGNORECASE)
_OCR_MARKER = "OCR token"
"""In LLaVA's prompts, the older ones too."""
_CHOICE_LETTER = re.compile(r"\(?([A-Z])(?:\)|\.|:|$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswers:
    """A task's score over given answers."""

    task: Task
    rows: tuple[ScoredAnswer, ...]
    """In the order of the questions; a question that nothing answered scores 0."""
    missing: tuple[bool, ...]
    score: float
    """Missing answers counted wrong; a share of 1, and of CIDEr the score itself."""
    interval: tuple[float, float]
    answered_score: float | None
    """The score over the answered questions alone; None where every question is answered."""
    splits: Mapping[str, Mapping[str, float]]
    """Of yes-no questions accuracy, precision, recall, f1 and share of yes by split, and their `mean`."""
    joined_answers: JoinedAnswers
    benchmark_version: str
    """Which published version of the benchmark the references are."""
    notes: tuple[str, ...]

    @property
    def missing_count(self) -> int:
        """How many questions have no answer."""
        return sum(self.missing)

    @property
    def unreadable_count(self) -> int:
        """How many answers have not the form that the metric wants."""
        return sum(
            not row.is_readable for row, is_missing in zip(self.rows, self.missing, strict=True) if not is_missing
        )


def score_answer_files(task: Task, answer_paths: Sequence[Path], reference_paths: Sequence[Path]) -> ScoredAnswers:
    """Read, join and score. DataError says which file or record cannot be used, and what to do."""
    with _without_gc():
        return _join_and_score(task, answer_paths, reference_paths)


@contextmanager
def _without_gc() -> Iterator[None]:
    """Millions of small records live until the end: looking for garbage among them takes half of all time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _join_and_score(task: Task, answer_paths: Sequence[Path], reference_paths: Sequence[Path]) -> ScoredAnswers:
    benchmark_references = read_references(reference_paths, task)
    benchmark_version = describe_version(task, benchmark_references.questions)
    answer_records = read_answer_files(answer_paths, task.name)
    try:
        joined_answers = join_answers(
            answer_records, benchmark_references.questions, benchmark_references.question_records
        )
    except DataError as error:
        raise DataError(f"{error} The references are {benchmark_version}.") from error
    texts, unit_notes = _answer_texts(joined_answers.answers, benchmark_references)
    missing = tuple(answer is None for answer in joined_answers.answers)
    rows = _score_rows(task, benchmark_references.questions, joined_answers.answers, texts)
    skipped_counts = task.count_skipped(benchmark_references.benchmark_files) if task.count_skipped else {}
    notes = [f"{count:,} questions {reason} are left out" for reason, count in skipped_counts.items()]
    notes += _warnings(task, [answer for answer in joined_answers.answers if answer])
    return ScoredAnswers(
        task=task,
        rows=rows,
        missing=missing,
        score=task_score(question_scores(rows)),
        interval=task_score_interval(question_scores(rows)),
        answered_score=_answered_score(task, rows, missing),
        splits=_yes_no_splits(task, rows, missing),
        joined_answers=joined_answers,
        benchmark_version=benchmark_version,
        notes=(*unit_notes, *notes),
    )


def _warnings(task: Task, answers: Sequence[AnswerRecord]) -> list[str]:
    """What makes a score another thing than its name says."""
    warnings: list[str] = []
    ocr_prompt_count = sum(_OCR_MARKER in answer.prompt for answer in answers) if task.name == "textvqa" else 0
    if ocr_prompt_count:
        warnings.append(
            f"{ocr_prompt_count:,} prompts hold OCR tokens: this is no score of textvqa, but of textvqa_ocr"
        )
    negated_answers = [
        answer.answer for answer in answers if _NO_PATTERN.match(answer.answer) and is_yes_answer(answer.answer)
    ]
    if negated_answers and task.metric is YES_NO_MATCH:
        warnings.append(
            f"{len(negated_answers):,} answers such as {negated_answers[0][:20]!r} count as yes, as POPE's script has it, which knows "
            "No, no and not between spaces; clean the answers if they mean no"
        )
    return warnings


def _answer_texts(answers: Sequence[AnswerRecord | None], references: References) -> tuple[list[str], tuple[str, ...]]:
    texts = [answer.answer if answer else "" for answer in answers]
    if not has_box_truth(references.questions[0]):
        return texts, ()
    positions = [position for position, answer in enumerate(answers) if answer]
    boxes, notes = normalize_answer_boxes(
        [texts[position] for position in positions],
        [references.questions[position] for position in positions],
        references.benchmark_files,
    )
    for position, box in zip(positions, boxes, strict=True):
        texts[position] = box
    return texts, notes


def _score_rows(
    task: Task, questions: Sequence[Question], answers: Sequence[AnswerRecord | None], texts: Sequence[str]
) -> tuple[ScoredAnswer, ...]:
    """Every question's score; what is missing scores 0, whatever the metric makes of silence."""
    metric_inputs = _metric_inputs(task, texts, questions)
    scores = task.metric.compute(metric_inputs, [question.truth for question in questions])
    return tuple(
        ScoredAnswer(
            task=task,
            question=question,
            prompt=record.prompt if record else "",
            answer=text,
            score=float(question_score) if record else 0.0,
            is_blind=False,
            is_readable=record is not None and task.metric.is_readable(metric_input),
        )
        for question, record, text, metric_input, question_score in zip(
            questions, answers, texts, metric_inputs, scores, strict=True
        )
    )


def _metric_inputs(task: Task, texts: Sequence[str], questions: Sequence[Question]) -> list[str]:
    """What a metric compares: words as they are, and choices by number or words, as the truth is told."""
    if task.answer_type != "choice":
        return list(texts)
    return [_choice_answer(text, question) for text, question in zip(texts, questions, strict=True)]


def _choice_answer(answer: str, question: Question) -> str:
    """A choice told by its words, its number from 0, or its letter; empty, or the words, where it tells none."""
    choice_index = _choice_index(answer.strip(), question.choices)
    if not isinstance(question.truth, int):
        return answer if choice_index is None else question.choices[choice_index]
    return "" if choice_index is None else str(choice_index)


def _choice_index(answer: str, choices: Sequence[str]) -> int | None:
    normalized_choices = [choice.strip().lower() for choice in choices]
    if answer.lower() in normalized_choices:
        return normalized_choices.index(answer.lower())
    letter_match = _CHOICE_LETTER.match(answer)
    choice_index = (
        int(answer) if answer.isdecimal() else ord(letter_match[1].upper()) - ord("A") if letter_match else -1
    )
    return choice_index if 0 <= choice_index < len(choices) else None


def _answered_score(task: Task, rows: Sequence[ScoredAnswer], missing: Sequence[bool]) -> float | None:
    """The other reading: a corpus metric such as CIDEr weighs words by the questions that are there."""
    if not any(missing):
        return None
    answered_rows = [row for row, is_missing in zip(rows, missing, strict=True) if not is_missing]
    questions = [row.question for row in answered_rows]
    metric_inputs = _metric_inputs(task, [row.answer for row in answered_rows], questions)
    scores = task.metric.compute(metric_inputs, [question.truth for question in questions])
    row_scores = question_scores(answered_rows)
    return task_score(
        QuestionScores(scores=list(map(float, scores)), splits=row_scores.splits, clusters=row_scores.clusters)
    )


def _yes_no_splits(task: Task, rows: Sequence[ScoredAnswer], missing: Sequence[bool]) -> dict[str, dict[str, float]]:
    """POPE's numbers; a missing answer counts as the wrong side, not as the yes that silence is read as."""
    if task.metric is not YES_NO_MATCH:
        return {}
    answers = [
        _opposite_answer(row) if is_missing else row.answer for row, is_missing in zip(rows, missing, strict=True)
    ]
    split_metrics: dict[str, dict[str, float]] = {}
    for split in sorted({row.question.split for row in rows}):
        positions = [position for position, row in enumerate(rows) if row.question.split == split]
        report = pope_report(
            [answers[position] for position in positions],
            [str(rows[position].question.truth) for position in positions],
        )
        split_metrics[split or "all"] = {
            "n": float(len(positions)),
            "accuracy": report.accuracy,
            "precision": report.precision,
            "recall": report.recall,
            "f1": report.f1,
            "yes": report.yes_rate,
        }
    if len(split_metrics) > 1:
        all_metrics = list(split_metrics.values())
        split_metrics["mean"] = {
            key: math.fsum(metrics[key] for metrics in all_metrics) / len(all_metrics)
            for key in all_metrics[0]
            if key != "n"
        }
    return split_metrics


def _opposite_answer(row: ScoredAnswer) -> str:
    return "yes" if str(row.question.truth) == "no" else "no"


def score_summary(scored: ScoredAnswers) -> dict[str, Any]:
    """For machines: shares of 1 (CIDEr: the score itself) to nine places, and counts."""
    joined_answers, task = scored.joined_answers, scored.task
    return {
        "task": task.name,
        "metric": task.metric.name,
        "score": _round(scored.score),
        "points": _round(100 * scored.score),
        "interval": [_round(end) for end in scored.interval],
        "n": len(scored.rows),
        "answered": len(scored.rows) - scored.missing_count,
        "missing": scored.missing_count,
        "score_of_answered": _round(scored.score if scored.answered_score is None else scored.answered_score),
        "unreadable": scored.unreadable_count,
        "others": len(joined_answers.unmatched),
        "duplicates": joined_answers.duplicates,
        "shared": joined_answers.shared_across_splits,
        "contested": [scored.rows[position].question.id for position in joined_answers.contested_positions],
        "joined_by": dict(joined_answers.method_counts),
        "splits": {
            name: {key: _round(value) for key, value in metrics.items()} for name, metrics in scored.splits.items()
        },
        "benchmark": scored.benchmark_version,
        "notes": list(scored.notes),
        "versions": {"scores": SCORES_VERSION, "task": task.version},
    }


def answers_jsonl(scored: ScoredAnswers) -> str:
    """Every question as answers.jsonl keeps it; what nothing answered is marked as missing."""
    line_fields = [
        row.to_json() | ({"missing": True} if is_missing else {})
        for row, is_missing in zip(scored.rows, scored.missing, strict=True)
    ]
    return "".join(_json_line(line) + "\n" for line in line_fields)


def _json_line(line: Mapping[str, Any]) -> str:
    """JSON with its letters as they are, save half letters, which a cut answer may end with and no file can hold."""
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(line)
    return text


def describe_unmatched_answers(scored: ScoredAnswers) -> str:
    """The first few answers to questions that the references do not hold, beside what a question looks like."""
    return join_errors.unmatched_answers_message(scored.joined_answers.unmatched, [row.question for row in scored.rows])


def _round(value: float) -> float:
    return round(float(value), _DECIMALS)
