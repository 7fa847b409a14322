"""The built-in world's scales: minutes on a laptop, with real drawings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from firstsight.recipe.mix import Benchmarks, Captions, Dialogues, Mix, Part, Texts, Vocabulary, World
from firstsight.recipe.model import Contrast, ProjectorSpec, Siglip, Vit, VLMSpec, openlm
from firstsight.recipe.scales.base import VISION_TASKS, Scale
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Adam, Evaluate, Finetune, Midtrain, Pretrain, Rows
from firstsight.recipe.study import Arm
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
        )
    )


def cpu() -> Scale:
    """The whole study on two CPU cores in ten minutes, with real drawings and a model that learns to look."""
    return _world_scale(
        _WorldSize(
            name="cpu",
            objects=48,
            kinds=8,
            trunk_steps=700,
            mid_steps=290,
            tune_steps=390,
            encoder_steps=300,
            questions=200,
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


def _world_scale(size: _WorldSize) -> Scale:
    world = World(objects=size.objects, kinds=size.kinds, picture=48, crowd=4, seed=0)
    rows = Rows(batch=32, length=64)
    trunk, mid, tune = (Tokens(n * rows.tokens) for n in (size.trunk_steps, size.mid_steps, size.tune_steps))
    words = Vocabulary(world=world)
    optim = Adam(beta1=0.9, beta2=0.95, eps=1e-8, decay=0.01, clip=1.0, z_loss=1e-4)
    text = Texts(world=world, documents=4 * 32 * (size.trunk_steps + size.mid_steps), mask="determined")
    captions = Captions(world=world, pictures=2 * 32 * size.mid_steps, quality="rich")
    dialogues = Dialogues(world=world, pictures=2 * 32 * size.tune_steps, turns=2)
    lm = replace(openlm(layers=4, width=128, heads=4, vocabulary=512), hidden=512, token_shift=4, embedding_scale=4)
    vision = Siglip(
        vit=Vit(layers=4, width=128, heads=4, hidden=256, image=48, patch=12),
        weights=Contrast(
            captions=captions,
            text_layers=1,
            steps=size.encoder_steps,
            batch=64,
            peak=1e-3,
            warmup=20,
            decay=0.01,
            seed=0,
        ),
    )
    model = VLMSpec(lm=lm, vision=vision, projector=ProjectorSpec(kind="mlp2", positions=True))
    pretrain = Pretrain(
        model=lm,
        tokenizer=words,
        text=text,
        packing="best_fit",
        rows=rows,
        tokens=trunk,
        rate=Rewarm(peak=3e-3, floor=9e-6, warmup=Tokens(trunk // 20), tokens=trunk),
        optim=optim,
        seed=0,
    )
    rewarm = Rewarm(peak=2e-3, floor=2e-5, warmup=Tokens(mid * 5000 // 109_848), tokens=mid)
    midtrain = Midtrain(
        model=model,
        tokenizer=words,
        mix=Mix(
            text=text,
            images=(Part(source=captions, share=Share(1)),),
            share=Share(4, 5),
            counted_in="rows",
            packing="best_fit",
        ),
        text_rows_seen=0,
        rows=rows,
        tokens=mid,
        rate=rewarm,
        moments="carried",
        optim=optim,
        seed=0,
    )
    finetune = Finetune(
        model=model,
        tokenizer=words,
        mix=Mix(
            text=text,
            images=(Part(source=dialogues, share=Share(1)),),
            share=Share(1),
            counted_in="rows",
            packing="best_fit",
        ),
        rows=rows,
        epoch=tune,
        epochs=1,
        rate=Rewarm(peak=2e-3, floor=0.0, warmup=Tokens(tune * 3 // 100), tokens=tune),
        optim=optim,
        seed=0,
    )
    judge = Evaluate(
        benchmarks=Benchmarks(world=world, questions=size.questions),
        vision=(*VISION_TASKS, "kinds"),
        text=WORLD_TEXT_TASKS,
    )
    base = Arm(name="base", seed=0, pretrain=pretrain, start=Share(4, 5), stages=(midtrain, finetune), evaluate=judge)
    return Scale(name=size.name, base=base, rewarm=rewarm, seeds=2 if size.name == "cpu" else 1)
