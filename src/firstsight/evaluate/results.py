"""Answers to questions with their scores, the scores of tasks, and the results of a checkpoint, task by task."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from firstsight.errors import DamagedResult, DataError
from firstsight.evaluate.metrics.exact_match import pope_report
from firstsight.evaluate.result_files import (
    ANSWERS_FILE,
    SCORES_FILE,
    BaselineDifference,
    Scores,
    SoftScore,
    SoftTaskScores,
    SplitScores,
    StoredAnswer,
    SubsetScore,
    TaskScores,
    answer_line,
    build_scores,
    iter_answers,
    read_scores,
    round_score,
    write_scores,
)
from firstsight.evaluate.statistics.bootstrap import ClusteredScores, Interval, bca_interval, cluster_scores
from firstsight.evaluate.task import Question, Task, describe_version
from firstsight.files import file_lock, write_atomic
from firstsight.plan.verification import EVALUATION_RECORD, read_evaluation_record, write_evaluation_record
from firstsight.resume_folder import remove_path

Guesses = Mapping[str, Mapping[str, str]]
"""By task and question id: the answer of the best guesser that ignores the question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswer:
    """One answer to one question."""

    task: Task
    question: Question
    prompt: str
    answer: str
    score: float
    is_blind: bool
    is_readable: bool = True
    """Whether the answer has the form that the metric expects."""
    soft: SoftScore | None = None
    """None for an answer without probabilities."""

    def stored(self, *, is_missing: bool = False) -> StoredAnswer:
        """Its line of answers.jsonl; `truth` is the most frequent one of several annotators' answers."""
        question = self.question
        return StoredAnswer(
            task=self.task.name,
            question=question.id,
            image_name=question.image or "",
            prompt=self.prompt,
            text=self.answer,
            truth=_display_truth(question),
            score=round_score(self.score),
            blind=self.is_blind,
            readable=self.is_readable,
            split=question.split,
            tags=tuple(question.tags.items()),
            missing=is_missing,
            soft=self.soft,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """The result of an evaluation: answers by task, with image before blind, and the scores."""

    answers: tuple[ScoredAnswer, ...]
    scores: Scores


def score_answers(
    task: Task, questions: Sequence[Question], answers: Sequence[str], *, prompts: Sequence[str], is_blind: bool
) -> list[ScoredAnswer]:
    """Scored answers to one task's questions; `answers` are texts, or indices of choices, which are stored as texts."""
    pairs = list(zip(questions, answers, strict=True))
    is_choice = task.answer_type == "choice"
    texts = [question.choices[int(answer)] if is_choice else answer for question, answer in pairs]
    # The truth of a choice is its index or its text.
    inputs = [pair[1] if isinstance(pair[0].truth, int) else text for pair, text in zip(pairs, texts, strict=True)]
    return score_texts(task, questions, texts, inputs=inputs, prompts=prompts, is_blind=is_blind)


def score_texts(
    task: Task,
    questions: Sequence[Question],
    texts: Sequence[str],
    *,
    inputs: Sequence[str],
    prompts: Sequence[str],
    is_blind: bool = False,
) -> list[ScoredAnswer]:
    """Scored answers to one task's questions; `inputs` are the metric's: the texts, or indices of choices."""
    scores = task.metric.compute(inputs, [question.truth for question in questions])
    return [
        ScoredAnswer(
            task=task,
            question=question,
            prompt=prompt,
            answer=text,
            score=float(score),
            is_blind=is_blind,
            is_readable=task.metric.is_readable(metric_input),
        )
        for question, prompt, text, metric_input, score in zip(questions, prompts, texts, inputs, scores, strict=True)
    ]


def _display_truth(question: Question) -> Any:
    truth = question.truth
    if question.choices and isinstance(truth, int):
        return question.choices[truth]
    if isinstance(truth, tuple):
        most_common = Counter(truth).most_common(1)[0][0]
        return most_common if isinstance(most_common, str) else [round_score(float(edge)) for edge in truth]
    return truth


def question_scores(answers: Sequence[ScoredAnswer], baseline: Mapping[str, float] | None = None) -> ClusteredScores:
    """One task's scores, minus `baseline` by question id if given; clusters are images, or questions without an image.

    Their mean is the task's score: the mean over splits of the mean over questions (only POPE has several splits).
    """
    return cluster_scores(
        [answer.score - (baseline[answer.question.id] if baseline else 0.0) for answer in answers],
        clusters=[answer.question.image or answer.question.id for answer in answers],
        splits=[answer.question.split for answer in answers],
    )


def summarise_answers(answers: Sequence[ScoredAnswer], guesses: Guesses) -> dict[str, TaskScores]:
    """The scores of each task, in the order of the answers, without what only its files and the model determine."""
    answers_by_task: dict[str, list[ScoredAnswer]] = {}
    for answer in answers:
        answers_by_task.setdefault(answer.task.name, []).append(answer)
    return {name: _task_scores(answers, guesses.get(name)) for name, answers in answers_by_task.items()}


def _task_scores(answers: Sequence[ScoredAnswer], guesses: Mapping[str, str] | None) -> TaskScores:
    task = answers[0].task
    sighted, blind = ([answer for answer in answers if answer.is_blind is is_blind] for is_blind in (False, True))
    answers = sighted or blind
    guess_answers = _score_guesses(answers, guesses) if guesses else []
    baselines = {"blind": blind, "question_blind": guess_answers} if sighted else {}
    return TaskScores(
        kind=task.kind,
        metric=task.metric.name,
        version=task.version,
        n=len(answers),
        benchmark=describe_version(task, [answer.question for answer in answers]),
        left_out={},
        boxes=None,
        unreadable=sum(not answer.is_readable for answer in answers),
        score=_mean_score(sighted),
        interval=_round_interval(bca_interval(question_scores(sighted))) if sighted else None,
        chance=round_score(task.baseline if task.baseline is not None else task.chance),
        guess=round_score(task.chance),
        stable=task.baseline is not None,
        blind=_mean_score(blind),
        text_only=None,
        over={name: _paired_difference(sighted, rows) for name, rows in baselines.items() if rows},
        question_blind=_mean_score(guess_answers),
        heldout=_mean_score([answer for answer in sighted if "heldout" in answer.question.tags.values()]),
        by=_scores_by_tag(sighted),
        splits=_pope_splits(sighted),
        soft=_soft_scores(sighted, blind),
    )


def _soft_scores(sighted: Sequence[ScoredAnswer], blind: Sequence[ScoredAnswer]) -> SoftTaskScores | None:
    """Means of the answers' soft scores, weighted like the task's score; None where no answer has one."""
    with_image, without = ([answer for answer in answers if answer.soft] for answers in (sighted, blind))
    if not with_image and not without:
        return None
    samples = {name: _soft_sample(with_image, name) for name in SoftScore._fields}
    means = {name: round_score(sample.mean) if sample else None for name, sample in samples.items()}
    blind_sample, sample = _soft_sample(without, "score"), samples["score"]
    return SoftTaskScores(
        n=len(with_image or without),
        interval=_round_interval(bca_interval(sample)) if sample else None,
        blind=round_score(blind_sample.mean) if blind_sample else None,
        **means,
    )


def _soft_sample(answers: Sequence[ScoredAnswer], name: str) -> ClusteredScores | None:
    """One number of the answers' soft scores, of those that have it."""
    values = [(answer, getattr(answer.soft, name)) for answer in answers]
    with_value = [replace(answer, score=value) for answer, value in values if value is not None]
    return question_scores(with_value) if with_value else None


def add_text_only_scores(
    scores: Scores, answers: Sequence[ScoredAnswer], *, text_only: Sequence[ScoredAnswer]
) -> Scores:
    """`scores` with those of the text model that the checkpoint was trained from, on the same questions blind."""
    tasks = dict(scores.tasks)
    for name in dict.fromkeys(answer.task.name for answer in text_only):
        baseline = [answer for answer in text_only if answer.task.name == name]
        sighted = [answer for answer in answers if answer.task.name == name and not answer.is_blind]
        difference = {"text_only": _paired_difference(sighted, baseline)} if sighted else {}
        over = {**tasks[name].over, **difference}
        tasks[name] = replace(tasks[name], text_only=_mean_score(baseline), over=over)
    return replace(scores, tasks=tasks)


def _paired_difference(answers: Sequence[ScoredAnswer], baseline: Sequence[ScoredAnswer]) -> BaselineDifference:
    """Score minus the baseline's score on the same questions, with the interval of the paired difference."""
    differences = question_scores(answers, {answer.question.id: answer.score for answer in baseline})
    interval = bca_interval(differences, bounds=(-1.0, 1.0))
    return BaselineDifference(difference=round_score(differences.mean), interval=_round_interval(interval))


def _round_interval(interval: Interval) -> Interval:
    return round_score(interval[0]), round_score(interval[1])


def _score_guesses(answers: Sequence[ScoredAnswer], guesses: Mapping[str, str]) -> list[ScoredAnswer]:
    task, questions = answers[0].task, [answer.question for answer in answers]
    texts = [guesses[question.id] for question in questions]
    if task.answer_type == "choice":
        choices = [[choice.lower() for choice in question.choices] for question in questions]
        texts = [str(names.index(text.lower())) for names, text in zip(choices, texts, strict=True)]
    return score_answers(task, questions, texts, prompts=[""] * len(answers), is_blind=False)


def _mean_score(answers: Sequence[ScoredAnswer]) -> float | None:
    return round_score(question_scores(answers).mean) if answers else None


def _scores_by_tag(answers: Sequence[ScoredAnswer]) -> dict[str, dict[str, SubsetScore]]:
    """Count and score for each value of each tag: {"combination": {"heldout": ..., "seen": ...}}."""
    scores: dict[str, dict[str, SubsetScore]] = {}
    for tag, value in sorted({pair for answer in answers for pair in answer.question.tags.items()}):
        tagged = [answer for answer in answers if answer.question.tags.get(tag) == value]
        subset = SubsetScore(n=len(tagged), score=round_score(question_scores(tagged).mean))
        scores.setdefault(tag, {})[value] = subset
    return scores


def _pope_splits(answers: Sequence[ScoredAnswer]) -> dict[str, SplitScores]:
    splits: dict[str, SplitScores] = {}
    for split in sorted({answer.question.split for answer in answers} - {""}):
        rows = [answer for answer in answers if answer.question.split == split]
        report = pope_report([row.answer for row in rows], [str(row.question.truth) for row in rows])
        metrics = {key: round_score(value) for key, value in asdict(report).items()}
        splits[split] = SplitScores(n=len(rows), **metrics)
    return splits


def write_result(result: EvalResult, folder: Path) -> None:
    """answers.jsonl, one line per question and condition, and scores.json."""
    write_atomic(folder / ANSWERS_FILE, "".join(answer_line(answer.stored()) for answer in result.answers))
    write_scores(result.scores, folder)


def merge_result(result: EvalResult, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Add a result to those stored in `folder`: answers.jsonl, scores.json and, with `metadata`, judged.json.

    Tasks that were evaluated before are replaced. Stored results of another version are dropped; damaged ones too, with
    a line on stderr that says how to evaluate them again. Their raw answers stay in the answer cache.
    """
    with file_lock(folder / "lock", is_blocking=True):
        stored_tasks, stored_lines, stored_benchmarks = _read_stored(folder)
        tasks = {**stored_tasks, **result.scores.tasks}
        new_lines: dict[str, list[str]] = {name: [] for name in result.scores.tasks}
        for answer in result.answers:
            new_lines[answer.task.name].append(answer_line(answer.stored()))
        lines = stored_lines | new_lines
        benchmarks = stored_benchmarks | dict.fromkeys(new_lines, metadata["benchmarks"])
        write_atomic(folder / ANSWERS_FILE, "".join(line for name in tasks for line in lines[name]))
        write_scores(build_scores(tasks), folder)
        write_evaluation_record(folder, {**metadata, "tasks": benchmarks}, files=(ANSWERS_FILE, SCORES_FILE))


def _read_stored(folder: Path) -> tuple[dict[str, TaskScores], dict[str, list[str]], dict[str, Any]]:
    """By task: scores, lines of answers.jsonl, benchmarks; all empty without an intact result of this version."""
    try:
        record = read_evaluation_record(folder)
        scores = read_scores(folder)
        lines: dict[str, list[str]] = {name: [] for name in scores.tasks}
        for _, answer in iter_answers(folder / ANSWERS_FILE):
            lines[answer.task].append(answer_line(answer))
        return dict(scores.tasks), lines, record["tasks"]
    except DamagedResult as error:
        sys.stderr.write(f"{error}\nThe results of this evaluation replace all that was stored there.\n")
        for name in (ANSWERS_FILE, SCORES_FILE, EVALUATION_RECORD):
            remove_path(folder / name)
    except (DataError, KeyError):
        pass
    return {}, {}, {}
