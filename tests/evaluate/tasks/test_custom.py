"""A user's own benchmark: what it may say, and every way in which it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError, RequestError, UnknownName
from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import TASKS, get_task
from tests.evaluate.tasks.task_files import lines, write

HEAD: dict[str, Any] = {
    "prompt": "Look. {question} One word.",
    "metric": "exact",
    "answered": "words",
    "chance": 0.25,
    "version": 3,
}
ROW: dict[str, Any] = {"id": "a1", "question": "which bird?", "image": "a.png", "answer": "gull"}
MANY = {key: value for key, value in ROW.items() if key != "answer"} | {"answers": ["gull", "a gull"]}
BOX = {key: value for key, value in ROW.items() if key != "answer"} | {"box": [0.1, 0.2, 0.5, 0.6]}
OFFERED = ROW | {"choices": ["tern", "gull"]}


def own(folder: Path, head: dict[str, Any], *rows: dict[str, Any], name: str = "birds") -> Path:
    write(folder / name, "task.json", HEAD | head)
    write(folder / name, "questions.jsonl", lines(list(rows)))
    return folder


@pytest.mark.parametrize(
    ("head", "row", "truth", "choices"),
    [
        ({"metric": "exact"}, ROW, "gull", ()),
        ({"metric": "yes_no"}, ROW | {"answer": "no"}, "no", ()),
        ({"metric": "vqa"}, MANY, ("gull", "a gull"), ()),
        ({"metric": "cider"}, MANY, ("gull", "a gull"), ()),
        ({"metric": "iou50"}, BOX, (0.1, 0.2, 0.5, 0.6), ()),
        ({"metric": "iou25"}, BOX | {"box": [2, 5, 10, 10], "width": 20, "height": 10}, (0.1, 0.5, 0.5, 1.0), ()),
        ({"metric": "choice", "answered": "choice"}, OFFERED, 1, ("tern", "gull")),
        ({"metric": "exact", "answered": "choice"}, OFFERED, "gull", ("tern", "gull")),
        ({"metric": "letter"}, OFFERED, ("B", "tern", "gull"), ()),
        ({"metric": "letter"}, OFFERED | {"answer": "A"}, ("A", "tern", "gull"), ()),
    ],
)
def test_every_metric_has_its_truth(head: Any, row: Any, truth: Any, choices: Any, tmp_path: Path) -> None:
    found = get_task("birds", own(tmp_path, head, row))
    (only,) = found.read_questions(benchmark_files(tmp_path / "birds"))
    assert (only.id, only.image, only.truth, only.choices) == ("a1", "a.png", truth, choices)
    assert (found.name, found.kind, found.metric.name, found.version) == ("birds", "vision", head["metric"], 3)
    assert (found.chance, found.baseline) == (0.25, None)
    answer = {"choice": "1", "letter": str(truth[0]) if isinstance(truth, tuple) else ""}.get(head["metric"])
    said = answer or (" ".join(map(str, truth)) if "iou" in head["metric"] else str(row.get("answer", "gull")))
    other = ("some other words",) if head["metric"] == "cider" else truth
    assert found.metric.compute([said, "{}"], [truth, other])[0] > 0


def test_the_prompt_is_the_users_in_every_style(tmp_path: Path) -> None:
    found = get_task("birds", own(tmp_path, {}, ROW))
    (only,) = found.read_questions(benchmark_files(tmp_path / "birds"))
    assert found.prompt(only, "paper") == found.prompt(only, "bare") == "Look. which bird? One word."
    found = get_task("birds", own(tmp_path, {"metric": "letter", "prompt": "{question}\nLetter:"}, OFFERED))
    (only,) = found.read_questions(benchmark_files(tmp_path / "birds"))
    assert found.prompt(only, "paper") == "which bird?\nA. tern\nB. gull\nLetter:"


def test_questions_without_pictures_are_a_text_task(tmp_path: Path) -> None:
    bare = {key: value for key, value in OFFERED.items() if key != "image"}
    found = get_task("birds", own(tmp_path, {"metric": "choice", "answered": "choice"}, bare))
    assert found.kind == "text"
    assert found.read_questions(benchmark_files(tmp_path / "birds"))[0].image is None
    with pytest.raises(DataError, match="record 2: has no image, and others have one"):
        get_task("birds", own(tmp_path, {"metric": "choice", "answered": "choice"}, OFFERED, bare))
    with pytest.raises(DataError, match="answered by choice"):
        get_task("birds", own(tmp_path, {"metric": "letter"}, bare))


def test_no_built_in_task_is_replaced(tmp_path: Path) -> None:
    own(tmp_path, {}, ROW, name="gqa")
    with pytest.raises(RequestError, match=r"gqa: task\.json would replace the built-in task gqa"):
        get_task("gqa", tmp_path)
    assert get_task("gqa") is TASKS["gqa"]
    assert get_task("pope", tmp_path) is TASKS["pope"]


def test_an_unknown_name_lists_the_users_own_too(tmp_path: Path) -> None:
    own(tmp_path, {}, ROW)
    with pytest.raises(UnknownName, match="Nearest: birds"):
        get_task("bird", tmp_path)
    with pytest.raises(UnknownName):
        get_task("birds")


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ({"metrics": "exact"}, r"unknown metrics\. Known: prompt, metric, answered, chance, version"),
        ({"metric": "bleu"}, "no metric is called 'bleu'. Known: .*vqa.*cider"),
        ({"metric": ["vqa"]}, "no metric is called"),
        ({"prompt": "no place"}, r"contains \{question\}"),
        ({"prompt": "{question} {q}"}, r"contains \{question\}"),
        ({"prompt": None}, r"contains \{question\}"),
        ({"answered": "aloud"}, 'answered is "words" or "choice"'),
        ({"metric": "choice"}, "choice does not go with 'words'"),
        ({"answered": "choice", "metric": "cider"}, "cider does not go with 'choice'"),
        ({"chance": 25}, "chance is a share"),
        ({"chance": "0.25"}, "chance is a share"),
        ({"chance": float("nan")}, "chance is a share"),
        ({"chance": -0.1}, "chance is a share"),
        ({"version": 0}, "version is a whole number"),
        ({"version": "1"}, "version is a whole number"),
        ({"version": True}, "version is a whole number"),
    ],
)
def test_a_head_that_cannot_be_is_named(head: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"birds/task\.json: .*{why}"):
        get_task("birds", own(tmp_path, head, ROW))


def test_a_head_needs_every_key_and_to_be_an_object(tmp_path: Path) -> None:
    own(tmp_path, {}, ROW)
    write(tmp_path / "birds", "task.json", {"prompt": "{question}", "metric": "vqa"})
    with pytest.raises(DataError, match="lacks answered, chance, version"):
        get_task("birds", tmp_path)
    write(tmp_path / "birds", "task.json", "[]")
    with pytest.raises(DataError, match="wanted an object"):
        get_task("birds", tmp_path)
    write(tmp_path / "birds", "task.json", "{")
    with pytest.raises(DataError, match="wanted JSON"):
        get_task("birds", tmp_path)


@pytest.mark.parametrize(
    ("head", "row", "why"),
    [
        ({}, ROW | {"anwser": "x"}, "unknown anwser. Known: id, question, image, split, answer"),
        ({}, {"id": "1", "question": "q", "image": "a"}, "lacks answer"),
        ({}, OFFERED, "unknown choices"),
        ({}, ROW | {"answer": None}, "answer is text"),
        ({}, ROW | {"image": [1]}, "image is text"),
        ({"metric": "yes_no"}, ROW, "yes or no. Got 'gull'"),
        ({"metric": "vqa"}, MANY | {"answers": []}, "answers is a list of texts"),
        ({"metric": "vqa"}, MANY | {"answers": "gull"}, "answers is a list of texts"),
        ({"metric": "cider"}, MANY | {"answers": ["", " "]}, "not all empty"),
        ({"metric": "iou50"}, BOX | {"box": [0.1, 0.2, 0.5, 1.6]}, "exceeds its image"),
        ({"metric": "iou50"}, BOX | {"box": [10, 20, 50, 60]}, "exceeds its image"),
        ({"metric": "iou50"}, BOX | {"box": [0.5, 0.2, 0.1, 0.6]}, "is empty"),
        ({"metric": "iou50"}, BOX | {"box": "here 🐦"}, "four numbers"),
        ({"metric": "iou50"}, BOX | {"box": [0, 0, float("nan"), 1]}, "four numbers"),
        ({"metric": "iou50"}, BOX | {"box": [0, 0, 9, 9], "width": 10}, "exceeds its image"),
        ({"metric": "letter"}, OFFERED | {"answer": "C"}, "one of the choices, once"),
        ({"metric": "letter"}, OFFERED | {"choices": ["gull"]}, "2 to 26"),
        (
            {"metric": "choice", "answered": "choice"},
            OFFERED | {"choices": ["gull", "gull"]},
            "one of the choices, once",
        ),
        ({"metric": "choice", "answered": "choice"}, ROW, "lacks choices"),
        ({}, ROW | {"id": "a0"}, "appear twice: a0"),
    ],
)
def test_a_question_that_cannot_be_is_named(head: Any, row: Any, why: str, tmp_path: Path) -> None:
    good = {"vqa": MANY, "cider": MANY, "iou50": BOX, "letter": OFFERED, "choice": OFFERED}.get(head.get("metric"), ROW)
    good = good | {"answer": "no"} if head.get("metric") == "yes_no" else good
    found = get_task("birds", own(tmp_path, head, good | {"id": "a0"}, row))
    with pytest.raises(DataError, match=rf"questions\.jsonl.*{why}"):
        found.read_questions(benchmark_files(tmp_path / "birds"))
