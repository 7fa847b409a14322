"""The built-in world's scales: minutes on a laptop, with real drawings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from firstsight.recipe.lm import LMSpec, openlm_spec
from firstsight.recipe.mixture import (
    ImageTextMix,
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticTexts,
    SyntheticVocabulary,
    SyntheticWorld,
    single_source,
)
from firstsight.recipe.model import ProjectorSpec, VLMSpec
from firstsight.recipe.scales.base import VISION_TASKS, Scale
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import AdamWSpec, Evaluate, Finetune, Midtrain, Pretrain, RowShape
from firstsight.recipe.study import Arm
from firstsight.recipe.vision import ContrastiveTraining, Siglip, ViTSpec
from firstsight.units import Share, Tokens

SYNTHETIC_TEXT_TASKS = ("arc_easy", "mathqa", "boolq", "agieval_sat_en", "hellaswag", "copa")


def smoke_scale() -> Scale:
    """Everything once, in a minute on two cores; the scores mean nothing."""
    return _synthetic_scale(
        _SyntheticSize(
            name="smoke",
            objects=16,
            kinds=4,
            trunk_steps=40,
            midtrain_steps=20,
            finetune_steps=20,
            encoder_steps=20,
            questions=24,
            seeds=1,
        )
    )


def cpu_scale() -> Scale:
    """The whole study on two CPU cores in ten minutes, with real drawings and a model that learns to look."""
    return _synthetic_scale(
        _SyntheticSize(
            name="cpu",
            objects=48,
            kinds=8,
            trunk_steps=1400,
            midtrain_steps=540,
            finetune_steps=720,
            encoder_steps=700,
            questions=200,
            seeds=2,
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _SyntheticSize:
    name: str
    objects: int
    kinds: int
    trunk_steps: int
    midtrain_steps: int
    finetune_steps: int
    encoder_steps: int
    questions: int
    seeds: int

    @property
    def world(self) -> SyntheticWorld:
        return SyntheticWorld(objects=self.objects, kinds=self.kinds, image_size=48, max_objects=4, seed=0)

    @property
    def text(self) -> SyntheticTexts:
        """At least two documents for every text row of trunk, branch and fine-tuning."""
        steps = (
            self.trunk_steps
            + self.midtrain_steps * (1 - MIDTRAIN_IMAGE_SHARE)
            + self.finetune_steps * (1 - FINETUNE_IMAGE_SHARE)
        )
        return SyntheticTexts(
            world=self.world, documents=ceil(SYNTHETIC_ROW_SHAPE.batch_size * steps * 21 / 10), loss_mask="determined"
        )

    @property
    def captions(self) -> SyntheticCaptions:
        """2.5 pictures for every image row of a branch."""
        images = ceil(SYNTHETIC_ROW_SHAPE.batch_size * self.midtrain_steps * MIDTRAIN_IMAGE_SHARE * 25 / 10)
        return SyntheticCaptions(world=self.world, images=images, quality="rich")

    @property
    def dialogues(self) -> SyntheticDialogues:
        """2.2 pictures for every image row of fine-tuning."""
        images = ceil(SYNTHETIC_ROW_SHAPE.batch_size * self.finetune_steps * FINETUNE_IMAGE_SHARE * 22 / 10)
        return SyntheticDialogues(world=self.world, images=images, turns=2)


SYNTHETIC_ROW_SHAPE = RowShape(batch_size=16, length=64)
"""Many small steps: at this size it is updates, more than tokens, that teach a model to look things up."""
MIDTRAIN_IMAGE_SHARE = Share(4, 5)
"""Of the rows of a branch, those with pictures. The paper's tenth would show this model 700 pictures."""
FINETUNE_IMAGE_SHARE = Share(7, 8)
"""Of the rows of fine-tuning, those with pictures; the paper has no text in it."""
SYNTHETIC_OPTIM = AdamWSpec(
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.01,
    max_grad_norm=1.0,
    z_loss=1e-4,
    encoder_lr_scale=0.0,
    encoder_weight_decay=0.0,
)


