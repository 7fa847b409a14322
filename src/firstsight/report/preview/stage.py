"""Rows of a training stage's stream, what the stream holds in all, and where its records come from."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from firstsight.data.index import Index
from firstsight.data.loader import Achieved, Stream
from firstsight.data.tokenizer import Tokenizer
from firstsight.recipe.mix import Blend
from firstsight.recipe.stages import Finetune, Midtrain, Segment
from firstsight.report.preview.page import Count, Facts, Where
from firstsight.report.preview.rows import Record, Row, read
from firstsight.report.preview.spelling import Speller

Stage = Segment | Midtrain | Finetune


def rows_of(stream: Stream, speller: Speller, *, first: int, count: int) -> list[Row]:
    """`count` rows of a stage from row `first` on, fewer at its end."""
    size = stream.rows.batch
    special, origins = stream.feeds[0].index.special, [Origins(feed.index) for feed in stream.feeds]
    found: list[Row] = []
    for at in range(first, min(stream.total, first + count)):
        step, place = divmod(at, size)
        held = stream.samples(step)[place]
        found += read(
            stream.batch(step, (place, size)),
            at=[at],
            image_tokens=max(feed.table.image_tokens for feed in stream.feeds),
            origin=lambda _, document, held=held: origins[held[document][0]].of(held[document][1]),
            speller=speller,
            closers=(special.end, special.answer),
        )
    return found


def facts(stream: Stream, spec: Stage, *, where: Where, words: Tokenizer, apart: bool) -> Facts:
    """What the page says of a stage as a whole, counted over all of its rows."""
    achieved = stream.achieved(stream.steps)
    shares = achieved.record()["achieved"]
    assert isinstance(shares, dict)
    return Facts(
        where=where,
        batch=stream.rows.batch,
        length=stream.rows.length,
        steps=stream.steps,
        packing=spec.pretrain.packing if isinstance(spec, Segment) else spec.mix.packing,
        tokenizer=words.digest,
        apart=apart,
        asked=_share(spec),
        achieved=shares,
        padding=achieved.padding,
        sources=tuple(_counts(achieved, stream, spec)),
    )


def _share(spec: Stage) -> str:
    """The image share as the recipe says it."""
    if isinstance(spec, Segment):
        return "no images"
    share, unit = spec.mix.share, spec.mix.counted_in.replace("_", " ")
    if not isinstance(share, tuple):
        return f"{share} of {unit}"
    return ", ".join(f"{span.share} until {span.until}" for span in share) + f" of {unit}"


def _counts(achieved: Achieved, stream: Stream, spec: Stage) -> Iterator[Count]:
    """Each source over the whole stage, beside the share of its part that the recipe asks for."""
    text = spec.pretrain.text if isinstance(spec, Segment) else spec.mix.text
    asked = [*_asked("text", text), *([] if isinstance(spec, Segment) else _asked("images", spec.mix.images))]
    for feed, share in zip(stream.feeds, asked, strict=False):  # without image rows there may be no image feed
        yield Count(
            name=feed.name,
            form=feed.index.form,
            asked=share,
            rows=achieved.rows[feed.name],
            tokens=achieved.tokens[feed.name],
            loss_tokens=achieved.loss_tokens[feed.name],
            passes=achieved.epochs[feed.name],
        )


def _asked(part: str, blend: Blend) -> list[str]:
    if len(blend.parts) == 1:
        return [f"all {part}"]
    unit = "" if blend.counted_in == "rows" else f", in {blend.counted_in.replace('_', ' ')}"
    return [f"{one.share} of {part}{unit}" for one in blend.parts]


class Origins:
    """Shard and place of an index's records: its samples lie in the order of its shards, refused ones left out."""

    def __init__(self, index: Index) -> None:
        held: Counter[str] = Counter()
        for shard in index.read:
            held[shard.name] += shard.records
        with (index.path / "quarantine.jsonl").open(encoding="utf-8") as refused:
            for line in refused:
                held[json.loads(line)["shard"]] -= 1
        self._names = tuple(dict.fromkeys(shard.name for shard in index.read))
        self._starts: Sequence[int] = list(accumulate((held[name] for name in self._names), initial=0))
        self._whole = self._starts[-1] == len(index.samples)

    def of(self, number: int) -> Record:
        """Where record `number` comes from; its place counts the records of its shard that were not refused."""
        if not self._whole:
            return Record(number=number, place="")
        shard = bisect_right(self._starts, number) - 1
        return Record(number=number, place=f"{self._names[shard]} #{number - self._starts[shard]}")
