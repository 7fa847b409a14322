"""A store with the answers of two evaluated arms, and the command that reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstsight.cli import command
from firstsight.plan.graph import build_graph
from firstsight.plan.store import Store
from firstsight.recipe.scales import get_scale
from firstsight.recipe.serialize import to_json
from firstsight.studies.when import when
from tests.report.answer_files import encoded_image, line, write_images, write_lines

PLAN = build_graph(when(replace(get_scale("smoke"), seeds=1)))
BLANK = {"answer": "dog", "score": 0.0, "image": "1"}


RECORD: dict[str, Any] = {"kind": "evaluate", "started": "2026-01-01", "host": "h", "machine": "m", "files": {}} | {
    "code": {"commit": "c", "python": "3", "packages": {}}
}


def store_arm(out: Path, label: str, lines: list[dict[str, Any]], *, ended: str = "2026-01-01") -> str:
    """An arm's evaluate step and its checkpoint in a store, as a run leaves them; the checkpoint's address."""
    store, step = Store(out), PLAN.final_step(label)
    needs = {role: parent.address for role, parent in step.needs}
    write_lines(store.path(step.address) / "answers.jsonl", lines)
    write_images(store.path(needs["benchmarks"]), {"1.png": encoded_image(48, 48)})
    store.path(needs["checkpoint"]).mkdir(exist_ok=True)
    (store.path(needs["checkpoint"]) / "spec.json").write_text(json.dumps({"kind": label}))
    for address, spec, role in ((step.address, to_json(step.spec), needs), (needs["checkpoint"], {}, {})):
        record = RECORD | {"address": address, "needs": role, "spec": spec, "ended": ended}
        (out / "provenance" / f"{address}.json").write_text(json.dumps(record))
    return needs["checkpoint"]


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
