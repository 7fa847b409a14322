"""Scores of answer files: answers and references are read, joined and scored; no model is loaded."""

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
from firstsight.evaluate.models.box_formats import normalize_file_boxes
from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord, read_answer_files
from firstsight.evaluate.offline_scoring.joining import JoinedAnswers, join_answers, unmatched_answers_message
from firstsight.evaluate.offline_scoring.question_index import has_box_truth
from firstsight.evaluate.offline_scoring.references import References, read_references
from firstsight.evaluate.results import ScoredAnswer, question_scores
from firstsight.evaluate.score import SCORES_VERSION, QuestionScores, round_score, task_score, task_score_interval
from firstsight.evaluate.task import Question, Task, describe_version

_NO_PATTERN = re.compile(r"\W*(?:no|not)\b", re.IGNORECASE)
_OCR_MARKER = "OCR token"
"""In LLaVA's prompts of all versions."""
_CHOICE_LETTER = re.compile(r"\(?([A-Z])(?:\)|\.|:|$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswers:
    """A task's score over existing answers."""

    task: Task
    rows: tuple[ScoredAnswer, ...]
    """In the order of the questions; a question without an answer scores 0."""
    missing: tuple[bool, ...]
    score: float
    """Missing answers count as wrong; a share of 1, for CIDEr the score itself."""
    interval: tuple[float, float]
    answered_score: float | None
    """The score over the answered questions alone; None if every question is answered."""
    splits: Mapping[str, Mapping[str, float]]
    """For yes-no questions accuracy, precision, recall, f1 and share of yes by split, and their `mean`."""
    joined_answers: JoinedAnswers
    benchmark_version: str
    """The published version of the benchmark that the references are."""
    notes: tuple[str, ...]

    @property
    def missing_count(self) -> int:
        """The number of questions without an answer."""
        return sum(self.missing)

    @property
    def unreadable_count(self) -> int:
        """The number of answers that are not in the metric's form."""
        pairs = zip(self.rows, self.missing, strict=True)
        return sum(not row.is_readable for row, is_missing in pairs if not is_missing)


def score_answer_files(task: Task, answer_paths: Sequence[Path], reference_paths: Sequence[Path]) -> ScoredAnswers:
    """Read, join and score. DataError names the file or record that cannot be used, and the remedy."""
    with _without_gc():
        return _join_and_score(task, answer_paths, reference_paths)


@contextmanager
def _without_gc() -> Iterator[None]:
    """Garbage collection over millions of live records would take half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _join_and_score(task: Task, answer_paths: Sequence[Path], reference_paths: Sequence[Path]) -> ScoredAnswers:
    references = read_references(reference_paths, task)
    questions, version = references.questions, describe_version(task, references.questions)
    records = read_answer_files(answer_paths, task.name)
    try:
        joined = join_answers(records, questions, references.question_records)
    except DataError as error:
        raise DataError(f"{error} The references are {version}.") from error
    texts, unit_notes = _answer_texts(joined.answers, references)
    missing = tuple(answer is None for answer in joined.answers)
    rows = _score_rows(task, questions, joined.answers, texts)
    skipped = task.count_skipped(references.benchmark_files) if task.count_skipped else {}
    skipped_notes = [f"{count:,} questions {reason} are left out" for reason, count in skipped.items()]
    return ScoredAnswers(
        task=task,
        rows=rows,
        missing=missing,
        score=task_score(question_scores(rows)),
        interval=task_score_interval(question_scores(rows)),
        answered_score=_answered_score(task, rows, missing),
        splits=_yes_no_splits(task, rows, missing),
        joined_answers=joined,
        benchmark_version=version,
        notes=(*unit_notes, *skipped_notes, *_warnings(task, [answer for answer in joined.answers if answer])),
    )


def _warnings(task: Task, answers: Sequence[AnswerRecord]) -> list[str]:
    """Reasons why a score is not comparable with others of its name."""
    warnings: list[str] = []
    ocr_count = sum(_OCR_MARKER in answer.prompt for answer in answers) if task.name == "textvqa" else 0
    if ocr_count:
        warnings.append(f"{ocr_count:,} prompts have OCR tokens: this is no score of textvqa, but of textvqa_ocr")
    texts = [answer.answer for answer in answers]
    negated = [text for text in texts if _NO_PATTERN.match(text) and is_yes_answer(text)]
    if negated and task.metric is YES_NO_MATCH:
        warnings.append(
            f"{len(negated):,} answers such as {negated[0][:20]!r} count as yes, as in POPE's script, which recognises "
            "only No, no and not between spaces; clean the answers if they mean no"
        )
    return warnings


def _answer_texts(answers: Sequence[AnswerRecord | None], references: References) -> tuple[list[str], tuple[str, ...]]:
    """Texts in the order of the questions, boxes in shares of the image, and notes on other units."""
    texts = [answer.answer if answer else "" for answer in answers]
    if not has_box_truth(references.questions[0]):
        return texts, ()
    positions = [position for position, answer in enumerate(answers) if answer]
    boxes, notes = normalize_file_boxes(
        [texts[position] for position in positions],
        [str(references.questions[position].image) for position in positions],
        get_image_sizes=references.image_sizes,
    )
    for position, box in zip(positions, boxes, strict=True):
        texts[position] = box
    return texts, notes


def _score_rows(
    task: Task, questions: Sequence[Question], answers: Sequence[AnswerRecord | None], texts: Sequence[str]
) -> tuple[ScoredAnswer, ...]:
    """All questions' scores; a missing answer scores 0, even if the metric scores empty answers otherwise."""
    inputs = _metric_inputs(task, texts, questions)
    scores = task.metric.compute(inputs, [question.truth for question in questions])
    return tuple(
        ScoredAnswer(
            task=task,
            question=question,
            prompt=record.prompt if record else "",
            answer=text,
            score=float(score) if record else 0.0,
            is_blind=False,
            is_readable=record is not None and task.metric.is_readable(metric_input),
        )
        for question, record, text, metric_input, score in zip(questions, answers, texts, inputs, scores, strict=True)
    )


def _metric_inputs(task: Task, texts: Sequence[str], questions: Sequence[Question]) -> list[str]:
    """The metric's inputs: answers as they are, and choices by index or words, depending on the truth."""
    if task.answer_type != "choice":
        return list(texts)
    return [_choice_answer(text, question) for text, question in zip(texts, questions, strict=True)]


def _choice_answer(answer: str, question: Question) -> str:
    """A choice from its words, its index from 0, or its letter; if it is none, empty or the answer itself."""
    index = _choice_index(answer.strip(), question.choices)
    if isinstance(question.truth, int):
        return "" if index is None else str(index)
    return answer if index is None else question.choices[index]


def _choice_index(answer: str, choices: Sequence[str]) -> int | None:
    lowered = [choice.strip().lower() for choice in choices]
    if answer.lower() in lowered:
        return lowered.index(answer.lower())
    letter = _CHOICE_LETTER.match(answer)
    index = int(answer) if answer.isdecimal() else ord(letter[1].upper()) - ord("A") if letter else -1
    return index if 0 <= index < len(choices) else None


def _answered_score(task: Task, rows: Sequence[ScoredAnswer], missing: Sequence[bool]) -> float | None:
    """The score over answered questions, computed again since a corpus metric such as CIDEr weighs words by them."""
    if not any(missing):
        return None
    answered = [row for row, is_missing in zip(rows, missing, strict=True) if not is_missing]
    questions = [row.question for row in answered]
    inputs = _metric_inputs(task, [row.answer for row in answered], questions)
    scores = task.metric.compute(inputs, [question.truth for question in questions])
    previous = question_scores(answered)
    return task_score(
        QuestionScores(scores=list(map(float, scores)), splits=previous.splits, clusters=previous.clusters)
    )


def _yes_no_splits(task: Task, rows: Sequence[ScoredAnswer], missing: Sequence[bool]) -> dict[str, dict[str, float]]:
    """POPE's metrics by split; a missing answer counts as the wrong one, not as yes, as an empty answer would."""
    if task.metric is not YES_NO_MATCH:
        return {}
    wrong_answers = {"no": "yes", "yes": "no"}
    answers = [
        wrong_answers[str(row.question.truth)] if is_missing else row.answer
        for row, is_missing in zip(rows, missing, strict=True)
    ]
    metrics: dict[str, dict[str, float]] = {}
    for split in sorted({row.question.split for row in rows}):
        positions = [position for position, row in enumerate(rows) if row.question.split == split]
        truths = [str(rows[position].question.truth) for position in positions]
        report = pope_report([answers[position] for position in positions], truths)
        metrics[split or "all"] = {
            "n": float(len(positions)),
            "accuracy": report.accuracy,
            "precision": report.precision,
            "recall": report.recall,
            "f1": report.f1,
            "yes": report.yes_rate,
        }
    if len(metrics) > 1:
        keys = ("accuracy", "precision", "recall", "f1", "yes")
        metrics["mean"] = {key: math.fsum(split[key] for split in metrics.values()) / len(metrics) for key in keys}
    return metrics


def score_summary(scored: ScoredAnswers) -> dict[str, Any]:
    """The score as JSON values: shares of 1 (CIDEr: the score itself), rounded to nine places, and counts."""
    joined, task = scored.joined_answers, scored.task
    return {
        "task": task.name,
        "metric": task.metric.name,
        "score": round_score(scored.score),
        "points": round_score(100 * scored.score),
        "interval": [round_score(end) for end in scored.interval],
        "n": len(scored.rows),
        "answered": len(scored.rows) - scored.missing_count,
        "missing": scored.missing_count,
        "score_of_answered": round_score(scored.score if scored.answered_score is None else scored.answered_score),
        "unreadable": scored.unreadable_count,
        "others": len(joined.unmatched),
        "duplicates": joined.duplicates,
        "shared": joined.shared_across_splits,
        "contested": [scored.rows[position].question.id for position in joined.contested_positions],
        "joined_by": dict(joined.method_counts),
        "splits": {
            name: {key: round_score(value) for key, value in metrics.items()} for name, metrics in scored.splits.items()
        },
        "benchmark": scored.benchmark_version,
        "notes": list(scored.notes),
        "versions": {"scores": SCORES_VERSION, "task": task.version},
    }


def answers_jsonl(scored: ScoredAnswers) -> str:
    """All questions as answers.jsonl has them; questions without an answer are marked as missing."""
    rows = (
        row.to_json() | ({"missing": True} if is_missing else {})
        for row, is_missing in zip(scored.rows, scored.missing, strict=True)
    )
    return "".join(_json_line(row) + "\n" for row in rows)


def _json_line(row: Mapping[str, Any]) -> str:
    """JSON in UTF-8; escaped if a truncated answer ends with half of a surrogate pair, which UTF-8 cannot encode."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return text


def describe_unmatched_answers(scored: ScoredAnswers) -> str:
    """The first few answers to questions that are not in the references, and the fields of one question."""
    return unmatched_answers_message(scored.joined_answers.unmatched, [row.question for row in scored.rows])
