"""One frozen spec for each kind of work (train, evaluate, prepare, encode), and the learning-rate curves of stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from math import ceil
from typing import ClassVar, Literal, cast

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
from firstsight.recipe.schedule import (
    Continue,
    CosineFrom,
    CurvePoint,
    LRSchedule,
    Matched,
    ResolvedSchedule,
    Rewarm,
    SameCurve,
)
from firstsight.recipe.spec import OMITTED_AT_DEFAULT, check_positive, spec
from firstsight.recipe.vision import VisionSpec
from firstsight.units import Share, Steps, Tokens

TokenizerSource = SyntheticVocabulary | External

IGNORE_INDEX = -100
"""Target of a position without loss; torch's default."""
NEAR = Share(2, 100)
"""The farthest that a donor's checkpoint may be from a share of its run to stand for it."""
TRUNK_GRID = tuple(Share(percent, 100) for percent in (20, 40, 60, 80, 100))
"""Where the trunk of every study ends a segment, so that studies share their trunk: the paper's starts."""


@spec
class RowShape:
    """The fixed shape of a step: `batch_size` rows of `length` tokens."""

    TAG: ClassVar = "row_shape"
    batch_size: int
    length: int

    def __post_init__(self) -> None:
        check_positive(self, ("batch_size", "length"))

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


@spec
class AdamWSpec:
    """AdamW as open_lm sets it: gradient clipping and z-loss; `Trains` has the weight decay of each module."""

    TAG: ClassVar = "adamw"
    beta1: float
    beta2: float
    eps: float
    max_grad_norm: float
    z_loss: float


@spec
class ModuleTraining:
    """How one module trains: its learning rate as a multiple of the schedule's, and its weight decay."""

    TAG: ClassVar = "module_training"
    lr_scale: float
    weight_decay: float

    def __post_init__(self) -> None:
        if not (self.lr_scale > 0 and self.weight_decay >= 0):
            got = f"lr_scale={self.lr_scale} and weight_decay={self.weight_decay}"
            raise QuantityError(
                f"a trained module has an lr_scale above 0 and a weight_decay of 0 or above. Got {got}. "
                "Write None in place of the ModuleTraining to freeze the module."
            )


@spec
class Trains:
    """What trains in a stage; None is frozen: neither gradients nor moments, and no weight decay."""

    TAG: ClassVar = "trains"
    decoder: ModuleTraining | None
    projector: ModuleTraining | None
    """With the patch projection, if the model has one."""
    encoder: ModuleTraining | None

    def check(self, model: LMSpec | VLMSpec) -> None:
        """Raise QuantityError if nothing trains, or a module that the checkpoint does not have."""
        if self.decoder is None and self.projector is None and self.encoder is None:
            raise QuantityError("trains: every module is frozen. Leave the stage out, or give one a ModuleTraining.")
        if not isinstance(model, VLMSpec):
            if self.projector or self.encoder:
                raise QuantityError("trains: a text model has a decoder only. Write projector=None, encoder=None.")
        elif self.encoder and model.encoder != "included":
            advice = "Write encoder=None"
            if model.vision.towers:
                advice += ', or encoder="included" in the model of this stage and of all later ones'
            raise QuantityError(f"trains.encoder: the checkpoint has no encoder to train. {advice}.")


