"""How do published recipes compare at equal budgets? The approaches of the paper's Table 1.

Hypothesis: images that enter before the end of text pre-training, in a small share beside text, give more vision and
keep more text than the recipes that start from a finished language model.
Arms: each recipe by the stages that exist here: where it leaves the trunk, what each stage reads and trains, and its
schedule. `docs/reference/approaches.md` says what of each is published, what is inferred and what is left out.
Budget: after the trunk every arm trains on as many tokens as the scale's mid-training and fine-tuning. Stages before
the fine-tuning divide those of mid-training; the fine-tuning is the scale's own, but for what it trains.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: another recipe scores above the paper's own in vision beyond the interval over seeds.
Recipes are compared, not models: decoder, encoder, projector, resolution and peak rates are the scale's in all arms.
The paper trains none of the others, so that its Table 1 has no scores to compare with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import floor
from typing import NamedTuple

from firstsight.recipe.analysis import Axis, Bars, Claim, Comparison, ParetoFront
from firstsight.recipe.mixture import (
    DataSource,
    External,
    Mixture,
    SyntheticCaptions,
    SyntheticInterleaved,
    SyntheticMultitask,
    WeightedSource,
)
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.schedule import SameCurve
from firstsight.recipe.stages import Finetune, Midtrain, Trains
from firstsight.recipe.study import Arm, Horizon, Study, over_seeds
from firstsight.studies.when import trunk_arm
from firstsight.units import Share, Tokens

APPROACH = Axis(name="approach", label="Recipe", unit="category")

OBELICS = External(name="obelics", form="interleaved", tokens=Tokens(115_000_000_000), records=141_000_000)
"""141M documents with 353M images and 115B text tokens. Source: Laurençon et al. 2023 (OBELICS), abstract."""
MULTITASK = External(name="cambrian-10m", form="dialogues", tokens=Tokens(9_784_000 * 180), records=9_784_000)
"""9.784M dialogues of many tasks; the multi-task data of Qwen-VL and PaliGemma is not public. Source: Tong et al. 2024
(Cambrian-1), section 4. The tokens of a dialogue are estimated as those of LLaVA."""
MULTITASK_EPOCHS = 3
"""The most passes: at 1b the budget has 28M rows of images."""
ENCODER_LR_SCALE = 0.1
"""The rate of a trained encoder, as a multiple of the model's. Source: Wu et al. 2024 (DeepSeek-VL2), Table 2; the
other publications do not say, or have one rate."""

ALL = ("decoder", "projector", "encoder")
CONNECTED = ("decoder", "projector")


class Phase(NamedTuple):
    """One stage of a recipe before its fine-tuning."""

    budget: Share
    """Of the tokens before the fine-tuning."""
    images: Share
    """Of its rows."""
    data: dict[str, int]
    """Parts of the image data by its kind: captions, interleaved, multitask, reading (multitask with more words and
    boxes)."""
    trains: tuple[str, ...]
    is_same_curve: bool = False
    """Its learning rate goes on along the curve of the stage before; else it re-warms."""


class Approach(NamedTuple):
    """A published recipe."""

    start: Share
    phases: tuple[Phase, ...]
    tuned: tuple[str, ...]
    """What its fine-tuning trains."""


def _joint(images: Share, data: dict[str, int], trains: tuple[str, ...]) -> tuple[Phase, ...]:
    """A single stage."""
    return (Phase(Share(1), images, data, trains),)


def _aligned(images: Share, data: dict[str, int], trains: tuple[str, ...], *first: str) -> tuple[Phase, ...]:
    """A twentieth of the budget in which the modules `first` train on captions, then one stage."""
    return (
        Phase(Share(1, 20), Share(1), {"captions": 1}, first),
        Phase(Share(19, 20), images, data, trains),
    )


_MM1_DATA = {"captions": 1, "interleaved": 1}
APPROACHES: dict[str, Approach] = {
    "blip3": Approach(
        Share(1), _joint(Share(1), {"interleaved": 5, "captions": 3, "multitask": 2}, CONNECTED), CONNECTED
    ),
    "flamingo": Approach(Share(1), _joint(Share(1), {"interleaved": 5, "captions": 2}, ("projector",)), ("projector",)),
    "idefics": Approach(Share(1), _joint(Share(1), {"interleaved": 4, "captions": 1}, ("projector",)), ALL),
    **{
        f"mm1-{percent:03d}": Approach(Share(1), _joint(Share(percent, 100), _MM1_DATA, ALL), ALL)
        for percent in (100, 91, 86, 66)
    },
    "deepseek-vl": Approach(
        Share(4, 5),
        _aligned(Share(3, 10), {"interleaved": 9, "captions": 7, "multitask": 4}, CONNECTED, "projector"),
        ALL,
    ),
    "deepseek-vl2": Approach(
        Share(1),
        _aligned(Share(7, 10), {"interleaved": 3, "captions": 4, "multitask": 3}, ALL, "projector", "encoder"),
        ALL,
    ),
    "qwen-vl": Approach(
        Share(1),
        (
            Phase(Share(3, 4), Share(1), {"captions": 1}, ("projector", "encoder")),
            Phase(Share(1, 4), Share(9, 10), {"multitask": 1}, ALL),
        ),
        CONNECTED,
    ),
    "paligemma": Approach(
        Share(1),
        (
            Phase(Share(9, 10), Share(1), {"multitask": 1}, ALL),
            Phase(Share(1, 10), Share(1), {"reading": 1}, ALL, is_same_curve=True),
        ),
        ALL,
    ),
    "janus": Approach(Share(1), _aligned(Share(2, 5), {"captions": 1, "interleaved": 1}, CONNECTED, "projector"), ALL),
    "prismatic": Approach(Share(1), _joint(Share(0), {"captions": 1}, ("decoder",)), CONNECTED),
}
"""By the name of its arm."""
PREFIX_ATTENTION = ("paligemma",)
"""Recipes in which the tokens of an image attend to each other in both directions."""

OWN_BEST = Claim(
    name="own-best",
    statement="The paper's recipe gives more vision than recipes that train a finished language model on images.",
    source="paper, Table 1 and Figure 4",
    compare=(
        Comparison(
            arms=("paper",),
            others=tuple(name for name, approach in APPROACHES.items() if approach.start == 1),
            measure="vision",
        ),
    ),
    published="Table 1 compares the recipes in words; the paper trains none of the others.",
    caution="Each recipe was published with other data, sizes and budgets, at which it may do better.",
)
TEXT_SHARE = Claim(
    name="text-share",
    statement="A third of text in MM1's recipe keeps more text than none.",
    source="MM1 (McKinzie et al. 2024), Figure 5",
    compare=(Comparison(arms=("mm1-066",), others=("mm1-100",), measure="text"),),
    published="TextCore of 52.2, 54.0 and 54.6 with growing shares of text, as a review of the paper quotes MM1.",
    caution="Not a claim of the paper itself. MM1 measured it before fine-tuning.",
)


def approaches(scale: Scale, horizon: Horizon = "branch") -> Study:
    """The published recipes and the paper's own at equal budgets, and the finished trunk on text tasks alone."""
    scale = scale.with_horizon(horizon)
    own = replace(branch_at(scale, Share(4, 5)), name="paper", at={APPROACH.name: "paper"}, group="")
    arms = [trunk_arm(scale), own, *(approach_arm(scale, name, approach) for name, approach in APPROACHES.items())]
    return Study(
        name="approaches",
        scale=scale.name,
        question="Which published way of adding images to a language model is best at an equal budget?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
        axes=(APPROACH,),
        figures=(Bars(x=APPROACH.name), ParetoFront()),
        claims=(OWN_BEST, TEXT_SHARE),
    )


