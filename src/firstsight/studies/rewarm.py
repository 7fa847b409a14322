"""Is it the schedule? The controls that the paper's reviewers asked for.

Hypothesis: at 80 % and 100 % of the trunk, how the rate goes on matters as much as where images enter.
Arms: 80 % continued and re-warmed, 100 % re-warmed and matched to the rate at which the 80 % arm starts.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: the two schedules score alike at each start, beyond the interval over seeds.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.schedule import LRSchedule, Matched
from firstsight.recipe.stages import Midtrain
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.studies.when import trunk_arm
from firstsight.units import Share


def rewarm(scale: Scale) -> Study:
    """Two starts times two schedules, and the finished trunk judged on text alone."""
    late_arm, final_arm = branch_at(scale, Share(80, 100)), branch_at(scale, Share(1))
    matched_schedule = Matched(
        reference=entry_schedule(late_arm), min_lr=scale.rewarm.min_lr, tokens=scale.rewarm.tokens
    )
    arms = [
        trunk_arm(scale),
        late_arm,
        replace_schedule(late_arm, "rewarm", scale.rewarm),
        final_arm,
        replace_schedule(final_arm, "matched", matched_schedule),
    ]
    return Study(
        name="rewarm",
        scale=scale.name,
        question="Does the rate's schedule decide between 80 % and 100 %?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
    )


def entry_schedule(arm: Arm) -> LRSchedule:
    """The schedule on which images enter."""
    return _entry_stage(arm).schedule


def replace_schedule(arm: Arm, suffix: str, schedule: LRSchedule) -> Arm:
    """The same arm on another schedule, named for it."""
    entry_stage, later_stages = _entry_stage(arm), arm.stages[1:]
    return replace(arm, name=f"{arm.name}-{suffix}", stages=(replace(entry_stage, schedule=schedule), *later_stages))


def _entry_stage(arm: Arm) -> Midtrain:
    return next(stage for stage in arm.stages if isinstance(stage, Midtrain))
