"""A store with the answers of two evaluated arms, and the command that reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from firstsight.cli.app import command
from firstsight.plan.graph import build_graph
from firstsight.plan.step import Step
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.store import Store
from firstsight.recipe.scales import get_scale
from firstsight.studies.when import when
from tests.report.answer_files import encoded_image, line, write_images, write_lines

ANY_FILES = StepHandler(function="", outputs=("**",))
PLAN = build_graph(when(replace(get_scale("smoke"), seeds=1)))
BLANK = {"answer": "dog", "score": 0.0, "image": "1"}


def store_arm(out: Path, label: str, lines: list[dict[str, Any]]) -> str:
    """An arm's evaluate step and its inputs in a store, as a run leaves them; the checkpoint's address."""
    final = PLAN.final_step(label)
    needs = dict(final.needs)
    store_step(out, needs["checkpoint"], lambda folder: (folder / "spec.json").write_text(json.dumps({"kind": label})))
    store_step(out, needs["benchmarks"], lambda folder: write_images(folder, {"1.png": encoded_image(48, 48)}))
    store_step(out, final, lambda folder: write_lines(folder / "answers.jsonl", lines))
    return needs["checkpoint"].address


def store_step(out: Path, step: Step, write: Callable[[Path], object]) -> None:
    """Publish what `write` leaves in the step's folder, unless the step is stored."""
    store = Store(out)
    if not store.has(step.address):
        with store.lock(step.address) as lease:
            assert lease
            write(store.work_folder(lease, step.address))
            store.publish(lease, step, ANY_FILES, started=datetime.now(UTC))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A store with two evaluated arms."""
    folder = tmp_path / "out"
    store_arm(folder, "start-000.s1", [line("1", image="1"), line("2", image="1"), line("3", task="boolq")])
    store_arm(folder, "start-080.s1", [line("1", **BLANK), line("2", image="1"), line("3", task="boolq")])
    return folder


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    output = capsys.readouterr()
    return " ".join((output.out + output.err).split())


def answers(*words: str) -> int:
    return command(["answers", *words, "--scale", "smoke"])
