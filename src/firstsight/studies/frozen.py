"""Should the encoder train? The paper's ablation (Table 4, Appendix I), which contradicts itself.

Hypothesis: a frozen encoder is best for vision tasks. That is the paper's text; the numbers of its Table 4 show the
opposite by ten points of VQAv2, so one of the two is inverted. At the decoder's own learning rate an encoder may lose
what it has learned, which a lower rate would avoid.
Arms: images enter at 80 % of the trunk with the encoder frozen, trained at the schedule's rate, and trained at a tenth
of it (`--lowered`), in both mid-training and fine-tuning, with the stages' own weight decay. Every arm begins with the
same published weights; in the synthetic world with those of its own contrastive training.
Metric: VQAv2, as in the paper, and the vision and text stable scores after fine-tuning, over seeds.
Refuted if: an arm that trains its encoder scores above the frozen one beyond the interval over seeds.
Unlike the paper's table, there is one image share (the scale's) instead of its 5, 30 and 50 %, and fine-tuning is the
scale's own. Which rate the authors gave their encoder is not known.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.analysis import Axis, Claim, Comparison
from firstsight.recipe.scales import Scale, branch_at
from firstsight.recipe.stages import Finetune, Midtrain
from firstsight.recipe.study import Arm, Horizon, Study, over_seeds
from firstsight.studies.when import trunk_arm
from firstsight.units import Share

LR_MULTIPLE = Axis(name="lr_multiple", label="Encoder's learning rate, as a multiple of the model's", unit="category")

FROZEN_BETTER = Claim(
    name="frozen-better",
    statement="A frozen encoder gives more VQAv2 than one that trains at the model's rate.",
    source="paper, text of Appendix I",
    compare=(Comparison(arms=("frozen",), others=("trained",), measure="vqav2"),),
    published="Table 4 shows the opposite: 58.71 to 60.85 frozen, 68.55 to 71.0 trained.",
    caution="The paper contradicts itself: one of its text and its table is inverted.",
)


def frozen(scale: Scale, lowered: Share = Share(1, 10), horizon: Horizon = "branch") -> Study:
    """An encoder frozen, trained, and trained at `lowered` times the rate, and the finished trunk on text tasks."""
    scale = scale.with_horizon(horizon)
    late = branch_at(scale, Share(80, 100))
    trained = [train_encoder(late, "trained", Share(1)), train_encoder(late, "lowered", lowered)]
    arms = [trunk_arm(scale), replace(late, name="frozen", at={LR_MULTIPLE.name: "frozen"}), *trained]
    return Study(
        name="frozen",
        scale=scale.name,
        question="Should the vision encoder train with the model?",
        arms=over_seeds(arms, range(1, scale.seeds + 1)),
        axes=(LR_MULTIPLE,),
        claims=(FROZEN_BETTER,),
    )


def train_encoder(arm: Arm, name: str, lr_scale: Share) -> Arm:
    """The same arm with an encoder that trains in every stage at `lr_scale` times the stage's learning rate."""

    def trained(stage: Midtrain | Finetune) -> Midtrain | Finetune:
        assert stage.trains.decoder is not None
        encoder = replace(stage.trains.decoder, lr_scale=float(lr_scale))
        model, trains = replace(stage.model, encoder="included"), replace(stage.trains, encoder=encoder)
        return replace(stage, model=model, trains=trains)

    at = {LR_MULTIPLE.name: f"{float(lr_scale):g}"}
    return replace(arm, name=name, stages=tuple(map(trained, arm.stages)), at=at)
