"""Kept rows, and the scores.json that they add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from firstsight.evaluate.metrics.exact_match import pope_report
from firstsight.evaluate.score import (
    AGGREGATE_VERSIONS,
    SCORES_VERSION,
    QuestionScores,
    aggregates_by_kind,
    task_score,
    task_score_interval,
)
from firstsight.evaluate.task import Question, Task, describe_version

Guesses = Mapping[str, Mapping[str, str]]
"""Task and question id to the answer of the best guesser that ignores the question."""


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
    """Whether the answer has the form that the metric wants."""

    def to_json(self) -> dict[str, Any]:
        """As answers.jsonl keeps it; of several annotators' answers the most frequent one stands for the truth."""
        question = self.question
        split = {"split": question.split} if question.split else {}
        readable_field = {} if self.is_readable else {"readable": False}
        return {
            "task": self.task.name,
            "question_id": question.id,
            "image": question.image,
            "prompt": self.prompt,
            "answer": self.answer,
            "truth": _display_truth(question),
            "score": _round(self.score),
            "blind": self.is_blind,
            **readable_field,
            **split,
            **question.tags,
        }


def score_answers(
    task: Task, questions: Sequence[Question], answers: Sequence[str], *, prompts: Sequence[str], is_blind: bool
) -> list[ScoredAnswer]:
    """Checked answers to one task; a choice is answered by its number and kept in words."""
    texts = [
        question.choices[int(answer)] if task.answer_type == "choice" else answer
        for question, answer in zip(questions, answers, strict=True)
    ]
    # The right choice is known by its number or by its words.
    metric_answers = [
        answer_or_index if isinstance(item.truth, int) else text
        for item, answer_or_index, text in zip(questions, answers, texts, strict=True)
    ]
    scores = task.metric.compute(metric_answers, [question.truth for question in questions])
    return [
        ScoredAnswer(
            task=task,
            question=question,
            prompt=prompt,
            answer=answer_text,
            score=float(score),
            is_blind=is_blind,
            is_readable=task.metric.is_readable(metric_answer),
        )
        for question, prompt, answer_text, metric_answer, score in zip(
            questions, prompts, texts, metric_answers, scores, strict=True
        )
    ]


def _display_truth(question: Question) -> Any:
    truth = question.truth
    if question.choices and isinstance(truth, int):
        return question.choices[truth]
    if isinstance(truth, tuple):
        most_common = Counter(truth).most_common(1)[0][0]
        return most_common if isinstance(most_common, str) else [_round(float(edge)) for edge in truth]
    return truth


def summarise_answers(answers: Sequence[ScoredAnswer], guesses: Guesses) -> dict[str, Any]:
    """Scores by task, and the stable, centred and raw means by kind, to nine places."""
    task_names = list(dict.fromkeys(answer.task.name for answer in answers))
    tasks = {
        name: _task_facts([answer for answer in answers if answer.task.name == name], guesses.get(name))
        for name in task_names
    }
    return build_scores_json(tasks, {answer.task.name: answer.task.version for answer in answers})


def build_scores_json(tasks: Mapping[str, Mapping[str, Any]], versions: Mapping[str, int]) -> dict[str, Any]:
    """scores.json of these tasks' scores and versions."""
    sighted_scores = {name: facts["score"] for name, facts in tasks.items() if facts["score"] is not None}
    return {
        "tasks": dict(tasks),
        **aggregates_by_kind(sighted_scores),
        "versions": {"scores": SCORES_VERSION, **AGGREGATE_VERSIONS, **versions},
    }


def _task_facts(answers: Sequence[ScoredAnswer], guesses: Mapping[str, str] | None) -> dict[str, Any]:
    task = answers[0].task
    sighted, blind = ([answer for answer in answers if answer.is_blind is is_blind] for is_blind in (False, True))
    reference_answers = sighted or blind
    guess_answers = _score_guesses(reference_answers, guesses) if guesses else []
    baseline_answers = {"blind": blind, "question_blind": guess_answers}
    return {
        "kind": task.kind,
        "metric": task.metric.name,
        "n": len(reference_answers),
        "asked": describe_version(task, [answer.question for answer in reference_answers]),
        "unreadable": sum(not answer.is_readable for answer in reference_answers),
        "score": _mean_score(sighted),
        "interval": [_round(bound) for bound in task_score_interval(question_scores(sighted))] if sighted else None,
        # What the stable score subtracts; beside it what guessing really scores, which centring uses.
        "chance": _round(task.baseline if task.baseline is not None else task.chance),
        "guess": _round(task.chance),
        "stable": task.baseline is not None,
        "blind": _mean_score(blind),
        "text_only": None,
        "over": {
            name: _paired_difference(sighted, baseline)
            for name, baseline in baseline_answers.items()
            if sighted and baseline
        },
        "question_blind": _mean_score(guess_answers),
        "heldout": _mean_score([answer for answer in sighted if "heldout" in answer.question.tags.values()]),
        "by": _scores_by_tag(sighted),
        "splits": _pope_splits(sighted),
    }


