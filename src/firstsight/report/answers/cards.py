"""One question as it was asked, answered and scored: what a page and a terminal show of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import polars as pl

from firstsight.errors import RequestError
from firstsight.evaluate.metrics.boxes import Box, iou, parse_box
from firstsight.report.answers.album import Album, Print
from firstsight.report.answers.pairing import KEY
from firstsight.report.answers.sheet import Answer, Sheet
from firstsight.report.answers.wording import marked, placed, seen, shown, true_box

RIGHT = 0.5
"""Least score that counts as right, as in the report."""
HELD = "heldout"
"""What a tag of a question says that is of a part held out of training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What one checkpoint said in one condition."""

    who: int
    """0 for the first checkpoint, 1 for the second."""
    blind: bool
    text: str
    score: float
    readable: bool
    box: Box | None
    """Of a seeing answer where the truth is a box."""
    overlap: float | None
    """Of that box with the true one."""
    prompt: str
    """Where it is not the card's own."""
    truth: str
    """Where it is not the card's own."""

    @property
    def right(self) -> bool:
        return self.score >= RIGHT

    @property
    def marked(self) -> str:
        return marked(self.score)


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One question with everything that was answered to it."""

    task: str
    question: str
    kind: str
    difference: float
    prompt: str
    truth: str
    box: Box | None
    image: str
    """The picture's name; empty for text."""
    picture: Print | str
    """The picture, or why it is not shown."""
    tags: tuple[str, ...]
    """What was held out of training, and the split."""
    held: bool
    """Some part of it was held out of training, as the benchmark says."""
    replies: tuple[Reply, ...]

    @property
    def anchor(self) -> str:
        """Where the page's address leads to it: #task/id, with letters that an address cannot hold written as %20."""
        return anchor(self.task, self.question)

    @property
    def conditions(self) -> tuple[bool, ...]:
        """Blind or not, whichever was asked."""
        return tuple(sorted({reply.blind for reply in self.replies}))

    def reply(self, who: int, blind: bool) -> Reply | None:
        """What checkpoint `who` said in that condition, if it was asked."""
        return next((one for one in self.replies if (one.who, one.blind) == (who, blind)), None)

    @property
    def told(self) -> str:
        """The picture in words: its name and where the boxes lie."""
        boxes = [("truth", self.box), *(("AB"[one.who], one.box) for one in self.replies)]
        return "; ".join([f"picture {seen(self.image)}", *(f"{who}: {placed(box)}" for who, box in boxes if box)])


def anchor(task: str, question: str) -> str:
    """Where the page's address leads to a question."""
    return f"{quote(task, safe='')}/{quote(question, safe='')}"


def cards(sheets: Sequence[Sheet], chosen: pl.DataFrame, album: Album) -> Iterator[Card]:
    """The chosen questions in their order, their lines read anew from the files."""
    held = [_places(sheet, chosen) for sheet in sheets]
    for task, question, kind, _, difference in chosen.iter_rows():
        found = [
            (who, file, sheets[who].answer(file, at))
            for who, places in enumerate(held)
            for file, at in places.get((task, question), ())
        ]
        who, file, first = found[0]
        place = sheets[who].kept[file].place(task)
        picture = album.find(place, task, first.image) if first.image else "no picture"
        yield _card(kind, difference, picture, [(who, answer) for who, _, answer in found])


def _places(sheet: Sheet, chosen: pl.DataFrame) -> dict[tuple[str, str], list[tuple[int, int]]]:
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    wanted = sheet.rows.join(chosen.select(KEY), on=KEY, how="semi").sort("blind", maintain_order=True)
    for task, question, file, at in wanted.select(*KEY, "file", "at").iter_rows():
        found.setdefault((task, question), []).append((file, at))
    return found


def _card(kind: str, difference: float, picture: Print | str, said: Sequence[tuple[int, Answer]]) -> Card:
    first = said[0][1]
    return Card(
        task=first.task,
        question=first.question,
        kind=kind,
        difference=difference,
        prompt=first.prompt,
        truth=_truth(first),
        box=true_box(first.truth),
        image=first.image,
        picture=picture,
        tags=(*(f"{tag} held out" for tag, value in first.tags if value == HELD), *filter(None, [first.split])),
        held=any(value == HELD for _, value in first.tags),
        replies=tuple(_reply(who, answer, first) for who, answer in said),
    )


def _truth(answer: Answer) -> str:
    return shown(answer.truth if isinstance(answer.truth, str) else _listed(answer.truth))


def _listed(truth: object) -> str:
    return "" if truth is None else json.dumps(truth, ensure_ascii=False)


def _reply(who: int, answer: Answer, first: Answer) -> Reply:
    true = true_box(answer.truth)
    box = parse_box(answer.text) if true and not answer.blind else None
    return Reply(
        who=who,
        blind=answer.blind,
        text=shown(answer.text) if true else answer.text,
        score=answer.score,
        readable=answer.readable,
        box=box,
        overlap=iou(box, true) if box and true else None,
        prompt="" if answer.prompt == first.prompt else answer.prompt,
        truth="" if answer.truth == first.truth else _truth(answer),
    )


def _lines(card: Card, names: Sequence[str]) -> list[str]:
    """One question as lines for a terminal."""
    picture = [_line("picture", card.image)] if card.image else []
    found = [f"{seen(card.task)}/{seen(card.question)}", *picture, _line("prompt", card.prompt)]
    found.append(_line("truth", card.truth))
    for reply in card.replies:
        sight = " without the picture" if reply.blind else ""
        notes = [f"score {reply.marked}"]
        notes += [f"overlap {reply.overlap:.2f}"] if reply.overlap is not None else []
        notes += [] if reply.readable else ["unreadable"]
        found += [_line(f"  {name}", text) for name, text in (("prompt", reply.prompt), ("truth", reply.truth)) if text]
        found.append(_line(f"{names[reply.who]}{sight}", f"{reply.text or '(nothing)'}  [{', '.join(notes)}]"))
    return found


def _line(name: str, text: str) -> str:
    return f"{name}: " + seen(text).replace("\n", "\n    ")


def look_up(sheets: Sequence[Sheet], wanted: str) -> list[str]:
    """Every question whose id, or whose task/id, is `wanted`, as lines for a terminal; RequestError where none is."""
    named = pl.concat_str("task", pl.lit("/"), "question")
    keys = pl.concat([sheet.rows.select(KEY) for sheet in sheets]).unique(KEY, maintain_order=True)
    found = keys.filter((pl.col("question") == wanted) | (named == wanted))
    if found.is_empty():
        some = ", ".join("/".join(key) for key in keys.unique("task", maintain_order=True).iter_rows())
        raise RequestError(f"{wanted}: wanted the id of a question. Got none that was answered. They look like {some}.")
    chosen = found.with_columns(kind=pl.lit(""), blind=pl.lit(None), difference=pl.lit(0.0))
    album, names = Album(), [sheet.name for sheet in sheets]
    told = [line for card in cards(sheets, chosen, album) for line in (*_lines(card, names), "")]
    album.close()
    return told[:-1]
