"""Do more image-text tokens help? Mid-training of one, two and four times the length (the paper's Appendix G).

Hypothesis: vision goes on rising with image-text tokens, because mid-training is short beside the trunk.
Arms: images enter at 80 % of the trunk, with 1, 2 and 4 times the scale's tokens of mid-training, each with a schedule
of its own, at one share of images, and the same fine-tuning.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: twice or four times the tokens score no more vision than half of them, beyond the interval over seeds.
The paper's appendix has the 79M model alone, where one time is 20 tokens a parameter, and four epochs of fine-tuning;
here every scale has its own budget and fine-tuning. In the built-in world, longer arms get as many more captions. The
arms differ in their tokens, so there is no horizon `full`.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.analysis import Axis, Claim, Comparison, Sweep
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.stages import Midtrain
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.studies.when import SMALLEST, trunk_arm
from firstsight.units import Share, Tokens

MULTIPLIER = Axis(name="multiplier", label="Image-text tokens, as a multiple of the scale's", unit="count", scale="log")

MORE_TOKENS = Claim(
    name="more-tokens",
    statement="Twice and four times the image-text tokens give more vision.",
    source="a hypothesis of this study; the paper's Appendix G varies it",
    compare=(
        Comparison(arms=("tokens-2x", "tokens-4x"), others=("tokens-1x",), measure="vision", smallest=SMALLEST),
        Comparison(arms=("tokens-4x",), others=("tokens-2x",), measure="vision", smallest=SMALLEST),
    ),
    published="Appendix G shows a figure of 79M models; its values are not printed.",
    caution="More tokens are more text too, and a longer schedule. Not a claim of the paper itself.",
)


def multipliers(scale: Scale) -> Study:
    """Branches at 80 % with one, two and four times the tokens, and the finished trunk on text tasks alone."""
    late = branch_at(scale, Share(4, 5))
    arms = [trunk_arm(scale), *(with_tokens(late, factor) for factor in (1, 2, 4))]
    return Study(
        name="multipliers",
        scale=scale.name,
        question="Do more image-text tokens help?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
        axes=(MULTIPLIER,),
        figures=(Sweep(x="multiplier"),),
        claims=(MORE_TOKENS,),
    )


def with_tokens(arm: Arm, factor: int) -> Arm:
    """The arm with `factor` times the tokens in its mid-training; with 1 the same recipe."""
    midtrain, *later = arm.stages
    assert isinstance(midtrain, Midtrain)  # as in `branch_at`
    stages = (replace(midtrain, tokens=Tokens(factor * midtrain.tokens)), *later)
    return replace(arm, name=f"tokens-{factor}x", stages=stages, at={MULTIPLIER.name: factor})
