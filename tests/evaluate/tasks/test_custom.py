"""Users' own benchmarks: valid configurations and questions, and the message for each invalid one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError, RequestError, UnknownName
from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import TASKS, get_task
from tests.evaluate.tasks.task_files import lines, write

CONFIG: dict[str, Any] = {
    "prompt": "Look. {question} One word.",
    "metric": "exact",
    "answered": "words",
    "chance": 0.25,
    "version": 3,
}
ROW: dict[str, Any] = {"id": "a1", "question": "which bird?", "image": "a.png", "answer": "gull"}
ANSWERS_ROW = {key: value for key, value in ROW.items() if key != "answer"} | {"answers": ["gull", "a gull"]}
BOX_ROW = {key: value for key, value in ROW.items() if key != "answer"} | {"box": [0.1, 0.2, 0.5, 0.6]}
CHOICES_ROW = ROW | {"choices": ["tern", "gull"]}


def write_task(folder: Path, config: dict[str, Any], *rows: dict[str, Any], name: str = "birds") -> Path:
    write(folder / name, "task.json", CONFIG | config)
    write(folder / name, "questions.jsonl", lines(list(rows)))
    return folder


@pytest.mark.parametrize(
    ("config", "row", "truth", "choices"),
    [
        ({"metric": "exact"}, ROW, "gull", ()),
        ({"metric": "yes_no"}, ROW | {"answer": "no"}, "no", ()),
        ({"metric": "vqa"}, ANSWERS_ROW, ("gull", "a gull"), ()),
        ({"metric": "cider"}, ANSWERS_ROW, ("gull", "a gull"), ()),
        ({"metric": "iou50"}, BOX_ROW, (0.1, 0.2, 0.5, 0.6), ()),
        ({"metric": "iou25"}, BOX_ROW | {"box": [2, 5, 10, 10], "width": 20, "height": 10}, (0.1, 0.5, 0.5, 1.0), ()),
        ({"metric": "choice", "answered": "choice"}, CHOICES_ROW, 1, ("tern", "gull")),
        ({"metric": "exact", "answered": "choice"}, CHOICES_ROW, "gull", ("tern", "gull")),
        ({"metric": "letter"}, CHOICES_ROW, ("B", "tern", "gull"), ()),
        ({"metric": "letter"}, CHOICES_ROW | {"answer": "A"}, ("A", "tern", "gull"), ()),
    ],
)
def test_each_metric_reads_its_truth(config: Any, row: Any, truth: Any, choices: Any, tmp_path: Path) -> None:
    task = get_task("birds", write_task(tmp_path, config, row))
    (question,) = task.read_questions(benchmark_files(tmp_path / "birds"))
    assert (question.id, question.image, question.truth, question.choices) == ("a1", "a.png", truth, choices)
    assert (task.name, task.kind, task.metric.name, task.version) == ("birds", "vision", config["metric"], 3)
    assert (task.chance, task.baseline) == (0.25, None)
    answer = {"choice": "1", "letter": str(truth[0]) if isinstance(truth, tuple) else ""}.get(config["metric"])
    text = answer or (" ".join(map(str, truth)) if "iou" in config["metric"] else str(row.get("answer", "gull")))
    other_truth = ("some other words",) if config["metric"] == "cider" else truth
    assert task.metric.compute([text, "{}"], [truth, other_truth])[0] > 0


def test_both_prompt_styles_are_the_users_prompt(tmp_path: Path) -> None:
    task = get_task("birds", write_task(tmp_path, {}, ROW))
    (question,) = task.read_questions(benchmark_files(tmp_path / "birds"))
    assert task.prompt(question, "paper") == task.prompt(question, "bare") == "Look. which bird? One word."
    task = get_task("birds", write_task(tmp_path, {"metric": "letter", "prompt": "{question}\nLetter:"}, CHOICES_ROW))
    (question,) = task.read_questions(benchmark_files(tmp_path / "birds"))
    assert task.prompt(question, "paper") == "which bird?\nA. tern\nB. gull\nLetter:"


def test_questions_without_images_are_a_text_task(tmp_path: Path) -> None:
    row = {key: value for key, value in CHOICES_ROW.items() if key != "image"}
    task = get_task("birds", write_task(tmp_path, {"metric": "choice", "answered": "choice"}, row))
    assert task.kind == "text"
    assert task.read_questions(benchmark_files(tmp_path / "birds"))[0].image is None
    with pytest.raises(DataError, match="record 2: has no image, and others have one"):
        get_task("birds", write_task(tmp_path, {"metric": "choice", "answered": "choice"}, CHOICES_ROW, row))
    with pytest.raises(DataError, match="answered by choice"):
        get_task("birds", write_task(tmp_path, {"metric": "letter"}, row))


def test_a_custom_task_cannot_replace_a_built_in_one(tmp_path: Path) -> None:
    write_task(tmp_path, {}, ROW, name="gqa")
    with pytest.raises(RequestError, match=r"gqa: task\.json would replace the built-in task gqa"):
        get_task("gqa", tmp_path)
    assert get_task("gqa") is TASKS["gqa"]
    assert get_task("pope", tmp_path) is TASKS["pope"]


def test_unknown_names_suggest_custom_tasks(tmp_path: Path) -> None:
    write_task(tmp_path, {}, ROW)
    with pytest.raises(UnknownName, match="Nearest: birds"):
        get_task("bird", tmp_path)
    with pytest.raises(UnknownName):
        get_task("birds")


@pytest.mark.parametrize(
    ("config", "message"),
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
def test_invalid_values_of_task_json_are_named(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"birds/task\.json: .*{message}"):
        get_task("birds", write_task(tmp_path, config, ROW))


def test_task_json_is_an_object_with_all_keys(tmp_path: Path) -> None:
    write_task(tmp_path, {}, ROW)
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
    ("config", "row", "message"),
    [
        ({}, ROW | {"anwser": "x"}, "unknown anwser. Known: id, question, image, split, answer"),
        ({}, {"id": "1", "question": "q", "image": "a"}, "lacks answer"),
        ({}, CHOICES_ROW, "unknown choices"),
        ({}, ROW | {"answer": None}, "answer is text"),
        ({}, ROW | {"image": [1]}, "image is text"),
        ({"metric": "yes_no"}, ROW, "yes or no. Got 'gull'"),
        ({"metric": "vqa"}, ANSWERS_ROW | {"answers": []}, "answers is a list of texts"),
        ({"metric": "vqa"}, ANSWERS_ROW | {"answers": "gull"}, "answers is a list of texts"),
        ({"metric": "cider"}, ANSWERS_ROW | {"answers": ["", " "]}, "not all empty"),
        ({"metric": "iou50"}, BOX_ROW | {"box": [0.1, 0.2, 0.5, 1.6]}, "exceeds its image"),
        ({"metric": "iou50"}, BOX_ROW | {"box": [10, 20, 50, 60]}, "exceeds its image"),
        ({"metric": "iou50"}, BOX_ROW | {"box": [0.5, 0.2, 0.1, 0.6]}, "is empty"),
        ({"metric": "iou50"}, BOX_ROW | {"box": "here 🐦"}, "four numbers"),
        ({"metric": "iou50"}, BOX_ROW | {"box": [0, 0, float("nan"), 1]}, "four numbers"),
        ({"metric": "iou50"}, BOX_ROW | {"box": [0, 0, 9, 9], "width": 10}, "exceeds its image"),
        ({"metric": "letter"}, CHOICES_ROW | {"answer": "C"}, "one of the choices, once"),
        ({"metric": "letter"}, CHOICES_ROW | {"choices": ["gull"]}, "2 to 26"),
        (
            {"metric": "choice", "answered": "choice"},
            CHOICES_ROW | {"choices": ["gull", "gull"]},
            "one of the choices, once",
        ),
        ({"metric": "choice", "answered": "choice"}, ROW, "lacks choices"),
        ({}, ROW | {"id": "a0"}, "appear twice: a0"),
    ],
)
def test_invalid_questions_are_named(config: Any, row: Any, message: str, tmp_path: Path) -> None:
    valid_row = {
        "vqa": ANSWERS_ROW,
        "cider": ANSWERS_ROW,
        "iou50": BOX_ROW,
        "letter": CHOICES_ROW,
        "choice": CHOICES_ROW,
    }.get(config.get("metric"), ROW)
    valid_row = valid_row | {"answer": "no"} if config.get("metric") == "yes_no" else valid_row
    task = get_task("birds", write_task(tmp_path, config, valid_row | {"id": "a0"}, row))
    with pytest.raises(DataError, match=rf"questions\.jsonl.*{message}"):
        task.read_questions(benchmark_files(tmp_path / "birds"))
