"""Built-in sources that are as large as a study needs: too small ones are replaced by larger ones of the same kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from firstsight.plan.source_needs import SourceNeed, source_needs
from firstsight.recipe.mixture import Mixture, WeightedSource, source_label
from firstsight.recipe.stages import Finetune, Midtrain, Pretrain
from firstsight.recipe.study import Arm, Study
from firstsight.recipe.synthetic_sizes import SyntheticSource, doubled, guaranteed_rows, size_text

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
