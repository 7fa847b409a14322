"""Files of answers and folders of benchmark images for tests of answers.html."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from firstsight.report.answers import AnswersTable
from firstsight.report.results import AnswerFile

Line = dict[str, Any]


def line(question: str, **fields: Any) -> Line:
    """One line of answers.jsonl; `fields` replace the defaults."""
    defaults = {"task": "vqav2", "question_id": question, "image": None, "prompt": f"what is {question} ?"}
    return defaults | {"answer": "cat", "truth": "cat", "score": 1.0, "blind": False} | fields


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """`path`, written with the lines as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
    return path


def answers_table(
    folder: Path, name: str, lines: Iterable[Mapping[str, Any]], benchmarks: Path | None = None
) -> AnswersTable:
    """The lines as the answers of a checkpoint."""
    path = write_lines(folder / f"{name}.jsonl", lines)
    return AnswersTable(name, [AnswerFile(path=path, benchmarks_dir=benchmarks)])


def encoded_image(width: int, height: int, form: str = "PNG", **options: Any) -> bytes:
    """An encoded image whose left half is red and right half is blue; `options` of Pillow's save."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width // 2, height))
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write_images(folder: Path, images: Mapping[str, bytes]) -> Path:
    """A benchmarks folder with these images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (folder / "images" / name).write_bytes(data)
    return folder
