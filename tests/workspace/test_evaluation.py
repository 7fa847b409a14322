"""Which tasks a checkpoint is evaluated on, and which checkpoints are vision-language models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import RequestError, UnknownName
from firstsight.recipe.scales import get_scale
from firstsight.studies.when import when
from firstsight.workspace.evaluation import (
    Benchmarks,
    evaluate_named,
    find_benchmark_tasks,
    is_vision_language,
    select_tasks,
)
from firstsight.workspace.study_graph import StoredStudy
from tests.evaluate.conftest import benchmarks, checkpoint, tokenizer

__all__ = ["benchmarks", "checkpoint", "tokenizer"]

STUDY = when(replace(get_scale("smoke"), seeds=1))
BENCHMARKS = Benchmarks(path=Path("b"), prompt_style="paper", task_kinds={"pope": "vision", "copa": "text"})


def test_without_names_all_tasks_that_the_checkpoint_supports_are_selected() -> None:
    assert select_tasks("", BENCHMARKS, with_vision=True) == ("pope", "copa")
    assert select_tasks("", BENCHMARKS, with_vision=False) == ("copa",)
    assert select_tasks(" copa, pope,copa", BENCHMARKS, with_vision=False) == ("copa", "pope")


def test_variants_are_selected_by_name_and_unknown_tasks_refused() -> None:
    assert select_tasks("pope_p", BENCHMARKS, with_vision=True) == ("pope_p",)
    with pytest.raises(UnknownName, match="Nearest: pope"):
        select_tasks("popp", BENCHMARKS, with_vision=True)
    with pytest.raises(RequestError, match="wanted a folder gqa in b"):
        select_tasks("gqa", BENCHMARKS, with_vision=True)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("spec.json", {"kind": "vlm"}, True),
        ("spec.json", {"kind": "lm", "vision_config": {}}, False),
        ("config.json", {"vision_config": {}}, True),
        ("config.json", {"image_token_id": 7}, True),
        ("config.json", {"model_type": "llama"}, False),
    ],
)
def test_a_description_says_whether_a_model_takes_images(
    name: str, content: dict[str, Any], expected: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    assert is_vision_language(tmp_path) is expected


def test_a_folder_of_benchmarks_has_the_tasks_of_its_subfolders(benchmarks: Path, tmp_path: Path) -> None:
    tasks = find_benchmark_tasks(benchmarks, StoredStudy(STUDY, tmp_path))
    assert tasks.prompt_style == "paper" and tasks.task_kinds["pope"] == "vision"
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "none", "wanted a folder with one for each"),
        (tmp_path / "empty", "Got nothing"),
    ):
        with pytest.raises(RequestError, match=message):
            find_benchmark_tasks(path, StoredStudy(STUDY, tmp_path))


def test_an_evaluation_needs_no_terminal(
    checkpoint: Callable[[str], Path], benchmarks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, out = str(checkpoint("lm")), tmp_path / "runs"
    evaluation = evaluate_named(name, stored=StoredStudy(STUDY, out), benchmarks=benchmarks, tasks="pope", blind=True)
    assert evaluation.has_paper_prompts and evaluation.scores.tasks["pope"].blind is not None
    assert (evaluation.folder / "answers.jsonl").is_file()
    assert capsys.readouterr() == ("", "")
