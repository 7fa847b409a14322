"""What does each stage of training add and cost? The paper's Table 8: one recipe judged after every stage.

Hypothesis: mid-training retains text while it teaches images; fine-tuning adds most of the vision scores, because it
teaches the form of the answers, and costs text.
Arms: images enter at 80 % of the trunk, as in `when`: the text model there, the model after mid-training, and after
fine-tuning. All are checkpoints of one run, so that the study adds two evaluations to `when`. The finished trunk is
the baseline.
Metric: every task after each stage; vision tasks need a model with images, so that the text model has text tasks
alone.
Refuted if: text falls in mid-training, or does not fall in fine-tuning, beyond the interval over seeds.
There is no option `--horizon`: arms that end after different stages cannot have seen equally many tokens. The numbers
of the paper's Table 8 are not available to us, so no difference has a published value.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.analysis import Axis, Bars, Claim, Comparison, Forgetting
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.study import Study, over_seeds
from firstsight.studies.when import SMALLEST, TEXT_KEPT, trunk_arm
from firstsight.units import Share

STAGE = Axis(name="stage", label="Last stage of training", unit="category")

FINETUNING_ADDS_VISION = Claim(
    name="finetuning-adds-vision",
    statement="Fine-tuning adds to the vision score of mid-training.",
    source="paper, Table 8",
    compare=(Comparison(arms=("start-080",), others=("start-080-midtrain",), measure="vision", smallest=SMALLEST),),
    published="Table 8 has scores after every stage; its numbers are not available to us.",
    caution="Before fine-tuning a model may know the answer and not the form in which a task wants it.",
)
FINETUNING_KEEPS_TEXT = Claim(
    name="finetuning-keeps-text",
    statement="Fine-tuning without text loses less than two points of text.",
    source="paper, Table 8",
    compare=(Comparison(arms=("start-080",), others=("start-080-midtrain",), measure="text", margin=-0.02),),
    published="Table 8 has scores after every stage; its numbers are not available to us.",
    caution="The tolerance of two points is this study's. In the built-in world an eighth of fine-tuning is text.",
)


def stages(scale: Scale) -> Study:
    """The arm of `when` at 80 %, cut off after each of its stages, and the finished trunk on text tasks alone."""
    late, trunk = branch_at(scale, Share(80, 100)), trunk_arm(scale)
    arms = [
        replace(late, name=f"{late.name}-text", stages=(), evaluate=trunk.evaluate, at={STAGE.name: "text"}),
        replace(late, name=f"{late.name}-midtrain", stages=late.stages[:1], at={STAGE.name: "mid-training"}),
        replace(late, at={STAGE.name: "fine-tuning"}),
    ]
    return Study(
        name="stages",
        scale=scale.name,
        question="What does each stage of training add, and what does it cost?",
        arms=over_seeds([trunk, *arms], range(1, scale.seeds + 1)),
        axes=(STAGE,),
        figures=(Bars(x=STAGE.name), Forgetting()),
        claims=(FINETUNING_ADDS_VISION, FINETUNING_KEEPS_TEXT, TEXT_KEPT),
    )
