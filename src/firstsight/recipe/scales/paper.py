"""The paper's scales: its models, budgets and schedules, with data from the user's own machine."""

from __future__ import annotations

from dataclasses import dataclass

from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mixture import External, ImageTextMix, Recaptioned, single_source
from firstsight.recipe.model import ProjectorSpec, VLMSpec
from firstsight.recipe.scales.base import VISION_TASKS, Scale
from firstsight.recipe.scales.decoders import openlm_1b, openlm_7b, openlm_79m, openlm_154m, openlm_411m
from firstsight.recipe.scales.encoders import siglip_so400m_384
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import AdamWSpec, Evaluate, Finetune, Midtrain, Pretrain, RowShape
from firstsight.recipe.study import Arm
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


def paper_79m() -> Scale:
    """79M parameters, 237B text tokens. Source: paper Table 2."""
    return _paper_scale(
        _PaperSize(
            name="79m",
            lm=openlm_79m(),
            trunk_tokens=Tokens(236_700_000_000),
            batch_size=512,
            warmup_steps=400,
            peak_lr=3e-3,
            weight_decay=0.033,
            z_loss=1e-4,
            midtrain_tokens=Tokens(1_578_000_000),
        )
    )


def paper_154m() -> Scale:
    """154M parameters; the authors ran it outside the paper's tables. Trunk at 150 x 20 tokens a parameter."""
    return _paper_scale(
        _PaperSize(
            name="154m",
            lm=openlm_154m(),
            trunk_tokens=Tokens(461_000_000_000),
            batch_size=512,
            warmup_steps=400,
            peak_lr=3e-3,
            weight_decay=0.033,
            z_loss=1e-4,
            midtrain_tokens=Tokens(3_074_000_000),
        )
    )


def paper_411m() -> Scale:
    """411M parameters; the authors ran it outside the paper's tables. Trunk at 150 x 20 tokens a parameter."""
    return _paper_scale(
        _PaperSize(
            name="411m",
            lm=openlm_411m(),
            trunk_tokens=Tokens(1_236_000_000_000),
            batch_size=512,
            warmup_steps=2000,
            peak_lr=3e-3,
            weight_decay=0.033,
            z_loss=1e-4,
            midtrain_tokens=Tokens(8_240_000_000),
        )
    )


def paper_1b() -> Scale:
    """The paper's study: 1.4B parameters, DCLM-1B's 4.3T-token run, 28.8B image-text tokens a branch."""
    return _paper_scale(
        _PaperSize(
            name="1b",
            lm=openlm_1b(),
            trunk_tokens=Tokens(4_319_385_600_000),
            batch_size=512,
            warmup_steps=5000,
            peak_lr=1e-2,
            weight_decay=0.01,
            z_loss=1e-6,
            midtrain_tokens=Tokens(28_795_904_000),
        )
    )


