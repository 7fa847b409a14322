"""scores.json and answers.jsonl: writing and reading back, their bytes, and files that are refused."""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import DataError
from firstsight.evaluate.result_files import (
    BaselineDifference,
    SoftScore,
    SoftTaskScores,
    SplitScores,
    StoredAnswer,
    SubsetScore,
    TaskScores,
    answer_line,
    build_scores,
    iter_answers,
    read_answer_at,
    read_scores,
    write_scores,
)
from firstsight.evaluate.results import write_result
from firstsight.evaluate.task import TAGS
from firstsight.evaluate.tasks import TASKS
from tests.evaluate.conftest import EvaluateScripted
from tests.evaluate.scripted_model import ScriptedModel
from tests.report.answer_files import line, write_lines

GOLDEN = Path(__file__).parents[1] / "golden"
NUMBERS = st.floats(-1e6, 1e6)
INTERVALS = st.tuples(NUMBERS, NUMBERS)
COUNTS = st.integers(0, 2**40)
TASK_SCORES = st.builds(
    TaskScores,
    kind=st.sampled_from(["vision", "text"]),
    metric=st.text(),
    version=COUNTS,
    n=COUNTS,
    benchmark=st.text(),
    left_out=st.dictionaries(st.text(), COUNTS, max_size=2),
    boxes=st.none() | st.text(),
    unreadable=COUNTS,
    score=st.none() | NUMBERS,
    interval=st.none() | INTERVALS,
    chance=NUMBERS,
    guess=NUMBERS,
    stable=st.booleans(),
    blind=st.none() | NUMBERS,
    text_only=st.none() | NUMBERS,
    over=st.dictionaries(st.text(), st.builds(BaselineDifference, difference=NUMBERS, interval=INTERVALS), max_size=2),
    question_blind=st.none() | NUMBERS,
    heldout=st.none() | NUMBERS,
    by=st.dictionaries(
        st.text(), st.dictionaries(st.text(), st.builds(SubsetScore, n=COUNTS, score=NUMBERS), max_size=2), max_size=2
    ),
    splits=st.dictionaries(
        st.text(),
        st.builds(SplitScores, n=COUNTS, **dict.fromkeys(("accuracy", "f1", "precision", "recall", "yes"), NUMBERS)),
        max_size=2,
    ),
    soft=st.none()
    | st.builds(
        SoftTaskScores,
        n=COUNTS,
        interval=st.none() | INTERVALS,
        **dict.fromkeys(("blind", *SoftScore._fields), st.none() | NUMBERS),
    ),
)
ANSWERS = st.builds(
    StoredAnswer,
    task=st.text(),
    question=st.text(),
    image_name=st.text(),
    prompt=st.text(),
    text=st.text(),
    truth=st.text() | st.lists(NUMBERS, min_size=4, max_size=4),
    score=NUMBERS,
    blind=st.booleans(),
    readable=st.booleans(),
    split=st.text(),
    tags=st.lists(st.tuples(st.sampled_from(TAGS), st.text()), unique_by=lambda tag: tag[0]).map(tuple),
    missing=st.booleans(),
    soft=st.none() | st.builds(SoftScore, NUMBERS, *[st.none() | NUMBERS] * 4),
)
RESULT = ("vqav2", "pope", "pope_p", "refcoco", "copa")


@given(st.dictionaries(st.sampled_from(list(TASKS)) | st.text(), TASK_SCORES, max_size=3))
@settings(max_examples=60, deadline=None)
def test_scores_are_read_as_they_were_written(tasks: dict[str, TaskScores]) -> None:
    scores = build_scores(tasks)
    with tempfile.TemporaryDirectory() as folder:
        write_scores(scores, Path(folder))
        first = (Path(folder) / "scores.json").read_bytes()
        read = read_scores(Path(folder))
        write_scores(read, Path(folder))
        assert (Path(folder) / "scores.json").read_bytes() == first
    assert read == scores
    assert list(read.tasks) == list(tasks)


