"""One frozen spec for each kind of work on a model: pre-train, mid-train, fine-tune, evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from firstsight.errors import QuantityError
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mix import Benchmarks, Blend, Mix, Named, Packing, Source, Vocabulary
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.schedule import Rate, Rewarm
from firstsight.recipe.vision import VisionSpec
from firstsight.units import Share, Steps, Tokens, steps_for

Tokenizer = Vocabulary | Named


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The fixed shape of a step: `batch` rows of `length` tokens."""

    batch: int
    length: int

    @property
    def tokens(self) -> Tokens:
        """Tokens of one step, padding included: the clock."""
        return Tokens(self.batch * self.length)

    def steps(self, tokens: Tokens) -> Steps:
        """Whole steps that cover `tokens`, rounded up."""
        return steps_for(tokens, batch=self.batch, row=self.length)

    def whole(self, tokens: Tokens) -> Tokens:
        """`tokens` rounded up to whole steps."""
        return Tokens(self.steps(tokens) * self.tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adam:
    """AdamW as open_lm sets it: decay on every parameter, clipped gradients, z-loss beside the cross-entropy."""

    beta1: float
    beta2: float
    eps: float
    decay: float
    clip: float
    z_loss: float
    encoder_rate: float
    """A trained encoder's rate, in times the schedule's; 0 holds it still: no gradients and no moments."""
    encoder_decay: float
    """A trained encoder's weight decay."""

    def __post_init__(self) -> None:
        if self.encoder_rate < 0 or self.encoder_decay < 0:
            raise QuantityError(
                f"an encoder's rate and decay are 0 or above. Got encoder_rate={self.encoder_rate} and "
                f"encoder_decay={self.encoder_decay}. Say 0 to hold the encoder still."
            )


def _check_eyes(optim: Adam, model: LMSpec | VLMSpec) -> None:
    """Raise QuantityError for an encoder's rate or decay where no encoder trains."""
    if isinstance(model, VLMSpec) and model.encoder == "trained":
        return
    if optim.encoder_rate or optim.encoder_decay:
        still = "its encoder is frozen" if isinstance(model, VLMSpec) and model.vision.towers else "it has no encoder"
        raise QuantityError(
            f"encoder_rate and encoder_decay must be 0 for this model: {still}. Got encoder_rate={optim.encoder_rate} "
            f"and encoder_decay={optim.encoder_decay}. Set both to 0.0"
            + (', or say encoder="trained".' if still == "its encoder is frozen" else ".")
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain:
    """Text pre-training: the trunk that arms branch from."""

    model: LMSpec
    tokenizer: Tokenizer
    text: Blend
    packing: Packing
    rows: Rows
    tokens: Tokens
    rate: Rewarm
    optim: Adam
    seed: int

    def __post_init__(self) -> None:
        _check_eyes(self.optim, self.model)

    def at(self, share: Share) -> Tokens:
        """Where `share` of the trunk falls, rounded up to a whole step."""
        return self.rows.whole(Tokens(-(-self.tokens * share.numerator // share.denominator))) if share else Tokens(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Donor:
    """A public run in the place of a trunk: its model, the schedule it declares, and its checkpoints that we hold."""

    model: LMSpec
    tokenizer: Tokenizer
    rows: Rows
    """Of one of its steps."""
    tokens: Tokens
    """Of the whole run."""
    rate: Rewarm
    checkpoints: tuple[tuple[Share, Named], ...]
    """Where on the run each was taken; folders that `firstsight import` wrote."""

    def __post_init__(self) -> None:
        for share, named in self.checkpoints:
            if named.form != "checkpoint" or not 0 < share <= 1:
                raise QuantityError(
                    f"{named.name}: wanted a Named of form checkpoint, above 0 and at most at 1 of a donor's run. "
                    f'Got {named.form} at {share}. Say form="checkpoint" and where on the run it was taken.'
                )
        shares = [share for share, _ in self.checkpoints]
        double = sorted({share for share in shares if shares.count(share) > 1})
        if double or not shares:
            told = f"two at {', '.join(map(str, double))}" if double else "none"
            raise QuantityError(f"a donor has one checkpoint at each place of its run. Got {told}. Name each once.")

    def at(self, share: Share) -> Tokens:
        """Where `share` of the run falls, rounded up to a whole step."""
        return self.rows.whole(Tokens(-(-self.tokens * share.numerator // share.denominator))) if share else Tokens(0)

    def checkpoint(self, share: Share) -> Named:
        """The checkpoint at `share`; QuantityError that names those there are."""
        found = dict(self.checkpoints)
        if share not in found:
            raise QuantityError(
                f"wanted a donor with a checkpoint at {share} of its run. Got {', '.join(map(str, sorted(found)))}. "
                "Start at one of these, or import another."
            )
        return found[share]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """The trunk from the end of an earlier segment (or from nothing) to `until`."""

    pretrain: Pretrain
    since: Share
    until: Share

    def __post_init__(self) -> None:
        if not self.since < self.until:
            raise QuantityError(f"a segment must end after it begins. Got {self.since} to {self.until}.")

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.pretrain.at(self.until) - self.pretrain.at(self.since))


@dataclass(frozen=True, kw_only=True, slots=True)
class Midtrain:
    """Image-text training on a text model: images enter here."""

    model: VLMSpec
    tokenizer: Tokenizer
    mix: Mix
    """Its text goes on where the stage before stopped reading, unbroken."""
    rows: Rows
    tokens: Tokens
    rate: Rate
    moments: Literal["carried", "fresh"]
    optim: Adam
    seed: int

    def __post_init__(self) -> None:
        _check_eyes(self.optim, self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetune:
    """Instruction tuning: loss on answers only, its own schedule for every epoch count. Source: paper section 4."""

    model: VLMSpec
    tokenizer: Tokenizer
    mix: Mix
    rows: Rows
    epoch: Tokens
    epochs: int
    rate: Rewarm
    optim: Adam
    seed: int

    def __post_init__(self) -> None:
        _check_eyes(self.optim, self.model)

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.epoch * self.epochs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """Judge a checkpoint on tasks; vision tasks are asked with their picture and, blind, without it."""

    benchmarks: Benchmarks | Named
    vision: tuple[str, ...]
    text: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepare:
    """Check, tokenize and index one source."""

    source: Source
    tokenizer: Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Encode:
    """The frozen encoder's features of every picture of a source, computed once for all arms."""

    source: Source
    vision: VisionSpec
