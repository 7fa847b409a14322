"""One shard to one part: its records checked by the reader, tokenized, and written as a small index of its own.

A part appears under its name in one move, with everything in it; what a killed process left is begun again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from firstsight.data import sources, tokenizer
from firstsight.data.index import IMAGE, SAMPLE, SHOWN
from firstsight.data.prepare.pages import Pages, write_whole
from firstsight.data.prepare.task import Task
from firstsight.data.records import Bad, Dialogue, Document, ImageText, Interleaved, Place, Record, Tokenized

BATCH = 4096
"""Records that are tokenized together at most,"""
LETTERS = 1 << 21
"""or as many as have so many letters: long documents must not fill the memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A finished part: where it lies, and what its note says."""

    folder: Path
    key: str
    shard: sources.Shard
    digest: str
    """sha256 of every byte that was read for the shard."""
    counts: Mapping[str, int]
    refused: Mapping[str, tuple[int, Bad]]
    """How many for each reason, and the first of them."""
    captions: Mapping[str, int]
    places: tuple[str, ...]
    """What the part's pictures lie in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """How far a shard is."""

    records: int
    tokens: int
    bytes: int


def name_of(shard: sources.Shard) -> str:
    """The folder of a shard's part: the same whichever shards stand beside it."""
    where = json.dumps([shard.name, shard.start, shard.stop])
    return hashlib.sha256(where.encode()).hexdigest()[:20]


def finished(task: Task, shard: sources.Shard) -> Part | None:
    """The part of a shard, if it is there and was made of this very shard by an equal task."""
    note = task.parts / name_of(shard) / "part.json"
    if not note.is_file():
        return None
    told = json.loads(note.read_text())
    part = Part(
        folder=note.parent,
        key=told["key"],
        shard=sources.Shard(**told["shard"]),
        digest=told["digest"],
        counts=told["counts"],
        refused={reason: (count, Bad(**first)) for reason, (count, first) in told["refused"].items()},
        captions=told["captions"],
        places=tuple(told["places"]),
    )
    return part if part.key == task.key and part.shard == shard else None


