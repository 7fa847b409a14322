"""Should the encoder train? The paper's ablation (Table 4, Appendix I), which contradicts itself.

Hypothesis: a frozen encoder is best for vision tasks. That is the paper's text; the numbers of its Table 4 show the
opposite by ten points of VQAv2, so one of the two is inverted, and each reading is a claim. At the decoder's own
learning rate an encoder may lose what it has learned, which a lower rate would avoid.
Arms: images enter at 80 % of the trunk, with three image shares (5, 30 and 50 % as in the table; 30, 50 and 80 % in
the built-in world, where 5 % are too few images). With each share the encoder is frozen, and trained at the
schedule's rate, in mid-training and fine-tuning, with the stages' own weight decay; with the largest share also
trained at a tenth of the rate (`--lowered`). Every arm begins with the same published weights; in the built-in world
with those of its own contrastive training. Fine-tuning has 3 epochs as in the table; in the built-in world the
scale's own length.
Metric: VQAv2, as in the paper, and the vision and text stable scores after fine-tuning, over seeds.
Refuted if: an arm that trains its encoder scores above the frozen one beyond the interval over seeds.
The table is of the size 79m. Which rate the authors gave their encoder is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from firstsight.recipe.analysis import Axis, Claim, Comparison, Grid
from firstsight.recipe.scales import IMAGE_SHARE, PAPER_SIZES, Scale, branch_at, with_image_share
from firstsight.recipe.stages import Finetune, Midtrain
from firstsight.recipe.study import Arm, Horizon, Study, over_seeds
from firstsight.studies.when import SMALLEST, trunk_arm
from firstsight.units import Share

LR_MULTIPLE = Axis(name="lr_multiple", label="Encoder's learning rate, as a multiple of the model's", unit="category")
Table = Mapping[int, tuple[float, float] | None]
"""VQAv2 of the rows "frozen: yes" and "frozen: no" by image share in percent; None for a share of ours."""
TABLE_4: Table = {5: (0.5871, 0.6855), 30: (0.6022, 0.6942), 50: (0.6085, 0.7100)}
WORLD_SHARES = (30, 50, 80)
PUBLISHED = "Table 4: 58.71, 60.22 and 60.85 in the rows called frozen, 68.55, 69.42 and 71.0 in the others."


def frozen(scale: Scale, lowered: Share = Share(1, 10), horizon: Horizon = "branch") -> Study:
    """An encoder frozen and trained with three image shares, trained at `lowered` times the rate with the largest, and
    the finished trunk on text tasks."""
    scale = scale.with_horizon(horizon)
    late = branch_at(scale, Share(80, 100))
    table: Table = dict.fromkeys(WORLD_SHARES)
    if scale.name in PAPER_SIZES:
        table, late = TABLE_4, _with_epochs(late, 3)
    arms = [arm for percent in table for arm in _pair(late, percent)]
    arms.append(train_encoder(arms[-2], f"lowered-{max(table):03d}", lowered))
    return Study(
        name="frozen",
        scale=scale.name,
        question="Should the vision encoder train with the model?",
        arms=over_seeds([trunk_arm(scale), *arms], range(1, scale.seeds + 1)),
        axes=(IMAGE_SHARE, LR_MULTIPLE),
        figures=(Grid(x=IMAGE_SHARE.name, y=LR_MULTIPLE.name),),
        claims=_claims(table),
    )


def _pair(late: Arm, percent: int) -> tuple[Arm, Arm]:
    """An arm with that image share and a frozen encoder, and with one that trains."""
    arm = with_image_share(replace(late, at={}), Share(percent, 100))
    arm = replace(arm, name=f"frozen-{percent:03d}", at={**arm.at, LR_MULTIPLE.name: "frozen"})
    return arm, train_encoder(arm, f"trained-{percent:03d}", Share(1))


def _claims(table: Table) -> tuple[Claim, Claim]:
    """Both readings of the paper's Table 4, at the image shares of `table`."""
    as_printed: list[Comparison] = []
    inverted: list[Comparison] = []
    for percent, scores in table.items():
        gap = round(scores[1] - scores[0], 4) if scores else None
        names = (f"frozen-{percent:03d}",), (f"trained-{percent:03d}",)
        inverted.append(Comparison(arms=names[0], others=names[1], measure="vqav2", smallest=SMALLEST, published=gap))
        as_printed.append(Comparison(arms=names[1], others=names[0], measure="vqav2", smallest=SMALLEST, published=gap))
    text = Claim(
        name="frozen-better",
        statement="A frozen encoder gives more VQAv2 than one that trains at the model's rate.",
        source="paper, text of Appendix I and caption of Table 4",
        compare=tuple(inverted),
        published=f"{PUBLISHED} This reading takes the two rows to be swapped.",
        caution="The paper contradicts itself. Its code freezes encoders everywhere, which agrees with this reading.",
    )
    numbers = Claim(
        name="trained-better",
        statement="An encoder that trains at the model's rate gives more VQAv2 than a frozen one.",
        source="paper, numbers of Table 4",
        compare=tuple(as_printed),
        published=f"{PUBLISHED} This reading takes the numbers as printed.",
        caution="The paper contradicts itself: the caption calls models with a trained encoder worse in general.",
    )
    return text, numbers


def _with_epochs(arm: Arm, epochs: int) -> Arm:
    """The arm with so many epochs of fine-tuning."""
    stages = (replace(stage, epochs=epochs) if isinstance(stage, Finetune) else stage for stage in arm.stages)
    return replace(arm, stages=tuple(stages))


def train_encoder(arm: Arm, name: str, lr_scale: Share) -> Arm:
    """The same arm with an encoder that trains in every stage at `lr_scale` times the stage's learning rate."""

    def trained(stage: Midtrain | Finetune) -> Midtrain | Finetune:
        assert stage.trains.decoder is not None
        encoder = replace(stage.trains.decoder, lr_scale=float(lr_scale))
        model, trains = (
            replace(stage.model, encoder="included", stores_features=False),
            replace(stage.trains, encoder=encoder),
        )
        return replace(stage, model=model, trains=trains)

    at = {**arm.at, LR_MULTIPLE.name: f"{float(lr_scale):g}"}
    return replace(arm, name=name, stages=tuple(map(trained, arm.stages)), at=at)