def paper_7b() -> Scale:
    """6.9B parameters with DCLM's 7B settings; the paper does not tell its trunk, ours is DCLM's 276B-token run."""
    return _paper_scale(
        _PaperSize(
            name="7b",
            lm=openlm_7b(),
            trunk_tokens=Tokens(275_576_422_400),
            batch_size=2048,
            warmup_steps=5000,
            peak_lr=2e-3,
            weight_decay=0.05,
            z_loss=5e-6,
            midtrain_tokens=Tokens(28_795_904_000),
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _PaperSize:
    name: str
    lm: LMSpec
    trunk_tokens: Tokens
    batch_size: int
    warmup_steps: int
    peak_lr: float
    weight_decay: float
    z_loss: float
    midtrain_tokens: Tokens


PAPER_TEXT = External(name="dclm-mix", form="text", tokens=Tokens(0))
PAPER_CAPTIONS = Recaptioned(
    external=External(name="datacomp-dr-1b", form="captions", tokens=Tokens(0)), synthetic_share=Share(1), seed=0
)
"""The paper does not tell how it chose between real and regenerated captions; the set's name suggests the latter."""
PAPER_DIALOGUES = External(name="llava-v1.5-multimodal", form="dialogues", tokens=Tokens(0))
PAPER_TOKENIZER = External(name="gpt-neox-20b", form="tokenizer", tokens=Tokens(0))
PAPER_ENCODER = siglip_so400m_384(External(name="siglip-so400m-patch14-384", form="encoder", tokens=Tokens(0)))
PAPER_EVALUATION = Evaluate(
    benchmarks=External(name="paper-benchmarks", form="benchmarks", tokens=Tokens(0)),
    vision_tasks=VISION_TASKS,
    text_tasks=PAPER_TEXT_TASKS,
)
MIDTRAIN_ROW_SHAPE = RowShape(batch_size=256, length=1024)
FINETUNE_ROW_SHAPE = RowShape(batch_size=128, length=1024)
FINETUNE_EPOCH_TOKENS = FINETUNE_ROW_SHAPE.round_up(Tokens(625_000 * 1024))
"""LLaVA's 625,000 dialogues with a picture, one a row; the paper's figure rounds it to 1B tokens."""


def _paper_scale(size: _PaperSize) -> Scale:
    rewarm = _rewarm(size)
    base = Arm(
        name="base",
        seed=0,
        pretrain=_pretrain(size),
        start=Share(4, 5),
        stages=(_midtrain(size, rewarm), _finetune(size)),
        evaluate=PAPER_EVALUATION,
    )
    return Scale(name=size.name, base=base, rewarm=rewarm, seeds=1)


def _optim(*, weight_decay: float, z_loss: float) -> AdamWSpec:
    return AdamWSpec(
        beta1=0.9,
        beta2=0.95,
        eps=1e-8,
        weight_decay=weight_decay,
        max_grad_norm=1.0,
        z_loss=z_loss,
        encoder_lr_scale=0.0,
        encoder_weight_decay=0.0,
    )


def _model(size: _PaperSize) -> VLMSpec:
    return VLMSpec(
        lm=size.lm,
        vision=PAPER_ENCODER,
        encoder="frozen",
        projector=ProjectorSpec(kind="mlp3", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False),
        attention="causal",
    )


def _rewarm(size: _PaperSize) -> Rewarm:
    """5000 steps of 109,848 to 3e-3, then to 3e-5: the paper's 0 % and 100 % arms."""
    tokens = MIDTRAIN_ROW_SHAPE.round_up(size.midtrain_tokens)
    warmup_tokens = Tokens(
        MIDTRAIN_ROW_SHAPE.steps(size.midtrain_tokens) * 5000 // 109_848 * MIDTRAIN_ROW_SHAPE.tokens_per_step
    )
    return Rewarm(peak_lr=3e-3, min_lr=3e-5, warmup_tokens=warmup_tokens, tokens=tokens)


def _pretrain(size: _PaperSize) -> Pretrain:
    row_shape = RowShape(batch_size=size.batch_size, length=2048)
    warmup_tokens = Tokens(size.warmup_steps * row_shape.tokens_per_step)
    return Pretrain(
        model=size.lm,
        tokenizer=PAPER_TOKENIZER,
        text=single_source(PAPER_TEXT),
        packing="best_fit",
        row_shape=row_shape,
        tokens=size.trunk_tokens,
        schedule=Rewarm(
            peak_lr=size.peak_lr, min_lr=3e-5, warmup_tokens=warmup_tokens, tokens=row_shape.round_up(size.trunk_tokens)
        ),
        optim=_optim(weight_decay=size.weight_decay, z_loss=size.z_loss),
        seed=0,
    )


def _midtrain(size: _PaperSize, rewarm: Rewarm) -> Midtrain:
    return Midtrain(
        model=_model(size),
        tokenizer=PAPER_TOKENIZER,
        mix=_mix(PAPER_CAPTIONS, Share(1, 10)),
        row_shape=MIDTRAIN_ROW_SHAPE,
        tokens=size.midtrain_tokens,
        schedule=rewarm,
        moments="carried",
        optim=_optim(weight_decay=0.033, z_loss=1e-4),
        seed=0,
    )


def _finetune(size: _PaperSize) -> Finetune:
    """Prismatic's defaults for LLaVA, two epochs: the sweet spot of the paper's Figure 8."""
    tokens = Tokens(2 * FINETUNE_EPOCH_TOKENS)
    return Finetune(
        model=_model(size),
        tokenizer=PAPER_TOKENIZER,
        mix=_mix(PAPER_DIALOGUES, Share(1)),
        row_shape=FINETUNE_ROW_SHAPE,
        epoch_tokens=FINETUNE_EPOCH_TOKENS,
        epochs=2,
        schedule=Rewarm(peak_lr=2e-5, min_lr=0.0, warmup_tokens=Tokens(tokens * 3 // 100), tokens=tokens),
        optim=_optim(weight_decay=0.1, z_loss=0.0),
        seed=0,
    )


def _mix(images: External | Recaptioned, share: Share) -> ImageTextMix:
    return ImageTextMix(
        text=single_source(PAPER_TEXT),
        images=single_source(images),
        image_share=share,
        share_unit="rows",
        packing="one_image_per_row",
    )
