"""The scale of one GPU with 24 GB and one evening: branches of a public Pythia on real images and questions.

Every budget is chosen so that the study `when`, with its three seeds, ends within eight hours at UTILISATION.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.mixture import External, single_source
from firstsight.recipe.model import ProjectorSpec, VLMSpec
from firstsight.recipe.scales import models
from firstsight.recipe.scales.base import (
    PAPER_REWARM,
    PlanAssumptions,
    Scale,
    StageSettings,
    adamw,
    base_arm,
    trains_decoder_and_projector,
)
from firstsight.recipe.scales.donors import donor_scale, public_run
from firstsight.recipe.scales.paper import paper_scale
from firstsight.recipe.stages import Evaluate, ModuleTraining, Pretrain, RowShape
from firstsight.units import Share, Tokens

DONOR = "pythia-160m"
TEXT = External(name="dclm-sample", form="text", tokens=Tokens(200_000_000))
"""Three shards of DCLM-Baseline, 546 MB as the hub lists them. Its 27,838 shards have 3.8T tokens, 136M each; the first
shards of a folder are smaller, so that the three are declared as half of that."""
CAPTIONS = External(name="cc12m-sample", form="captions", tokens=Tokens(78_400 * 20), records=78_400)
"""Sixteen of the 2,176 tars of CC12M: 4,900 images each (derived: the hub lists the first ten with 49,000 rows), about
8 GB. 20 tokens a caption are an estimate."""
DIALOGUES = External(name="llava-coco", form="dialogues", tokens=Tokens(91_025 * 180), records=91_025)
"""Every fourth of the 364,100 dialogues of LLaVA-1.5 about images of COCO. 180 tokens are an estimate, as there."""
BENCHMARKS = External(name="evening-benchmarks", form="benchmarks", tokens=Tokens(0), records=5_000)
"""The first 5,000 questions of a vision task at the most."""
VISION_TASKS = ("vqav2", "gqa", "pope")
TEXT_TASKS = ("arc_easy", "copa", "hellaswag", "piqa")
ENCODER = models.siglip_base_224(External(name="siglip-base-patch16-224", form="encoder", tokens=Tokens(0)))

ROW_SHAPE = RowShape(batch_size=64, length=512)
"""A row takes two images of 196 tokens with their captions, or a dialogue."""
MIDTRAIN_STEPS, FINETUNE_STEPS = 1000, 800
IMAGE_SHARE = Share(1, 2)
"""Of the rows of mid-training. With the paper's tenth a branch would see 12,800 images."""
FINETUNE_LR = 1e-4
"""Five times the paper's, whose decoder is nine times as large."""
PROJECTOR_LR_SCALE = 4.0
"""In mid-training, as in the scales of the built-in world: so few updates do not train a projector at the rate of a
decoder."""

UTILISATION = 0.25
"""Training OpenLM-79M reached 27 % of an H200 (docs/log.md); smaller GPUs have less arithmetic to fill."""
ASSUMPTIONS = PlanAssumptions(device="rtx4090", utilisation=UTILISATION, seed_deviation=0.01, disagreement=0.3)
"""A seed changes a difference of vision scores by a point: the paper's pairs of seeds (Table 7) differ by up to .63
points of VQAv2 at 1.4B parameters and 700 times the tokens."""


def evening_scale() -> Scale:
    """Branches of Pythia-160M with 59M tokens each; SigLIP-base is frozen."""
    midtrain = StageSettings(
        images=CAPTIONS,
        image_share=IMAGE_SHARE,
        packing="best_fit",
        row_shape=ROW_SHAPE,
        tokens=Tokens(MIDTRAIN_STEPS * ROW_SHAPE.tokens_per_step),
        optim=adamw(z_loss=1e-4),
        trains=replace(
            trains_decoder_and_projector(0.033),
            projector=ModuleTraining(lr_scale=PROJECTOR_LR_SCALE, weight_decay=0.033),
        ),
    )
    finetune = StageSettings(
        images=DIALOGUES,
        image_share=Share(1),
        packing="best_fit",
        row_shape=ROW_SHAPE,
        tokens=Tokens(FINETUNE_STEPS * ROW_SHAPE.tokens_per_step),
        optim=adamw(z_loss=0.0),
        trains=trains_decoder_and_projector(0.1),
    )
    run = public_run(DONOR)
    trunk = paper_scale(run.size).base.pretrain
    assert isinstance(trunk, Pretrain)
    projector = ProjectorSpec(kind="mlp3", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False)
    base = base_arm(
        pretrain=replace(trunk, text=single_source(TEXT)),
        model=VLMSpec(
            lm=run.model,
            vision=ENCODER,
            encoder="external",
            projector=projector,
            attention="causal",
            stores_features=True,
        ),
        midtrain=midtrain,
        rewarm=PAPER_REWARM,
        finetune=finetune,
        finetune_lr=FINETUNE_LR,
        epochs=1,
        evaluate=Evaluate(benchmarks=BENCHMARKS, vision_tasks=VISION_TASKS, text_tasks=TEXT_TASKS),
    )
    return replace(donor_scale(run, Scale(name="evening", base=base, rewarm=PAPER_REWARM, seeds=3)), name="evening")
