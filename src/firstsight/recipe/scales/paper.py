"""The paper's scales: its models, budgets and schedules, with data from the user's own machine."""

from __future__ import annotations

from firstsight.recipe.mixture import External, Recaptioned, single_source
from firstsight.recipe.model import LMSpec, ProjectorSpec, VLMSpec
from firstsight.recipe.scales.base import VISION_TASKS, Scale, StageSettings, adamw, base_arm
from firstsight.recipe.scales.models import (
    openlm_1b,
    openlm_7b,
    openlm_79m,
    openlm_154m,
    openlm_411m,
    siglip_so400m_384,
)
from firstsight.recipe.stages import Evaluate, Pretrain, Rewarm, RowShape
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
PAPER_TEXT = External(name="dclm-mix", form="text", tokens=Tokens(0))
PAPER_CAPTIONS = Recaptioned(
    external=External(name="datacomp-dr-1b", form="captions", tokens=Tokens(0)), synthetic_share=Share(1), seed=0
)
"""The paper does not say how it chose between real and regenerated captions; the set's name suggests the latter."""
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
"""LLaVA's 625,000 dialogues with an image, one a row; the paper's figure rounds it to 1B tokens."""


def paper_79m() -> Scale:
    """79M parameters, 237B text tokens. Source: paper Table 2."""
    trunk = _trunk(
        openlm_79m(), 236_700_000_000, batch_size=512, warmup_steps=400, peak_lr=3e-3, weight_decay=0.033, z_loss=1e-4
    )
    return _paper_scale("79m", trunk, midtrain_tokens=Tokens(1_578_000_000))


def paper_154m() -> Scale:
    """154M parameters, run by the authors but not in the paper's tables. Trunk of 150 x 20 tokens a parameter."""
    trunk = _trunk(
        openlm_154m(), 461_000_000_000, batch_size=512, warmup_steps=400, peak_lr=3e-3, weight_decay=0.033, z_loss=1e-4
    )
    return _paper_scale("154m", trunk, midtrain_tokens=Tokens(3_074_000_000))


def paper_411m() -> Scale:
    """411M parameters, run by the authors but not in the paper's tables. Trunk of 150 x 20 tokens a parameter."""
    tokens = 1_236_000_000_000
    trunk = _trunk(
        openlm_411m(), tokens, batch_size=512, warmup_steps=2000, peak_lr=3e-3, weight_decay=0.033, z_loss=1e-4
    )
    return _paper_scale("411m", trunk, midtrain_tokens=Tokens(8_240_000_000))


def paper_1b() -> Scale:
    """The paper's study: 1.4B parameters, DCLM-1B's 4.3T-token run, 28.8B image-text tokens a branch."""
    tokens = 4_319_385_600_000
    trunk = _trunk(openlm_1b(), tokens, batch_size=512, warmup_steps=5000, peak_lr=1e-2, weight_decay=0.01, z_loss=1e-6)
    return _paper_scale("1b", trunk, midtrain_tokens=Tokens(28_795_904_000))


def paper_7b() -> Scale:
    """6.9B parameters with DCLM's 7B settings. The paper does not describe its trunk; this is DCLM's 276B-token run."""
    tokens = 275_576_422_400
    trunk = _trunk(
        openlm_7b(), tokens, batch_size=2048, warmup_steps=5000, peak_lr=2e-3, weight_decay=0.05, z_loss=5e-6
    )
    return _paper_scale("7b", trunk, midtrain_tokens=Tokens(28_795_904_000))


def _trunk(
    lm: LMSpec, tokens: int, *, batch_size: int, warmup_steps: int, peak_lr: float, weight_decay: float, z_loss: float
) -> Pretrain:
    row_shape = RowShape(batch_size=batch_size, length=2048)
    warmup_tokens = Tokens(warmup_steps * row_shape.tokens_per_step)
    rounded = row_shape.round_up(Tokens(tokens))
    return Pretrain(
        model=lm,
        tokenizer=PAPER_TOKENIZER,
        text=single_source(PAPER_TEXT),
        packing="best_fit",
        row_shape=row_shape,
        tokens=Tokens(tokens),
        schedule=Rewarm(peak_lr=peak_lr, min_lr=3e-5, warmup_tokens=warmup_tokens, tokens=rounded),
        optim=adamw(weight_decay=weight_decay, z_loss=z_loss),
        seed=0,
    )


def _paper_scale(name: str, trunk: Pretrain, *, midtrain_tokens: Tokens) -> Scale:
    """Two epochs of fine-tuning with Prismatic's defaults for LLaVA: the optimum in the paper's Figure 8."""
    midtrain = StageSettings(
        images=PAPER_CAPTIONS,
        image_share=Share(1, 10),
        packing="one_image_per_row",
        row_shape=MIDTRAIN_ROW_SHAPE,
        tokens=midtrain_tokens,
        optim=adamw(weight_decay=0.033, z_loss=1e-4),
    )
    finetune = StageSettings(
        images=PAPER_DIALOGUES,
        image_share=Share(1),
        packing="one_image_per_row",
        row_shape=FINETUNE_ROW_SHAPE,
        tokens=FINETUNE_EPOCH_TOKENS,
        optim=adamw(weight_decay=0.1, z_loss=0.0),
    )
    rewarm = _rewarm(midtrain_tokens)
    base = base_arm(
        pretrain=trunk,
        model=_model(trunk.model),
        midtrain=midtrain,
        rewarm=rewarm,
        finetune=finetune,
        finetune_lr=2e-5,
        epochs=2,
        evaluate=PAPER_EVALUATION,
    )
    return Scale(name=name, base=base, rewarm=rewarm, seeds=1)


def _model(lm: LMSpec) -> VLMSpec:
    return VLMSpec(
        lm=lm,
        vision=PAPER_ENCODER,
        encoder="frozen",
        projector=ProjectorSpec(kind="mlp3", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False),
        attention="causal",
    )


def _rewarm(tokens: Tokens) -> Rewarm:
    """5000 steps of 109,848 to 3e-3, then to 3e-5: the paper's 0 % and 100 % arms."""
    row_shape = MIDTRAIN_ROW_SHAPE
    warmup_tokens = Tokens(row_shape.steps(tokens) * 5000 // 109_848 * row_shape.tokens_per_step)
    return Rewarm(peak_lr=3e-3, min_lr=3e-5, warmup_tokens=warmup_tokens, tokens=row_shape.round_up(tokens))
