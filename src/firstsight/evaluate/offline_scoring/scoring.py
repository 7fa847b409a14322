"""Scores of answer files: answers and references are read, joined and scored; no model is loaded."""

from __future__ import annotations

import gc
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from firstsight.errors import DataError
from firstsight.evaluate.metrics.exact_match import YES_NO_MATCH, is_yes_answer, pope_report
from firstsight.evaluate.models.box_formats import normalize_file_boxes
from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord, read_answer_files
from firstsight.evaluate.offline_scoring.joining import JoinedAnswers, join_answers
from firstsight.evaluate.offline_scoring.question_index import has_box_truth
from firstsight.evaluate.offline_scoring.references import References, read_references
from firstsight.evaluate.result_files import SCORES_VERSION, answer_line, round_score
from firstsight.evaluate.results import ScoredAnswer, question_scores, score_texts
from firstsight.evaluate.statistics.bootstrap import bca_interval
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
    score: float
    """Missing answers count as wrong; a share of 1, for CIDEr the score itself."""
    interval: tuple[float, float]
    answered_score: float | None
    """The score over the answered questions alone; None if every question is answered."""
    splits: Mapping[str, Mapping[str, float]]
    """For yes-no questions accuracy, precision, recall, f1 and share of yes by split, and their `mean`."""
    joined_answers: JoinedAnswers
    benchmark_version: str
    """Which published version of the benchmark the references are."""
    notes: tuple[str, ...]

    @property
    def missing_count(self) -> int:
        """The number of questions without an answer."""
        return self.joined_answers.answers.count(None)

    @property
    def unreadable_count(self) -> int:
        """The number of answers that are not in the metric's form."""
        pairs = zip(self.rows, self.joined_answers.answers, strict=True)
        return sum(not row.is_readable for row, answer in pairs if answer)


def score_answer_files(task: Task, answer_paths: Sequence[Path], reference_paths: Sequence[Path]) -> ScoredAnswers:
    """Read, join and score. DataError names the file or record that cannot be used, and the remedy."""
    was_enabled = gc.isenabled()
    gc.disable()  # over millions of live records it would take half of the time
    try:
        return _join_and_score(task, answer_paths, reference_paths)
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
    rows = [
        row if answer else replace(row, score=0.0, is_readable=False)  # a metric may score empty answers otherwise
        for row, answer in zip(_score_rows(task, questions, texts, joined.answers), joined.answers, strict=True)
    ]
    answered = [(row, answer) for row, answer in zip(rows, joined.answers, strict=True) if answer]
    skipped = task.count_skipped(references.benchmark_files) if task.count_skipped else {}
    skipped_notes = [f"{count:,} questions {reason} are left out" for reason, count in skipped.items()]
    return ScoredAnswers(
        task=task,
        rows=tuple(rows),
        score=question_scores(rows).mean,
        interval=bca_interval(question_scores(rows)),
        answered_score=_answered_score(task, answered) if len(answered) < len(rows) else None,
        splits=_yes_no_splits(rows, joined.answers) if task.metric is YES_NO_MATCH else {},
        joined_answers=joined,
        benchmark_version=version,
        notes=(*unit_notes, *skipped_notes, *_warnings(task, [answer for _, answer in answered])),
    )


def _warnings(task: Task, answers: Sequence[AnswerRecord]) -> list[str]:
    warnings: list[str] = []
    ocr_count = sum(_OCR_MARKER in answer.prompt for answer in answers) if task.name == "textvqa" else 0
    if ocr_count:
        warnings.append(f"{ocr_count:,} prompts have OCR tokens: this is a score of textvqa_ocr, not of textvqa")
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
    images = [str(references.questions[position].image) for position in positions]
    boxes, notes = normalize_file_boxes([texts[p] for p in positions], images, get_image_sizes=references.image_sizes)
    for position, box in zip(positions, boxes, strict=True):
        texts[position] = box
    return texts, notes


def _score_rows(
    task: Task, questions: Sequence[Question], texts: Sequence[str], answers: Sequence[AnswerRecord | None]
) -> list[ScoredAnswer]:
    """Scored texts. The metric's inputs are the texts; for choices their indices or words, depending on the truth."""
    inputs = texts
    if task.answer_type == "choice":
        inputs = [_choice_answer(text, question) for text, question in zip(texts, questions, strict=True)]
    prompts = [answer.prompt if answer else "" for answer in answers]
    return score_texts(task, questions, texts, inputs=inputs, prompts=prompts)


def _choice_answer(answer: str, question: Question) -> str:
    """The choice named by its words, index from 0, or letter; without one, empty or the answer itself."""
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


def _answered_score(task: Task, answered: Sequence[tuple[ScoredAnswer, AnswerRecord]]) -> float:
    """The score over answered questions, computed again since a corpus metric such as CIDEr weighs words by them."""
    rows = [row for row, _ in answered]
    questions, texts = [row.question for row in rows], [row.answer for row in rows]
    rescored = _score_rows(task, questions, texts, [answer for _, answer in answered])
    return question_scores(rescored).mean


def _yes_no_splits(rows: Sequence[ScoredAnswer], answers: Sequence[AnswerRecord | None]) -> dict[str, dict[str, float]]:
    """POPE's metrics by split; a missing answer counts as the wrong one, whereas an empty answer is a yes."""
    wrong_answers = {"no": "yes", "yes": "no"}
    pairs_by_split: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row, answer in zip(rows, answers, strict=True):
        truth = str(row.question.truth)
        pairs_by_split[row.question.split].append((row.answer if answer else wrong_answers[truth], truth))
    metrics: dict[str, dict[str, float]] = {}
    for split, pairs in sorted(pairs_by_split.items()):
        report = pope_report([answer for answer, _ in pairs], [truth for _, truth in pairs])
        metrics[split or "all"] = {"n": float(len(pairs)), **asdict(report)}
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
        "splits": {name: {key: round_score(x) for key, x in split.items()} for name, split in scored.splits.items()},
        "benchmark": scored.benchmark_version,
        "notes": list(scored.notes),
        "versions": {"scores": SCORES_VERSION, "task": task.version},
    }


def answers_jsonl(scored: ScoredAnswers) -> str:
    """All questions as answers.jsonl has them; questions without an answer are marked as missing."""
    pairs = zip(scored.rows, scored.joined_answers.answers, strict=True)
    return "".join(answer_line(row.stored(is_missing=not answer)) for row, answer in pairs)
