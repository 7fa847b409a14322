"""The paper's scales: its models, budgets and schedules, with data from the user's own machine."""

from __future__ import annotations

from dataclasses import dataclass

from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mix import Mix, Named, Recaptioned, alone
from firstsight.recipe.model import ProjectorSpec, VLMSpec
from firstsight.recipe.scales.base import VISION_TASKS, Scale
from firstsight.recipe.scales.decoders import openlm_1b, openlm_7b, openlm_79m, openlm_154m, openlm_411m
from firstsight.recipe.scales.encoders import siglip_so400m_384
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Adam, Evaluate, Finetune, Midtrain, Pretrain, Rows
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
            trunk=Tokens(236_700_000_000),
            batch=512,
            warmup=400,
            peak=3e-3,
            decay=0.033,
            z_loss=1e-4,
            mid=Tokens(1_578_000_000),
        )
    )


def paper_154m() -> Scale:
    """154M parameters; the authors ran it outside the paper's tables. Trunk at 150 x 20 tokens a parameter."""
    return _paper_scale(
        _PaperSize(
            name="154m",
            lm=openlm_154m(),
            trunk=Tokens(461_000_000_000),
            batch=512,
            warmup=400,
            peak=3e-3,
            decay=0.033,
            z_loss=1e-4,
            mid=Tokens(3_074_000_000),
        )
    )


def paper_411m() -> Scale:
    """411M parameters; the authors ran it outside the paper's tables. Trunk at 150 x 20 tokens a parameter."""
    return _paper_scale(
        _PaperSize(
            name="411m",
            lm=openlm_411m(),
            trunk=Tokens(1_236_000_000_000),
            batch=512,
            warmup=2000,
            peak=3e-3,
            decay=0.033,
            z_loss=1e-4,
            mid=Tokens(8_240_000_000),
        )
    )


def paper_1b() -> Scale:
    """The paper's study: 1.4B parameters, DCLM-1B's 4.3T-token run, 28.8B image-text tokens a branch."""
    return _paper_scale(
        _PaperSize(
            name="1b",
            lm=openlm_1b(),
            trunk=Tokens(4_319_385_600_000),
            batch=512,
            warmup=5000,
            peak=1e-2,
            decay=0.01,
            z_loss=1e-6,
            mid=Tokens(28_795_904_000),
        )
    )


def paper_7b() -> Scale:
    """6.9B parameters with DCLM's 7B settings; the paper does not tell its trunk, ours is DCLM's 276B-token run."""
    return _paper_scale(
        _PaperSize(
            name="7b",
            lm=openlm_7b(),
            trunk=Tokens(275_576_422_400),
            batch=2048,
            warmup=5000,
            peak=2e-3,
            decay=0.05,
            z_loss=5e-6,
            mid=Tokens(28_795_904_000),
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _PaperSize:
    name: str
    lm: LMSpec
    trunk: Tokens
    batch: int
    warmup: int
    peak: float
    decay: float
    z_loss: float
    mid: Tokens


TEXT = Named(name="dclm-mix", form="text", tokens=Tokens(0))
CAPTIONS = Recaptioned(
    named=Named(name="datacomp-dr-1b", form="captions", tokens=Tokens(0)), synthetic=Share(1), seed=0
)
"""The paper does not tell how it chose between real and regenerated captions; the set's name suggests the latter."""
LLAVA = Named(name="llava-v1.5-multimodal", form="dialogues", tokens=Tokens(0))
NEOX = Named(name="gpt-neox-20b", form="tokenizer", tokens=Tokens(0))
SIGLIP = siglip_so400m_384(Named(name="siglip-so400m-patch14-384", form="encoder", tokens=Tokens(0)))
JUDGE = Evaluate(
    benchmarks=Named(name="paper-benchmarks", form="benchmarks", tokens=Tokens(0)),
    vision=VISION_TASKS,
    text=PAPER_TEXT_TASKS,
)
MID_ROWS = Rows(batch=256, length=1024)
TUNE_ROWS = Rows(batch=128, length=1024)
EPOCH = TUNE_ROWS.whole(Tokens(625_000 * 1024))
"""LLaVA's 625,000 dialogues with a picture, one a row; the paper's figure rounds it to 1B tokens."""


def _paper_scale(size: _PaperSize) -> Scale:
    rewarm = _rewarm(size)
    base = Arm(
        name="base",
        seed=0,
        pretrain=_pretrain(size),
        start=Share(4, 5),
        stages=(_midtrain(size, rewarm), _finetune(size)),
        evaluate=JUDGE,
    )
    return Scale(name=size.name, base=base, rewarm=rewarm, seeds=1)


def _optim(*, decay: float, z_loss: float) -> Adam:
    return Adam(
        beta1=0.9, beta2=0.95, eps=1e-8, decay=decay, clip=1.0, z_loss=z_loss, encoder_rate=0.0, encoder_decay=0.0
    )


def _model(size: _PaperSize) -> VLMSpec:
    return VLMSpec(
        lm=size.lm,
        vision=SIGLIP,
        encoder="frozen",
        projector=ProjectorSpec(kind="mlp3", shuffle=1, spread=1, positions=False),
        attention="causal",
    )


def _rewarm(size: _PaperSize) -> Rewarm:
    """5000 steps of 109,848 to 3e-3, then to 3e-5: the paper's 0 % and 100 % arms."""
    tokens = MID_ROWS.whole(size.mid)
    warmup = Tokens(MID_ROWS.steps(size.mid) * 5000 // 109_848 * MID_ROWS.tokens)
    return Rewarm(peak=3e-3, floor=3e-5, warmup=warmup, tokens=tokens)


def _pretrain(size: _PaperSize) -> Pretrain:
    rows = Rows(batch=size.batch, length=2048)
    warmup = Tokens(size.warmup * rows.tokens)
    return Pretrain(
        model=size.lm,
        tokenizer=NEOX,
        text=alone(TEXT),
        packing="best_fit",
        rows=rows,
        tokens=size.trunk,
        rate=Rewarm(peak=size.peak, floor=3e-5, warmup=warmup, tokens=rows.whole(size.trunk)),
        optim=_optim(decay=size.decay, z_loss=size.z_loss),
        seed=0,
    )


def _midtrain(size: _PaperSize, rewarm: Rewarm) -> Midtrain:
    return Midtrain(
        model=_model(size),
        tokenizer=NEOX,
        mix=_mix(CAPTIONS, Share(1, 10)),
        rows=MID_ROWS,
        tokens=size.mid,
        rate=rewarm,
        moments="carried",
        optim=_optim(decay=0.033, z_loss=1e-4),
        seed=0,
    )


def _finetune(size: _PaperSize) -> Finetune:
    """Prismatic's defaults for LLaVA, two epochs: the sweet spot of the paper's Figure 8."""
    tokens = Tokens(2 * EPOCH)
    return Finetune(
        model=_model(size),
        tokenizer=NEOX,
        mix=_mix(LLAVA, Share(1)),
        rows=TUNE_ROWS,
        epoch=EPOCH,
        epochs=2,
        rate=Rewarm(peak=2e-5, floor=0.0, warmup=Tokens(tokens * 3 // 100), tokens=tokens),
        optim=_optim(decay=0.1, z_loss=0.0),
        seed=0,
    )


def _mix(images: Named | Recaptioned, share: Share) -> Mix:
    return Mix(
        text=alone(TEXT),
        images=alone(images),
        share=share,
        counted_in="rows",
        packing="one_image_per_row",
    )
