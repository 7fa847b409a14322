"""Scores of answer files: answers and references are read, joined and scored; no model is loaded."""

from __future__ import annotations

import gc
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from firstsight.errors import DataError
from firstsight.evaluate.metrics.exact_match import YES_NO_MATCH, is_yes_answer, pope_report
from firstsight.evaluate.models.box_formats import normalize_file_boxes
from firstsight.evaluate.offline_scoring import Rules
from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord, read_answer_files
from firstsight.evaluate.offline_scoring.cleaning import clean_answers
from firstsight.evaluate.offline_scoring.joining import JoinedAnswers, join_answers
from firstsight.evaluate.offline_scoring.paper_rules import as_paper
from firstsight.evaluate.offline_scoring.question_index import has_box_truth
from firstsight.evaluate.offline_scoring.references import References, read_references
from firstsight.evaluate.result_files import SCORES_VERSION, answer_line, round_score
from firstsight.evaluate.results import ScoredAnswer, question_scores, score_texts
from firstsight.evaluate.statistics.bootstrap import bca_interval
from firstsight.evaluate.task import Question, Task, describe_version

_NO_PATTERN = re.compile(r"\W*(?:no|not)\b", re.IGNORECASE)
_OCR_MARKER = "OCR token"
"""In LLaVA's prompts of all versions."""
_DECIMAL_NUMBER = re.compile(r"\d+\.0+")
_ANYWHERE_NO_PATTERN = re.compile(r"\b(?:no|not)\b", re.IGNORECASE)
_YES_PATTERN = re.compile(r"\byes\b", re.IGNORECASE)
_CHOICE_LETTER = re.compile(r"\(?([A-Z])(?:\)|\.|:|$)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartScore:
    """The score over one file of a benchmark in several files."""

    num_questions: int
    missing_count: int
    score: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswers:
    """A task's score over existing answers."""

    task: Task
    rows: tuple[ScoredAnswer, ...]
    """In the order of the questions; a question without an answer scores 0."""
    score: float
    """Missing answers count as wrong, but not by the paper's rules; a share of 1, for CIDEr the score itself."""
    interval: tuple[float, float]
    answered_score: float | None
    """The score over the answered questions alone; None if every question is answered."""
    splits: Mapping[str, Mapping[str, float]]
    """For yes-no questions accuracy, precision, recall, f1 and share of yes by split, and their `mean`."""
    parts: Mapping[str, PartScore]
    """By file or folder, where several references were given as parts of one benchmark."""
    joined_answers: JoinedAnswers
    cleaned: Mapping[str, int]
    """The number of answers by what was removed from them, such as special tokens."""
    rules: Rules
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


def score_answer_files(
    task: Task, answer_paths: Sequence[Path], reference_paths: Sequence[Path], *, rules: Rules = "own"
) -> ScoredAnswers:
    """Read, join and score. DataError names the file or record that cannot be used, and the remedy.

    By the rules of the paper's harness, answers are not cleaned, boxes are not converted and missing answers do not
    count.
    """
    was_enabled = gc.isenabled()
    gc.disable()  # over millions of live records it would take half of the time
    try:
        return _join_and_score(as_paper(task) if rules == "paper" else task, answer_paths, reference_paths, rules)
    finally:
        if was_enabled:
            gc.enable()


def _join_and_score(
    task: Task, answer_paths: Sequence[Path], reference_paths: Sequence[Path], rules: Rules
) -> ScoredAnswers:
    references = read_references(reference_paths, task)
    questions, version = references.questions, describe_version(task, references.questions)
    files = read_answer_files(answer_paths, task.name)
    try:
        joined = join_answers(files.records, questions, references.question_records, other_sets=references.other_sets)
    except DataError as error:
        raise DataError(f"{error} The references are {version}.") from error
    texts = _answer_texts(task, joined.answers, references, rules)
    rows = [
        row if answer else replace(row, score=0.0, is_readable=False)  # a metric may score empty answers otherwise
        for row, answer in zip(_score_rows(task, questions, texts.texts, joined.answers), joined.answers, strict=True)
    ]
    answered = [(row, answer) for row, answer in zip(rows, joined.answers, strict=True) if answer]
    skipped = task.count_skipped(references.benchmark_files) if task.count_skipped else {}
    skipped_notes = [f"{count:,} questions {reason} are left out" for reason, count in skipped.items()]
    answered_score = _answered_score(task, answered) if len(answered) < len(rows) else None
    scored_rows = [row for row, _ in answered] if rules == "paper" else rows
    warnings = (*_other_set_notes(joined, references), *_warnings(task, answered))
    return ScoredAnswers(
        task=task,
        rows=tuple(rows),
        score=answered_score if rules == "paper" and answered_score is not None else question_scores(rows).mean,
        interval=bca_interval(question_scores(scored_rows)),
        answered_score=answered_score,
        splits=_yes_no_splits(rows, joined.answers) if task.metric is YES_NO_MATCH else {},
        parts={name: _part_score(rows, joined.answers, part, rules) for name, part in references.parts.items()},
        joined_answers=joined,
        cleaned=texts.cleaned,
        rules=rules,
        benchmark_version=version,
        notes=(*references.notes, *files.notes, *texts.notes, *skipped_notes, *warnings),
    )


def _part_score(
    rows: Sequence[ScoredAnswer], answers: Sequence[AnswerRecord | None], part: range, rules: Rules
) -> PartScore:
    missing_count = sum(answers[position] is None for position in part)
    counted = [rows[position] for position in part if rules == "own" or answers[position]]
    if not counted:
        return PartScore(num_questions=len(part), missing_count=missing_count, score=0.0, interval=(0.0, 1.0))
    scores = question_scores(counted)
    return PartScore(
        num_questions=len(part), missing_count=missing_count, score=scores.mean, interval=bca_interval(scores)
    )


def _other_set_notes(joined: JoinedAnswers, references: References) -> list[str]:
    counts = Counter(
        references.other_sets[answer.id] for answer in joined.unmatched if answer.id in references.other_sets
    )
    sets = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
    return [f"answers to other sets of the index do not count: {sets}"] if counts else []


def _warnings(task: Task, answered: Sequence[tuple[ScoredAnswer, AnswerRecord]]) -> list[str]:
    """What makes a score differ from what its name says. Texts are those that were scored, after cleaning."""
    warnings: list[str] = []
    ocr_count = sum(_OCR_MARKER in answer.prompt for _, answer in answered) if task.name == "textvqa" else 0
    if ocr_count:
        warnings.append(f"{ocr_count:,} prompts have OCR tokens: this is a score of textvqa_ocr, not of textvqa")
    if task.metric is YES_NO_MATCH:
        texts = [row.answer for row, _ in answered]
        negated = [text for text in texts if _looks_negated(text) and is_yes_answer(text)]
        if negated:
            warnings.append(
                f"{len(negated):,} answers such as {negated[0][:20]!r} count as yes, as in POPE's script, which "
                "recognises only No, no and not between spaces; clean the answers if they mean no"
            )
    unreadable = [row.answer for row, _ in answered if not row.is_readable and row.answer.strip()]
    if unreadable and not has_box_truth(answered[0][0].question):
        warnings.append(f"{len(unreadable):,} answers are not in the task's form, such as {unreadable[0]!r:.80}")
    unique_decimals = {text for text in {row.answer for row, _ in answered} if _DECIMAL_NUMBER.fullmatch(text)}
    decimals = [row.answer for row, _ in answered if row.answer in unique_decimals] if unique_decimals else []
    if decimals and task.metric.name.startswith(("vqa", "exact")):
        warnings.append(
            f"{len(decimals):,} answers are texts such as {decimals[0]!r}, which the official scorer does not take for "
            f"{int(float(decimals[0]))}"
        )
    return warnings


def _looks_negated(text: str) -> bool:
    is_denial = _ANYWHERE_NO_PATTERN.search(text) is not None and _YES_PATTERN.search(text) is None
    return is_denial or _NO_PATTERN.match(text) is not None


class _AnswerTexts(NamedTuple):
    """Texts in the order of the questions, as the metric reads them."""

    texts: Sequence[str]
    notes: tuple[str, ...] = ()
    cleaned: Mapping[str, int] = {}


def _answer_texts(
    task: Task, answers: Sequence[AnswerRecord | None], references: References, rules: Rules
) -> _AnswerTexts:
    """The answers without special tokens and the like, and boxes in shares of the image; by the paper's rules, raw."""
    raw = [answer.answer if answer else "" for answer in answers]
    if rules == "paper":
        return _AnswerTexts(raw)
    cleaned = clean_answers(raw, has_choices=task.metric.name in ("choice", "letter"))
    if not has_box_truth(references.questions[0]):
        return _AnswerTexts(cleaned.texts, cleaned.notes, cleaned.counts)
    texts = list(cleaned.texts)
    answered = [(position, answer) for position, answer in enumerate(answers) if answer]
    boxes = normalize_file_boxes(
        [texts[position] for position, _ in answered],
        [str(references.questions[position].image) for position, _ in answered],
        get_image_sizes=references.image_sizes,
        units=[answer.box_unit for _, answer in answered],
    )
    for (position, _), text in zip(answered, boxes.texts, strict=True):
        texts[position] = text
    return _AnswerTexts(texts, (*cleaned.notes, *boxes.notes), cleaned.counts)


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
        "parts": {name: _part_summary(part) for name, part in scored.parts.items()},
        "cleaned": dict(scored.cleaned),
        "rules": scored.rules,
        "splits": {name: {key: round_score(x) for key, x in split.items()} for name, split in scored.splits.items()},
        "benchmark": scored.benchmark_version,
        "notes": list(scored.notes),
        "versions": {"scores": SCORES_VERSION, "task": task.version},
    }


def _part_summary(part: PartScore) -> dict[str, Any]:
    return {
        "score": round_score(part.score),
        "interval": [round_score(end) for end in part.interval],
        "n": part.num_questions,
        "missing": part.missing_count,
    }


def answers_jsonl(scored: ScoredAnswers) -> str:
    """All questions as answers.jsonl has them; questions without an answer are marked as missing."""
    pairs = zip(scored.rows, scored.joined_answers.answers, strict=True)
    return "".join(answer_line(row.stored(is_missing=not answer)) for row, answer in pairs)
