"""Built-in sources that suffice for what an arm reads: exact where shares count rows, else by upper bounds.

A part of an arm gets what it and the parts before it read, whatever later parts or other arms read, so that equal parts
have equal addresses in every study. A source that is too small is replaced by a larger one of the same kind. Text that
an earlier part reads keeps its size, on which the order of its rows depends, and is read again instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import floor

from firstsight.errors import QuantityError
from firstsight.recipe.mixture import DataSource, ImageTextMix, Mixture, PackingMode, WeightedSource, source_label
from firstsight.recipe.stages import Finetune, Midtrain, Pretrain, RowShape, TokenizerSource
from firstsight.recipe.study import Arm, Study
from firstsight.recipe.synthetic_sizes import SyntheticSource, doubled, guaranteed_rows, size_text

TextSizes = dict[DataSource, DataSource]
"""The text sources that earlier parts of an arm read, as stated, and those of sufficient size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _RowDemand:
    """The rows of `length` tokens that are read of a mixture, in all passes together."""

    rows: int
    length: int
    image_tokens: int
    """0 for text."""
    packing: PackingMode
    tokenizer: TokenizerSource
    repeats: int
    """Epochs of a fine-tuning, each of which makes as many passes as its mixture allows."""

    def satisfy(self, mixture: Mixture, sizes: TextSizes) -> Mixture:
        """The mixture with larger sources where they are too small; those in `sizes` are set, and get more passes."""
        count = sum(component.share > 0 for component in mixture.components)
        is_divided = count > 1 and mixture.share_unit == "rows"
        components = list[WeightedSource]()
        for component in mixture.components:
            bound = floor(self.rows * component.share) + count  # `data.sampling.source_counts` is closer
            rows = min(self.rows, bound) if is_divided else self.rows
            components.append(self._satisfy_component(component, rows if component.share else 0, sizes))
        return replace(mixture, components=tuple(components))

    def _satisfy_component(self, component: WeightedSource, rows: int, sizes: TextSizes) -> WeightedSource:
        source, size = component.source, sizes.get(component.source)
        if isinstance(size, SyntheticSource):
            passes = -(-rows // (self.repeats * max(1, self._rows_of_pass(size))))
            return replace(component, source=size, max_epochs=max(component.max_epochs, passes))
        while isinstance(source, SyntheticSource) and rows > (
            component.max_epochs * self.repeats * self._rows_of_pass(source)
        ):
            source = doubled(source)
        return replace(component, source=source)

    def _rows_of_pass(self, source: SyntheticSource) -> int:
        """Rows that a source is sure to fill."""
        shape = {"length": self.length, "image_tokens": self.image_tokens}
        return guaranteed_rows(source, **shape, packing=self.packing, tokenizer=self.tokenizer)


@dataclass(frozen=True, kw_only=True, slots=True)
class _TextPosition:
    """How much text an arm has read: rows of `length` tokens, each one of `cuts` parts of a row as it was packed."""

    rows: int
    length: int
    cuts: int
    is_exact: bool
    """False: `rows` is an upper bound, because a share counts tokens."""

    @classmethod
    def after(cls, rows: int, row_shape: RowShape) -> _TextPosition:
        """The position after so many rows from the beginning."""
        return cls(rows=rows, length=row_shape.length, cuts=1, is_exact=True)

    def advance(self, rows: int, *, is_exact: bool) -> _TextPosition:
        """The position so many rows further."""
        return replace(self, rows=self.rows + rows, is_exact=self.is_exact and is_exact)

    def rescale(self, row_shape: RowShape, location: str) -> _TextPosition:
        """The position in rows of another length; QuantityError where no such row is sure to start there."""
        length, packed_length, tokens = row_shape.length, self.length * self.cuts, self.rows * self.length
        if not self.rows or length == self.length:
            return self if self.rows else _TextPosition.after(0, row_shape)
        if packed_length % length or tokens % length or (self.length % length and not self.is_exact):
            raise QuantityError(
                f"{location}.row_shape.length: wanted a length that divides the {packed_length} tokens of a packed row "
                f"of text and the {tokens:,} tokens of text before this stage. Got {length}. Write {self.length}, or "
                "mix no text in."
            )
        return replace(self, rows=tokens // length, length=length, cuts=packed_length // length)

    def demand(self, tokenizer: TokenizerSource, *, repeats: int = 1) -> _RowDemand:
        """The rows, as they were packed, that were read up to here."""
        rows, length = -(-self.rows // self.cuts), self.length * self.cuts
        return _RowDemand(
            rows=rows, length=length, image_tokens=0, packing="best_fit", tokenizer=tokenizer, repeats=repeats
        )


def grow_sources(study: Study) -> Study:
    """The study with sufficient built-in sources in every arm; QuantityError as `grow_arm`."""
    return replace(study, arms=tuple(map(grow_arm, study.arms)))


def grow_arm(arm: Arm) -> Arm:
    """The arm with built-in sources of sufficient size, or enough passes.

    A trunk has text for its whole run, wherever the arm leaves it. The captions of an encoder's own training stay as
    they are. QuantityError as `Arm.resolved_stages`, and where text cannot go on in rows of another length.
    """
    trunk, sizes = arm.pretrain, TextSizes()
    position: _TextPosition | None = None
    if isinstance(trunk, Pretrain):
        shape, stated_text = trunk.row_shape, trunk.text
        end = _TextPosition.after(shape.rows(trunk.rounded_tokens), shape)
        trunk = replace(trunk, text=end.demand(trunk.tokenizer).satisfy(stated_text, {}))
        sizes.update(zip(stated_text.sources, trunk.text.sources, strict=True))
        position = _TextPosition.after(shape.rows(trunk.tokens_at(arm.start)), shape) if arm.start else None
    mixes = list[ImageTextMix]()
    for stage in arm.resolved_stages():
        text_rows, image_rows, is_exact = _stage_rows(stage)
        if text_rows:
            position = position or _TextPosition.after(0, stage.row_shape)
            position = position.rescale(stage.row_shape, f"{arm.label}: {stage.TAG}")
            position = position.advance(text_rows, is_exact=is_exact)
        mixes.append(_grow_mix(stage, position if text_rows else None, image_rows, sizes=sizes))
    stages = [replace(stage, mix=mix) for stage, mix in zip(arm.stages, mixes, strict=True)]
    return replace(arm, pretrain=trunk, stages=tuple(stages))


def _grow_mix(
    stage: Midtrain | Finetune, text_end: _TextPosition | None, image_rows: int, *, sizes: TextSizes
) -> ImageTextMix:
    """The mix of a stage that reads text up to `text_end` (None: reads no text); adds its text to `sizes`."""
    mix, tokenizer, repeats = stage.mix, stage.tokenizer, stage.epochs if isinstance(stage, Finetune) else 1
    text_demand = (text_end or _TextPosition.after(0, stage.row_shape)).demand(tokenizer, repeats=repeats)
    text = text_demand.satisfy(mix.text, sizes)
    if text_end:
        sizes.update(zip(mix.text.sources, text.sources, strict=True))
    image_demand = _RowDemand(
        rows=image_rows,
        length=stage.row_shape.length,
        image_tokens=stage.model.image_tokens,
        packing=mix.packing,
        tokenizer=tokenizer,
        repeats=repeats,
    )
    return replace(mix, text=text, images=image_demand.satisfy(mix.images, {}))


def _stage_rows(stage: Midtrain | Finetune) -> tuple[int, int, bool]:
    """(text rows, image rows, are they exact) of a stage; upper bounds where shares count tokens."""
    spans = stage.mix.spans(stage.row_shape.rows(stage.tokens))
    total = sum(rows for rows, _ in spans)
    if stage.mix.share_unit == "rows" or all(share in (0, 1) for _, share in spans):
        image_rows = sum(floor(rows * share) for rows, share in spans)
        return total - image_rows, image_rows, True
    text_rows, image_rows = (sum(rows for rows, share in spans if share != none) for none in (1, 0))
    return text_rows, image_rows, False


def growth_lines(study: Study) -> Iterator[str]:
    """A sentence for each built-in source that is larger, or read more often, than the study states."""
    arms: dict[str, dict[str, None]] = {}
    for arm in study.arms:
        for stated, grown in zip(_components(arm), _components(grow_arm(arm)), strict=True):
            if stated != grown:
                arms.setdefault(_growth_text(stated, grown), {})[arm.name] = None
    for text, names in arms.items():
        yield f"{text}, because more is read by {', '.join(names)}."


def _components(arm: Arm) -> Iterator[WeightedSource]:
    trunk = arm.pretrain
    yield from trunk.text.components if isinstance(trunk, Pretrain) else ()
    for stage in arm.stages:
        yield from (*stage.mix.text.components, *stage.mix.images.components)


def _growth_text(stated: WeightedSource, grown: WeightedSource) -> str:
    source, size, passes = stated.source, grown.source, ""
    if grown.max_epochs != stated.max_epochs:
        passes = f", up to {grown.max_epochs} passes instead of {stated.max_epochs}"
    if source != size and isinstance(source, SyntheticSource) and isinstance(size, SyntheticSource):
        return f"{source_label(source)}: {size_text(size)} instead of {size_text(source)}{passes}"
    return f"{source_label(source)}: {passes.removeprefix(', ')}"
