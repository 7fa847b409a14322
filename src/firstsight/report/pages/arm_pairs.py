"""The data with which the page compares any two arms: recipes, scores, differences, and questions with images.

The page itself subtracts the scores of the seeds that both arms have. The intervals of the stable scores' differences
are computed here, for every pair of at most MAX_COMPARED_ARMS arms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from firstsight.evaluate.metrics.boxes import parse_box
from firstsight.recipe.analysis import STABLE_MEASURES
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.answers import QUESTION_KEY
from firstsight.report.compare import ArmPair
from firstsight.report.format import readable_answer
from firstsight.report.pages.thumbnails import Thumbnails
from firstsight.report.results import MAX_COMPARED_ARMS, ArmResult, arms_with_scores
from firstsight.report.table import changed_tasks, measure_scores, single_task_names
from firstsight.visible import visible_values

MAX_QUESTIONS = 60
PICTURES_OF_A_PAIR = 4
"""Pictures that the arms of a pair answer differently, as far as MAX_QUESTIONS allows for all pairs."""
MAX_SCANNED_QUESTIONS = 20_000
MAX_ANSWER_LENGTH = 160


RecipeDifferences = Mapping[tuple[str, str], Sequence[tuple[str, str, str]]]


def pair_data(results: StudyAnalysis, recipes: RecipeDifferences) -> dict[str, Any]:
    """The content of the page's script element "pair-data"; arms without scores are left out.

    `recipes`: `RunInfo.recipe_differences`. Two arms are "first second", by their numbers in "arms". Scores are shares
    of 1 by measure, arm and seed.
    """
    arms = arms_with_scores(results.arms)
    names = list(dict.fromkeys(arm.name for arm in arms))
    measures = [*STABLE_MEASURES, *(t for kind in STABLE_MEASURES for t in single_task_names(results.scores, kind))]
    content = {
        "arms": [{"name": n, "labels": {str(arm.seed): arm.label for arm in arms if arm.name == n}} for n in names],
        "recipes": dict(_recipes(names, recipes)),
        "measures": list(_measures(results, measures, names)),
        "intervals": _intervals(results, names),
        "questions": _questions(arms, names),
    }
    return visible_values(content)


def _recipes(names: Sequence[str], recipes: RecipeDifferences) -> Iterator[tuple[str, list[list[str]]]]:
    for first, second in combinations(range(len(names)), 2):
        pair = names[first], names[second]
        if pair in recipes:
            yield f"{first} {second}", [list(texts) for texts in recipes[pair]]
        elif (reverse := (names[second], names[first])) in recipes:
            yield f"{first} {second}", [[path, a, b] for path, b, a in recipes[reverse]]


def _measures(results: StudyAnalysis, measures: Sequence[str], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    changed = changed_tasks(results.scores)
    for measure in measures:
        scores: dict[str, dict[str, float]] = {}
        rows = measure_scores(results.scores, measure)
        for name, seed, score in rows.select("arm", "seed", "score").iter_rows():
            scores.setdefault(name, {})[str(seed)] = round(score, 6)
        if scores:
            kind = rows.item(0, "kind")
            values = {
                "name": measure,
                "kind": kind,
                "stable": measure in STABLE_MEASURES,
                "alike": measure not in changed,
            }
            yield values | {"scores": [scores.get(name, {}) for name in names]}


def _intervals(results: StudyAnalysis, names: Sequence[str]) -> dict[str, Any]:
    """By "first second measure": the difference, its interval and the tasks that it leaves out."""
    pairs = combinations(range(len(names)), 2) if len(names) <= MAX_COMPARED_ARMS else ()
    intervals: dict[str, Any] = {}
    for first, second in pairs:
        for measure in STABLE_MEASURES:
            pair = ArmPair(a=names[first], b=names[second], measure=measure)
            (difference,) = results.comparison.corrected_differences([pair])
            if difference is not None:
                ends = difference.display_interval
                intervals[f"{first} {second} {measure}"] = {
                    "mean": round(difference.mean, 6),
                    "interval": None if ends is None else [round(end, 6) for end in ends],
                    "seeds": len(difference.per_seed),
                    "missing": list(difference.missing_tasks),
                }
    return intervals


def _questions(arms: Sequence[ArmResult], names: Sequence[str]) -> list[dict[str, Any]]:
    """Questions with images that the first seeds of the arms answer differently, with all their answers."""
    firsts = {arm.name: arm for arm in reversed(arms) if arm.answers is not None}
    chosen = [firsts[name] for name in names if name in firsts and not _sighted(firsts[name]).is_empty()]
    folder = next((arm.benchmarks_dir for arm in chosen if arm.benchmarks_dir), None)
    if len(chosen) < 2 or folder is None:
        return []
    columns = ["prompt", "truth", "image", "answer", "score"]
    by_question = [
        _sighted(arm).select(*QUESTION_KEY, *columns).rows_by_key(QUESTION_KEY, unique=True) for arm in chosen
    ]
    thumbnails, questions = Thumbnails(), list[dict[str, Any]]()
    for task, question in _separating_questions(chosen):
        rows = [answers.get((task, question)) for answers in by_question]
        prompt, truth, image, *_ = next(filter(None, rows))
        thumbnail = thumbnails.find(folder, task, image)
        if isinstance(thumbnail, str):
            continue
        answers = [None if row is None else [_answer_text(row[3]), round(row[4], 4), parse_box(row[3])] for row in rows]
        by_name = dict(zip((arm.name for arm in chosen), answers, strict=True))
        texts = {"task": task, "question": question, "prompt": prompt, "truth": _answer_text(truth)}
        picture = {"uri": thumbnail.uri, "pixels": thumbnail.pixelated, "box": parse_box(truth)}
        questions.append(texts | picture | {"answers": [by_name.get(name) for name in names]})
    thumbnails.close()
    return questions


def _sighted(arm: ArmResult) -> pl.DataFrame:
    """An arm's answers to questions with images, the first one to each question."""
    assert arm.answers is not None
    return arm.answers.filter(pl.col("image") != "", blind=False).unique(
        QUESTION_KEY, keep="first", maintain_order=True
    )


