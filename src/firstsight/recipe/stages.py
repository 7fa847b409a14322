"""One frozen spec for each kind of work (train, evaluate, prepare, encode), and learning-rate schedules.

Learning rates are pure functions of the tokens seen since the phase began: the rate of an update is `lr(tokens_seen)`,
where `tokens_seen` includes the update's own batch. So the first warm-up step is not zero, and the last step of a phase
has exactly the minimum. Source: paper Figure 3 and section 2; open_lm's `lr_plot.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar, Literal

from firstsight.errors import QuantityError
from firstsight.recipe.mixture import (
    DataSource,
    External,
    ImageTextMix,
    Mixture,
    PackingMode,
    SyntheticBenchmarks,
    SyntheticVocabulary,
)
from firstsight.recipe.model import LMSpec, VLMSpec
from firstsight.recipe.vision import VisionSpec
from firstsight.units import Share, Steps, Tokens


def _cosine(start: float, end: float, elapsed: int, total: int) -> float:
    if elapsed <= 0 or elapsed >= total:
        return start if elapsed <= 0 else end
    return end + 0.5 * (1 + cos(pi * elapsed / total)) * (start - end)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewarm:
    """Warm up from zero to a peak, then cosine: every trunk, and the paper's 0 % and 100 % arms."""

    TAG: ClassVar = "rewarm"
    peak_lr: float
    min_lr: float
    warmup_tokens: Tokens
    tokens: Tokens

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_tokens < self.tokens:
            tokens = f"{self.warmup_tokens} of {self.tokens} tokens"
            raise QuantityError(f"a warm-up must end before the phase does. Got {tokens}.")

    def lr(self, tokens_seen: Tokens) -> float:
        warmup = self.warmup_tokens
        if tokens_seen < warmup:
            return self.peak_lr * tokens_seen / warmup
        return _cosine(self.peak_lr, self.min_lr, tokens_seen - warmup, self.tokens - warmup)


