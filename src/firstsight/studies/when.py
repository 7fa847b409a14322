"""When should images enter text pre-training? The paper's central study (Figure 4).

Hypothesis: late but before the end (80 %) is best for vision tasks and costs little on text tasks.
Arms: images enter at 0, 20, 40, 60, 80 and 100 % of the text trunk; the same branch budget, mix and fine-tuning.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: an earlier start, or 100 % with its own schedule, scores at least as well beyond the interval over seeds.
Known confound: 0 % and 100 % re-warm the learning rate, the others continue it; their points are drawn hollow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from firstsight.recipe.analysis import Claim, Comparison, Forgetting, ParetoFront, Sweep
from firstsight.recipe.scales import REWARMED, START, Scale, branch_at
from firstsight.recipe.scales.published import SEED_NOISE
from firstsight.recipe.stages import TRUNK_GRID
from firstsight.recipe.study import Arm, Horizon, Study, over_seeds
from firstsight.units import Share

SMALLEST = ceil(100 * SEED_NOISE) / 100
"""The smallest difference of stable scores that matters where the paper states none: what another seed changes, in
whole points, which is one."""

BEST = Claim(
    name="best",
    statement="Vision is best when images enter at 80 % of the text training.",
    source="paper, Figure 4",
    compare=(
        Comparison(
            arms=("start-080",),
            others=("start-000", "start-020", "start-040", "start-060", "start-100"),
            measure="vision",
            smallest=SMALLEST,
        ),
    ),
    published="The highest vision stable score of the six starts is that of 80 %, with one run of each.",
    caution="The smallest lead that matters, a point, is this study's. 0 % and 100 % use another learning-rate "
    "schedule, so those comparisons are not of the start alone. Some of the authors' plot scripts match none of their "
    "20 % runs, whose point their figures may lack.",
    dissent="Kimi K2.5 (arXiv 2602.02276, Table 1), at a fixed number of vision tokens: vision knowledge 25.8, 25.0 "
    "and 24.2, vision reasoning 43.8, 40.7 and 39.0 with starts at 0, 50 and 80 %, whose shares of images are 10, 20 "
    "and 50 %: start and share differ together.",
)
TWO_POINTS = Claim(
    name="two-points",
    statement="Images at 80 % give about two points more vision than images after all text (100 %).",
    source="paper, abstract and Figure 4",
    compare=(Comparison(arms=("start-080",), others=("start-100",), measure="vision", smallest=0.02, published=0.02),),
    published="2 points in the mean of six vision tasks, with one run of each arm.",
    caution="It holds for a lead above zero and flips where a lead of two points is excluded. The 100 % arm re-warms "
    "its learning rate and the 80 % arm does not.",
)
EARLIEST_WORSE = Claim(
    name="earliest-worse",
    statement="Images from the very first step (0 %) give less vision and less text than images at 80 %.",
    source="paper, Figure 4",
    compare=(
        Comparison(arms=("start-000",), others=("start-080",), measure="vision", expect="less", smallest=-SMALLEST),
        Comparison(arms=("start-000",), others=("start-080",), measure="text", expect="less", smallest=-SMALLEST),
    ),
    published="Figure 4 shows it; the paper prints no numbers.",
    caution="At the horizon branch, the 0 % arm is also trained on fewer tokens in all: it may lack text. Whether "
    "images hurt from scratch is the matter of `from_scratch`, which varies their share.",
)
TEXT_KEPT = Claim(
    name="text-kept",
    statement="Adding images at 80 % retains text: less than two points of it are lost.",
    source="paper, section 6",
    compare=(Comparison(arms=("start-080",), others=("trunk",), measure="text", margin=-0.02),),
    published="A text stable score of about 15 points at 80 %; that of the text model alone is not printed.",
    caution="The tolerance of two points is this study's; the reference is the text model at the end of the trunk. The "
    "submitted abstract had a 1B model within 2 % of a text-only baseline, which the final one does not claim.",
)


FIGURE_4_TASKS = ("vqav2", "arc_easy")
"""The right panel of the paper's Figure 4; the left one has the stable scores."""
STARTS = (Share(0), *TRUNK_GRID)


def when(scale: Scale, horizon: Horizon = "branch") -> Study:
    """Branches at 0, 20, 40, 60, 80 and 100 % of the trunk, and the finished trunk on text tasks alone."""
    return when_at(scale.with_horizon(horizon), STARTS)


def when_at(scale: Scale, starts: Sequence[Share]) -> Study:
    """The study `when` with branches at these shares of the trunk, and its claims about them."""
    arms = [trunk_arm(scale), *(branch_at(scale, start) for start in starts)]
    names = {arm.name for arm in arms}
    claims = [
        claim
        for claim in (BEST, TWO_POINTS, EARLIEST_WORSE, TEXT_KEPT)
        if all(names.issuperset((*part.arms, *part.others)) for part in claim.compare)
    ]
    sweep = Sweep(x="start", hollow=REWARMED if any(arm.group == REWARMED for arm in arms) else "")
    return Study(
        name="when",
        scale=scale.name,
        question="When in text pre-training should images enter?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
        axes=(START,),
        figures=(sweep, replace(sweep, measures=FIGURE_4_TASKS), ParetoFront(), Forgetting()),
        claims=tuple(claims),
    )


def trunk_arm(scale: Scale) -> Arm:
    """The text model at the end of its pre-training, on text tasks: the baseline that branches are compared with."""
    evaluate = replace(scale.base.evaluate, vision_tasks=())
    return replace(scale.base, name="trunk", start=Share(1), stages=(), evaluate=evaluate, role="baseline")
