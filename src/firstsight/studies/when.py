"""When should images enter text pre-training? The paper's central study (Figure 4).

Hypothesis: late but before the end (80 %) is best for vision tasks and costs little on text tasks.
Arms: images enter at 0, 20, 40, 60, 80 and 100 % of the text trunk; the same branch budget, mix and fine-tuning.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: an earlier start, or 100 % with its own schedule, scores at least as well beyond the interval over seeds.
Known confound: 0 % and 100 % re-warm the learning rate, the others continue it; their points are drawn hollow.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.units import Share


def when(scale: Scale) -> Study:
    """Branches at 0, 20, 40, 60, 80 and 100 % of the trunk, and the finished trunk on text tasks alone."""
    arms = [branch_at(scale, Share(percent, 100)) for percent in range(0, 101, 20)]
    return Study(
        name="when",
        scale=scale.name,
        question="When in text pre-training should images enter?",
        arms=over_seeds([trunk_arm(scale), *arms], range(1, scale.seeds + 1)),
    )


def trunk_arm(scale: Scale) -> Arm:
    """The text model at the end of its pre-training, on text tasks: the baseline that branches are compared with."""
    evaluate = replace(scale.base.evaluate, vision_tasks=())
    return replace(scale.base, name="trunk", start=Share(1), stages=(), evaluate=evaluate)
