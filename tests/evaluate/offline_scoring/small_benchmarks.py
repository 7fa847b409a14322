"""Small benchmarks in their own forms, and helpers to score answers to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from firstsight.cli.app import command
from firstsight.evaluate.offline_scoring.scoring import ScoredAnswers, score_answer_files
from firstsight.evaluate.tasks import get_task

PROMPT_SUFFIX = "\nAnswer the question using a single word or phrase."


def write_file(folder: Path, name: str, content: Any) -> Path:
    """Write text or bytes, lists as JSON lines if the name ends with .jsonl, other content as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
        return path
    if not isinstance(content, str):
        lines = isinstance(content, list) and name.endswith(".jsonl")
        content = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
    path.write_text(content)
    return path


def write_vqa(folder: Path, count: int = 8) -> Path:
    """Two questions per image; all ten annotators' answer to question n is w{n}."""
    rows = [{"question_id": 100 + n, "image_id": n // 2, "question": f"What is thing {n}?"} for n in range(count)]
    truths = [{"question_id": 100 + n, "answers": [{"answer": f"w{n}"}] * 10} for n in range(count)]
    write_file(folder, "questions.json", {"questions": rows})
    write_file(folder, "annotations.json", {"annotations": truths})
    return folder


def write_pope(folder: Path) -> Path:
    """Three splits over two images; the first question of each image is in all splits, as in POPE."""
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": 1, "image": "COCO_val2014_000000000007.jpg", "text": "Is there a cat in the image?"},
            {"question_id": 2, "image": "COCO_val2014_000000000007.jpg", "text": f"Is there a {split} in the image?"},
            {"question_id": 3, "image": "COCO_val2014_000000000009.jpg", "text": "Is there a cat in the image?"},
        ]
        write_file(
            folder, f"coco_pope_{split}.jsonl", [row | {"label": ("yes", "no", "yes")[n]} for n, row in enumerate(rows)]
        )
    return folder


def write_refcoco(folder: Path, count: int = 30) -> Path:
    """Two sentences per object, two objects per image of 400 x 200; boxes of 200 x 100 pixels."""
    rows = [
        {
            "img_id": f"COCO_train2014_{n // 4:012d}_{n // 2 % 2}",
            "sents": f"thing {n}",
            "bbox": [100 * (n // 2 % 2), 50, 200, 100],
            "width": 400,
            "height": 200,
        }
        for n in range(count)
    ]
    write_file(folder, "refcoco_val.json", rows)
    return folder


def score(name: str, answers: Path, *references: Path) -> ScoredAnswers:
    """The score of an answer file."""
    return score_answer_files(get_task(name), [answers], references)


def run_command(name: str, answers: Path, *references: Path, options: tuple[str, ...] = ()) -> int:
    """The exit code of `firstsight score`."""
    words = ["score", name, "--answers", str(answers)]
    for path in references:
        words += ["--references", str(path)]
    return command([*words, *options])
