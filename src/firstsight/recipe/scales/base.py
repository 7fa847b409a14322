"""A scale: the complete base arm that studies vary, and the schedule of arms at the ends of the trunk."""

from __future__ import annotations

from dataclasses import dataclass, replace

from firstsight.errors import FieldError, QuantityError
from firstsight.recipe.analysis import Axis
from firstsight.recipe.mixture import DataSource, ImageTextMix, Mixture, PackingMode, single_source
from firstsight.recipe.model import LMSpec, VLMSpec
from firstsight.recipe.schedule import Continue, LRSchedule, Rewarm
from firstsight.recipe.spec import describe, matches, spec
from firstsight.recipe.stages import (
    AdamWSpec,
    Donor,
    Evaluate,
    Finetune,
    Midtrain,
    ModuleTraining,
    Pretrain,
    RowShape,
    Trains,
)
from firstsight.recipe.study import Arm, Horizon
from firstsight.units import Share, Tokens

PAPER_REWARM = Rewarm(peak_lr=3e-3, min_lr=3e-5, warmup=Share(5000, 109_848))
"""Mid-training of the paper's 0 % and 100 % arms: a warm-up in 5000 of 109,848 steps."""
VISION_TASKS = ("vqav2", "gqa", "vizwiz", "textvqa", "refcoco", "ocid_ref", "pope")

START = Axis(name="start", label="Text pre-training before images", unit="percent")
"""The axis of `branch_at`."""

IMAGE_SHARE = Axis(name="image_share", label="Images in mid-training, share of rows", unit="percent", scale="symlog")
"""The axis of `with_image_share`; 0 has a place on it."""

CONTINUED, REWARMED = "continued", "re-warmed"
"""Groups of the arms of `branch_at`, by the learning rate at which they start."""


@spec
class Scale:
    """A size of a study."""

    name: str
    base: Arm
    """Branches at 80 % of the trunk; `branch_at` sets its schedule."""
    rewarm: Rewarm
    """The schedule of arms that cannot continue the trunk's learning rate: 0 % and 100 %."""
    seeds: int
    """The default number of seeds of a study."""

    def with_horizon(self, horizon: Horizon) -> Scale:
        """The scale with that horizon in its base arm, and so in all arms made from it."""
        return replace(self, base=replace(self.base, horizon=horizon))

    def with_decoder(self, lm: LMSpec) -> Scale:
        """The scale with another decoder in its trunk and in every stage, and everything else equal."""
        base = self.base
        if not isinstance(base.pretrain, Pretrain):
            raise QuantityError(f"{self.name}: the decoder of a donor is as published. Got another one for it.")
        stages = tuple(replace(stage, model=replace(stage.model, lm=lm)) for stage in base.stages)
        return replace(self, base=replace(base, pretrain=replace(base.pretrain, model=lm), stages=stages))


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanAssumptions:
    """What a plan of a scale assumes before anything has run."""

    device: str
    """As in `plan.estimate`."""
    utilisation: float = 0.4
    """The part of the device's peak that training reaches."""
    seed_deviation: float = 0.0
    """Standard deviation, from seed to seed, of the difference of two arms' vision scores, a share of 1; 0: unknown."""
    disagreement: float = 0.0
    """Share of the questions that two arms answer with different scores."""


@spec
class StageSettings:
    """The settings in which mid-training and fine-tuning of a scale may differ."""

    images: DataSource
    image_share: Share
    packing: PackingMode
    row_shape: RowShape
    tokens: Tokens
    """Tokens of one epoch."""
    optim: AdamWSpec
    trains: Trains

    def mix(self, text: Mixture) -> ImageTextMix:
        """The stage's images with the trunk's text."""
        return ImageTextMix(
            text=text,
            images=single_source(self.images),
            image_share=self.image_share,
            share_unit="rows",
            packing=self.packing,
        )


