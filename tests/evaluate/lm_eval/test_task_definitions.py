"""Definitions over offline copies: lm-eval's requests are the published ones, few-shot examples come from the copy."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from firstsight.errors import DataError
from firstsight.evaluate.lm_eval import task_definitions
from firstsight.evaluate.lm_eval.task_definitions import load_local_task
from tests.evaluate.lm_eval.small_copies import RECORDS, write_task


def write_definition(folder: Path) -> None:
    """Write FOLDER/made/arc_easy.yaml for the copy in FOLDER/benchmarks."""
    task_definitions.write("arc_easy", folder / "benchmarks" / "arc_easy", folder / "made")


def build_prompts(folder: Path, *, examples: int) -> list[str]:
    """The prompts of a task with `lm_eval --num_fewshot`."""
    [task] = TaskManager(include_defaults=False).load([str(folder / "made" / "arc_easy.yaml")])["tasks"].values()
    task.set_config(key="num_fewshot", value=examples)
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests()
    return list(dict.fromkeys(request.args[0] for request in task.instances))


QUERIES = [{"query": f"Question: what is {n}", "choices": ["a cat", "no"], "gold": n % 2} for n in range(3)]


@pytest.mark.parametrize("rows", [RECORDS["arc_easy"], QUERIES], ids=["own", "queries"])
def test_examples_come_only_from_the_copys_training_split(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    write_task(tmp_path / "benchmarks", "arc_easy", rows)
    write_definition(tmp_path)
    assert len(build_prompts(tmp_path, examples=0)) == len(rows)
    with pytest.raises(DataError, match=r"--num_fewshot 2: wanted examples in the copy's training split.*Got none"):
        build_prompts(tmp_path, examples=2)
    example = {"question": "what is it", "choices": {"text": ["a dog", "no"], "label": ["A", "B"]}, "answerKey": "A"}
    if rows is QUERIES:
        example = {"query": "Question: what is it", "choices": ["a dog", "no"], "gold": 0}
    (tmp_path / "benchmarks" / "arc_easy" / "train.jsonl").write_text(f"{json.dumps(example)}\n")
    prompt, *_ = build_prompts(tmp_path, examples=1)
    assert prompt == "Question: what is it\nAnswer: a dog\n\nQuestion: what is 0\nAnswer:"


def test_queries_used_as_they_are_have_no_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path / "benchmarks", "arc_easy", [{"query": "Do: what", "choices": ["a  b", " a b"], "gold": 0}] * 3)
    monkeypatch.setattr(task_definitions, "_has_same_questions", lambda task, queries: False)
    write_definition(tmp_path)
    assert len(build_prompts(tmp_path, examples=0)) == 1
    with pytest.raises(DataError, match=r"--num_fewshot 1: wanted examples"):
        build_prompts(tmp_path, examples=1)


def _unzipped(path: Path) -> list[dict[str, Any]]:
    open_file = gzip.open if path.suffix == ".gz" else open
    with open_file(path, "rt", encoding="utf-8") as rows:  # pyright: ignore[reportArgumentType]
        return [json.loads(row) for row in rows]


PUBLISHED_FILES = {
    "arc_easy": "olmo_requests/arc_easy_rc_0shot_requests.jsonl.gz",
    "copa": "olmo_requests/copa_rc_0shot_requests.jsonl.gz",
    "hellaswag": "olmo_requests/hellaswag_rc_5shot_requests.jsonl.gz",
    "piqa": "llm_foundry_evals/piqa.jsonl",
    "boolq": "llm_foundry_evals/boolq.jsonl.gz",
}


def build_requests(name: str, source: Path) -> list[tuple[str, str]]:
    """lm-eval's requests for a copy, in order."""
    task = load_local_task(name, source).task
    task.set_config(key="num_fewshot", value=0)
    task.build_all_requests()
    return [request.args for request in task.instances]  # pyright: ignore[reportReturnType]


def link_copy(name: str, shared: Path, folder: Path) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    source = shared / PUBLISHED_FILES[name]
    (folder / name / source.name).symlink_to(source)
    return folder / name


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["arc_easy", "copa", "hellaswag"])
def test_requests_are_those_of_olmes(name: str, shared: Path, tmp_path: Path) -> None:
    """Equal except for COPA, where lm-eval puts two spaces before a choice, and HellaSwag's five examples."""
    rows = [row for row in _unzipped(shared / PUBLISHED_FILES[name]) if row["doc_id"] < 1_000_000]
    expected = [(row["request"]["context"], row["request"]["continuation"]) for row in rows]
    if name == "copa":
        expected = [(context, f" {continuation_ids}") for context, continuation_ids in expected]
    if name == "hellaswag":
        expected = [(context.split("\n\n")[-1], continuation_ids) for context, continuation_ids in expected]
    requests = build_requests(name, link_copy(name, shared, tmp_path))
    assert len(requests) == {"arc_easy": 2281, "copa": 200, "hellaswag": 4000}[name]
    if name == "hellaswag":
        # lm-eval keeps the space that a removed heading in brackets leaves before an ending; OLMES strips it.
        requests = [(context, f" {continuation_ids.strip()}") for context, continuation_ids in requests]
        expected = [(context, f" {continuation_ids.strip()}") for context, continuation_ids in expected]
    assert requests == expected


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", ["piqa", "boolq"])
def test_requests_are_those_of_llm_foundry(name: str, shared: Path, tmp_path: Path) -> None:
    rows = _unzipped(shared / PUBLISHED_FILES[name])
    requests = build_requests(name, link_copy(name, shared, tmp_path))
    prompts = {"piqa": "{}Answer:", "boolq": "{}\nAnswer:"}
    expected = [
        (prompts[name].format(row["query"].removeprefix("Passage: ")), f" {choice}")
        for row in rows
        for choice in row["choices"]
    ]
    assert len(rows) == {"piqa": 1838, "boolq": 3270}[name]
    assert requests == expected
