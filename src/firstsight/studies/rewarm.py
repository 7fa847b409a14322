"""Does the schedule explain the difference? The control arms that the paper's reviewers requested.

Hypothesis: at 80 % and 100 % of the trunk, the learning rate's schedule matters as much as where images enter.
Arms: 80 % continued and re-warmed, 100 % re-warmed and matched to the rate at which the 80 % arm starts.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: the two schedules score the same at each start, within the interval over seeds.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.stages import LRSchedule, Matched
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.studies.when import trunk_arm
from firstsight.units import Share


def rewarm(scale: Scale) -> Study:
    """Two starts times two schedules, and the finished trunk on text tasks alone."""
    late, end = branch_at(scale, Share(80, 100)), branch_at(scale, Share(1))
    warm = scale.rewarm
    rule = Matched(reference=late.stages[0].schedule, min_lr=warm.min_lr, tokens=warm.tokens)
    arms = [trunk_arm(scale), late, replace_schedule(late, "rewarm", warm), end, replace_schedule(end, "matched", rule)]
    return Study(
        name="rewarm",
        scale=scale.name,
        question="Does the learning-rate schedule explain the difference between 80 % and 100 %?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
    )


def replace_schedule(arm: Arm, suffix: str, schedule: LRSchedule) -> Arm:
    """The same arm with another schedule of its mid-training, and a name with `suffix`."""
    midtrain, *later = arm.stages
    return replace(arm, name=f"{arm.name}-{suffix}", stages=(replace(midtrain, schedule=schedule), *later))
