"""Rows of a training stage's stream, what the stream holds in all, and where its records come from."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from firstsight.data.index import Index
from firstsight.data.loader import AchievedMix, BatchStream
from firstsight.data.tokenizer import Tokenizer
from firstsight.recipe.mixture import Mixture
from firstsight.recipe.stages import Finetune, Midtrain, TrunkSegment
from firstsight.report.pages.batch_rows import PreviewRecord, PreviewRow, decode_rows
from firstsight.report.pages.preview_page import PreviewFacts, PreviewSource, StageIdentity
from firstsight.report.pages.token_text import TokenDecoder

StageSpec = TrunkSegment | Midtrain | Finetune


def preview_rows(stream: BatchStream, decoder: TokenDecoder, *, first_row: int, count: int) -> list[PreviewRow]:
    """`count` rows of a stage from row `first` on, fewer at its end."""
    batch_size = stream.row_shape.batch_size
    special, origins = stream.sources[0].index.special_ids, [RecordOrigins(feed.index) for feed in stream.sources]
    rows: list[PreviewRow] = []
    for row_index in range(first_row, min(stream.total_rows, first_row + count)):
        step, batch_row = divmod(row_index, batch_size)
        row_samples = stream.step_records(step)[batch_row]
        rows += decode_rows(
            stream.batch(step, (batch_row, batch_size)),
            row_indices=[row_index],
            image_tokens=max(feed.packed_rows.image_tokens for feed in stream.sources),
            record_of=lambda _, document, row_samples=row_samples: origins[row_samples[document][0]].record(
                row_samples[document][1]
            ),
            decoder=decoder,
            end_ids=(special.end, special.answer),
        )
    return rows


def stage_facts(
    stream: BatchStream, spec: StageSpec, *, identity: StageIdentity, tokenizer: Tokenizer, needs_spacing: bool
) -> PreviewFacts:
    """What the page says of a stage as a whole, counted over all of its rows."""
    achieved = stream.achieved_mix(stream.steps)
    shares = achieved.to_dict()["achieved"]
    assert isinstance(shares, dict)
    return PreviewFacts(
        identity=identity,
        batch_rows=stream.row_shape.batch_size,
        row_length=stream.row_shape.length,
        steps=stream.steps,
        packing=spec.pretrain.packing if isinstance(spec, TrunkSegment) else spec.mix.packing,
        tokenizer_digest=tokenizer.digest,
        needs_spacing=needs_spacing,
        requested_share=_image_share_text(spec),
        achieved_shares=shares,
        padding_share=achieved.padding,
        sources=tuple(_source_counts(achieved, stream, spec)),
    )


def _image_share_text(spec: StageSpec) -> str:
    """The image share as the recipe says it."""
    if isinstance(spec, TrunkSegment):
        return "no images"
    share, unit = spec.mix.image_share, spec.mix.share_unit.replace("_", " ")
    if not isinstance(share, tuple):
        return f"{share} of {unit}"
    return ", ".join(f"{span.share} until {span.end}" for span in share) + f" of {unit}"


def _source_counts(achieved: AchievedMix, stream: BatchStream, spec: StageSpec) -> Iterator[PreviewSource]:
    """Each source over the whole stage, beside the share of its part that the recipe asks for."""
    text = spec.pretrain.text if isinstance(spec, TrunkSegment) else spec.mix.text
    requested_shares = [
        *_requested_shares("text", text),
        *([] if isinstance(spec, TrunkSegment) else _requested_shares("images", spec.mix.images)),
    ]
    for feed, share in zip(
        stream.sources, requested_shares, strict=False
    ):  # without image rows there may be no image feed
        yield PreviewSource(
            name=feed.name,
            form=feed.index.form,
            requested_share=share,
            rows=achieved.rows[feed.name],
            tokens=achieved.tokens[feed.name],
            loss_tokens=achieved.loss_tokens[feed.name],
            epochs=achieved.epochs[feed.name],
        )


def _requested_shares(label: str, mixture: Mixture) -> list[str]:
    if len(mixture.components) == 1:
        return [f"all {label}"]
    unit = "" if mixture.share_unit == "rows" else f", in {mixture.share_unit.replace('_', ' ')}"
    return [f"{source.share} of {label}{unit}" for source in mixture.components]


class RecordOrigins:
    """Shard and place of an index's records: its samples lie in the order of its shards, refused ones left out."""

    def __init__(self, index: Index) -> None:
        record_counts: Counter[str] = Counter()
        for shard in index.source_shards:
            record_counts[shard.name] += shard.records
        with (index.path / "quarantine.jsonl").open(encoding="utf-8") as quarantine:
            for line in quarantine:
                record_counts[json.loads(line)["shard"]] -= 1
        self._shard_names = tuple(dict.fromkeys(shard.name for shard in index.source_shards))
        self._starts: Sequence[int] = list(accumulate((record_counts[name] for name in self._shard_names), initial=0))
        self._has_all_samples = self._starts[-1] == len(index.samples)

    def record(self, record_index: int) -> PreviewRecord:
        """Where record `number` comes from; its place counts the records of its shard that were not refused."""
        if not self._has_all_samples:
            return PreviewRecord(record_index=record_index, location="")
        shard = bisect_right(self._starts, record_index) - 1
        return PreviewRecord(
            record_index=record_index, location=f"{self._shard_names[shard]} #{record_index - self._starts[shard]}"
        )
