"""preview.html: rows of a training stage's batches, and what the whole stage contains."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress

from markupsafe import Markup

from firstsight.data.index import Index
from firstsight.data.loader import AchievedMix, BatchStream
from firstsight.data.tokenizer import Tokenizer
from firstsight.files import read_jsonl
from firstsight.recipe.mixture import Mixture
from firstsight.recipe.stages import Finetune, Midtrain, RowShape, TrunkSegment
from firstsight.report.format import format_percent, read_assets, render_template, visible_html
from firstsight.report.pages.batch_rows import BatchDecoder, PreviewElement, PreviewRecord, PreviewRow
from firstsight.report.pages.token_text import TokenDecoder

StageSpec = TrunkSegment | Midtrain | Finetune

UNITS = ("rows", "tokens", "loss_tokens")
SOURCE_COLOUR_COUNT = 8
"""With more sources, colours repeat."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewSource:
    """One source, counted over the whole stage."""

    name: str
    form: str
    requested_share: str
    rows: int
    tokens: int
    """Tokens without padding."""
    loss_tokens: int
    epochs: float


@dataclass(frozen=True, kw_only=True, slots=True)
class StageIdentity:
    """The names of the stage on the page."""

    study: str
    scale: str
    arm: str
    stage: str
    seed: int
    address: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOverview:
    """The stage as a whole, for the page's header."""

    identity: StageIdentity
    row_shape: RowShape
    steps: int
    packing: str
    tokenizer_digest: str
    needs_spacing: bool
    """The tokenizer's tokens contain no white space."""
    requested_share: str
    """The recipe's image share with its unit."""
    achieved_shares: Mapping[str, float]
    """The image share in each of UNITS."""
    padding_share: float
    """Share of padding among all positions."""
    sources: tuple[PreviewSource, ...]
    """`PreviewRow.source_index` is an index into these."""


def preview_rows(stream: BatchStream, decoder: TokenDecoder, *, first_row: int, count: int) -> list[PreviewRow]:
    """`count` rows of a stage from row `first_row` on, fewer at its end."""
    batch_size = stream.row_shape.batch_size
    special, origins = stream.sources[0].index.special_ids, [RecordOrigins(source.index) for source in stream.sources]
    rows: list[PreviewRow] = []
    for row_index in range(first_row, min(stream.total_rows, first_row + count)):
        step, batch_row = divmod(row_index, batch_size)
        samples = stream.step_records(step)[batch_row]

        def record_of(_: int, document: int, samples: Sequence[tuple[int, int]] = samples) -> PreviewRecord:
            source, record_index = samples[document][:2]
            return origins[source].record(record_index)

        batch_decoder = BatchDecoder(
            batch=stream.batch(step, (batch_row, batch_size)),
            image_tokens=max(source.packed_rows.image_tokens for source in stream.sources),
            record_of=record_of,
            decoder=decoder,
            end_ids=(special.end, special.answer),
        )
        rows.append(batch_decoder.row(0, row_index))
    return rows


class RecordOrigins:
    """Shard and position of an index's records: its samples are in shard order, without rejected records."""

    def __init__(self, index: Index) -> None:
        counts: Counter[str] = Counter()
        for shard in index.source_shards:
            counts[shard.name] += shard.records
        self._names = tuple(counts)
        counts.subtract(rejected["shard"] for _, rejected in read_jsonl(index.path / "quarantine.jsonl"))
        self._starts: Sequence[int] = list(accumulate((counts[name] for name in self._names), initial=0))
        self._is_complete = self._starts[-1] == len(index.samples)

    def record(self, record_index: int) -> PreviewRecord:
        """The origin of a record; its position counts the accepted records of its shard."""
        if not self._is_complete:
            return PreviewRecord(record_index, location="")
        shard = bisect_right(self._starts, record_index) - 1
        return PreviewRecord(record_index, f"{self._names[shard]} #{record_index - self._starts[shard]}")


def stage_overview(
    stream: BatchStream, spec: StageSpec, *, identity: StageIdentity, tokenizer: Tokenizer, needs_spacing: bool
) -> StageOverview:
    """The stage as a whole, counted over all of its rows."""
    achieved = AchievedMix(stream, stream.steps)
    shares = achieved.to_dict()["achieved"]
    assert isinstance(shares, dict)
    return StageOverview(
        identity=identity,
        row_shape=stream.row_shape,
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
    if isinstance(spec, TrunkSegment):
        return "no images"
    share, unit = spec.mix.image_share, spec.mix.share_unit.replace("_", " ")
    if not isinstance(share, tuple):
        return f"{share} of {unit}"
    return ", ".join(f"{span.share} until {span.end}" for span in share) + f" of {unit}"


def _source_counts(achieved: AchievedMix, stream: BatchStream, spec: StageSpec) -> Iterator[PreviewSource]:
    is_text = isinstance(spec, TrunkSegment)
    shares = _requested_shares("text", spec.pretrain.text if is_text else spec.mix.text)
    shares += [] if is_text else _requested_shares("images", spec.mix.images)
    for source, share in zip(stream.sources, shares, strict=False):  # without image rows there may be no image source
        counts = {name: getattr(achieved, name)[source.name] for name in (*UNITS, "epochs")}
        yield PreviewSource(name=source.name, form=source.index.form, requested_share=share, **counts)


def _requested_shares(label: str, mixture: Mixture) -> list[str]:
    if len(mixture.components) == 1:
        return [f"all {label}"]
    unit = "" if mixture.share_unit == "rows" else f", in {mixture.share_unit.replace('_', ' ')}"
    return [f"{source.share} of {label}{unit}" for source in mixture.components]


def render_preview(overview: StageOverview, rows: Sequence[PreviewRow]) -> str:
    """The page as HTML; equal input gives equal text."""
    return render_template(
        "preview.html",
        css=read_assets("page.css", "preview.css"),
        overview=overview,
        rows=rows,
        units=UNITS,
        totals={unit: sum(getattr(source, unit) for source in overview.sources) for unit in UNITS},
        colours=SOURCE_COLOUR_COUNT,
        share_of=lambda part, whole: f"{format_percent(part / whole)} %" if whole else "0 %",
        token_html=token_html,
    )


def token_html(element: PreviewElement) -> Markup:
    """A token with its classes (see preview.css) and its position as title."""
    text = element.token_text
    assert text is not None, "only images have no text"
    is_external = element.kind == "external_target"
    flags = (element.has_loss, text.is_special, text.is_continuation, text.is_invalid_utf8, is_external)
    classes = " ".join(["t", *compress("lsjxb", flags)])
    title = f"position {element.position}, column {element.column}, token {element.token_id}"
    if is_external:
        title = f"target of column {element.column}, token {element.token_id}, after the end of this row"
    return Markup('<span class="{}" title="{}">{}</span>').format(classes, title, visible_html(text.text))
