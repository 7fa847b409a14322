"""Text tasks: distinct choices, correct gold choices, and held-out sums."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.synthetic.world_reader import CATALOG, DOCUMENTS

TASK_NAMES = ("arc_easy", "mathqa", "boolq", "agieval_sat_en", "hellaswag", "copa")


def read_rows(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / task / f"{task}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", TASK_NAMES)
def test_choices_are_distinct_and_the_gold_one_is_right(benchmarks_folder: Path, task: str) -> None:
    for row in read_rows(benchmarks_folder, task):
        assert len(set(row["choices"])) == len(row["choices"]) == {"mathqa": 5, "boolq": 2, "copa": 2}.get(task, 4)
        answer, query = row["choices"][row["gold"]], row["query"]
        if task == "mathqa":
            assert int(answer) == sum(int(word) for word in query.split() if word.isdigit())
        if task == "arc_easy":
            assert answer == CATALOG.kind_of[next(word for word in query.split() if word in CATALOG.names)]
        if task == "boolq":
            description, question = query.split(" . ")
            name = next(word for word in question.split() if word in CATALOG.names)
            assert (answer == "yes") == (name in description.split())


def test_hellaswag_endings_differ_in_one_word(benchmarks_folder: Path) -> None:
    for row in read_rows(benchmarks_folder, "hellaswag"):
        right = row["choices"].pop(row["gold"]).split()
        for wrong in row["choices"]:
            assert sum(a != b for a, b in zip(right, wrong.split(), strict=True)) == 1
        phrases = {frozenset(phrase.split()) for phrase in row["query"].removesuffix(" . again").split(" , ")}
        assert {frozenset(phrase.split()) for phrase in " ".join(right).removesuffix(" .").split(" , ")} == phrases


def test_held_out_sums_are_not_in_documents(benchmarks_folder: Path) -> None:
    trained = {match for doc in DOCUMENTS for match in re.findall(r"(?:\d+ plus )+\d+ is", doc.text)}
    rows = read_rows(benchmarks_folder, "mathqa")
    assert not {row["query"] for row in rows if row["combination"] == "heldout"} & trained
