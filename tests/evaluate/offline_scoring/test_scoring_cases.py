"""Inputs after public reports against tools of this kind: each has its right score, and what was changed is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight.evaluate.offline_scoring.scoring import score_answer_files
from firstsight.evaluate.tasks import get_task

pytestmark = pytest.mark.shared

CASES = {
    "score-lmms-folder": ("vqav2", "ans", 1.0, "1 file passed over, without answers to this task"),
    "score-pope-answer-glued": ("pope", "answers.jsonl", 1.0, "role labels removed from 20 answers"),
    "score-pope-assistant-glued": ("pope", "answers.jsonl", 1.0, "role labels removed from 20 answers"),
    "score-refcoco-percent-edge": ("refcoco", "answers.json", 0.0, "exceed their images by no more than rounding"),
    "score-refcoco-qwen25vl": ("refcoco", "answers.json", 1.0, "24 boxes are read from sentences or JSON"),
    "score-refcoco-qwen2vl": ("refcoco", "answers.json", 1.0, "24 boxes are written in thousandths"),
    "score-vqav2-assistant": ("vqav2", "answers.json", 1.0, "role labels removed from 20 answers"),
    "score-vqav2-eos": ("vqav2", "answers.json", 1.0, "special tokens removed from 20 answers"),
    "score-vqav2-number": ("vqav2", "answers.json", 1.0, "4 answers are numbers such as 2.0, read as 2"),
}


@pytest.mark.parametrize("name", CASES)
def test_case(shared: Path, name: str) -> None:
    task, answers, share, note = CASES[name]
    folder = shared.parent / "cases" / name
    scored = score_answer_files(get_task(task), [folder / answers], [folder / "ref"])
    assert (scored.score, scored.missing_count, scored.unreadable_count) == (share, 0, 0)
    assert any(note in line for line in scored.notes)
