"""Streams of training steps: prepared sources, packed and mixed as the spec says, from where the text was left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from firstsight.data.index import Index, changed
from firstsight.data.loader import Blended, Features, Feed, Pixels, Stream
from firstsight.data.pack import pack
from firstsight.data.sources import locate
from firstsight.errors import MixError
from firstsight.recipe.mix import Blend, Captions, Named, Packing, Recaptioned, Source
from firstsight.recipe.stages import Finetune, Midtrain, Rows, Segment
from firstsight.recipe.vision import VisionSpec
from firstsight.site import Location, Site
from firstsight.train.loop import GROUPS
from firstsight.units import Share

Inputs = Mapping[str, Path]


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """How far the stages before have read the text: in rows of `length`, cut from rows `cut` times as long.

    The text goes on in the order of the seed that it was begun with.
    """

    rows: int
    length: int
    cut: int
    seed: int

    @classmethod
    def before(cls, inputs: Inputs, rows: Rows, seed: int) -> Read:
        """What the checkpoint that a stage goes on from says; the beginning where there is none."""
        folder = inputs.get("trunk", inputs.get("previous"))
        note = None if folder is None else folder / "achieved.json"
        if note is None or not note.is_file():
            return cls(rows=0, length=rows.length, cut=1, seed=seed)
        told = json.loads(note.read_text())
        wanted = ("text_rows_seen", "text_row_length", "text_cut", "text_seed")
        if not all(name in told for name in wanted):
            raise MixError(f"{note}: wanted {', '.join(wanted)}. Got a note of an older firstsight. Train it again.")
        return cls(**{name: told[key] for name, key in zip(("rows", "length", "cut", "seed"), wanted, strict=True)})

    def at(self, rows: Rows, seed: int) -> Read:
        """The same place in rows of another length; raises MixError where no such row begins there."""
        if not self.rows:
            return Read(rows=0, length=rows.length, cut=1, seed=seed)
        packed, seen = self.length * self.cut, self.length * self.rows
        if packed % rows.length or seen % rows.length:
            raise MixError(
                f"wanted rows that divide the {packed} tokens in which the text was packed, and the {seen:,} that were "
                f"read. Got rows of {rows.length}. Choose a length that does, or mix no text in."
            )
        return replace(self, rows=seen // rows.length, length=rows.length, cut=packed // rows.length)

    def record(self) -> dict[str, int]:
        """As it stands in achieved.json."""
        return {
            "text_rows_seen": self.rows,
            "text_row_length": self.length,
            "text_cut": self.cut,
            "text_seed": self.seed,
        }


def trunk_stream(spec: Segment, *, inputs: Inputs, site: Site) -> Stream:
    """The text of a trunk from its beginning to the end of a segment."""
    trunk = spec.pretrain
    steps = trunk.rows.steps(trunk.at(spec.until))
    read = Read(rows=0, length=trunk.rows.length, cut=1, seed=trunk.seed)
    return Stream(
        text=_texts(trunk.text, inputs, read, packing=trunk.packing, site=site),
        images=None,
        spans=((steps * trunk.rows.batch, Share(0)),),
        counted_in="rows",
        rows=trunk.rows,
        seed=trunk.seed,
        text_seed=read.seed,
        text_rows_seen=0,
        steps=steps,
    )


def stage_stream(spec: Midtrain | Finetune, *, inputs: Inputs, site: Site) -> Stream:
    """The mix of a stage; its text goes on behind that of the stages before, row for row."""
    mix, tuned = spec.mix, isinstance(spec, Finetune)
    steps, times = spec.rows.steps(spec.tokens), spec.epochs if isinstance(spec, Finetune) else 1
    spans = mix.spans(steps * spec.rows.batch)
    read = Read.before(inputs, spec.rows, spec.seed)
    pictured = all(share == 1 for rows, share in spans if rows)
    read = Read(rows=0, length=spec.rows.length, cut=1, seed=spec.seed) if pictured else read.at(spec.rows, spec.seed)
    names = _names(mix.images.sources)
    images = [_image(spec, inputs, site, nth=nth, name=name) for nth, name in enumerate(names)]
    text = _texts(mix.text, inputs, read, packing=mix.packing, site=site)
    if len(text.feeds) + len(images) > GROUPS:
        raise MixError(f"a mix holds at most {GROUPS} sources. Got {len(text.feeds) + len(images)}. Take some out.")
    return Stream(
        text=replace(
            text,
            feeds=tuple(replace(feed, answers_only=tuned) for feed in text.feeds),
            epochs=tuple(epochs * times for epochs in text.epochs),
        ),
        images=_blended(mix.images, images, times=times),
        spans=spans,
        counted_in=mix.counted_in,
        rows=spec.rows,
        seed=spec.seed,
        text_seed=read.seed,
        text_rows_seen=read.rows,
        steps=steps,
    )


def achieved(stream: Stream, inputs: Inputs) -> dict[str, object]:
    """What a run holds; where it reads no text, the text goes on later from where the stage before left it."""
    found = stream.achieved(stream.steps)
    if any(found.rows[name] for name in found.text):
        return found.record()
    return found.record() | Read.before(inputs, stream.rows, stream.seed).record()


def _blended(blend: Blend, feeds: Sequence[Feed], *, times: int) -> Blended:
    return Blended(
        feeds=tuple(feeds),
        shares=tuple(part.share for part in blend.parts),
        epochs=tuple(part.epochs * times for part in blend.parts),
        counted_in=blend.counted_in,
    )


def _texts(blend: Blend, inputs: Inputs, read: Read, *, packing: Packing, site: Site) -> Blended:
    """Text sources, packed at the length that the first stage had and cut to this one's."""
    names = ["text"] if len(blend.parts) == 1 else [f"text-{name}" for name in _names(blend.sources)]
    feeds = list[Feed]()
    for nth, name in enumerate(names):
        index = Index.open(inputs[f"text{nth}"])
        table = pack(index, length=read.length * read.cut, image_tokens=0, packing=packing, cache=site.cache)
        table = table.cut(read.cut)
        feeds.append(Feed(name=name, index=index, table=table, pictures=None, answers_only=False, cut=read.cut))
    return _blended(blend, feeds, times=1)


