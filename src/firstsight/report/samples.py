"""A few pictures with question, answers and truth: the same questions asked of the best and of the worst arm.

They are not chosen for their looks: tasks take turns, and within a task the order is that of a hash of the question.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import polars as pl
from PIL import Image

from firstsight.evaluate.pictures import Pictures
from firstsight.report.compare import Comparison
from firstsight.report.results import ArmResult, judged
from firstsight.report.table import STABLE

MIMES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
SMALL = 24_000
"""Pictures of at most this many bytes enter the page as they are; larger ones are drawn again at SIDE pixels."""
SIDE = 320
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What one arm answered, with its picture or without."""

    who: str
    address: str
    text: str
    score: float
    blind: bool
    box: Box | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One question with its picture as a data URI; boxes are shares of width and height."""

    task: str
    question: str
    prompt: str
    truth: str
    box: Box | None
    picture: str
    pixelated: bool
    replies: tuple[Reply, ...]


def samples(arms: Sequence[ArmResult], rows: pl.DataFrame, comparison: Comparison, *, count: int = 12) -> list[Sample]:
    """Up to `count` questions with pictures; fewer where answers or pictures are missing."""
    pair = _best_and_worst(arms, rows)
    if not pair:
        return []
    best = pair[0]
    sheets = {arm.label: _by_question(comparison.sheets[arm.label], blind=False) for arm in pair}
    blind = _by_question(comparison.sheets[best.label], blind=True)
    if best.benchmarks is None or not best.benchmarks.is_dir():
        return []
    pictures = Pictures(best.benchmarks)
    found: list[Sample] = []
    for key, row in _turns(sheets[best.label])[:count]:
        replies = [_reply(arm, sheets[arm.label][key]) for arm in pair if key in sheets[arm.label]]
        if key in blind:
            replies.append(_reply(best, blind[key]))
        found.append(_sample(row, pictures.read(row["image"]), replies))
    pictures.close()
    return found


def _best_and_worst(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[ArmResult]:
    wanted = (pl.col("task") == STABLE) & (pl.col("kind") == "vision") & (pl.col("condition") == "sighted")
    ranked = rows.filter(wanted).sort("score", descending=True).get_column("label").to_list()
    by_label = {arm.label: arm for arm in judged(arms)}
    return [by_label[label] for label in dict.fromkeys(ranked[:1] + ranked[-1:])]


def _by_question(sheet: pl.DataFrame, *, blind: bool) -> dict[tuple[str, str], dict[str, Any]]:
    shown = sheet.filter((pl.col("blind") == blind) & (pl.col("image") != ""))
    return {(row["task"], row["question"]): row for row in shown.to_dicts()}


def _turns(asked: Mapping[tuple[str, str], dict[str, Any]]) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """Questions with tasks taking turns, each picture once, in an order that only their names decide."""
    queues: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(asked, key=lambda key: sha256("/".join(key).encode()).digest()):
        queues.setdefault(key[0], []).append(key)
    used: set[str] = set()
    found = []
    for turn in range(max((len(queue) for queue in queues.values()), default=0)):
        for task in sorted(queues):
            if turn < len(queues[task]) and asked[queues[task][turn]]["image"] not in used:
                row = asked[queues[task][turn]]
                used.add(row["image"])
                found.append((queues[task][turn], row))
    return found


def _reply(arm: ArmResult, row: Mapping[str, Any]) -> Reply:
    answer, blind = row["answer"], row["blind"]
    return Reply(who=arm.label, address=arm.address, text=answer, score=row["score"], blind=blind, box=box(answer))


def _sample(row: Mapping[str, Any], picture: bytes, replies: list[Reply]) -> Sample:
    uri, pixelated = _inline(picture)
    return Sample(
        task=row["task"],
        question=row["question"],
        prompt=row["prompt"],
        truth=row["truth"],
        box=box(row["truth"]),
        picture=uri,
        pixelated=pixelated,
        replies=tuple(replies),
    )


def box(text: str) -> Box | None:
    """Four numbers between 0 and 1 as left, top, right, bottom; None for any other text."""
    if not re.fullmatch(r"[\[\](),.\d\s]+", text):
        return None
    numbers = [float(number) for number in re.findall(r"\d*\.?\d+", text)]
    if len(numbers) != 4 or max(numbers) > 1:
        return None
    left, top, right, bottom = numbers
    return (left, top, right, bottom) if left < right and top < bottom else None


def shown(text: str) -> str:
    """An answer as one reads it: a box in two digits, accepted answers once each, all else as it is."""
    found = box(text)
    if found:
        return " ".join(f"{edge:.2f}".removeprefix("0") for edge in found)
    try:
        value = json.loads(text)
    except ValueError:
        return text
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " / ".join(dict.fromkeys(value))
    return text


def _inline(picture: bytes) -> tuple[str, bool]:
    """A data URI, and whether the picture is so small that its pixels should stay visible."""
    with Image.open(io.BytesIO(picture)) as image:
        tiny = max(image.size) <= 128
        mime = next((mime for magic, mime in MIMES.items() if picture.startswith(magic)), None)
        if mime is None or len(picture) > SMALL:
            image = image.convert("RGB")
            image.thumbnail((SIDE, SIDE))
            small = io.BytesIO()
            image.save(small, "JPEG", quality=85)
            picture, mime = small.getvalue(), "image/jpeg"
    return f"data:{mime};base64,{base64.b64encode(picture).decode()}", tiny
