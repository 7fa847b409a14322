"""A study is named arms: a base varied along an axis, times seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from firstsight.errors import QuantityError, UnknownName
from firstsight.recipe.stages import Evaluate, Finetune, Midtrain, Pretrain
from firstsight.units import Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One life of a model: the trunk to `start`, then stages, then the judge. No stages: the trunk itself is judged."""

    name: str
    seed: int
    pretrain: Pretrain
    start: Share
    """Where on the trunk the first stage branches off; 0 starts from an untrained model."""
    stages: tuple[Midtrain | Finetune, ...]
    evaluate: Evaluate

    @property
    def label(self) -> str:
        """Name and seed, unique within a study."""
        return f"{self.name}.s{self.seed}"

    def seeded(self, seed: int) -> Arm:
        """The same arm with every stage's seed set."""
        return replace(
            self,
            seed=seed,
            pretrain=replace(self.pretrain, seed=seed),
            stages=tuple(replace(stage, seed=seed) for stage in self.stages),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A question and the arms that answer it."""

    name: str
    scale: str
    question: str
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        labels = [arm.label for arm in self.arms]
        double = sorted({label for label in labels if labels.count(label) > 1})
        if double:
            raise QuantityError(f"arms need names of their own. Twice in {self.name}: {', '.join(double)}.")

    def arm(self, label: str) -> Arm:
        """The arm called `label` (start-020.s1), or the first seed of that name (start-020)."""
        for arm in self.arms:
            if label in (arm.label, arm.name):
                return arm
        raise UnknownName("arm", label, [arm.label for arm in self.arms])


def over_seeds(arms: Iterable[Arm], seeds: Iterable[int]) -> tuple[Arm, ...]:
    """Every arm once for every seed, seed by seed, so that the first seed is complete first."""
    bases = tuple(arms)
    return tuple(arm.seeded(seed) for seed in seeds for arm in bases)
