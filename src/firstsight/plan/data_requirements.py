"""Whether each source has enough data: what a step needs in one pass, compared with what is available.

Text is counted in tokens; captions and dialogues in records, of which every image row takes at least one. Interleaved
documents are not counted: nothing declares how many images they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import floor
from typing import NamedTuple

from firstsight.errors import QuantityError
from firstsight.plan.graph import Graph
from firstsight.plan.step import Step
from firstsight.recipe.mixture import DataSource, External, base_source
from firstsight.recipe.stages import Finetune, Midtrain, TrunkSegment
from firstsight.units import Share

_UNITS = {"text": "tokens", "captions": "records", "dialogues": "records"}
CAPTION_TOKENS = 32
"""Estimated text tokens of one image."""


class SourceSize(NamedTuple):
    """Text tokens and records of one pass over a source; 0: unknown."""

    tokens: int
    records: int


def images_per_row(stage: Midtrain | Finetune) -> int:
    """Images in an image row: one, or as many as fit with their estimated text."""
    if stage.mix.packing == "one_image_per_row":
        return 1
    return max(1, stage.row_shape.length // (stage.model.image_tokens + CAPTION_TOKENS))


def count_image_rows(stage: Midtrain | Finetune) -> int:
    """Image rows of a whole stage: exact where shares count rows, estimated where they count tokens.

    A text row is full and weighs 1. An image row weighs w, the part of it that counts; then a share s of all tokens is
    a share (s/w) / (s/w + 1 - s) of all rows.
    """
    stage_rows = stage.row_shape.rows(stage.tokens)
    if stage.mix.share_unit == "rows":
        return stage.mix.image_rows(stage_rows)
    tokens = CAPTION_TOKENS + (stage.model.image_tokens if stage.mix.share_unit == "tokens" else 0)
    weight = min(Fraction(1), Fraction(images_per_row(stage) * tokens, stage.row_shape.length))

    def row_share(share: Share) -> Fraction:
        return Fraction(share / weight / (share / weight + 1 - share))

    return sum(floor(rows * row_share(share)) for rows, share in stage.mix.spans(stage_rows))


def check_data_sufficient(graph: Graph, counted: Mapping[str, SourceSize] | None = None) -> None:
    """Raise QuantityError if a source would be read for more epochs than its recipe allows.

    `counted`: sizes of external sources by name, where counted; else the declared ones.
    """
    if shortages := list(data_shortages(graph, counted or {})):
        raise QuantityError("\n".join(shortages))


def data_shortages(graph: Graph, counted: Mapping[str, SourceSize]) -> Iterator[str]:
    """A sentence for each source that is too small for a step; a text row counts in full, padding included."""
    arms = graph.arms_by_step()
    for step in graph.steps:
        for sentence in _step_shortages(step, counted):
            yield f"{', '.join(arms[step])}: {sentence}"


def _step_shortages(step: Step, counted: Mapping[str, SourceSize]) -> Iterator[str]:
    qualifier = "about " if _has_estimated_rows(step) else ""
    for field, source, required in _requirements(step):
        external = base_source(source)
        if not isinstance(external, External) or external.form not in _UNITS:
            continue
        unit = _UNITS[external.form]
        available = getattr(counted.get(external.name, external), unit)
        if 0 < available < required:
            kind = "counted" if external.name in counted else "declared"
            yield (
                f"{step.slug}, {field}: wanted {qualifier}{required:,} {unit} in one pass of {external.name!r}. Got "
                f"{available:,}, as {kind}. Add a source, lower its share or the budget, raise its max_epochs, or "
                "correct a declared size."
            )


def _has_estimated_rows(step: Step) -> bool:
    """Whether a mixture of the step counts tokens, so that its rows are unknown before the data is counted."""
    if not isinstance(step.spec, Midtrain | Finetune):
        return False
    mix = step.spec.mix
    units = [mixture.share_unit for mixture in (mix.text, mix.images) if len(mixture.components) > 1]
    return any(unit != "rows" for unit in (mix.share_unit, *units))


def _requirements(step: Step) -> Iterator[tuple[str, DataSource, int]]:
    """The field of each source, and the tokens (text) or records (images) that it must have in one pass."""
    epochs = 1
    match step.spec:
        case TrunkSegment(pretrain=pretrain, end=end):
            mixtures = [("text", pretrain.text, pretrain.tokens_at(end))]
        case Midtrain() | Finetune() as stage:
            epochs = stage.epochs if isinstance(stage, Finetune) else 1
            image_rows = count_image_rows(stage)
            text_tokens = _text_tokens_until(step) if stage.row_shape.rows(stage.tokens) > image_rows else 0
            mixtures = [("mix.text", stage.mix.text, text_tokens), ("mix.images", stage.mix.images, image_rows)]
        case _:
            mixtures = []
    for field, mixture, total in mixtures:
        for component in mixture.components:
            yield field, component.source, -(-floor(total * component.share) // (component.max_epochs * epochs))


def _text_tokens_until(step: Step | None) -> int:
    """Text tokens read by a training step and its ancestors: each starts where the one before stopped reading."""
    match step.spec if step else None:
        case TrunkSegment(pretrain=pretrain, end=end):
            return pretrain.tokens_at(end)
        case Midtrain() | Finetune() as stage if step is not None:
            text_tokens = (stage.row_shape.rows(stage.tokens) - count_image_rows(stage)) * stage.row_shape.length
            return text_tokens + _text_tokens_until(step.parent("trunk") or step.parent("previous"))
        case _:
            return 0
