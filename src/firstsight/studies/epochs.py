"""How many epochs of fine-tuning? One to four, from a late and from the earliest branch (the paper's Figure 8).

Hypothesis: two to four epochs are better for vision than one, and two are enough.
Arms: the branches of `when` at 80 % and 0 % of the trunk, fine-tuned for 1, 2, 3 and 4 epochs. Each is a run of its
own, whose learning rate warms up and falls to 0 over all its epochs. With `--runs one` a branch is fine-tuned once,
for four epochs, and evaluated after each: two fifths of the training, but after one to three epochs the rate has not
fallen to 0, as it has in a run of its own.
Metric: vision and text stable scores after fine-tuning, over seeds.
Refuted if: one epoch scores at least as much vision as more, or two less than three or four by half a point.
An epoch of the built-in world is a pass through its dialogues, as one of the paper; its scale fine-tunes for one epoch,
the paper's for two. The arms of a branch differ in their tokens, so there is no horizon `full`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from firstsight.recipe.analysis import Axis, Claim, Comparison, Sweep
from firstsight.recipe.scales import START, Scale, branch_at
from firstsight.recipe.stages import Finetune, LastCheckpoints
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.studies.when import SMALLEST, trunk_arm
from firstsight.units import Share

MOST_EPOCHS = 4
EPOCHS = Axis(name="epochs", label="Epochs of fine-tuning", unit="count")

MORE_EPOCHS = Claim(
    name="more-epochs",
    statement="Two to four epochs of fine-tuning give more vision than one.",
    source="paper, Figure 8",
    compare=(
        Comparison(
            arms=("start-080-epochs-2", "start-080-epochs-3", "start-080-epochs-4"),
            others=("start-080-epochs-1",),
            measure="vision",
            smallest=SMALLEST,
        ),
    ),
    published="VQAv2 75.39 after one epoch, 76.5 after two (Table 7, 10 %, seed 7); Figure 8 prints no values.",
    caution="Table 7 is of a start at 20 %. More epochs are more steps too, at a schedule of their own.",
)
TWO_EPOCHS_ENOUGH = Claim(
    name="two-epochs-enough",
    statement="Two epochs are enough: a third and a fourth add less than half a point of vision.",
    source="paper, Figure 8",
    compare=(
        Comparison(
            arms=("start-080-epochs-2",),
            others=("start-080-epochs-3", "start-080-epochs-4"),
            measure="vision",
            margin=-0.005,
        ),
    ),
    published="The paper calls two epochs the sweet spot; the figure's values are not printed.",
    caution="The tolerance of half a point is this study's.",
)


def epochs(scale: Scale, runs: Literal["separate", "one"] = "separate") -> Study:
    """One to four epochs from the branches at 80 % and 0 %, and the finished trunk on text tasks alone.

    `runs`: "one" fine-tunes a branch once, for all epochs, and evaluates a checkpoint after each.
    """
    branches = [branch_at(scale, start) for start in (Share(4, 5), Share(0))]
    arms = [trunk_arm(scale)]
    for branch in branches:
        longest = with_epochs(branch, MOST_EPOCHS)
        for count in range(1, MOST_EPOCHS + 1):
            arms.append(with_epochs(branch, count) if runs == "separate" else at_epoch(longest, branch, count))
    return Study(
        name="epochs",
        scale=scale.name,
        question="How many epochs of fine-tuning are best?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
        axes=(EPOCHS, START),
        figures=(Sweep(x="epochs", lines="start"),),
        claims=(MORE_EPOCHS, TWO_EPOCHS_ENOUGH),
    )


def at_epoch(longest: Arm, branch: Arm, count: int) -> Arm:
    """The arm whose fine-tuning publishes a checkpoint after every epoch, evaluated after so many."""
    *before, finetune = longest.stages
    last = LastCheckpoints(count=MOST_EPOCHS, every=Share(1, MOST_EPOCHS))
    evaluate = replace(branch.evaluate, checkpoint=MOST_EPOCHS - count)
    arm = replace(with_epochs(branch, count), evaluate=evaluate)
    return replace(arm, stages=(*before, replace(finetune, last_checkpoints=last)))


def with_epochs(arm: Arm, count: int) -> Arm:
    """The arm with so many epochs of fine-tuning, after its name and as coordinate `epochs`."""
    *before, finetune = arm.stages
    assert isinstance(finetune, Finetune)  # as in `base_arm`
    stages = (*before, replace(finetune, epochs=count))
    return replace(arm, name=f"{arm.name}-epochs-{count}", stages=stages, at={**arm.at, EPOCHS.name: count})