def base_arm(
    *,
    pretrain: Pretrain,
    model: VLMSpec,
    midtrain: StageSettings,
    rewarm: Rewarm,
    finetune: StageSettings,
    finetune_lr: float,
    epochs: int,
    evaluate: Evaluate,
) -> Arm:
    """Mid-training from 80 % of the trunk, then `epochs` of fine-tuning.

    The learning rate of fine-tuning warms up to `finetune_lr` over 3 % of its tokens and ends at 0.
    """
    stage = Midtrain(
        model=model,
        tokenizer=pretrain.tokenizer,
        mix=midtrain.mix(pretrain.text),
        row_shape=midtrain.row_shape,
        tokens=midtrain.tokens,
        schedule=rewarm,
        moments="carried",
        optim=midtrain.optim,
        trains=midtrain.trains,
        seed=0,
    )
    tuning = Finetune(
        model=model,
        tokenizer=pretrain.tokenizer,
        mix=finetune.mix(pretrain.text),
        row_shape=finetune.row_shape,
        epoch_tokens=finetune.tokens,
        epochs=epochs,
        schedule=Rewarm(peak_lr=finetune_lr, min_lr=0.0, warmup=Share(3, 100)),
        moments="fresh",
        optim=finetune.optim,
        trains=finetune.trains,
        seed=0,
    )
    return Arm(name="base", seed=0, pretrain=pretrain, start=Share(4, 5), stages=(stage, tuning), evaluate=evaluate)


def adamw(*, z_loss: float) -> AdamWSpec:
    """open_lm's AdamW."""
    return AdamWSpec(beta1=0.9, beta2=0.95, eps=1e-8, max_grad_norm=1.0, z_loss=z_loss)


def trains_decoder(weight_decay: float) -> Trains:
    """What trains in a trunk: the decoder, at the schedule's rate."""
    return Trains(decoder=ModuleTraining(lr_scale=1.0, weight_decay=weight_decay), projector=None, encoder=None)


def trains_decoder_and_projector(weight_decay: float) -> Trains:
    """What trains in the paper's stages: all but the encoder, at the schedule's rate."""
    trunk = trains_decoder(weight_decay)
    return replace(trunk, projector=trunk.decoder)


def branch_at(scale: Scale, start: Share) -> Arm:
    """The base arm with images entering at `start`: `Continue` inside the trunk, `Rewarm` at its two ends.

    It has the coordinate `start` on the axis START, and the group CONTINUED or REWARMED. On a donor the nearest
    checkpoint within `stages.NEAR` stands for `start`, at its own coordinate.
    """
    if not matches(start, Share):
        raise FieldError(f"branch_at: wanted {describe(Share)} as start. Got {start!r}.")
    base = scale.base
    midtrain, *later = base.stages
    if not isinstance(midtrain, Midtrain):
        raise QuantityError(f"images enter in mid-training. Got a base arm of {scale.name} with another first stage.")
    schedule: LRSchedule = scale.rewarm
    group, name = REWARMED, percent_name("start", start)
    if isinstance(base.pretrain, Donor) and start:
        start = base.pretrain.nearest_share(start)
    if 0 < start < 1:
        schedule, group = Continue(min_lr=scale.rewarm.min_lr), CONTINUED
    stages = (replace(midtrain, schedule=schedule), *later)
    return replace(base, name=name, start=start, stages=stages, at={START.name: start}, group=group)


def with_image_share(arm: Arm, share: Share) -> Arm:
    """The arm with that image share in its first stage, as coordinate on the axis IMAGE_SHARE too."""
    first, *later = arm.stages
    first = replace(first, mix=replace(first.mix, image_share=share))
    return replace(arm, stages=(first, *later), at={**arm.at, IMAGE_SHARE.name: share})


def percent_name(word: str, share: Share) -> str:
    """start-020 for exactly 20 %; other shares have decimals: start-019.7, and start-033.33 for a third."""
    percent = share * 100
    if percent.denominator == 1:
        return f"{word}-{percent.numerator:03d}"
    digits = f"{float(percent):06.2f}"
    return f"{word}-{digits[:-2]}{digits[-2:].rstrip('0') or '0'}"
