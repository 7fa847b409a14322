"""One frozen spec for each kind of work on a model: pre-train, mid-train, fine-tune, evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from firstsight.errors import QuantityError
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mixture import (
    DataSource,
    External,
    ImageTextMix,
    Mixture,
    PackingMode,
    SyntheticBenchmarks,
    SyntheticVocabulary,
)
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.schedule import LRSchedule, Rewarm
from firstsight.recipe.vision import VisionSpec
from firstsight.units import Share, Steps, Tokens, steps_for

TokenizerSource = SyntheticVocabulary | External

IGNORE_INDEX = -100
"""Target of a position without loss; torch's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowShape:
    """The fixed shape of a step: `batch` rows of `length` tokens."""

    TAG: ClassVar = "row_shape"
    batch_size: int
    length: int

    @property
    def tokens_per_step(self) -> Tokens:
        """Tokens of one step, padding included: the clock."""
        return Tokens(self.batch_size * self.length)

    def steps(self, tokens: Tokens) -> Steps:
        """Whole steps that cover `tokens`, rounded up."""
        return steps_for(tokens, batch_size=self.batch_size, row_length=self.length)

    def round_up(self, tokens: Tokens) -> Tokens:
        """`tokens` rounded up to whole steps."""
        return Tokens(self.steps(tokens) * self.tokens_per_step)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWSpec:
    """AdamW as open_lm sets it: decay on every parameter, clipped gradients, z-loss beside the cross-entropy."""

    TAG: ClassVar = "adamw"

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    max_grad_norm: float
    z_loss: float
    encoder_lr_scale: float
    """A trained encoder's rate, in times the schedule's; 0 holds it still: no gradients and no moments."""
    encoder_weight_decay: float
    """A trained encoder's weight decay."""

    def __post_init__(self) -> None:
        if self.encoder_lr_scale < 0 or self.encoder_weight_decay < 0:
            raise QuantityError(
                f"an encoder's rate and decay are 0 or above. Got encoder_lr_scale={self.encoder_lr_scale} and "
                f"encoder_weight_decay={self.encoder_weight_decay}. Say 0 to hold the encoder still."
            )


def _check_encoder_optim(optim: AdamWSpec, model: LMSpec | VLMSpec) -> None:
    """Raise QuantityError for an encoder's rate or decay where no encoder trains."""
    if isinstance(model, VLMSpec) and model.encoder == "trained":
        return
    if optim.encoder_lr_scale or optim.encoder_weight_decay:
        reason = "its encoder is frozen" if isinstance(model, VLMSpec) and model.vision.towers else "it has no encoder"
        raise QuantityError(
            f"encoder_lr_scale and encoder_weight_decay must be 0 for this model: {reason}. Got encoder_lr_scale={optim.encoder_lr_scale} "
            f"and encoder_weight_decay={optim.encoder_weight_decay}. Set both to 0.0"
            + (', or say encoder="trained".' if reason == "its encoder is frozen" else ".")
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain:
    """Text pre-training: the trunk that arms branch from."""

    TAG: ClassVar = "pretrain"
    model: LMSpec
    tokenizer: TokenizerSource
    text: Mixture
    packing: PackingMode
    row_shape: RowShape
    tokens: Tokens
    schedule: Rewarm
    optim: AdamWSpec
    seed: int

    def __post_init__(self) -> None:
        _check_encoder_optim(self.optim, self.model)

    def tokens_at(self, share: Share) -> Tokens:
        """Where `share` of the trunk falls, rounded up to a whole step."""
        return (
            self.row_shape.round_up(Tokens(-(-self.tokens * share.numerator // share.denominator)))
            if share
            else Tokens(0)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Donor:
    """A public run in the place of a trunk: its model, the schedule it declares, and its checkpoints that we hold."""

    TAG: ClassVar = "donor"
    model: LMSpec
    tokenizer: TokenizerSource
    row_shape: RowShape
    """Of one of its steps."""
    tokens: Tokens
    """Of the whole run."""
    schedule: Rewarm
    checkpoints: tuple[tuple[Share, External], ...]
    """Where on the run each was taken; folders that `firstsight import` wrote."""

    def __post_init__(self) -> None:
        for share, external in self.checkpoints:
            if external.form != "checkpoint" or not 0 < share <= 1:
                raise QuantityError(
                    f"{external.name}: wanted a Named of form checkpoint, above 0 and at most at 1 of a donor's run. "
                    f'Got {external.form} at {share}. Say form="checkpoint" and where on the run it was taken.'
                )
        shares = [share for share, _ in self.checkpoints]
        repeated_shares = sorted({share for share in shares if shares.count(share) > 1})
        if repeated_shares or not shares:
            problem = f"two at {', '.join(map(str, repeated_shares))}" if repeated_shares else "none"
            raise QuantityError(f"a donor has one checkpoint at each place of its run. Got {problem}. Name each once.")

    def tokens_at(self, share: Share) -> Tokens:
        """Where `share` of the run falls, rounded up to a whole step."""
        return (
            self.row_shape.round_up(Tokens(-(-self.tokens * share.numerator // share.denominator)))
            if share
            else Tokens(0)
        )

    def checkpoint(self, share: Share) -> External:
        """The checkpoint at `share`; QuantityError that names those there are."""
        checkpoints = dict(self.checkpoints)
        if share not in checkpoints:
            raise QuantityError(
                f"wanted a donor with a checkpoint at {share} of its run. Got {', '.join(map(str, sorted(checkpoints)))}. "
                "Start at one of these, or import another."
            )
        return checkpoints[share]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkSegment:
    """The trunk from the end of an earlier segment (or from nothing) to `until`."""

    TAG: ClassVar = "trunk_segment"
    pretrain: Pretrain
    start: Share
    end: Share

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise QuantityError(f"a segment must end after it begins. Got {self.start} to {self.end}.")

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.pretrain.tokens_at(self.end) - self.pretrain.tokens_at(self.start))


@dataclass(frozen=True, kw_only=True, slots=True)
class Midtrain:
    """Image-text training on a text model: images enter here."""

    TAG: ClassVar = "midtrain"
    model: VLMSpec
    tokenizer: TokenizerSource
    mix: ImageTextMix
    """Its text goes on where the stage before stopped reading, unbroken."""
    row_shape: RowShape
    tokens: Tokens
    schedule: LRSchedule
    moments: Literal["carried", "fresh"]
    optim: AdamWSpec
    seed: int

    def __post_init__(self) -> None:
        _check_encoder_optim(self.optim, self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetune:
    """Instruction tuning: loss on answers only, its own schedule for every epoch count. Source: paper section 4."""

    TAG: ClassVar = "finetune"
    model: VLMSpec
    tokenizer: TokenizerSource
    mix: ImageTextMix
    row_shape: RowShape
    epoch_tokens: Tokens
    epochs: int
    schedule: Rewarm
    optim: AdamWSpec
    seed: int

    def __post_init__(self) -> None:
        _check_encoder_optim(self.optim, self.model)

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.epoch_tokens * self.epochs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """Judge a checkpoint on tasks; vision tasks are asked with their picture and, blind, without it."""

    TAG: ClassVar = "evaluate"
    benchmarks: SyntheticBenchmarks | External
    vision_tasks: tuple[str, ...]
    text_tasks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepare:
    """Check, tokenize and index one source."""

    TAG: ClassVar = "prepare"
    source: DataSource
    tokenizer: TokenizerSource


@dataclass(frozen=True, kw_only=True, slots=True)
class Encode:
    """The frozen encoder's features of every picture of a source, computed once for all arms."""

    TAG: ClassVar = "encode"
    source: DataSource
    vision: VisionSpec
