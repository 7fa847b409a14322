"""Benchmark files: read by the benchmarks' own readers, with the declared held-out parts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import TASKS
from firstsight.synthetic.catalog import PLACES
from firstsight.synthetic.vocabulary import word_tokenizer
from tests.synthetic.test_text_tasks import TASK_NAMES as TEXT_TASKS
from tests.synthetic.test_vision_tasks import TASK_NAMES as VISION_TASKS
from tests.synthetic.world_reader import CATALOG, DOCUMENTS, WORLD


@pytest.mark.parametrize("task", [*VISION_TASKS, *TEXT_TASKS])
def test_files_are_read_by_the_readers_of_the_benchmarks(benchmarks_folder: Path, task: str) -> None:
    questions = TASKS[task].read_questions(benchmark_files(benchmarks_folder / task))
    assert len(questions) == 96
    combinations = Counter(question.tags["combination"] for question in questions)
    assert combinations["heldout"] == (0 if task == "arc_easy" else 48)


@pytest.mark.parametrize("task", [*VISION_TASKS, *TEXT_TASKS])
def test_questions_stay_in_the_vocabulary(benchmarks_folder: Path, task: str) -> None:
    tokenizer = word_tokenizer(WORLD)
    tokenizer.encode_special_tokens = True
    for question in TASKS[task].read_questions(benchmark_files(benchmarks_folder / task)):
        for text in (question.text, *question.choices):
            assert tokenizer.encode(text).tokens == text.split()


def test_held_out_combinations_are_tagged(benchmarks_folder: Path) -> None:
    for row in json.loads((benchmarks_folder / "refcoco/refcoco_val.json").read_text()):
        left, top, width, height = row["bbox"]
        place = PLACES[2 * (top + height / 2 > 24) + (left + width / 2 > 24)]
        name = row["sents"].split()[-1]
        assert (CATALOG.held_out_place.get(name) == place) == (row["combination"] == "heldout")
    for row in json.loads((benchmarks_folder / "vizwiz/val.json").read_text()):
        answer = row["answers"][0]["answer"]
        assert row["answerable"] == (answer != "unanswerable") and len(row["answers"]) == 10
        if row["answerable"]:
            name = next(word for word in row["question"].split() if word in CATALOG.names)
            assert (CATALOG.held_out_place.get(name) == answer) == (row["combination"] == "heldout")


def test_questions_are_asked_in_trained_forms(benchmarks_folder: Path) -> None:
    trained = " ".join(document.text for document in DOCUMENTS)
    for row in json.loads((benchmarks_folder / "vqav2/questions.json").read_text())["questions"]:
        assert f" {row['question']} <|" in trained


def test_pope_is_balanced(benchmarks_folder: Path) -> None:
    for split in ("random", "popular", "adversarial"):
        rows = [json.loads(line) for line in (benchmarks_folder / f"pope/{split}.json").read_text().splitlines()]
        assert Counter(row["label"] for row in rows) == {"yes": 16, "no": 16}
