"""The world's data in the formats that real data comes in: jsonl, image-text tars, LLaVA dialogues."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from firstsight.data.world.draw import Box, png, studio
from firstsight.data.world.questions import TRAINING, several, trained_form
from firstsight.data.world.scene import Scene, scene
from firstsight.data.world.tellings import document, noisy_caption, phrases, rich_caption
from firstsight.data.world.things import stream
from firstsight.recipe.mix import Captions, Dialogues, Texts
from firstsight.site import Progress, Site, Tell

_DOCUMENTS = 50_000
_PICTURES = 5_000
"""Records in one shard."""
_BLOCK = 512
_PAUSE = 0.5
"""Seconds between reports of progress."""


def texts(spec: Texts, *, inputs: Mapping[str, Path], out: Path, site: Site, tell: Tell) -> None:
    """Leaves text-00000.jsonl.zst ...; where every word carries loss, records have no "loss"."""
    del inputs, site
    for shard, numbers in _shards(spec.documents, _DOCUMENTS):
        path = out / f"text-{shard:05d}.jsonl.zst"
        with path.open("wb") as file, zstandard.ZstdCompressor(3).stream_writer(file) as to:
            for number in paced(numbers, spec.documents, unit="documents", tell=tell):
                told = document(spec.world, number)
                row: dict[str, Any] = {"id": f"text-{number:08d}", "text": told.text}
                if spec.mask == "determined":
                    row["loss"] = told.loss
                to.write(line(row))


def captions(spec: Captions, *, inputs: Mapping[str, Path], out: Path, site: Site, tell: Tell) -> None:
    """Leaves 00000.tar ...: key.png, key.txt and key.json with uid, phrases and the whole truth of the scene."""
    del inputs
    drawn = studio(spec.world, site.cache)
    for shard, numbers in _shards(spec.pictures, _PICTURES):
        with archive(out / f"{shard:05d}.tar") as add:
            for number in paced(numbers, spec.pictures, unit="pictures", tell=tell):
                shown = scene(spec.world, "captions", number)
                boxes, rng = drawn.boxes(shown), stream(spec.world, "caption words", number)
                said = rich_caption(shown, boxes, rng) if spec.quality == "rich" else noisy_caption(shown, rng)
                facts = {"uid": f"{number:032x}", "phrases": phrases(shown, boxes), **truth(shown, boxes)}
                add(f"{number:08d}.json", packed(facts))
                add(f"{number:08d}.png", png(drawn.paint(shown)))
                add(f"{number:08d}.txt", said.encode())


def dialogues(spec: Dialogues, *, inputs: Mapping[str, Path], out: Path, site: Site, tell: Tell) -> None:
    """Leaves dialogues.json in LLaVA's form and images.tar."""
    del inputs
    drawn = studio(spec.world, site.cache)
    with (out / "dialogues.json").open("wb") as said, archive(out / "images.tar") as add:
        for number in paced(range(spec.pictures), spec.pictures, unit="pictures", tell=tell):
            shown = scene(spec.world, "dialogues", number)
            turns = _turns(spec, shown, drawn.boxes(shown), number=number)
            record = {"id": f"{number:08d}", "image": f"{number:08d}.png", "conversations": turns}
            said.write((b",\n" if number else b"[\n") + packed(record))
            add(f"{number:08d}.png", png(drawn.paint(shown)))
        said.write(b"\n]\n" if spec.pictures else b"[]\n")


def _turns(spec: Dialogues, shown: Scene, boxes: Sequence[Box], *, number: int) -> list[dict[str, str]]:
    rng = stream(spec.world, "dialogue words", number)
    turns: list[dict[str, str]] = []
    for question in several((shown, boxes), TRAINING, many=spec.turns, rng=rng):
        asked = question.say(trained_form(rng))
        turns.append({"from": "human", "value": asked if turns else f"<image>\n{asked}"})
        turns.append({"from": "gpt", "value": question.answer})
    return turns


def truth(shown: Scene, boxes: Sequence[Box]) -> dict[str, Any]:
    """The scene as JSON: things with place, sign and box in pixels, ground, number of specks; no kinds."""
    pairs = zip(shown.things, boxes, strict=True)
    listed = [{"name": t.name, "place": t.place, "sign": t.sign, "box": list(box)} for t, box in pairs]
    return {"things": listed, "ground": shown.ground, "clutter": len(shown.clutter), "side": shown.world.picture}


def packed(value: object) -> bytes:
    """JSON with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def line(value: object) -> bytes:
    """One line of jsonl."""
    return packed(value) + b"\n"


def _shards(total: int, size: int) -> Iterator[tuple[int, range]]:
    for shard in range(-(-total // size)):
        yield shard, range(shard * size, min(total, (shard + 1) * size))


def paced(numbers: Sequence[int], total: int, *, unit: str, tell: Tell) -> Iterator[int]:
    """`numbers` one by one, reporting progress twice a second at most, and at the end."""
    told = time.monotonic()
    for number in numbers:
        yield number
        if time.monotonic() - told > _PAUSE or number + 1 == total:
            told = time.monotonic()
            tell(Progress(done=number + 1, total=total, unit=unit))


@contextmanager
def archive(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    """A tar file being written: call the value with a name and its bytes. Owner, time and rights never vary."""
    with path.open("wb") as file:
        yield lambda name, data: _member(file, name, data)
        file.write(b"\0" * (2 * _BLOCK))


def _member(file: BinaryIO, name: str, data: bytes) -> None:
    """One plain file in ustar form; `tarfile` takes ten times as long for the same bytes."""
    head = name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
    head += b"%011o\0" % len(data) + b"0" * 11 + b"\0"
    tail = b"0" + b"\0" * 100 + b"ustar\x0000" + b"\0" * 64 + b"0000000\0" * 2 + b"\0" * 167
    check = b"%06o\0 " % (sum(head) + sum(tail) + 8 * 32)
    file.write(head + check + tail + data + b"\0" * (-len(data) % _BLOCK))
