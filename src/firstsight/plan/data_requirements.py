"""Whether sources suffice: what each must hold in one pass, against what it is declared or was counted to hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import floor

from firstsight.plan.step import Step
from firstsight.recipe.mixture import DataSource, External, Mixture, Recaptioned
from firstsight.recipe.stages import Finetune, Midtrain, TrunkSegment
from firstsight.units import Share

CAPTION_TOKENS = 32
"""Estimated tokens of one picture's words."""


def images_per_row(stage: Midtrain | Finetune) -> int:
    """Pictures in an image row: one, or as many as fit with their words, estimated."""
    if stage.mix.packing == "one_image_per_row":
        return 1
    return max(1, stage.row_shape.length // (stage.model.image_tokens + CAPTION_TOKENS))


def count_image_rows(stage: Midtrain | Finetune) -> int:
    """Image rows of a whole stage: exact where shares count rows, estimated where they count tokens."""
    row_count = stage.row_shape.steps(stage.tokens) * stage.row_shape.batch_size
    if stage.mix.share_unit == "rows":
        return stage.mix.image_rows(row_count)
    row_weight = _image_row_weight(stage)
    return sum(floor(count * _image_row_share(share, row_weight)) for count, share in stage.mix.spans(row_count))


def _image_row_weight(stage: Midtrain | Finetune) -> Fraction:
    """What an image row counts for, where a text row, which is full, counts for one."""
    tokens_per_image = CAPTION_TOKENS + (stage.model.image_tokens if stage.mix.share_unit == "tokens" else 0)
    return min(Fraction(1), Fraction(images_per_row(stage) * tokens_per_image, stage.row_shape.length))


def _image_row_share(share: Share, row_weight: Fraction) -> Fraction:
    """The part of rows that must be image rows, for their tokens to be `share` of all tokens."""
    image_part, text_part = share / row_weight, 1 - share
    return Fraction(image_part / (image_part + text_part))


def data_shortages(step: Step, counted_tokens: Mapping[str, int]) -> Iterator[str]:
    """A sentence for each source that is too small for this step; a row counts in full, padding included.

    `counted`: tokens of named sources that were counted, by name; the others hold what is declared, 0 is unknown.
    """
    qualifier = "about " if has_estimated_rows(step) else ""
    for data_source, required_tokens in _required_tokens(step):
        external = data_source.external if isinstance(data_source, Recaptioned) else data_source
        if not isinstance(external, External):
            continue
        available_tokens, basis = (
            counted_tokens.get(external.name, external.tokens),
            "holds" if external.name in counted_tokens else "is declared with",
        )
        if 0 < available_tokens < required_tokens:
            yield (
                f"{step.address}: wants {qualifier}{required_tokens:,} tokens in one pass, but {external.name!r} {basis} {available_tokens:,}. "
                "Add a source, lower its share or the budget, allow it more epochs, or correct a declared size."
            )


def has_estimated_rows(step: Step) -> bool:
    """Whether the step's rows can only be estimated before the data is counted."""
    spec = step.spec
    mixtures = [spec.mix.text, spec.mix.images] if isinstance(spec, Midtrain | Finetune) else []
    share_units = {mixture.share_unit for mixture in mixtures if len(mixture.components) > 1}
    return bool(mixtures) and ({spec.mix.share_unit} | share_units) != {"rows"}


def _required_tokens(step: Step) -> Iterator[tuple[DataSource, int]]:
    """Every source of a training step with the tokens that it must hold."""
    match step.spec:
        case TrunkSegment() as segment:
            yield from _required_by_source(segment.pretrain.text, segment.pretrain.tokens_at(segment.end), epochs=1)
        case Midtrain() | Finetune() as stage:
            row_count, image_row_count = (
                stage.row_shape.steps(stage.tokens) * stage.row_shape.batch_size,
                count_image_rows(stage),
            )
            epochs = stage.epochs if isinstance(stage, Finetune) else 1
            previous_text_tokens = _text_tokens_before(step) if row_count > image_row_count else 0
            yield from _required_by_source(
                stage.mix.text,
                previous_text_tokens + (row_count - image_row_count) * stage.row_shape.length,
                epochs=epochs,
            )
            yield from _required_by_source(stage.mix.images, image_row_count * stage.row_shape.length, epochs=epochs)
        case _:
            return


def _required_by_source(mixture: Mixture, tokens: int, *, epochs: int) -> Iterator[tuple[DataSource, int]]:
    """What each source of a blend must hold in one pass, if the blend gives `tokens` in all."""
    for weighted_source in mixture.components:
        yield weighted_source.source, -(-floor(tokens * weighted_source.share) // (weighted_source.max_epochs * epochs))


def _text_tokens_before(step: Step) -> int:
    """Text tokens that the stages before this one have read: its own text goes on behind them."""
    previous_step = step.parent("trunk") or step.parent("previous")
    match previous_step.spec if previous_step else None:
        case TrunkSegment() as segment:
            return segment.pretrain.tokens_at(segment.end)
        case Midtrain() | Finetune() as stage if previous_step is not None:
            row_count = stage.row_shape.steps(stage.tokens) * stage.row_shape.batch_size
            return _text_tokens_before(previous_step) + (row_count - count_image_rows(stage)) * stage.row_shape.length
        case _:
            return 0
