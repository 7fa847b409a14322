"""How many images should late mid-training have? The share of images at 80 % of the trunk (the paper's Figure 5).

Hypothesis: a tenth to a fifth of images is best for vision tasks, a hundredth is far better than none, and text is kept
at all small shares.
Arms: images enter at 80 % of the trunk and are 0, 1, 5, 10, 20, 50 and 100 % of the rows of mid-training, and the
scale's own share. Fine-tuning is the same, so that the arm of 0 % sees its first images there.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: a share outside 10-20 % scores at least as well as these in vision, or 1 % no better than 0 %.
How to read the axis: it counts rows. At the paper's scales a row with an image is 729 image tokens of 1,024, so that a
tenth of rows is 7 % of tokens; at 1b, 10 % are the images of 11,000 steps. The own share of the built-in
world is 80 %, because a branch of it has a few hundred steps: a tenth of these are too few images to learn from. Its
curve is the paper's seen from far fewer images; compare the order of shares, not their values. Of the axis, which is
logarithmic with a place for 0, no share is left out.
The plan says which shares need more captions of the built-in world than the scale draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from firstsight.recipe.analysis import Claim, Comparison, Sweep
from firstsight.recipe.scales import IMAGE_SHARE, Scale, branch_at, percent_name, with_image_share
from firstsight.recipe.study import Arm, Horizon, Study, over_seeds
from firstsight.studies.when import SMALLEST, trunk_arm
from firstsight.units import Share

SHARES = tuple(Share(percent, 100) for percent in (0, 1, 5, 10, 20, 50, 100))
"""The paper's."""

BEST_SHARE = Claim(
    name="best-share",
    statement="Vision is best with 10 to 20 % of images in mid-training.",
    source="paper, Figure 5",
    compare=(
        Comparison(
            arms=("share-010", "share-020"),
            others=("share-000", "share-001", "share-005", "share-050", "share-100"),
            measure="vision",
            smallest=SMALLEST,
        ),
    ),
    published="Above or below 10 to 20 % of tokens the 1.4B model is worse; the figure's values are not printed.",
    caution="The paper writes of tokens, its code counts rows. It says that smaller models prefer larger shares.",
    dissent="Kimi K2.5 (arXiv 2602.02276, Table 1), at a fixed number of vision tokens: vision knowledge 25.8, 25.0 "
    "and 24.2 with 10, 20 and 50 %, the larger shares with later starts; its authors find little effect of the share. "
    "MM1 (arXiv 2403.09611): text tasks 52.2, 54.0 and 54.6 as text goes up to a third, a flat optimum.",
)
LITTLE_IS_ENOUGH = Claim(
    name="little-is-enough",
    statement="A little is enough: 1 % of images gives more vision than none, 5 % is within a point of 10 and 20 %.",
    source="paper, Figure 5 and Table 7",
    compare=(
        Comparison(arms=("share-001",), others=("share-000",), measure="vision", smallest=SMALLEST),
        Comparison(arms=("share-005",), others=("share-010", "share-020"), measure="vision", margin=-0.01),
    ),
    published="VQAv2 73.83, 75.36 and 75.39 with 1, 5 and 10 % at a start of 20 % (Table 7, one epoch, seed 7).",
    caution="The tolerance of a point is this study's. Without any image, fine-tuning alone gives a VQAv2 of about 75.",
)
SHARE_KEEPS_TEXT = Claim(
    name="share-keeps-text",
    statement="Up to 10 % of images retain text: less than two points of it are lost.",
    source="paper, Figure 5",
    compare=(
        Comparison(arms=("share-001", "share-005", "share-010"), others=("share-000",), measure="text", margin=-0.02),
    ),
    published="The figure shows it; its values are not printed.",
    caution="The tolerance of two points is this study's.",
)


def how_much(scale: Scale, horizon: Horizon = "branch") -> Study:
    """Branches at 80 % of the trunk with 0 to 100 % of images, and the finished trunk on text tasks alone."""
    scale = scale.with_horizon(horizon)
    arms = [trunk_arm(scale), *share_arms(branch_at(scale, Share(4, 5)), SHARES)]
    return Study(
        name="how-much",
        scale=scale.name,
        question="How many images should mid-training have when they enter late?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
        axes=(IMAGE_SHARE,),
        figures=(Sweep(x="image_share"),),
        claims=(BEST_SHARE, LITTLE_IS_ENOUGH, SHARE_KEEPS_TEXT),
    )


def share_arms(branch: Arm, shares: Iterable[Share]) -> list[Arm]:
    """A branch with each of these shares of images in its mid-training, and with its own one, in order.

    Their names state the share: share-010. The arm with the branch's own share is the same recipe.
    """
    own = branch.stages[0].mix.image_share
    swept = {*shares, own} if isinstance(own, Share) else set(shares)
    return [replace(with_image_share(branch, share), name=percent_name("share", share)) for share in sorted(swept)]