@spec
class _TextRun:
    """The fields that a trunk and a donor have in common."""

    model: LMSpec
    tokenizer: TokenizerSource
    row_shape: RowShape
    tokens: Tokens
    schedule: Rewarm

    @property
    def rounded_tokens(self) -> Tokens:
        """`tokens` rounded up to whole steps: the length of the run."""
        return self.row_shape.round_up(self.tokens)

    @property
    def curve_tokens(self) -> Tokens:
        """The length of the curve of learning rates: that of the run."""
        return self.rounded_tokens

    def lr(self, tokens_seen: Tokens) -> float:
        """The learning rate of the update that reaches `tokens_seen`."""
        return self.schedule.lr(tokens_seen, self.curve_tokens)

    def tokens_at(self, share: Share) -> Tokens:
        """The tokens up to `share` of the run, rounded up to a whole step."""
        return self.row_shape.round_up(Tokens(-(-self.tokens * share // 1))) if share else Tokens(0)


@spec
class Pretrain(_TextRun):
    """Text pre-training: the trunk that arms branch from."""

    TAG: ClassVar = "pretrain"
    text: Mixture
    packing: PackingMode
    optim: AdamWSpec
    trains: Trains
    seed: int

    def __post_init__(self) -> None:
        check_positive(self, ("tokens",))
        self.trains.check(self.model)


@spec
class Donor(_TextRun):
    """A public run in place of a trunk: its model, its published schedule, and the available checkpoints."""

    TAG: ClassVar = "donor"
    checkpoints: tuple[tuple[Share, External], ...]
    """(share of the run, folder that `firstsight import` wrote) of each checkpoint."""
    schedule_tokens: Tokens | None = field(default=None, metadata=OMITTED_AT_DEFAULT)
    """The length of its curve of learning rates, where the run ended before the curve did."""

    @property
    def curve_tokens(self) -> Tokens:
        """The length of the curve of learning rates."""
        return self.rounded_tokens if self.schedule_tokens is None else self.row_shape.round_up(self.schedule_tokens)

    def nearest_share(self, share: Share) -> Share:
        """The share of the checkpoint nearest to `share`, within NEAR; else `share` itself."""
        nearest = min((other for other, _ in self.checkpoints), key=lambda other: abs(other - share))
        return nearest if abs(nearest - share) <= NEAR else share

    def __post_init__(self) -> None:
        check_positive(self, ("tokens",))
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


@spec
class PublicModel:
    """A finished model of others in transformers' layout: evaluated as it is, without stages and without seeds."""

    TAG: ClassVar = "public_model"
    weights: External

    def __post_init__(self) -> None:
        if self.weights.form != "model":
            raise QuantityError(f'{self.weights.name}: wanted an External of form "model". Got {self.weights.form}.')

    @property
    def rounded_tokens(self) -> Tokens:
        """0: how many tokens it was trained on is not declared."""
        return Tokens(0)

    def tokens_at(self, share: Share) -> Tokens:
        """0 at every share."""
        return Tokens(0)


@spec
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


@spec
class LastCheckpoints:
    """The checkpoints that a stage publishes towards its end, for an evaluation of their average and their spread."""

    TAG: ClassVar = "last_checkpoints"
    count: int
    """With the one at the end of the stage, which every stage publishes."""
    every: Share
    """Of the stage's tokens, from one to the next; rounded up to whole steps."""

    def __post_init__(self) -> None:
        if self.count < 2 or not 0 < self.every < 1:
            got = f"count={self.count}, every={self.every}"
            raise QuantityError(
                f"the last checkpoints of a stage are at least 2, apart by a share between 0 and 1. Got {got}. "
                "Write count=4, every=Share(1, 20), or last_checkpoints=None for the one at the end."
            )


@spec
class _ImageTextStage:
    """The fields that mid-training and fine-tuning have in common."""

    LENGTHS: ClassVar[tuple[str, ...]]
    """The fields that make the stage's length."""
    model: VLMSpec
    tokenizer: TokenizerSource
    mix: ImageTextMix
    """Its text starts where the previous stage stopped reading."""
    row_shape: RowShape
    schedule: LRSchedule | ResolvedSchedule
    """As the recipe states it; in a step of a plan as `Arm.resolved_stages` derives it from the stages before."""
    moments: Literal["carried", "fresh"]
    """carried: AdamW's moments of the parameters that the previous stage trained; others start at 0."""
    optim: AdamWSpec
    trains: Trains
    seed: int
    last_checkpoints: LastCheckpoints | None = field(default=None, metadata=OMITTED_AT_DEFAULT)
    """None: only the one at the end."""

    def __post_init__(self) -> None:
        check_positive(self, self.LENGTHS)
        self.trains.check(self.model)

    @property
    def checkpoint_tokens(self) -> tuple[int, ...]:
        """Tokens from the start of the stage to each published checkpoint, the last one first; `plan.refusals` refuses
        a stage in which one is below 1."""
        end, last = self.rounded_tokens, self.last_checkpoints
        if last is None:
            return (end,)
        spacing = self.row_shape.round_up(Tokens(ceil(end * last.every)))
        return tuple(end - number * spacing for number in range(last.count))

    @property
    def rounded_tokens(self) -> Tokens:
        """`tokens` rounded up to whole steps: the length of the stage and of its schedule."""
        return self.row_shape.round_up(cast("Midtrain | Finetune", self).tokens)

    def lr(self, tokens_seen: Tokens) -> float:
        """The learning rate of the update that reaches `tokens_seen`, counted from the start of the stage.

        QuantityError for a schedule that depends on the stages before and has not been resolved.
        """
        schedule = self.schedule
        if not isinstance(schedule, ResolvedSchedule):
            got = f"Got {type(schedule).__name__}, whose rates depend on the stages before"
            raise QuantityError(f"wanted a resolved schedule. {got}. Take the stage from Arm.resolved_stages().")
        return schedule.lr(tokens_seen, self.rounded_tokens)


@spec
class Midtrain(_ImageTextStage):
    """Image-text training, which continues a text model."""

    TAG: ClassVar = "midtrain"
    LENGTHS: ClassVar = ("tokens",)
    tokens: Tokens


@spec
class Finetune(_ImageTextStage):
    """Instruction tuning: loss on answers only. Source: paper section 4."""

    TAG: ClassVar = "finetune"
    LENGTHS: ClassVar = ("epoch_tokens", "epochs")
    epoch_tokens: Tokens
    epochs: int

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.epoch_tokens * self.epochs)


@spec
class Evaluate:
    """Evaluate a checkpoint on tasks; vision tasks are run with their images and, as blind baselines, without them."""

    TAG: ClassVar = "evaluate"
    benchmarks: SyntheticBenchmarks | External
    vision_tasks: tuple[str, ...]
    text_tasks: tuple[str, ...]
    average: int = field(default=1, metadata=OMITTED_AT_DEFAULT)
    """The scores are those of the mean of the weights of that many of the stage's last checkpoints."""
    each_of_last: int = field(default=0, metadata=OMITTED_AT_DEFAULT)
    """That many of the last checkpoints are evaluated besides, each by itself, for the spread of their scores."""
    checkpoint: int = field(default=0, metadata=OMITTED_AT_DEFAULT)
    """Which of the last checkpoints is evaluated, counted back from the end of the stage: 0 is the one there."""

    def __post_init__(self) -> None:
        if self.checkpoint < 0 or (self.checkpoint and (self.average, self.each_of_last) != (1, 0)):
            raise QuantityError(
                "an evaluation of an earlier checkpoint counts it back from the end, and averages none. "
                f"Got checkpoint={self.checkpoint}, average={self.average}, each_of_last={self.each_of_last}."
            )
        if self.average < 1 or self.each_of_last < 0 or self.each_of_last == 1:
            raise QuantityError(
                "an evaluation averages at least 1 checkpoint, and evaluates none or at least 2 by themselves. "
                f"Got average={self.average}, each_of_last={self.each_of_last}."
            )

    @property
    def checkpoints(self) -> int:
        """How many of the last checkpoints it reads."""
        return max(self.average, self.each_of_last, self.checkpoint + 1)

    @property
    def evaluated_models(self) -> int:
        """How many models answer the questions; the last checkpoint only once."""
        return 1 + self.each_of_last - (self.average == 1 and self.each_of_last > 0)


@spec
class Prepare:
    """Check, tokenize and index one source."""

    TAG: ClassVar = "prepare"
    source: DataSource
    tokenizer: TokenizerSource


@spec
class Encode:
    """An external encoder's features of every image of a source, computed once for all arms."""

    TAG: ClassVar = "encode"
    source: DataSource
    vision: VisionSpec
    fixed_batches: bool = field(default=False, metadata=OMITTED_AT_DEFAULT)
    """In batches that do not change an image's features (`model.vision.extract_fixed`), and in files of about 1 GB."""


Stage = Midtrain | Finetune


def resolve_schedules(
    stages: Sequence[Stage], *, trunk: Pretrain | Donor, start: Share, location: str
) -> tuple[Stage, ...]:
    """The stages with the curves that they follow; the first branches off at `start` of the trunk.

    QuantityError, which begins with `location` and the stage (stages[0]: midtrain), where a schedule has nothing to
    continue or would rise.
    """
    point = _trunk_point(trunk, start) if start else None
    resolved: list[Stage] = []
    for group in _curve_groups(stages, location):
        curve = _curve(group[0], point, trunk, f"{location}: stages[{len(resolved)}]: {group[0].TAG}.schedule")
        total, at = Tokens(sum(stage.rounded_tokens for stage in group)), Tokens(0)
        for stage in group:
            schedule = curve if len(group) == 1 else CurvePoint(schedule=curve, tokens=total, at=at)
            resolved.append(replace(stage, schedule=schedule))
            at = Tokens(at + stage.rounded_tokens)
        point = CurvePoint(schedule=curve, tokens=total, at=total)
    return tuple(resolved)


def _trunk_point(trunk: Pretrain | Donor, share: Share) -> CurvePoint:
    return CurvePoint(schedule=trunk.schedule, tokens=trunk.curve_tokens, at=trunk.tokens_at(share))


def _curve_groups(stages: Sequence[Stage], location: str) -> list[list[Stage]]:
    """Consecutive stages on one curve."""
    groups: list[list[Stage]] = []
    for stage in stages:
        if not isinstance(stage.schedule, SameCurve):
            groups.append([stage])
        elif groups:
            groups[-1].append(stage)
        else:
            raise QuantityError(
                f"{location}: stages[0]: {stage.TAG}.schedule: SameCurve moves on along the curve of the stage before. "
                "Got the first stage. Write Continue, or Rewarm."
            )
    return groups


def _curve(stage: Stage, previous: CurvePoint | None, trunk: Pretrain | Donor, location: str) -> Rewarm | CosineFrom:
    schedule = stage.schedule
    match schedule:
        case Rewarm():
            return schedule
        case Matched():
            point = _trunk_point(trunk, schedule.trunk_share)
        case Continue() if previous is not None:
            point = previous
        case Continue():
            raise QuantityError(f"{location}: Continue needs a trained model. Got a start at 0 %. Write Rewarm.")
        case _:
            derived = f"Got {type(schedule).__name__}, which Arm.resolved_stages derives"
            raise QuantityError(f"{location}: wanted a schedule of a recipe. {derived}. Write Continue or Rewarm.")
    curve = CosineFrom(start=point, min_lr=schedule.min_lr)
    if not curve.start_lr >= curve.min_lr or not curve.start_lr > 0:
        raise QuantityError(
            f"{location}: {type(schedule).__name__} starts at a rate of {curve.start_lr:.3g}; wanted one above 0 and "
            f"not below min_lr={curve.min_lr:g}. Write a lower min_lr, or Rewarm."
        )
    return curve
