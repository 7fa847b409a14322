"""A study is a list of arms: variants of a base arm along an axis, each with several seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from firstsight.errors import QuantityError, UnknownName
from firstsight.recipe.model import LMSpec
from firstsight.recipe.stages import Donor, Evaluate, Finetune, Midtrain, Pretrain
from firstsight.units import Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One model of a study: the trunk up to `start`, then stages, then the evaluation."""

    TAG: ClassVar = "arm"
    name: str
    seed: int
    pretrain: Pretrain | Donor
    """The trunk: text pre-training of this study, or a public run with checkpoints."""
    start: Share
    """Where on the trunk the first stage branches off; 0 starts from an untrained model."""
    stages: tuple[Midtrain | Finetune, ...]
    """Without any, the trunk itself is evaluated."""
    evaluate: Evaluate

    @property
    def label(self) -> str:
        """Name and seed, unique within a study."""
        return f"{self.name}.s{self.seed}"

    def with_seed(self, seed: int) -> Arm:
        """The same arm with every stage's seed set; a donor has none."""
        trunk = self.pretrain if isinstance(self.pretrain, Donor) else replace(self.pretrain, seed=seed)
        stages = tuple(replace(stage, seed=seed) for stage in self.stages)
        return replace(self, seed=seed, pretrain=trunk, stages=stages)

    def check(self) -> None:
        """Raise QuantityError, with the field named, where a stage's decoder differs from that of the model before it.

        Rows of new tokens at the end of the vocabulary are allowed. A stage with another tokenizer than its donor's
        must have such rows, because the donor's token ids keep their meaning only under the donor's tokenizer.
        """
        trunk = self.pretrain
        previous = trunk.model if self.start else None
        for stage in self.stages:
            if previous is not None:
                _check_decoder(f"{self.label}: {stage.TAG}", previous, stage.model.lm)
            previous = stage.model.lm
        if not self.start or not self.stages or not isinstance(trunk, Donor):
            return
        first = self.stages[0]
        if first.tokenizer != trunk.tokenizer and first.model.lm.vocab_size == trunk.model.vocab_size:
            raise QuantityError(
                f"{self.label}: wanted the donor's tokenizer {trunk.tokenizer} in its branch. Got {first.tokenizer}. "
                "Name the donor's, or give the branch a larger vocabulary with rows for the tokens that it adds."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A question and the arms that answer it."""

    TAG: ClassVar = "study"
    name: str
    scale: str
    question: str
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        labels = [arm.label for arm in self.arms]
        if repeated := sorted({label for label in labels if labels.count(label) > 1}):
            raise QuantityError(f"arms need different names. Repeated in {self.name}: {', '.join(repeated)}.")

    def arm(self, label: str) -> Arm:
        """The arm with that label (start-020.s1), or the first seed of the arm with that name (start-020)."""
        for arm in self.arms:
            if label in (arm.label, arm.name):
                return arm
        raise UnknownName("arm", label, [arm.label for arm in self.arms])


def over_seeds(arms: Iterable[Arm], seeds: Iterable[int]) -> tuple[Arm, ...]:
    """Every arm once for every seed, seed by seed, so that the first seed is complete first."""
    bases = tuple(arms)
    return tuple(arm.with_seed(seed) for seed in seeds for arm in bases)


def _check_decoder(location: str, previous: LMSpec, current: LMSpec) -> None:
    """Every field must be equal, except that the vocabulary may grow."""
    mismatches = [
        f"{field.name} {old!r}, not {new!r}"
        for field in fields(LMSpec)
        if (old := getattr(previous, field.name)) != (new := getattr(current, field.name))
        and not (field.name == "vocab_size" and old < new)
    ]
    if mismatches:
        raise QuantityError(
            f"{location}: wanted the decoder of the previous model, with {', '.join(mismatches)}. "
            "Use the same decoder in both; only its vocabulary may grow."
        )