@given(st.lists(ANSWERS, max_size=4))
@settings(max_examples=60, deadline=None)
def test_answers_are_read_as_they_were_written(answers: list[StoredAnswer]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.jsonl"
        path.write_text("".join(map(answer_line, answers)), encoding="utf-8", newline="")
        rows = list(iter_answers(path))
        assert [answer for _, answer in rows] == answers
        assert all(read_answer_at(path, offset) == answer for offset, answer in rows)


def test_the_stable_score_is_the_mean_over_its_tasks_of_the_answers_score_less_chance(
    evaluate_scripted: EvaluateScripted, tmp_path: Path
) -> None:
    write_result(evaluate_scripted(ScriptedModel(), *RESULT), tmp_path)
    scores_by_split: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _, answer in iter_answers(tmp_path / "answers.jsonl"):
        if not answer.blind:
            scores_by_split[answer.task][answer.split].append(answer.score)
    means = {
        task: sum(sum(scores) / len(scores) for scores in splits.values()) / len(splits)
        for task, splits in scores_by_split.items()
    }
    scores = read_scores(tmp_path)
    # What the authors subtract: a quarter for VQAv2, a half for the two choices of POPE and COPA, nothing for boxes.
    gains = {"vqav2": means["vqav2"] - 0.25, "pope": means["pope"] - 0.5, "refcoco": means["refcoco"]}
    assert scores.stable["vision"] == pytest.approx(sum(gains.values()) / 3, abs=2e-9)
    assert scores.stable["text"] == pytest.approx(means["copa"] - 0.5, abs=2e-9)
    assert {name: task.score for name, task in scores.tasks.items()} == pytest.approx(means, abs=1e-9)
    # DCLM's centring, recomputed from the task's entries.
    included = [task for task in scores.tasks.values() if task.kind == "vision" and task.stable]
    centred = [((task.score or 0) - task.guess) / (1 - task.guess) for task in included]
    assert scores.centred["vision"] == pytest.approx(sum(centred) / 3, abs=2e-9)
    assert scores.raw["vision"] == pytest.approx(sum(means[name] for name in gains) / 3, abs=2e-9)
    assert scores.missing["vision"] == scores.missing_soft["vision"] == ("gqa", "textvqa", "ocid_ref")


def test_the_soft_stable_score_is_the_same_mean_of_the_answers_soft_scores(
    evaluate_scripted: EvaluateScripted, tmp_path: Path
) -> None:
    """The scripted model gives each of two forms of a reference 1/4, the likelier of two choices 3/4, and no box."""
    write_result(evaluate_scripted(ScriptedModel(), *RESULT), tmp_path)
    soft: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for _, answer in iter_answers(tmp_path / "answers.jsonl"):
        assert answer.soft is not None
        soft[answer.task, answer.blind].append(answer.soft.score)
    means = {key: sum(values) / len(values) for key, values in soft.items()}  # splits of equal sizes
    scores = read_scores(tmp_path)
    assert (means["vqav2", False], means["pope", True], means["refcoco", False]) == (0.5, 0.5, 0.0)
    assert set(soft["copa", False]) == {0.25, 0.75}
    for name, task in scores.tasks.items():
        assert task.soft is not None and task.soft.score == pytest.approx(means[name, False], abs=2e-9)
        assert task.soft.blind == (pytest.approx(means[name, True], abs=2e-9) if name != "copa" else None)
        low, high = task.soft.interval or (1.0, 0.0)
        assert low <= task.soft.score <= high
    assert scores.soft["vision"] == pytest.approx((0.5 - 0.25 + 0.5 - 0.5 + 0.0) / 3, abs=2e-9)
    assert scores.soft["text"] == pytest.approx(means["copa", False] - 0.5, abs=2e-9)


@pytest.mark.parametrize("name", ["scores.json", "answers.jsonl"])
def test_files_equal_the_golden_ones(evaluate_scripted: EvaluateScripted, tmp_path: Path, name: str) -> None:
    write_result(evaluate_scripted(ScriptedModel(), *RESULT), tmp_path)
    if os.environ.get("FIRSTSIGHT_GOLDEN") == "write":
        (GOLDEN / name).write_bytes((tmp_path / name).read_bytes())
    assert (tmp_path / name).read_text() == (GOLDEN / name).read_text()
    assert read_scores(GOLDEN).tasks.keys() == set(RESULT)


def _pope(content: dict[str, Any]) -> dict[str, Any]:
    return content["tasks"]["pope"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content.pop("format"), "format: wanted 2. Got none"),
        (lambda content: content.update(format=1), "format: wanted 2. Got 1"),
        (lambda content: content["versions"].update(scores=1), '"scores": 2.*Got .*"scores": 1'),
        (lambda content: content["stable"].pop("text"), "stable.text: wanted this key. Got only vision"),
        (
            lambda content: content["stable"].update(audio=1.0),
            "stable.audio: wanted only vision, text. Got this key too",
        ),
        (lambda content: content.pop("missing"), "missing: wanted this key"),
        (
            lambda content: content.update(missing={"vision": "gqa", "text": []}),
            "missing.vision: wanted a list. Got gqa",
        ),
        (lambda content: content.update(tasks=[]), r"tasks: wanted an object. Got \[\]"),
        (lambda content: _pope(content).pop("n"), "tasks.pope.n: wanted this key"),
        (lambda content: _pope(content).update(score="0.5"), "tasks.pope.score: wanted a finite number. Got 0.5"),
        (
            lambda content: _pope(content).update(score=float("nan")),
            "tasks.pope.score: wanted a finite number. Got NaN",
        ),
        (lambda content: _pope(content).update(n=1.5), "tasks.pope.n: wanted a whole number. Got 1.5"),
        (lambda content: _pope(content).update(n=True), "tasks.pope.n: wanted a whole number. Got true"),
        (lambda content: _pope(content).update(stable=1), "tasks.pope.stable: wanted true or false. Got 1"),
        (lambda content: _pope(content).update(kind="audio"), "tasks.pope.kind: wanted vision or text. Got audio"),
        (lambda content: _pope(content).update(interval=[0.1]), r"tasks.pope.interval: wanted a list of 2 values"),
        (
            lambda content: _pope(content)["over"]["blind"].pop("interval"),
            "tasks.pope.over.blind.interval: wanted this",
        ),
        (
            lambda content: _pope(content)["splits"]["random"].update(recall=None),
            "splits.random.recall: wanted a finite",
        ),
        (lambda content: content.pop("soft"), "soft: wanted this key"),
        (lambda content: content["versions"].update(soft=2), '"soft": 1.*Got .*"soft": 2'),
        (lambda content: _pope(content)["soft"].pop("best"), "tasks.pope.soft.best: wanted this key"),
        (lambda content: content.update(baselines={}), "baselines: wanted only tasks, stable"),
    ],
)
def test_damaged_scores_are_refused_with_the_key_and_the_remedy(
    damage: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    content = json.loads((GOLDEN / "scores.json").read_text())
    damage(content)
    (tmp_path / "scores.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"{tmp_path}/scores\.json: .*{message}.*Evaluate the checkpoint again"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("", "wanted JSON"), ("{", "wanted JSON"), ("[]", "wanted an object"), (None, "No such file")]
)
def test_a_file_that_is_no_json_object_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "scores.json").write_text(text)
    with pytest.raises(DataError, match=rf"scores\.json: {message}.*Evaluate the checkpoint again"):
        read_scores(tmp_path)


def test_lines_are_found_by_their_offset(tmp_path: Path) -> None:
    """Characters of several bytes, blank lines and any line ending do not shift other lines."""
    path = tmp_path / "answers.jsonl"
    texts = ["caf\u00e9 \U0001f642", "\u2028", "x" * 5000]
    rows = [json.dumps(line(str(n), answer=text), ensure_ascii=n % 2 == 0) for n, text in enumerate(texts)]
    path.write_bytes("\r\n\n".join(rows).encode())
    answers = list(iter_answers(path))
    assert [answer.text for _, answer in answers] == texts
    assert all(read_answer_at(path, offset) == answer for offset, answer in answers)


def test_half_of_a_surrogate_pair_is_read_as_a_question_mark(tmp_path: Path) -> None:
    """Generation that ends at a token limit may cut a pair."""
    answer = StoredAnswer("gqa", "1", "", "what ?", "\ud83d", "cat", 0.0, False)
    (tmp_path / "answers.jsonl").write_text(answer_line(answer))
    assert [read for _, read in iter_answers(tmp_path / "answers.jsonl")] == [answer._replace(text="?")]


@pytest.mark.parametrize("key", list(line("1")))
def test_an_answer_without_a_key_is_refused(key: str, tmp_path: Path) -> None:
    row = line("2")
    del row[key]
    path = write_lines(tmp_path / "answers.jsonl", [line("1"), row])
    with pytest.raises(DataError, match=rf"answers\.jsonl:2: {key}: wanted this key\. Got only .*Evaluate the check"):
        list(iter_answers(path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scores": 1.0}, "scores: wanted only task, .*Got this key too"),
        ({"score": None}, "score: wanted a finite number. Got null"),
        ({"score": float("nan")}, "score: wanted a finite number. Got NaN"),
        ({"score": True}, "score: wanted a finite number. Got true"),
        ({"question_id": 7}, "question_id: wanted a text. Got 7"),
        ({"image": 7}, "image: wanted a text. Got 7"),
        ({"answer": ["a"]}, r'answer: wanted a text. Got \["a"\]'),
        ({"truth": [0.0, 0.5]}, "truth: wanted a list of 4 values"),
        ({"truth": None}, "truth: wanted a text. Got null"),
        ({"blind": 0}, "blind: wanted true or false. Got 0"),
        ({"readable": "no"}, "readable: wanted true or false. Got no"),
        ({"domain": None}, "domain: wanted a text. Got null"),
        ({"soft": 0.5}, "soft: wanted an object. Got 0.5"),
        ({"soft": {"best": 0.5}}, "soft.score: wanted this key"),
        (
            {"soft": {"score": 1.0, "worst": 0.5}},
            "soft.worst: wanted only score, .*best_bits_per_byte. Got this key too",
        ),
        ({"soft": {"score": "1"}}, "soft.score: wanted a finite number. Got 1"),
    ],
)
def test_an_answer_with_another_key_or_type_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "answers.jsonl", [line("1", **fields)])
    with pytest.raises(DataError, match=rf"answers\.jsonl:1: {message}"):
        list(iter_answers(path))


@pytest.mark.parametrize("text", ["{\n", "[1]\n", "1\n"])
def test_a_line_that_is_no_object_is_refused_with_its_location(text: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=r"answers\.jsonl:1: wanted"):
        list(iter_answers(path))


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wanted a file of answers"):
        list(iter_answers(tmp_path / "answers.jsonl"))


def test_optional_keys_are_absent_where_they_say_nothing() -> None:
    answer = StoredAnswer("gqa", "1", "", "what ?", "cat", "cat", 1.0, False)
    keys = ["task", "question_id", "image", "prompt", "answer", "truth", "score", "blind"]
    assert list(json.loads(answer_line(answer))) == keys
    full = answer._replace(readable=False, split="random", tags=(("domain", "seen"),), missing=True)
    assert list(json.loads(answer_line(full))) == [*keys, "readable", "split", "domain", "missing"]
