"""A few pictures with question, answers and truth: the same questions asked of the best and of the worst arm.

They are not chosen for their looks: tasks take turns, and within a task the order is that of a hash of the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import polars as pl

from firstsight.evaluate.metrics.boxes import Box, parse_box
from firstsight.report.answers import Album, Thumbnail
from firstsight.report.compare import Comparison
from firstsight.report.results import ArmResult, judged
from firstsight.report.table import STABLE


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
    album = Album()
    found: list[Sample] = []
    for key, row in _turns(sheets[best.label])[:count]:
        picture = album.find(best.benchmarks, row["task"], row["image"])
        if isinstance(picture, str):
            continue
        replies = [_reply(arm, sheets[arm.label][key]) for arm in pair if key in sheets[arm.label]]
        if key in blind:
            replies.append(_reply(best, blind[key]))
        found.append(_sample(row, picture.shown, replies))
    album.close()
    return found


def _best_and_worst(arms: Sequence[ArmResult], rows: pl.DataFrame) -> list[ArmResult]:
    wanted = (pl.col("task") == STABLE) & (pl.col("kind") == "vision") & (pl.col("condition") == "sighted")
    ranked = rows.filter(wanted).sort("score", descending=True).get_column("label").to_list()
    by_label = {arm.label: arm for arm in judged(arms)}
    return [by_label[label] for label in dict.fromkeys(ranked[:1] + ranked[-1:])]


def _by_question(sheet: pl.DataFrame, *, blind: bool) -> dict[tuple[str, str], dict[str, Any]]:
    asked = sheet.filter((pl.col("blind") == blind) & (pl.col("image") != ""))
    return {(row["task"], row["question"]): row for row in asked.to_dicts()}


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
    return Reply(
        who=arm.label, address=arm.address, text=answer, score=row["score"], blind=blind, box=parse_box(answer)
    )


def _sample(row: Mapping[str, Any], picture: Thumbnail, replies: list[Reply]) -> Sample:
    return Sample(
        task=row["task"],
        question=row["question"],
        prompt=row["prompt"],
        truth=row["truth"],
        box=parse_box(row["truth"]),
        picture=picture.uri,
        pixelated=picture.pixelated,
        replies=tuple(replies),
    )