def _separating_questions(arms: Sequence[ArmResult]) -> list[tuple[str, str]]:
    """At most MAX_QUESTIONS questions, in the order of a hash, each needed by a pair of arms that answers it
    differently and has fewer than PICTURES_OF_A_PAIR before."""
    columns = [f"arm {number}" for number in range(len(arms))]  # an arm's name may be that of another column
    tables = [_sighted(arm).select(*QUESTION_KEY, "score", arm=pl.lit(c)) for arm, c in zip(arms, columns, strict=True)]
    table = pl.concat(tables)
    wide = table.pivot("arm", index=QUESTION_KEY, values="score", aggregate_function="first", maintain_order=True)
    keys = wide.select(QUESTION_KEY).rows()
    order = sorted(range(len(keys)), key=lambda index: sha256("/".join(keys[index]).encode()).digest())
    scores = wide.select(columns).to_numpy()
    pairs = np.array(list(combinations(range(len(arms)), 2)))
    counts = np.zeros(len(pairs), dtype=int)
    chosen: list[tuple[str, str]] = []
    for index in order[:MAX_SCANNED_QUESTIONS]:
        gaps = np.abs(scores[index, pairs[:, 0]] - scores[index, pairs[:, 1]])
        differing = np.nan_to_num(gaps) > 0
        if (differing & (counts < PICTURES_OF_A_PAIR)).any():
            counts += differing
            chosen.append(keys[index])
        if len(chosen) == MAX_QUESTIONS or (counts >= PICTURES_OF_A_PAIR).all():
            break
    return chosen


def _answer_text(text: str) -> str:
    readable = readable_answer(text)
    return readable if len(readable) <= MAX_ANSWER_LENGTH else f"{readable[:MAX_ANSWER_LENGTH]} ..."
