"""Order of questions and statistics by task, against rows written by hand and properties that hold for any answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.report.pages.answers_page import compute_task_stats, draw_questions, rank_disagreements
from tests.report.answer_files import Line, answers_table, line

SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)
ANSWERS = ("cat", "dog", "")


@st.composite
def line_pairs(draw: st.DrawFn) -> tuple[list[Line], list[Line]]:
    """Answers of two checkpoints to overlapping questions, in any order."""
    keys = draw(st.lists(st.tuples(st.sampled_from(["gqa", "pope", "kinds"]), st.integers(0, 9)), unique=True))
    pair: tuple[list[Line], list[Line]] = ([], [])
    for task, number in keys:
        for index in draw(st.sampled_from([(0,), (1,), (0, 1), (0, 1), (0, 1)])):
            for blind in draw(st.sampled_from([(False,), (True,), (False, True)])):
                truth = draw(st.sampled_from(["cat", "cat", "cat", "dog"]))
                answer, score = draw(st.sampled_from(ANSWERS)), draw(st.sampled_from(SCORES))
                fields = {"task": task, "blind": blind, "answer": answer, "score": score, "truth": truth}
                pair[index].append(line(str(number), **fields))
    return draw(st.permutations(pair[0])), draw(st.permutations(pair[1]))


def _kind(first: list[Line], second: list[Line]) -> tuple[str, float]:
    """Kind and difference of one question by the definition: in the common condition, with the image if possible."""
    for blind in (False, True):
        a, b = ([row for row in lines if row["blind"] is blind] for lines in (first, second))
        if a and b:
            if a[0]["truth"] != b[0]["truth"]:
                return "truth", 0.0
            difference = round(a[0]["score"] - b[0]["score"], 9)
            kind = "score" if difference else "wording" if a[0]["answer"] != b[0]["answer"] else "same"
            return kind, difference
    return "unpaired", 0.0


@given(line_pairs())
@settings(max_examples=60, deadline=None)
def test_largest_differences_are_first(pair: tuple[list[Line], list[Line]]) -> None:
    first, second = pair
    if not first or not second:
        return
    with TemporaryDirectory() as folder:
        tables = answers_table(Path(folder), "a", first), answers_table(Path(folder), "b", second)
        ranking = rank_disagreements(*tables)
        stats = {row.task: row for row in compute_task_stats(tables, ranking)}
    expected = {
        key: _kind(*([row for row in lines if (row["task"], row["question_id"]) == key] for lines in pair))
        for key in {(row["task"], row["question_id"]) for row in (*first, *second)}
    }
    rows = ranking.select("task", "question", "kind", "difference").rows()
    ranked = {
        (task, question): (kind, difference if kind != "truth" else 0.0) for task, question, kind, difference in rows
    }
    assert ranked == expected and len(rows) == len(expected)
    groups = [("score", "wording", "same", "truth", "unpaired").index(kind) for _, _, kind, _ in rows]
    assert groups == sorted(groups)
    sizes = [abs(difference) for _, _, kind, difference in rows if kind == "score"]
    assert sizes == sorted(sizes, reverse=True)
    for task, row in stats.items():
        kinds = [kind for (name, _), kind in expected.items() if name == task]
        assert row.kind_counts == Counter(kind for kind, _ in kinds)
        first_better, second_better = sum(size > 0 for _, size in kinds), sum(size < 0 for _, size in kinds)
        assert row.better_counts == (first_better, second_better)


@given(line_pairs(), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_draw_is_balanced_over_tasks_and_independent_of_order(pair: tuple[list[Line], list[Line]], count: int) -> None:
    lines = pair[0]
    if not lines:
        return
    with TemporaryDirectory() as folder:
        table, reversed_table = (
            answers_table(Path(folder), name, rows) for name, rows in (("a", lines), ("b", lines[::-1]))
        )
        drawn, all_drawn = draw_questions(table, count=count), draw_questions(reversed_table, count=10**6)
    keys = drawn.select("task", "question").rows()
    sizes = Counter(task for task, _ in {(row["task"], row["question_id"]) for row in lines})
    assert len(keys) == len(set(keys)) == min(count, sum(sizes.values()))
    counts = Counter(task for task, _ in keys)
    maximum = max(counts.values())
    assert all(counts[task] >= min(size, maximum - 1) for task, size in sizes.items())
    for task in counts:  # the first questions of each task's own order, whatever the order of the lines
        task_keys = [key for key in all_drawn.select("task", "question").rows() if key[0] == task]
        assert [key for key in keys if key[0] == task] == task_keys[: counts[task]]


def test_tasks_alternate_among_equal_differences(tmp_path: Path) -> None:
    keys = [(task, str(number)) for task in ("gqa", "pope", "kinds") for number in range(5)]
    first = answers_table(tmp_path, "a", [line(number, task=task, score=1.0) for task, number in keys])
    second = answers_table(tmp_path, "b", [line(number, task=task, score=0.0) for task, number in keys])
    tasks = rank_disagreements(first, second).get_column("task").to_list()
    assert [set(tasks[start : start + 3]) for start in range(0, 15, 3)] == [{"gqa", "pope", "kinds"}] * 5


def test_scores_and_difference_are_computed_as_in_evaluation(tmp_path: Path) -> None:
    """POPE's score is the mean over splits; the difference is over the questions that both answered."""

    def lines(scores: tuple[float, ...]) -> list[Line]:
        splits = zip(("random", "random", "random", "popular"), scores, strict=True)
        return [line(str(n), task="pope", split=split, score=s, image="i") for n, (split, s) in enumerate(splits)]

    first, second = lines((1, 1, 0, 0)), lines((1, 0, 0, 1))
    second.append(line("9", task="pope", split="popular", score=0.0))
    first.append(line("0", task="pope", split="random", score=0.5, blind=True))
    tables = answers_table(tmp_path, "a", first), answers_table(tmp_path, "b", second)
    [row] = compute_task_stats(tables, rank_disagreements(*tables))
    a, b = row.scores
    assert a is not None and a.sighted == pytest.approx((2 / 3 + 0) / 2) and a.blind == 0.5 and a.questions == 4
    assert b is not None and b.sighted == pytest.approx((1 / 3 + 1 / 2) / 2) and b.blind is None and b.questions == 5
    assert row.compared_count == 4 and row.difference == pytest.approx((1 / 3 - 1) / 2)
    assert row.interval is not None and row.interval[0] <= (1 / 3 - 1) / 2 <= row.interval[1]


def test_paired_difference_is_more_precise_than_two_scores(tmp_path: Path) -> None:
    """Both fail on the same hard questions: the interval of the difference is narrower than that of a score."""
    is_hard = [n % 2 == 0 for n in range(200)]
    first = [line(str(n), score=0.0 if is_hard[n] else 1.0) for n in range(200)]
    second = [line(str(n), score=0.0 if is_hard[n] or n % 20 == 1 else 1.0) for n in range(200)]
    tables = answers_table(tmp_path, "a", first), answers_table(tmp_path, "b", second)
    [row] = compute_task_stats(tables, rank_disagreements(*tables))
    assert row.interval is not None and 0 < row.interval[0] < 0.05 < row.interval[1] < 0.1
