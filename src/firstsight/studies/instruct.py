"""Should mid-training have instructions? Dialogues in the place of captions (the paper's Figure 7).

Hypothesis: instructions in mid-training hurt vision after fine-tuning, although fine-tuning uses the same kind of data.
Arms: images enter at 80 % of the trunk, and 0, 20, 50 and 100 % of the rows with images are dialogues of the
fine-tuning set instead of captions; the share of images and fine-tuning are the scale's.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: an arm with dialogues scores at least as much vision as the one without, beyond the interval over seeds.
In mid-training the questions have loss too, as the paper implies; in fine-tuning only the answers. The dialogues are
those of fine-tuning, so these arms have seen the fine-tuning data before: at 28B tokens the paper's 625,000
dialogues alone are read 4.5 times. Whether the paper's fine-tuning repeats them is not stated.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.analysis import Axis, Claim, Comparison, Sweep
from firstsight.recipe.mixture import Mixture, WeightedSource
from firstsight.recipe.scales import Scale, branch_at, percent_name
from firstsight.recipe.study import Arm, Horizon, Study, over_seeds
from firstsight.studies.when import SMALLEST, trunk_arm
from firstsight.units import Share

INSTRUCT_SHARE = Axis(name="instruct_share", label="Instructions among the images of mid-training", unit="percent")
SHARES = tuple(Share(percent, 100) for percent in (0, 20, 50, 100))
DIALOGUE_PASSES = 5
"""The most passes through the dialogues in mid-training: 28B tokens at a tenth of images are 4.5 passes."""

INSTRUCT_HURTS = Claim(
    name="instruct-hurts",
    statement="Instructions in mid-training give less vision than captions alone.",
    source="paper, Figure 7",
    compare=(
        Comparison(
            arms=("instruct-020", "instruct-050", "instruct-100"),
            others=("instruct-000",),
            measure="vision",
            expect="less",
            smallest=-SMALLEST,
        ),
    ),
    published="The figure shows it; its values are not printed.",
    caution="The dialogues are those of fine-tuning, which these arms then see once more.",
    dissent="A summary of the paper adds that instructions can help text tasks.",
)


def instruct(scale: Scale, horizon: Horizon = "branch") -> Study:
    """Branches at 80 % with 0 to 100 % of dialogues among their images, and the finished trunk on text tasks alone."""
    scale = scale.with_horizon(horizon)
    late = branch_at(scale, Share(4, 5))
    arms = [trunk_arm(scale), *(with_instructions(late, share) for share in SHARES)]
    return Study(
        name="instruct",
        scale=scale.name,
        question="Should instructions be a part of mid-training?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
        axes=(INSTRUCT_SHARE,),
        figures=(Sweep(x="instruct_share"),),
        claims=(INSTRUCT_HURTS,),
    )


def with_instructions(arm: Arm, share: Share) -> Arm:
    """The arm with the data of its fine-tuning as a share of the image rows of its mid-training; 0: the same recipe."""
    midtrain, finetune = arm.stages
    captions = [replace(each, share=Share(each.share * (1 - share))) for each in midtrain.mix.images.components]
    dialogues = [
        WeightedSource(source=each.source, share=Share(each.share * share), max_epochs=DIALOGUE_PASSES)
        for each in finetune.mix.images.components
    ]
    images = Mixture(components=tuple(each for each in (*captions, *dialogues) if each.share), share_unit="rows")
    stages = (replace(midtrain, mix=replace(midtrain.mix, images=images)), finetune)
    return replace(arm, name=percent_name("instruct", share), stages=stages, at={INSTRUCT_SHARE.name: share})
