"""Files of answers and benchmarks' pictures, written by hand for tests of `firstsight answers`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from firstsight.report.pages.answers_table import AnswerFile, AnswersTable

Line = dict[str, Any]


def line(question: str, **given: Any) -> Line:
    """One line of answers.jsonl."""
    usual = {"task": "vqav2", "question_id": question, "image": None, "prompt": f"what is {question} ?"}
    return usual | {"answer": "cat", "truth": "cat", "score": 1.0, "blind": False} | given


def written(file: Path, lines: Iterable[Mapping[str, Any]]) -> Path:
    """The lines as a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return file


def sheet(folder: Path, name: str, lines: Iterable[Mapping[str, Any]], benchmarks: Path | None = None) -> AnswersTable:
    """The lines as a checkpoint's answers."""
    return AnswersTable(name, [AnswerFile(path=written(folder / f"{name}.jsonl", lines), benchmarks_dir=benchmarks)])


def picture(width: int, height: int, form: str = "PNG", **told: Any) -> bytes:
    """A picture whose left half is red."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width // 2, height))
    file = io.BytesIO()
    image.save(file, form, **told)
    return file.getvalue()


def benchmarks(folder: Path, pictures: Mapping[str, bytes]) -> Path:
    """A benchmarks' folder with these pictures."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, data in pictures.items():
        (folder / "images" / name).write_bytes(data)
    return folder


class Page(HTMLParser):
    """What a browser would find: elements with their attributes in order, and the words of each question."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cards: dict[str, str] = {}
        self.scripts: list[str] = []
        self.text = ""
        self._card, self._script = "", False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag == "article":
            self._card = str(dict(attrs)["id"])
            self.cards[self._card] = ""
        self._script = tag in ("script", "style")
        if self._script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._card = "" if tag == "article" else self._card
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data
            return
        self.text += data
        if self._card:
            self.cards[self._card] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a kind."""
        return [attributes for found, attributes in self.elements if found == tag]