class Maker:
    """Makes parts of shards; a process has one, so that the tokenizer is loaded once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._words = tokenizer.load(task.tokenizer)
        self._reader = sources.Reader(task.location, task.form, source=task.source)

    def make(self, shard: sources.Shard) -> Iterator[Reach]:
        """Write the part of `shard`; gives after every batch how far it is. OSError where the disk is full."""
        goal = self._task.parts / name_of(shard)
        new = goal.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            yield from self._write(shard, new)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)  # half a part is worth less than its room
            raise
        shutil.rmtree(goal, ignore_errors=True)
        new.rename(goal)

    def _write(self, shard: sources.Shard, folder: Path) -> Iterator[Reach]:
        reading = self._reader.read(shard)
        with Sheet(folder, self._words, self._task) as sheet:
            for batch in batches(reading):
                sheet.take(batch)
                yield Reach(records=sheet.records, tokens=sheet.count("tokens"), bytes=0)
        note = {
            "key": self._task.key,
            "shard": asdict(shard),
            "digest": reading.digest,
            "counts": sheet.counts(),
            "refused": {reason: (count, asdict(sheet.first[reason])) for reason, count in sheet.refused.items()},
            "captions": dict(sheet.captions),
            "places": list(sheet.places),
        }
        write_whole(folder / "part.json", json.dumps(note, ensure_ascii=False, sort_keys=True))
        yield Reach(records=sheet.records, tokens=sheet.count("tokens"), bytes=shard.stop - shard.start)


def batches(reading: sources.Reading) -> Iterator[list[Record | Bad]]:
    """The records of a reading in lists that are worth a call of the tokenizer and fit into memory."""
    batch: list[Record | Bad] = []
    letters = 0
    for record in reading:
        batch.append(record)
        letters += _letters(record)
        if len(batch) == BATCH or letters >= LETTERS:
            yield batch
            batch, letters = [], 0
    if batch:
        yield batch


def _letters(record: Record | Bad) -> int:
    match record:
        case Document():
            return len(record.text)
        case Tokenized():
            return len(record.tokens)
        case ImageText():
            return len(record.caption)
        case Interleaved():
            return sum(len(part) for part in record.parts if isinstance(part, str))
        case Dialogue():
            return sum(map(len, record.turns))
        case Bad():
            return 0


def pictures_of(record: Record) -> tuple[Place, ...]:
    """Where the pictures of a record lie, in reading order."""
    match record:
        case ImageText():
            return (record.image,)
        case Dialogue():
            return () if record.image is None else (record.image,)
        case Interleaved():
            return tuple(part for part in record.parts if isinstance(part, Place))
        case Document() | Tokenized():
            return ()


class Sheet:
    """The arrays of one part while its records come in."""

    def __init__(self, folder: Path, words: tokenizer.Tokenizer, task: Task) -> None:
        self.refused, self.captions = Counter[str](), Counter[str]()
        self.first: dict[str, Bad] = {}
        self.places: dict[str, int] = {}
        self._words, self._carrying = words, 0
        self._once = task.form == "captions"
        """Every picture is shown by one record only, so that no place need be remembered."""
        self._numbers: dict[Place, int] = {}
        self._pages = Pages(folder, task.vocabulary)
        self._arrays = self._pages.arrays
        self._quarantine = (folder / "quarantine.jsonl").open("w", encoding="utf-8")

    def __enter__(self) -> Sheet:
        return self

    def __exit__(self, *error: object) -> None:
        with self._quarantine, self._pages:
            pass

    @property
    def records(self) -> int:
        """Good and bad ones."""
        return self.count("samples") + self.refused.total()

    def count(self, name: str) -> int:
        """Entries of an array so far."""
        return self._arrays[name].count

    def counts(self) -> dict[str, int]:
        """Entries of every array, tokens with loss, and refused records."""
        sizes = {name: self.count(name) for name in ("samples", "shown", "tokens", "images")}
        return {**sizes, "loss tokens": self._carrying, "bad": self.refused.total()}

    def take(self, batch: Sequence[Record | Bad]) -> None:
        """Write a batch behind what is there; refused records to the quarantine."""
        for bad in (record for record in batch if isinstance(record, Bad)):
            self.refused[bad.reason] += 1
            self.first.setdefault(bad.reason, bad)
            self._quarantine.write(json.dumps(asdict(bad), sort_keys=True) + "\n")
        good = [record for record in batch if not isinstance(record, Bad)]
        told = (record for record in good if isinstance(record, ImageText))
        self.captions.update("synthetic" if record.synthetic else "real" for record in told)
        if laid := tokenizer.laid(self._words, good):
            self._lay(laid, [pictures_of(good[one.record]) for one in laid])

    def _lay(self, laid: Sequence[tokenizer.Laid], pictures: Sequence[tuple[Place, ...]]) -> None:
        samples = np.zeros(len(laid), dtype=SAMPLE)
        samples["tokens_count"] = [len(one.ids) for one in laid]
        samples["shown_count"] = [len(found) for found in pictures]
        for name in ("tokens", "shown"):
            counts = samples[f"{name}_count"].astype(np.int64)
            samples[f"{name}_from"] = self.count(name) + np.cumsum(counts) - counts
        shown = np.zeros(int(samples["shown_count"].sum()), dtype=SHOWN)
        shown["picture"] = self._number([place for found in pictures for place in found])
        shown["at"] = [at for one in laid for at in one.at]
        loss = np.concatenate([one.loss for one in laid])
        self._carrying += int(np.count_nonzero(loss))
        self._arrays["samples"].append(samples)
        self._arrays["shown"].append(shown)
        self._arrays["tokens"].append(np.concatenate([one.ids for one in laid]))
        self._arrays["loss"].append(loss)

    def _number(self, places: Sequence[Place]) -> list[int]:
        """The pictures' numbers: by first appearance, once for all records that share one."""
        first = self.count("images")
        if self._once:
            new, numbers = list(places), list(range(first, first + len(places)))
        else:
            new = [place for place in dict.fromkeys(places) if place not in self._numbers]
            self._numbers |= {place: first + nth for nth, place in enumerate(new)}
            numbers = [self._numbers[place] for place in places]
        rows = [(one.offset, one.size, one.hash, self._place(one.shard)) for one in new]
        self._arrays["images"].append(np.array(rows, dtype=IMAGE))
        return numbers

    def _place(self, name: str) -> int:
        return self.places.setdefault(name, len(self.places))
