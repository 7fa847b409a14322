"""Is it the schedule? The controls that the paper's reviewers asked for.

Hypothesis: at 80 % and 100 % of the trunk, how the rate goes on matters as much as where images enter.
Arms: 80 % continued and re-warmed, 100 % re-warmed and matched to the rate at which the 80 % arm starts.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: the two schedules score alike at each start, beyond the interval over seeds.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.scales import Scale, enter
from firstsight.recipe.schedule import Matched, Rate
from firstsight.recipe.stages import Midtrain
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.studies.when import trunk
from firstsight.units import Share


def rewarm(scale: Scale) -> Study:
    """Two starts times two schedules, and the finished trunk judged on text alone."""
    late, end = enter(scale, Share(80, 100)), enter(scale, Share(1))
    matched = Matched(to=rate_of(late), floor=scale.rewarm.floor, tokens=scale.rewarm.tokens)
    arms = [trunk(scale), late, scheduled(late, "rewarm", scale.rewarm), end, scheduled(end, "matched", matched)]
    return Study(
        name="rewarm",
        scale=scale.name,
        question="Does the rate's schedule decide between 80 % and 100 %?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
    )


def rate_of(arm: Arm) -> Rate:
    """The schedule on which images enter."""
    return _entry(arm).rate


def scheduled(arm: Arm, name: str, rate: Rate) -> Arm:
    """The same arm on another schedule, named for it."""
    first, later = _entry(arm), arm.stages[1:]
    return replace(arm, name=f"{arm.name}-{name}", stages=(replace(first, rate=rate), *later))


def _entry(arm: Arm) -> Midtrain:
    return next(stage for stage in arm.stages if isinstance(stage, Midtrain))