@dataclass(frozen=True, kw_only=True, slots=True)
class Continue:
    """Start at the trunk's rate at the branch, then cosine, no warm-up: the paper's 20-80 % arms."""

    TAG: ClassVar = "continue"
    trunk: Rewarm
    branch_tokens: Tokens
    min_lr: float
    tokens: Tokens

    def lr(self, tokens_seen: Tokens) -> float:
        return _cosine(self.trunk.lr(self.branch_tokens), self.min_lr, tokens_seen, self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """Start at another arm's initial rate, without warm-up: the reviewers' control arm at 100 %."""

    TAG: ClassVar = "matched"
    reference: LRSchedule
    min_lr: float
    tokens: Tokens

    def lr(self, tokens_seen: Tokens) -> float:
        return _cosine(self.reference.lr(Tokens(0)), self.min_lr, tokens_seen, self.tokens)


LRSchedule = Rewarm | Continue | Matched

TokenizerSource = SyntheticVocabulary | External

IGNORE_INDEX = -100
"""Target of a position without loss; torch's default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowShape:
    """The fixed shape of a step: `batch_size` rows of `length` tokens."""

    TAG: ClassVar = "row_shape"
    batch_size: int
    length: int

    @property
    def tokens_per_step(self) -> Tokens:
        """Padding included: the tokens that schedules and budgets count."""
        return Tokens(self.batch_size * self.length)

    def steps(self, tokens: Tokens) -> Steps:
        """Whole steps that cover `tokens`, rounded up."""
        if tokens <= 0:
            size = f"{self.batch_size} x {self.length}"
            raise QuantityError(f"a budget needs at least one step of {size} tokens. Got {tokens} tokens.")
        return Steps(-(-tokens // self.tokens_per_step))

    def rows(self, tokens: Tokens) -> int:
        """Rows of the steps that cover `tokens`."""
        return self.steps(tokens) * self.batch_size

    def round_up(self, tokens: Tokens) -> Tokens:
        """`tokens` rounded up to whole steps."""
        return Tokens(self.steps(tokens) * self.tokens_per_step)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWSpec:
    """AdamW as open_lm sets it: weight decay on every parameter, gradient clipping, z-loss."""

    TAG: ClassVar = "adamw"
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    max_grad_norm: float
    z_loss: float
    encoder_lr_scale: float
    """A trained encoder's learning rate, as a multiple of the schedule's; at 0 it has no gradients and no moments."""
    encoder_weight_decay: float

    def __post_init__(self) -> None:
        if self.encoder_lr_scale < 0 or self.encoder_weight_decay < 0:
            raise QuantityError(
                "an encoder's learning rate and weight decay are 0 or above. "
                f"Got {self._encoder_settings()}. Set 0 to keep the encoder fixed."
            )

    def check_encoder(self, model: LMSpec | VLMSpec) -> None:
        """Raise QuantityError for an encoder's learning rate or weight decay where no encoder trains."""
        if isinstance(model, VLMSpec) and model.encoder == "trained":
            return
        if self.encoder_lr_scale or self.encoder_weight_decay:
            reason, advice = "it has no encoder", ""
            if isinstance(model, VLMSpec) and model.vision.towers:
                reason, advice = "its encoder is frozen", ', or set encoder="trained"'
            raise QuantityError(
                f"encoder_lr_scale and encoder_weight_decay must be 0 for this model: {reason}. "
                f"Got {self._encoder_settings()}. Set both to 0.0{advice}."
            )

    def _encoder_settings(self) -> str:
        return f"encoder_lr_scale={self.encoder_lr_scale} and encoder_weight_decay={self.encoder_weight_decay}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _TextRun:
    """The fields that a trunk and a donor have in common."""

    model: LMSpec
    tokenizer: TokenizerSource
    row_shape: RowShape
    tokens: Tokens
    schedule: Rewarm

    def tokens_at(self, share: Share) -> Tokens:
        """The tokens up to `share` of the run, rounded up to a whole step."""
        return self.row_shape.round_up(Tokens(-(-self.tokens * share // 1))) if share else Tokens(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain(_TextRun):
    """Text pre-training: the trunk that arms branch from."""

    TAG: ClassVar = "pretrain"
    text: Mixture
    packing: PackingMode
    optim: AdamWSpec
    seed: int

    def __post_init__(self) -> None:
        self.optim.check_encoder(self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class Donor(_TextRun):
    """A public run in place of a trunk: its model, its published schedule, and the available checkpoints."""

    TAG: ClassVar = "donor"
    checkpoints: tuple[tuple[Share, External], ...]
    """(share of the run, folder that `firstsight import` wrote) of each checkpoint."""

    def __post_init__(self) -> None:
        for share, external in self.checkpoints:
            if external.form != "checkpoint" or not 0 < share <= 1:
                raise QuantityError(
                    f"{external.name}: wanted an External of form checkpoint at a share of the run above 0 and up "
                    f'to 1. Got {external.form} at {share}. Set form="checkpoint" and the share where it was saved.'
                )
        shares = [share for share, _ in self.checkpoints]
        repeated = sorted({share for share in shares if shares.count(share) > 1})
        if repeated or not shares:
            problem = f"two at {', '.join(map(str, repeated))}" if repeated else "none"
            raise QuantityError(f"a donor has one checkpoint at each share of its run. Got {problem}. Name each once.")

    def checkpoint(self, share: Share) -> External:
        """The checkpoint at `share`; QuantityError that lists the shares that exist."""
        checkpoints = dict(self.checkpoints)
        if share not in checkpoints:
            shares = f"{', '.join(map(str, sorted(checkpoints)))}. Start at one of these, or import another"
            raise QuantityError(f"wanted a checkpoint of the donor at {share} of its run. Got {shares}.")
        return checkpoints[share]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkSegment:
    """The part of a trunk from `start` (the end of the previous segment, or 0) to `end`."""

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
class _ImageTextStage:
    """The fields that mid-training and fine-tuning have in common."""

    model: VLMSpec
    tokenizer: TokenizerSource
    mix: ImageTextMix
    """Its text starts where the previous stage stopped reading."""
    row_shape: RowShape
    optim: AdamWSpec
    seed: int

    def __post_init__(self) -> None:
        self.optim.check_encoder(self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class Midtrain(_ImageTextStage):
    """Image-text training, which continues a text model."""

    TAG: ClassVar = "midtrain"
    tokens: Tokens
    schedule: LRSchedule
    moments: Literal["carried", "fresh"]
    """AdamW's moments of the parameters that the previous stage had; those of new parameters start at 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetune(_ImageTextStage):
    """Instruction tuning: loss on answers only, a schedule over all of its epochs. Source: paper section 4."""

    TAG: ClassVar = "finetune"
    epoch_tokens: Tokens
    epochs: int
    schedule: Rewarm

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.epoch_tokens * self.epochs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """Evaluate a checkpoint on tasks; vision tasks are run with their images and, as blind baselines, without them."""

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
    """The frozen encoder's features of every image of a source, computed once for all arms."""

    TAG: ClassVar = "encode"
    source: DataSource
    vision: VisionSpec
