"""Does the schedule explain the difference? The control arms that the paper's reviewers requested.

Hypothesis: at 80 % and 100 % of the trunk, the learning rate's schedule matters as much as where images enter.
Arms: 80 % continued and re-warmed, 100 % re-warmed and matched to the rate at which the 80 % arm starts.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: the two schedules score the same at each start, within the interval over seeds.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.analysis import Axis, Grid, Sweep
from firstsight.recipe.scales import REWARMED, START, Scale, branch_at
from firstsight.recipe.schedule import LRSchedule, Matched
from firstsight.recipe.study import Arm, Horizon, Study, over_seeds
from firstsight.studies.when import SAME_SCHEDULE, TEXT_KEPT, TWO_POINTS, trunk_arm
from firstsight.units import Share

SCHEDULE = Axis(name="schedule", label="Learning-rate schedule", unit="category")


def rewarm(scale: Scale, horizon: Horizon = "branch") -> Study:
    """Two starts times two schedules, and the finished trunk on text tasks alone."""
    scale = scale.with_horizon(horizon)
    late, end = (_with_schedule_axis(branch_at(scale, start)) for start in (Share(80, 100), Share(1)))
    matched = Matched(trunk_share=late.start, min_lr=scale.rewarm.min_lr)
    rewarmed = replace_schedule(late, "rewarm", scale.rewarm, group=REWARMED)
    arms = [trunk_arm(scale), late, rewarmed, end, replace_schedule(end, "matched", matched, group="matched")]
    return Study(
        name="rewarm",
        scale=scale.name,
        question="Does the learning-rate schedule explain the difference between 80 % and 100 %?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
        axes=(START, SCHEDULE),
        figures=(Sweep(x="start"), Grid(x="start", y="schedule")),
        claims=(TWO_POINTS, SAME_SCHEDULE, TEXT_KEPT),
    )


def replace_schedule(arm: Arm, suffix: str, schedule: LRSchedule, *, group: str) -> Arm:
    """The same arm with another schedule of its mid-training, a name with `suffix`, and its group on the axis."""
    midtrain, *later = arm.stages
    stages = (replace(midtrain, schedule=schedule), *later)
    return _with_schedule_axis(replace(arm, name=f"{arm.name}-{suffix}", stages=stages, group=group))


def _with_schedule_axis(arm: Arm) -> Arm:
    """The arm with its group as coordinate on SCHEDULE."""
    return replace(arm, at={**arm.at, SCHEDULE.name: arm.group})
