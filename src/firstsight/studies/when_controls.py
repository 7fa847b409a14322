"""Does the schedule, or the optimizer, explain the difference between 80 % and 100 %? The controls of the study `when`.

Hypothesis: at 80 % and 100 % of the trunk, the learning rate's schedule matters as much as where images enter;
AdamW's moments at the branch do not.
Arms: both starts as in `when` (80 % continues the trunk's rate, 100 % warms up again); 80 % re-warmed as 100 % is;
100 % from the rate at which 80 % starts (matched); and both as in `when` with fresh moments instead of the trunk's,
because the paper does not say which it used.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: the schedules score the same at each start, or fresh moments change the order of 80 % and 100 %, beyond
the interval over seeds.
The last control is the horizon: `--horizon full` is this study with mid-training lengthened until all arms have seen
equally many tokens, the remaining text of the trunk with images among it. It is a study of its own, with a report of
its own, because arms of two horizons are not compared; both share the trunk.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.analysis import Axis, Claim, Comparison, Grid, Sweep
from firstsight.recipe.scales import REWARMED, START, Scale, branch_at
from firstsight.recipe.schedule import LRSchedule, Matched
from firstsight.recipe.study import Arm, Horizon, Study, over_seeds
from firstsight.studies.when import SMALLEST, TEXT_KEPT, TWO_POINTS, trunk_arm
from firstsight.units import Share

SCHEDULE = Axis(name="schedule", label="Learning-rate schedule and moments", unit="category")

SAME_SCHEDULE = Claim(
    name="same-schedule",
    statement="80 % stays ahead of 100 % when both use the same kind of learning-rate schedule.",
    source="a control that the paper's reviewers requested",
    compare=(
        Comparison(arms=("start-080-rewarm",), others=("start-100",), measure="vision", smallest=SMALLEST),
        Comparison(arms=("start-080",), others=("start-100-matched",), measure="vision", smallest=SMALLEST),
    ),
    decide="any",
    published="Not measured in the paper.",
    caution="Not a claim of the paper itself.",
)
FRESH_MOMENTS = Claim(
    name="fresh-moments",
    statement="80 % stays ahead of 100 % when both start with fresh moments.",
    source="a control: the paper does not say whether AdamW's moments are carried over",
    compare=(
        Comparison(
            arms=("start-080-fresh",), others=("start-100-fresh",), measure="vision", smallest=0.02, published=0.02
        ),
    ),
    published="The 2 points of the abstract, if the authors' runs dropped the moments as OpenLM does by default.",
    caution="The 100 % arm re-warms its learning rate and the 80 % arm does not.",
)


def when_controls(scale: Scale, horizon: Horizon = "branch") -> Study:
    """Two starts, each with the other's schedule and with fresh moments, and the finished trunk on text tasks alone."""
    scale = scale.with_horizon(horizon)
    late, end = (branch_at(scale, start) for start in (Share(80, 100), Share(1)))
    matched = Matched(trunk_share=late.start, min_lr=scale.rewarm.min_lr)
    arms = [
        late,
        _with_schedule(late, "rewarm", scale.rewarm, group=REWARMED),
        _with_fresh_moments(late),
        end,
        _with_schedule(end, "matched", matched, group="matched"),
        _with_fresh_moments(end),
    ]
    arms = [trunk_arm(scale), *(replace(arm, at={**arm.at, SCHEDULE.name: arm.group}) for arm in arms)]
    return Study(
        name="when-controls",
        scale=scale.name,
        question="Does the schedule or the optimizer explain the difference between 80 % and 100 %?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
        axes=(START, SCHEDULE),
        figures=(Sweep(x=START.name), Grid(x=START.name, y=SCHEDULE.name)),
        claims=(TWO_POINTS, SAME_SCHEDULE, FRESH_MOMENTS, TEXT_KEPT),
    )


def _with_schedule(arm: Arm, suffix: str, schedule: LRSchedule, *, group: str) -> Arm:
    """The same arm with another schedule of its mid-training."""
    midtrain, *later = arm.stages
    stages = (replace(midtrain, schedule=schedule), *later)
    return replace(arm, name=f"{arm.name}-{suffix}", stages=stages, group=group)


def _with_fresh_moments(arm: Arm) -> Arm:
    """The same arm whose mid-training starts without the trunk's moments."""
    midtrain, *later = arm.stages
    stages = (replace(midtrain, moments="fresh"), *later)
    return replace(arm, name=f"{arm.name}-fresh", stages=stages, group=f"{arm.group}, fresh moments")