def add_text_only_scores(
    scores: Mapping[str, Any], answers: Sequence[ScoredAnswer], *, text_only: Sequence[ScoredAnswer]
) -> dict[str, Any]:
    """The scores with those of the text model that the checkpoint came from, asked the same questions blind."""
    tasks = dict(scores["tasks"])
    for name in dict.fromkeys(answer.task.name for answer in text_only):
        text_only_answers = [answer for answer in text_only if answer.task.name == name]
        sighted_answers = [answer for answer in answers if answer.task.name == name and not answer.is_blind]
        difference = {"text_only": _paired_difference(sighted_answers, text_only_answers)} if sighted_answers else {}
        tasks[name] = {
            **tasks[name],
            "text_only": _mean_score(text_only_answers),
            "over": {**tasks[name]["over"], **difference},
        }
    return {**scores, "tasks": tasks}


def _paired_difference(answers: Sequence[ScoredAnswer], baseline_answers: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """How far a score stands over another to the same questions, with the interval of the paired difference."""
    baseline_scores = {answer.question.id: answer.score for answer in baseline_answers}
    differences = replace(
        question_scores(answers), scores=[answer.score - baseline_scores[answer.question.id] for answer in answers]
    )
    return {
        "difference": _round(task_score(differences)),
        "interval": [_round(bound) for bound in task_score_interval(differences, is_signed=True)],
    }


def _score_guesses(scored_answers: Sequence[ScoredAnswer], guesses: Mapping[str, str]) -> list[ScoredAnswer]:
    questions = [scored_answer.question for scored_answer in scored_answers]
    guess_texts = [guesses[question.id] for question in questions]
    if scored_answers[0].task.answer_type == "choice":
        guess_texts = [
            _choice_index(question, guess_text) for question, guess_text in zip(questions, guess_texts, strict=True)
        ]
    return score_answers(
        scored_answers[0].task, questions, guess_texts, prompts=[""] * len(scored_answers), is_blind=False
    )


def _choice_index(question: Question, guess: str) -> str:
    """The number of the choice that a guess means."""
    return str([choice.lower() for choice in question.choices].index(guess.lower()))


def question_scores(answers: Sequence[ScoredAnswer]) -> QuestionScores:
    """The rows' scores; questions about one picture stand or fall together, the others alone."""
    return QuestionScores(
        scores=[answer.score for answer in answers],
        splits=[answer.question.split for answer in answers],
        clusters=[answer.question.image or answer.question.id for answer in answers],
    )


def _mean_score(answers: Sequence[ScoredAnswer]) -> float | None:
    return _round(task_score(question_scores(answers))) if answers else None


def _scores_by_tag(answers: Sequence[ScoredAnswer]) -> dict[str, dict[str, dict[str, Any]]]:
    """Score and count for each value of each tag: {"form": {"heldout": {"n", "score"}, "seen": ...}}."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for tag, value in sorted({pair for answer in answers for pair in answer.question.tags.items()}):
        tagged_answers = [answer for answer in answers if answer.question.tags.get(tag) == value]
        scores.setdefault(tag, {})[value] = {"n": len(tagged_answers), "score": _mean_score(tagged_answers)}
    return scores


def _pope_splits(answers: Sequence[ScoredAnswer]) -> dict[str, dict[str, Any]]:
    """POPE's own numbers for each of its splits."""
    splits: dict[str, dict[str, Any]] = {}
    for split in sorted({answer.question.split for answer in answers} - {""}):
        split_answers = [answer for answer in answers if answer.question.split == split]
        report = pope_report(
            [answer.answer for answer in split_answers], [str(answer.question.truth) for answer in split_answers]
        )
        splits[split] = {"n": len(split_answers), "accuracy": _round(report.accuracy), "f1": _round(report.f1)}
        splits[split] |= {"precision": _round(report.precision), "recall": _round(report.recall)}
        splits[split] |= {"yes": _round(report.yes_rate)}
    return splits


def _round(value: float | None) -> float | None:
    """Nine places: enough for every use, and the same on every machine."""
    return None if value is None else round(float(value), 9)