def _image(spec: Midtrain | Finetune, inputs: Inputs, site: Site, *, nth: int, name: str) -> Feed:
    """An image source, as features for a frozen encoder; pictures that are read again are still those prepared."""
    role, vision, source = f"image{nth}", spec.model.vision, spec.mix.images.sources[nth]
    index = Index.open(inputs[role])
    if spec.model.encoder == "frozen" and f"{role}.features" in inputs:
        pictures = Features.open(inputs[f"{role}.features"])
    else:
        location = locate(source, inputs.get(f"{role}.source"), site)
        changed(index, location)
        pictures = pictures_of(index, location, vision, cache=site.cache)
    tokens, rows = spec.model.image_tokens, spec.rows
    table = pack(index, length=rows.length, image_tokens=tokens, packing=spec.mix.packing, cache=site.cache)
    return Feed(name=name, index=index, table=table, pictures=pictures, answers_only=isinstance(spec, Finetune))


def pictures_of(index: Index, location: Location, vision: VisionSpec, *, cache: Path | None) -> Pixels:
    """A source's pictures in the form that an encoder or patches take."""
    return Pixels(index=index, location=location, size=vision.image, cache=cache, fit=vision.fit, ground=vision.ground)


def _names(sources: Sequence[Source]) -> list[str]:
    """What each part is called in logs; parts of one name are numbered."""
    plain = [_name(source) for source in sources]
    total, so_far = Counter(plain), Counter[str]()
    names: list[str] = []
    for name in plain:
        so_far[name] += 1
        names.append(f"{name}-{so_far[name]}" if total[name] > 1 else name)
    return names


def _name(source: Source) -> str:
    match source:
        case Named():
            return source.name
        case Recaptioned():
            return source.named.name
        case Captions():
            return f"captions-{source.quality}"
        case _:
            return type(source).__name__.lower()
