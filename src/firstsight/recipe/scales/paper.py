"""The paper's scales: its models, budgets and schedules, with the user's data."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from firstsight.recipe.mixture import External, Recaptioned, single_source
from firstsight.recipe.model import LMSpec, ProjectorSpec, VLMSpec
from firstsight.recipe.scales import models
from firstsight.recipe.scales.base import (
    PAPER_REWARM,
    VISION_TASKS,
    Scale,
    StageSettings,
    adamw,
    base_arm,
    trains_decoder,
    trains_decoder_and_projector,
)
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Evaluate, Pretrain, RowShape
from firstsight.units import Share, Tokens

PAPER_TEXT_TASKS = (
    "agieval_sat_en",
    "arc_easy",
    "bigbench_conceptual_combinations_multiple_choice",
    "bigbench_cs_algorithms_multiple_choice",
    "boolq",
    "copa",
    "hellaswag",
    "mathqa",
    "piqa",
    "pubmedqa",
)
PAPER_TEXT = External(name="dclm-mix", form="text", tokens=Tokens(4_100_000_000_000), records=3_000_000_000)
"""DCLM-Baseline (3.8T tokens) with StarCoder and ProofPile-2: 4.1T tokens. Source: Li et al. 2024 (DCLM), section 5.

The documents are those of DCLM-Baseline alone, as its dataset card rounds them. DCLM-1B's run of 4.3T tokens, the trunk
of scale 1b, therefore read a part of the data twice (derived).
"""
PAPER_CAPTIONS = Recaptioned(
    external=External(name="datacomp-dr-1b", form="captions", tokens=Tokens(1_280_000_000 * 16), records=1_280_000_000),
    synthetic_share=Share(1),
    seed=0,
)
"""1.28B images. Source: Vasu et al. 2024 (MobileCLIP). 16 tokens a caption are an estimate: CoCa's captions in the
dataset card have 8 to 15 words. The paper does not say how it chose between real and regenerated captions; the set's
name suggests the latter."""
PAPER_DIALOGUES = External(
    name="llava-v1.5-multimodal", form="dialogues", tokens=Tokens(624_610 * 180), records=624_610
)
"""LLaVA-1.5's 665,298 dialogues without the 40,688 of text alone, as in Prismatic ("625k"). Source: Liu et al. 2023 and
the file's own count. 180 tokens are an estimate: five turns of 150 characters each, at four characters a token."""
PAPER_TOKENIZER = External(name="gpt-neox-20b", form="tokenizer", tokens=Tokens(0))
PAPER_ENCODER = models.siglip_so400m_384(External(name="siglip-so400m-patch14-384", form="encoder", tokens=Tokens(0)))
PAPER_EVALUATION = Evaluate(
    benchmarks=External(name="paper-benchmarks", form="benchmarks", tokens=Tokens(0)),
    vision_tasks=VISION_TASKS,
    text_tasks=PAPER_TEXT_TASKS,
)
MIDTRAIN_ROW_SHAPE = RowShape(batch_size=256, length=1024)
FINETUNE_ROW_SHAPE = RowShape(batch_size=128, length=1024)
FINETUNE_EPOCH_STEPS = PAPER_DIALOGUES.records // FINETUNE_ROW_SHAPE.batch_size
FINETUNE_EPOCH_TOKENS = Tokens(FINETUNE_EPOCH_STEPS * FINETUNE_ROW_SHAPE.tokens_per_step)
"""One dialogue per row, in as many whole steps as the dialogues fill; the paper's figure rounds it to 1B tokens."""


REWARM_7B = replace(PAPER_REWARM, peak_lr=6e-4)
"""Three tenths of the trunk's peak, as at 1b; the paper's 3e-3 would be above it. The paper has no schedule for 7B."""


class _PaperSize(NamedTuple):
    """A decoder with the settings of its trunk, and the image-text tokens of a branch."""

    lm: LMSpec
    tokens: int
    batch_size: int
    warmup_steps: int
    peak_lr: float
    weight_decay: float
    z_loss: float
    midtrain_tokens: int
    rewarm: Rewarm = PAPER_REWARM


PAPER_SIZES = {
    "79m": _PaperSize(models.openlm_79m(), 236_700_000_000, 512, 400, 3e-3, 0.033, 1e-4, 1_578_000_000),
    "154m": _PaperSize(models.openlm_154m(), 461_000_000_000, 512, 400, 3e-3, 0.033, 1e-4, 3_074_000_000),
    "411m": _PaperSize(models.openlm_411m(), 1_236_000_000_000, 512, 2000, 3e-3, 0.033, 1e-4, 8_240_000_000),
    "1b": _PaperSize(models.openlm_1b(), 4_319_385_600_000, 512, 5000, 1e-2, 0.01, 1e-6, 28_795_904_000),
    "7b": _PaperSize(models.openlm_7b(), 275_576_422_400, 2048, 5000, 2e-3, 0.05, 5e-6, 28_795_904_000, REWARM_7B),
}
"""79m: paper Table 2. 154m and 411m: run by the authors but not in the paper's tables, trunks of 150 x 20 tokens a
parameter. 1b: the paper's study, on DCLM-1B's 4.3T-token run. 7b: DCLM's settings and its 276B-token run, because the
paper does not describe this trunk. `published` has what is published of each, and what is assumed."""


def paper_scale(name: str) -> Scale:
    """A size of PAPER_SIZES, with two epochs of fine-tuning and Prismatic's defaults for LLaVA (paper Figure 8)."""
    size = PAPER_SIZES[name]
    midtrain = StageSettings(
        images=PAPER_CAPTIONS,
        image_share=Share(1, 10),
        packing="one_image_per_row",
        row_shape=MIDTRAIN_ROW_SHAPE,
        tokens=Tokens(size.midtrain_tokens),
        optim=adamw(z_loss=1e-4),
        trains=trains_decoder_and_projector(0.033),
    )
    finetune = StageSettings(
        images=PAPER_DIALOGUES,
        image_share=Share(1),
        packing="one_image_per_row",
        row_shape=FINETUNE_ROW_SHAPE,
        tokens=FINETUNE_EPOCH_TOKENS,
        optim=adamw(z_loss=0.0),
        trains=trains_decoder_and_projector(0.1),
    )
    projector = ProjectorSpec(kind="mlp3", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False)
    base = base_arm(
        pretrain=_trunk(size),
        model=VLMSpec(lm=size.lm, vision=PAPER_ENCODER, encoder="external", projector=projector, attention="causal"),
        midtrain=midtrain,
        rewarm=size.rewarm,
        finetune=finetune,
        finetune_lr=2e-5,
        epochs=2,
        evaluate=PAPER_EVALUATION,
    )
    return Scale(name=name, base=base, rewarm=size.rewarm, seeds=1)


def _trunk(size: _PaperSize) -> Pretrain:
    row_shape, tokens = RowShape(batch_size=size.batch_size, length=2048), Tokens(size.tokens)
    warmup = Share(size.warmup_steps, row_shape.steps(tokens))
    return Pretrain(
        model=size.lm,
        tokenizer=PAPER_TOKENIZER,
        text=single_source(PAPER_TEXT, max_epochs=1 + size.tokens // PAPER_TEXT.tokens),
        packing="best_fit",
        row_shape=row_shape,
        tokens=tokens,
        schedule=Rewarm(peak_lr=size.peak_lr, min_lr=3e-5, warmup=warmup),
        optim=adamw(z_loss=size.z_loss),
        trains=trains_decoder(size.weight_decay),
        seed=0,
    )
