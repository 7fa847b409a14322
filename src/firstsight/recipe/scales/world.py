"""The built-in world's scales: minutes on a laptop, with real drawings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from firstsight.recipe.lm import LMSpec, openlm
from firstsight.recipe.mix import Benchmarks, Captions, Dialogues, Mix, Texts, Vocabulary, World, alone
from firstsight.recipe.model import ProjectorSpec, VLMSpec
from firstsight.recipe.scales.base import VISION_TASKS, Scale
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Adam, Evaluate, Finetune, Midtrain, Pretrain, Rows
from firstsight.recipe.study import Arm
from firstsight.recipe.vision import Contrast, Siglip, Vit
from firstsight.units import Share, Tokens

WORLD_TEXT_TASKS = ("arc_easy", "mathqa", "boolq", "agieval_sat_en", "hellaswag", "copa")


def smoke() -> Scale:
    """Everything once, in a minute on two cores; the scores mean nothing."""
    return _world_scale(
        _WorldSize(
            name="smoke",
            objects=16,
            kinds=4,
            trunk_steps=40,
            mid_steps=20,
            tune_steps=20,
            encoder_steps=20,
            questions=24,
            seeds=1,
        )
    )


def cpu() -> Scale:
    """The whole study on two CPU cores in ten minutes, with real drawings and a model that learns to look."""
    return _world_scale(
        _WorldSize(
            name="cpu",
            objects=48,
            kinds=8,
            trunk_steps=1400,
            mid_steps=540,
            tune_steps=720,
            encoder_steps=700,
            questions=200,
            seeds=2,
        )
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _WorldSize:
    name: str
    objects: int
    kinds: int
    trunk_steps: int
    mid_steps: int
    tune_steps: int
    encoder_steps: int
    questions: int
    seeds: int

    @property
    def world(self) -> World:
        return World(objects=self.objects, kinds=self.kinds, picture=48, crowd=4, seed=0)

    @property
    def text(self) -> Texts:
        """At least two documents for every text row of trunk, branch and fine-tuning."""
        steps = self.trunk_steps + self.mid_steps * (1 - SEEN) + self.tune_steps * (1 - TUNED)
        return Texts(world=self.world, documents=ceil(ROWS.batch * steps * 21 / 10), mask="determined")

    @property
    def captions(self) -> Captions:
        """2.5 pictures for every image row of a branch."""
        pictures = ceil(ROWS.batch * self.mid_steps * SEEN * 25 / 10)
        return Captions(world=self.world, pictures=pictures, quality="rich")

    @property
    def dialogues(self) -> Dialogues:
        """2.2 pictures for every image row of fine-tuning."""
        pictures = ceil(ROWS.batch * self.tune_steps * TUNED * 22 / 10)
        return Dialogues(world=self.world, pictures=pictures, turns=2)


ROWS = Rows(batch=16, length=64)
"""Many small steps: at this size it is updates, more than tokens, that teach a model to look things up."""
SEEN = Share(4, 5)
"""Of the rows of a branch, those with pictures. The paper's tenth would show this model 700 pictures."""
TUNED = Share(7, 8)
"""Of the rows of fine-tuning, those with pictures; the paper has no text in it."""
ADAM = Adam(beta1=0.9, beta2=0.95, eps=1e-8, decay=0.01, clip=1.0, z_loss=1e-4, encoder_rate=0.0, encoder_decay=0.0)


def _world_scale(size: _WorldSize) -> Scale:
    rewarm = _rewarm(size)
    pretrain = _pretrain(size)
    base = Arm(
        name="base",
        seed=0,
        pretrain=pretrain,
        start=Share(4, 5),
        stages=(_midtrain(size, rewarm), _finetune(size)),
        evaluate=Evaluate(
            benchmarks=Benchmarks(world=size.world, questions=size.questions),
            vision=(*VISION_TASKS, "kinds"),
            text=WORLD_TEXT_TASKS,
        ),
    )
    return Scale(name=size.name, base=base, rewarm=rewarm, seeds=size.seeds)


def _decoder() -> LMSpec:
    """Four layers bind words to places only with a little help: token shift and larger input embeddings."""
    small = openlm(layers=4, width=128, heads=4, vocabulary=512)
    return replace(small, hidden=512, token_shift=4, embedding_scale=4)


def _model(size: _WorldSize) -> VLMSpec:
    learning = Contrast(
        captions=size.captions,
        text_layers=1,
        text_width=128,
        steps=size.encoder_steps,
        batch=64,
        peak=2e-3,
        warmup=size.encoder_steps // 15,
        decay=0.01,
        seed=0,
    )
    vit = Vit(layers=3, width=256, heads=4, hidden=1024, image=48, patch=24)
    return VLMSpec(
        lm=_decoder(),
        vision=Siglip(vit=vit, fit="resize", weights=learning),
        encoder="frozen",
        projector=ProjectorSpec(kind="mlp2", shuffle=1, spread=3, positions=True),
        attention="causal",
    )


def _rewarm(size: _WorldSize) -> Rewarm:
    """The paper's warm-up share (5000 of 109,848 steps) and floor (a hundredth of the peak)."""
    tokens = Tokens(size.mid_steps * ROWS.tokens)
    return Rewarm(peak=3e-3, floor=3e-5, warmup=Tokens(tokens * 5000 // 109_848), tokens=tokens)


def _pretrain(size: _WorldSize) -> Pretrain:
    tokens = Tokens(size.trunk_steps * ROWS.tokens)
    return Pretrain(
        model=_decoder(),
        tokenizer=Vocabulary(world=size.world),
        text=alone(size.text),
        packing="best_fit",
        rows=ROWS,
        tokens=tokens,
        rate=Rewarm(peak=4e-3, floor=12e-6, warmup=Tokens(tokens // 20), tokens=tokens),
        optim=ADAM,
        seed=0,
    )


def _midtrain(size: _WorldSize, rewarm: Rewarm) -> Midtrain:
    return Midtrain(
        model=_model(size),
        tokenizer=Vocabulary(world=size.world),
        mix=_mix(size, size.captions, SEEN),
        rows=ROWS,
        tokens=rewarm.tokens,
        rate=rewarm,
        moments="carried",
        optim=ADAM,
        seed=0,
    )


def _finetune(size: _WorldSize) -> Finetune:
    tokens = Tokens(size.tune_steps * ROWS.tokens)
    return Finetune(
        model=_model(size),
        tokenizer=Vocabulary(world=size.world),
        mix=_mix(size, size.dialogues, TUNED),
        rows=ROWS,
        epoch=tokens,
        epochs=1,
        rate=Rewarm(peak=4e-3, floor=0.0, warmup=Tokens(tokens * 3 // 100), tokens=tokens),
        optim=ADAM,
        seed=0,
    )


def _mix(size: _WorldSize, images: Captions | Dialogues, share: Share) -> Mix:
    return Mix(
        text=alone(size.text),
        images=alone(images),
        share=share,
        counted_in="rows",
        packing="best_fit",
    )
