"""Whether sources suffice: what each must hold in one pass, against what it is declared or was counted to hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import floor

from firstsight.plan.step import Step
from firstsight.recipe.mix import Blend, Named, Recaptioned, Source
from firstsight.recipe.stages import Finetune, Midtrain, Segment
from firstsight.units import Share

CAPTION = 32
"""Estimated tokens of one picture's words."""


def pictures_a_row(stage: Midtrain | Finetune) -> int:
    """Pictures in an image row: one, or as many as fit with their words, estimated."""
    if stage.mix.packing == "one_image_per_row":
        return 1
    return max(1, stage.rows.length // (stage.model.image_tokens + CAPTION))


def image_rows(stage: Midtrain | Finetune) -> int:
    """Image rows of a whole stage: exact where shares count rows, estimated where they count tokens."""
    rows = stage.rows.steps(stage.tokens) * stage.rows.batch
    if stage.mix.counted_in == "rows":
        return stage.mix.image_rows(rows)
    weight = _weight(stage)
    return sum(floor(count * _of_rows(share, weight)) for count, share in stage.mix.spans(rows))


def _weight(stage: Midtrain | Finetune) -> Fraction:
    """What an image row counts for, where a text row, which is full, counts for one."""
    each = CAPTION + (stage.model.image_tokens if stage.mix.counted_in == "tokens" else 0)
    return min(Fraction(1), Fraction(pictures_a_row(stage) * each, stage.rows.length))


def _of_rows(share: Share, weight: Fraction) -> Fraction:
    """The part of rows that must be image rows, for their tokens to be `share` of all tokens."""
    seen, read = share / weight, 1 - share
    return Fraction(seen / (seen + read))


def thin(step: Step, counted: Mapping[str, int]) -> Iterator[str]:
    """A sentence for each source that is too small for this step; a row counts in full, padding included.

    `counted`: tokens of named sources that were counted, by name; the others hold what is declared, 0 is unknown.
    """
    about = "about " if estimated(step) else ""
    for asked, want in _wanted(step):
        source = asked.named if isinstance(asked, Recaptioned) else asked
        if not isinstance(source, Named):
            continue
        held, how = counted.get(source.name, source.tokens), "holds" if source.name in counted else "is declared with"
        if 0 < held < want:
            yield (
                f"{step.address}: wants {about}{want:,} tokens in one pass, but {source.name!r} {how} {held:,}. "
                "Add a source, lower its share or the budget, allow it more epochs, or correct a declared size."
            )


def estimated(step: Step) -> bool:
    """Whether the step's rows can only be estimated before the data is counted."""
    spec = step.spec
    blends = [spec.mix.text, spec.mix.images] if isinstance(spec, Midtrain | Finetune) else []
    counts = {blend.counted_in for blend in blends if len(blend.parts) > 1}
    return bool(blends) and ({spec.mix.counted_in} | counts) != {"rows"}


def _wanted(step: Step) -> Iterator[tuple[Source, int]]:
    """Every source of a training step with the tokens that it must hold."""
    match step.spec:
        case Segment() as segment:
            yield from _shares(segment.pretrain.text, segment.pretrain.at(segment.until), epochs=1)
        case Midtrain() | Finetune() as stage:
            rows, images = stage.rows.steps(stage.tokens) * stage.rows.batch, image_rows(stage)
            epochs = stage.epochs if isinstance(stage, Finetune) else 1
            read = _text_before(step) if rows > images else 0
            yield from _shares(stage.mix.text, read + (rows - images) * stage.rows.length, epochs=epochs)
            yield from _shares(stage.mix.images, images * stage.rows.length, epochs=epochs)
        case _:
            return


def _shares(blend: Blend, tokens: int, *, epochs: int) -> Iterator[tuple[Source, int]]:
    """What each source of a blend must hold in one pass, if the blend gives `tokens` in all."""
    for part in blend.parts:
        yield part.source, -(-floor(tokens * part.share) // (part.epochs * epochs))


def _text_before(step: Step) -> int:
    """Text tokens that the stages before this one have read: its own text goes on behind them."""
    before = step.need("trunk") or step.need("previous")
    match before.spec if before else None:
        case Segment() as segment:
            return segment.pretrain.at(segment.until)
        case Midtrain() | Finetune() as stage if before is not None:
            rows = stage.rows.steps(stage.tokens) * stage.rows.batch
            return _text_before(before) + (rows - image_rows(stage)) * stage.rows.length
        case _:
            return 0