def _synthetic_scale(size: _SyntheticSize) -> Scale:
    rewarm = _rewarm(size)
    pretrain = _pretrain(size)
    base = Arm(
        name="base",
        seed=0,
        pretrain=pretrain,
        start=Share(4, 5),
        stages=(_midtrain(size, rewarm), _finetune(size)),
        evaluate=Evaluate(
            benchmarks=SyntheticBenchmarks(world=size.world, questions=size.questions),
            vision_tasks=(*VISION_TASKS, "kinds"),
            text_tasks=SYNTHETIC_TEXT_TASKS,
        ),
    )
    return Scale(name=size.name, base=base, rewarm=rewarm, seeds=size.seeds)


def _decoder() -> LMSpec:
    """Four layers bind words to places only with a little help: token shift and larger input embeddings."""
    openlm_base = openlm_spec(layers=4, width=128, heads=4, vocab_size=512)
    return replace(openlm_base, mlp_width=512, token_shift=4, embedding_scale=4)


def _model(size: _SyntheticSize) -> VLMSpec:
    contrastive = ContrastiveTraining(
        captions=size.captions,
        text_layers=1,
        text_width=128,
        steps=size.encoder_steps,
        batch_size=64,
        peak_lr=2e-3,
        warmup_steps=size.encoder_steps // 15,
        weight_decay=0.01,
        seed=0,
    )
    vit = ViTSpec(layers=3, width=256, heads=4, mlp_width=1024, image_size=48, patch_size=24)
    return VLMSpec(
        lm=_decoder(),
        vision=Siglip(vit=vit, fit="resize", weights=contrastive),
        encoder="frozen",
        projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=3, has_position_embeddings=True),
        attention="causal",
    )


def _rewarm(size: _SyntheticSize) -> Rewarm:
    """The paper's warm-up share (5000 of 109,848 steps) and floor (a hundredth of the peak)."""
    tokens = Tokens(size.midtrain_steps * SYNTHETIC_ROW_SHAPE.tokens_per_step)
    return Rewarm(peak_lr=3e-3, min_lr=3e-5, warmup_tokens=Tokens(tokens * 5000 // 109_848), tokens=tokens)


def _pretrain(size: _SyntheticSize) -> Pretrain:
    tokens = Tokens(size.trunk_steps * SYNTHETIC_ROW_SHAPE.tokens_per_step)
    return Pretrain(
        model=_decoder(),
        tokenizer=SyntheticVocabulary(world=size.world),
        text=single_source(size.text),
        packing="best_fit",
        row_shape=SYNTHETIC_ROW_SHAPE,
        tokens=tokens,
        schedule=Rewarm(peak_lr=4e-3, min_lr=12e-6, warmup_tokens=Tokens(tokens // 20), tokens=tokens),
        optim=SYNTHETIC_OPTIM,
        seed=0,
    )


def _midtrain(size: _SyntheticSize, rewarm: Rewarm) -> Midtrain:
    return Midtrain(
        model=_model(size),
        tokenizer=SyntheticVocabulary(world=size.world),
        mix=_mix(size, size.captions, MIDTRAIN_IMAGE_SHARE),
        row_shape=SYNTHETIC_ROW_SHAPE,
        tokens=rewarm.tokens,
        schedule=rewarm,
        moments="carried",
        optim=SYNTHETIC_OPTIM,
        seed=0,
    )


def _finetune(size: _SyntheticSize) -> Finetune:
    tokens = Tokens(size.finetune_steps * SYNTHETIC_ROW_SHAPE.tokens_per_step)
    return Finetune(
        model=_model(size),
        tokenizer=SyntheticVocabulary(world=size.world),
        mix=_mix(size, size.dialogues, FINETUNE_IMAGE_SHARE),
        row_shape=SYNTHETIC_ROW_SHAPE,
        epoch_tokens=tokens,
        epochs=1,
        schedule=Rewarm(peak_lr=4e-3, min_lr=0.0, warmup_tokens=Tokens(tokens * 3 // 100), tokens=tokens),
        optim=SYNTHETIC_OPTIM,
        seed=0,
    )


def _mix(size: _SyntheticSize, images: SyntheticCaptions | SyntheticDialogues, share: Share) -> ImageTextMix:
    return ImageTextMix(
        text=single_source(size.text),
        images=single_source(images),
        image_share=share,
        share_unit="rows",
        packing="best_fit",
    )