def approach_arm(scale: Scale, name: str, approach: Approach) -> Arm:
    """The arm of one recipe."""
    midtrain, finetune = scale.base.stages
    assert isinstance(midtrain, Midtrain) and isinstance(finetune, Finetune)
    trains_encoder = any("encoder" in trained for trained in (approach.tuned, *(p.trains for p in approach.phases)))
    model = replace(
        midtrain.model,
        encoder="included" if trains_encoder else midtrain.model.encoder,
        stores_features=midtrain.model.stores_features and not trains_encoder,
        attention="prefix" if name in PREFIX_ATTENTION else midtrain.model.attention,
    )
    stages = _phase_stages(replace(midtrain, model=model, schedule=scale.rewarm), approach.phases)
    tuned = replace(finetune, model=model, trains=_trains(finetune.trains, approach.tuned))
    start = branch_at(scale, approach.start).start
    return replace(scale.base, name=name, start=start, stages=(*stages, tuned), at={APPROACH.name: name})


def _phase_stages(midtrain: Midtrain, phases: tuple[Phase, ...]) -> Iterator[Midtrain]:
    """The phases as stages of whole steps, which together have the tokens of `midtrain`, and its schedule."""
    (component,) = midtrain.mix.images.components
    sources, step = image_sources(component.source), midtrain.row_shape.tokens_per_step
    rest = midtrain.tokens
    for phase in phases:
        tokens = rest if phase is phases[-1] else Tokens(floor(midtrain.tokens * phase.budget) // step * step)
        rest, parts = Tokens(rest - tokens), sum(phase.data.values())
        components = [replace(sources[kind], share=Share(count, parts)) for kind, count in phase.data.items()]
        images = Mixture(components=tuple(components), share_unit="rows")
        yield replace(
            midtrain,
            tokens=tokens,
            mix=replace(midtrain.mix, images=images, image_share=phase.images),
            schedule=SameCurve() if phase.is_same_curve else midtrain.schedule,
            trains=_trains(midtrain.trains, phase.trains),
        )


def image_sources(captions: DataSource) -> dict[str, WeightedSource]:
    """Image data by kind: of the world of `captions`, or public sets beside the user's captions."""
    interleaved, multitask, reading, epochs = OBELICS, MULTITASK, MULTITASK, MULTITASK_EPOCHS
    if isinstance(captions, SyntheticCaptions):
        world, images, epochs = captions.world, captions.images, 1
        interleaved = SyntheticInterleaved(world=world, documents=images, max_images=3)
        shares = dict.fromkeys(("captions", "words", "boxes", "dialogues"), Share(1, 4))
        multitask = SyntheticMultitask(world=world, images=2 * images, turns=2, **shares)
        more, less = Share(3, 8), Share(1, 8)
        reading = replace(multitask, captions=less, words=more, boxes=more, dialogues=less)
    kinds = {"captions": (captions, 1), "interleaved": (interleaved, 1)}
    kinds |= {"multitask": (multitask, epochs), "reading": (reading, epochs)}
    return {
        kind: WeightedSource(source=source, share=Share(1), max_epochs=passes)
        for kind, (source, passes) in kinds.items()
    }


def _trains(base: Trains, modules: tuple[str, ...]) -> Trains:
    """The modules at the rates and weight decays of `base`; the encoder at ENCODER_LR_SCALE."""
    assert base.decoder is not None
    return Trains(
        decoder=base.decoder if "decoder" in modules else None,
        projector=base.projector if "projector" in modules else None,
        encoder=replace(base.decoder, lr_scale=ENCODER_LR_SCALE) if "encoder" in modules else None,
    )
