"""Which rows the steps of an arm read from each source: exact where shares count rows, else upper bounds.

Built-in sources that are too small for them are replaced by larger ones of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import floor

from firstsight.errors import QuantityError
from firstsight.recipe.mixture import DataSource, Mixture, PackingMode, WeightedSource, source_label
from firstsight.recipe.stages import Donor, Finetune, Midtrain, Pretrain, RowShape, TokenizerSource
from firstsight.recipe.study import Arm, Study
from firstsight.recipe.synthetic_sizes import SyntheticSource, doubled, guaranteed_rows, size_text


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceNeed:
    """Rows that a step and those before it read from one source."""

    location: str
    """The arm, the stage and the field."""
    source: DataSource
    rows: int
    """Rows of `length` tokens, in all passes together."""
    passes: int
    """The most passes through the source."""
    length: int
    image_tokens: int
    """0 for text."""
    packing: PackingMode
    tokenizer: TokenizerSource

    @property
    def rows_of_one_pass(self) -> int:
        """Rows that the source must have."""
        return -(-self.rows // self.passes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _TextPosition:
    """How much text an arm has read: rows of `length` tokens, each one of `cuts` parts of a row as it was packed."""

    rows: int
    length: int
    cuts: int
    is_exact: bool
    """False: `rows` is an upper bound, because a share counts tokens."""

    @classmethod
    def beginning(cls, row_shape: RowShape) -> _TextPosition:
        return cls(rows=0, length=row_shape.length, cuts=1, is_exact=True)

    def advance(self, rows: int, *, is_exact: bool) -> _TextPosition:
        """The position so many rows further."""
        return replace(self, rows=self.rows + rows, is_exact=self.is_exact and is_exact)

    def rescale(self, row_shape: RowShape, location: str) -> _TextPosition:
        """The position in rows of another length; QuantityError where no such row is sure to start there."""
        length, packed_length, tokens = row_shape.length, self.length * self.cuts, self.rows * self.length
        if not self.rows or length == self.length:
            return self if self.rows else _TextPosition.beginning(row_shape)
        if packed_length % length or tokens % length or (self.length % length and not self.is_exact):
            raise QuantityError(
                f"{location}.row_shape.length: wanted a length that divides the {packed_length} tokens of a packed row "
                f"of text and the {tokens:,} tokens of text before this stage. Got {length}. Write {self.length}, or "
                "mix no text in."
            )
        return replace(self, rows=tokens // length, length=length, cuts=packed_length // length)


def source_needs(arm: Arm) -> Iterator[SourceNeed]:
    """What the trunk up to the arm's start and each of its stages read; QuantityError as `Arm.resolved_stages`.

    The text of a stage continues that of the stages before, so its rows include theirs.
    """
    trunk, position = arm.pretrain, None
    if arm.start and not isinstance(trunk, Donor):
        rows = trunk.row_shape.rows(trunk.tokens_at(arm.start))
        position = _TextPosition(rows=rows, length=trunk.row_shape.length, cuts=1, is_exact=True)
        yield from _text_needs(f"{arm.label}: pretrain.text", trunk.text, position, tokenizer=trunk.tokenizer)
    for stage in arm.resolved_stages():
        location = f"{arm.label}: {stage.TAG}"
        text_rows, image_rows, is_exact = _stage_rows(stage)
        if text_rows:
            position = (position or _TextPosition.beginning(stage.row_shape)).rescale(stage.row_shape, location)
            position = position.advance(text_rows, is_exact=is_exact)
            text, epochs = stage.mix.text, _epochs(stage)
            yield from _text_needs(f"{location}.mix.text", text, position, tokenizer=stage.tokenizer, epochs=epochs)
        yield from _image_needs(f"{location}.mix.images", stage, image_rows)


def _epochs(stage: Midtrain | Finetune) -> int:
    return stage.epochs if isinstance(stage, Finetune) else 1


def _text_needs(
    location: str, text: Mixture, position: _TextPosition, *, tokenizer: TokenizerSource, epochs: int = 1
) -> Iterator[SourceNeed]:
    for component, rows in _component_rows(text, -(-position.rows // position.cuts)):
        yield SourceNeed(
            location=location,
            source=component.source,
            rows=rows,
            passes=component.max_epochs * epochs,
            length=position.length * position.cuts,
            image_tokens=0,
            packing="best_fit",
            tokenizer=tokenizer,
        )


def _image_needs(location: str, stage: Midtrain | Finetune, rows: int) -> Iterator[SourceNeed]:
    for component, component_rows in _component_rows(stage.mix.images, rows):
        yield SourceNeed(
            location=location,
            source=component.source,
            rows=component_rows,
            passes=component.max_epochs * _epochs(stage),
            length=stage.row_shape.length,
            image_tokens=stage.model.image_tokens,
            packing=stage.mix.packing,
            tokenizer=stage.tokenizer,
        )


def _stage_rows(stage: Midtrain | Finetune) -> tuple[int, int, bool]:
    """(text rows, image rows, are they exact) of a stage; upper bounds where shares count tokens."""
    spans = stage.mix.spans(stage.row_shape.rows(stage.tokens))
    total = sum(rows for rows, _ in spans)
    if stage.mix.share_unit == "rows" or all(share in (0, 1) for _, share in spans):
        image_rows = sum(floor(rows * share) for rows, share in spans)
        return total - image_rows, image_rows, True
    text_rows, image_rows = (sum(rows for rows, share in spans if share != none) for none in (1, 0))
    return text_rows, image_rows, False


def _component_rows(mixture: Mixture, rows: int) -> Iterator[tuple[WeightedSource, int]]:
    """The most rows that each source of a mixture gives to its first `rows` rows; without those that give none."""
    components = [component for component in mixture.components if component.share]
    for component in components if rows else ():
        bound = floor(rows * component.share) + len(components)  # `data.sampling.source_counts` is closer
        yield component, rows if len(components) == 1 or mixture.share_unit != "rows" else min(rows, bound)


GrownSources = Mapping[SyntheticSource, SyntheticSource]
"""A larger source for each built-in one that is too small."""


def grow_sources(study: Study) -> Study:
    """The study with built-in sources of sufficient size; QuantityError as `source_needs`.

    A source is doubled until it suffices for every arm, and all arms that have it get the larger one, whose records
    begin with those of the smaller. The captions of an encoder's own training stay as they are.
    """
    grown = grown_sources(study)
    return replace(study, arms=tuple(_grow_arm(arm, grown) for arm in study.arms)) if grown else study


def growth_lines(study: Study) -> list[str]:
    """A sentence for each built-in source that is larger than the study states."""
    return [
        f"{source_label(source)}: {size_text(larger)} instead of {size_text(source)}, because the study reads more."
        for source, larger in grown_sources(study).items()
    ]


def grown_sources(study: Study) -> GrownSources:
    """The built-in sources of a study that are too small, with the larger ones that it gets instead."""
    larger: dict[SyntheticSource, SyntheticSource] = {}
    for need in dict.fromkeys(need for arm in study.arms for need in source_needs(arm)):
        source = need.source
        if isinstance(source, SyntheticSource):
            larger[source] = _sufficient(larger.get(source, source), need)
    return {source: replacement for source, replacement in larger.items() if replacement != source}


def _sufficient(source: SyntheticSource, need: SourceNeed) -> SyntheticSource:
    while True:
        rows = guaranteed_rows(
            source, length=need.length, image_tokens=need.image_tokens, packing=need.packing, tokenizer=need.tokenizer
        )
        if rows >= need.rows_of_one_pass:
            return source
        source = doubled(source)


def _grow_arm(arm: Arm, grown: GrownSources) -> Arm:
    trunk = arm.pretrain
    if isinstance(trunk, Pretrain):
        trunk = replace(trunk, text=_grow_mixture(trunk.text, grown))
    return replace(arm, pretrain=trunk, stages=tuple(_grow_stage(stage, grown) for stage in arm.stages))


def _grow_stage(stage: Midtrain | Finetune, grown: GrownSources) -> Midtrain | Finetune:
    mix = stage.mix
    mix = replace(mix, text=_grow_mixture(mix.text, grown), images=_grow_mixture(mix.images, grown))
    return replace(stage, mix=mix)


def _grow_mixture(mixture: Mixture, grown: GrownSources) -> Mixture:
    return replace(mixture, components=tuple(_grow_component(component, grown) for component in mixture.components))


def _grow_component(component: WeightedSource, grown: GrownSources) -> WeightedSource:
    source = component.source
    return replace(component, source=grown.get(source, source)) if isinstance(source, SyntheticSource) else component
