"""A study is named arms: a base varied along an axis, times seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from firstsight.errors import QuantityError, UnknownName
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.stages import Donor, Evaluate, Finetune, Midtrain, Pretrain
from firstsight.units import Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One life of a model: the trunk to `start`, then stages, then the judge. No stages: the trunk itself is judged."""

    TAG: ClassVar = "arm"
    name: str
    seed: int
    pretrain: Pretrain | Donor
    """The trunk: a text run of our own, or a public one that gives its checkpoints."""
    start: Share
    """Where on the trunk the first stage branches off; 0 starts from an untrained model."""
    stages: tuple[Midtrain | Finetune, ...]
    evaluate: Evaluate

    @property
    def label(self) -> str:
        """Name and seed, unique within a study."""
        return f"{self.name}.s{self.seed}"

    def with_seed(self, seed: int) -> Arm:
        """The same arm with every stage's seed set; a donor's weights are what they are."""
        trunk = self.pretrain
        return replace(
            self,
            seed=seed,
            pretrain=trunk if isinstance(trunk, Donor) else replace(trunk, seed=seed),
            stages=tuple(replace(stage, seed=seed) for stage in self.stages),
        )

    def check(self) -> None:
        """Raise QuantityError where a stage's decoder is not the one that it goes on from, with the field named.

        Rows of new tokens at the end of the vocabulary are no other decoder. A donor's tokens keep their meaning only
        under its own tokenizer, so that another one wants rows of its own.
        """
        previous_decoder = self.pretrain.model if self.start else None
        for stage in self.stages:
            if previous_decoder is not None:
                _check_decoder(f"{self.label}: {stage.TAG}", previous_decoder, stage.model.lm)
            previous_decoder = stage.model.lm
        first_stage, trunk = next(iter(self.stages), None), self.pretrain
        if (
            not self.start
            or first_stage is None
            or not isinstance(trunk, Donor)
            or first_stage.tokenizer == trunk.tokenizer
        ):
            return
        if first_stage.model.lm.vocab_size == trunk.model.vocab_size:
            raise QuantityError(
                f"{self.label}: wanted the donor's tokenizer {trunk.tokenizer} in its branch. Got {first_stage.tokenizer}. "
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
        repeated_labels = sorted({label for label in labels if labels.count(label) > 1})
        if repeated_labels:
            raise QuantityError(f"arms need names of their own. Twice in {self.name}: {', '.join(repeated_labels)}.")

    def arm(self, label: str) -> Arm:
        """The arm called `label` (start-020.s1), or the first seed of that name (start-020)."""
        for arm in self.arms:
            if label in (arm.label, arm.name):
                return arm
        raise UnknownName("arm", label, [arm.label for arm in self.arms])


def over_seeds(arms: Iterable[Arm], seeds: Iterable[int]) -> tuple[Arm, ...]:
    """Every arm once for every seed, seed by seed, so that the first seed is complete first."""
    bases = tuple(arms)
    return tuple(arm.with_seed(seed) for seed in seeds for arm in bases)


def _check_decoder(location: str, previous: LMSpec, current: LMSpec) -> None:
    """Every field is as it was, but for a vocabulary that grew."""
    mismatches = [
        f"{field.name} {old_value!r}, not {new_value!r}"
        for field in fields(LMSpec)
        if (old_value := getattr(previous, field.name)) != (new_value := getattr(current, field.name))
        and not (field.name == "vocab_size" and old_value < new_value)
    ]
    if mismatches:
        raise QuantityError(
            f"{location}: wanted the decoder of the model that it goes on from, with {', '.join(mismatches)}. "
            "Give both one decoder; only its vocabulary may grow."
        )
