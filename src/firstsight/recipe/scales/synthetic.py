"""The built-in synthetic world's scales: minutes on a laptop, with real drawings."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from firstsight.recipe.mixture import (
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticTexts,
    SyntheticVocabulary,
    SyntheticWorld,
    single_source,
)
from firstsight.recipe.model import LMSpec, ProjectorSpec, VLMSpec, openlm_spec
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
from firstsight.recipe.spec import spec
from firstsight.recipe.stages import Evaluate, ModuleTraining, Pretrain, RowShape
from firstsight.recipe.vision import ContrastiveTraining, Siglip, ViTSpec
from firstsight.units import Share, Tokens

SYNTHETIC_VISION_TASKS = (*VISION_TASKS, "kinds")
SYNTHETIC_TEXT_TASKS = ("arc_easy", "mathqa", "boolq", "agieval_sat_en", "hellaswag", "copa")
ENCODER_BATCH_SIZE = 64
MIDTRAIN_IMAGE_SHARE = Share(4, 5)
"""Image rows of a branch. With the paper's tenth this model would get 700 images."""
SMALLER_WIDTHS = (32, 64)
"""Decoders of the scales' smaller sizes, a twelfth and a quarter as large as the scales' own."""
FINETUNE_IMAGE_SHARE = Share(7, 8)
"""Image rows of fine-tuning; the paper has no text in it."""
SYNTHETIC_OPTIM = adamw(z_loss=1e-4)
SYNTHETIC_WEIGHT_DECAY = 0.01


def smoke_scale() -> Scale:
    """Every kind of step once, in a minute on two cores; the models are too small for meaningful scores."""
    size = _Size(
        name="smoke", objects=16, kinds=4, batch=16, trunk=40, branch=20, tune=20, encoder=20, questions=24, seeds=1
    )
    return _synthetic_scale(size)


def cpu_scale() -> Scale:
    """The whole study on two CPU cores in a quarter of an hour, with a model that learns to use its images.

    Many steps of few rows: at this size a model learns from updates more than from tokens.
    """
    size = _Size(
        name="cpu", objects=16, kinds=8, batch=8, trunk=2400, branch=720, tune=1080, encoder=700, questions=300, seeds=2
    )
    return _synthetic_scale(size)


def hour_scale() -> Scale:
    """The world of `cpu` with twice the text and twice the fine-tuning, over six seeds: for studies that decide.

    With the lengths of `cpu` some seeds learn to find objects by name and some do not, which hides what an arm does.
    """
    size = _Size(
        name="hour",
        objects=16,
        kinds=8,
        batch=8,
        trunk=4800,
        branch=720,
        tune=2160,
        encoder=700,
        questions=300,
        seeds=6,
    )
    return _synthetic_scale(size)


@spec
class _Size:
    """Size of the synthetic world, and the number of steps of each training stage."""

    name: str
    objects: int
    kinds: int
    batch: int
    trunk: int
    branch: int
    tune: int
    encoder: int
    questions: int
    seeds: int

    @property
    def row_shape(self) -> RowShape:
        """Rows of 64 tokens."""
        return RowShape(batch_size=self.batch, length=64)

    def tokens(self, steps: int) -> Tokens:
        """What so many steps read."""
        return Tokens(steps * self.row_shape.tokens_per_step)

    @property
    def world(self) -> SyntheticWorld:
        return SyntheticWorld(objects=self.objects, kinds=self.kinds, image_size=48, max_objects=4, seed=0)

    @property
    def text(self) -> SyntheticTexts:
        """At least two documents for every text row of trunk, branch and fine-tuning."""
        midtrain, finetune = self.branch * (1 - MIDTRAIN_IMAGE_SHARE), self.tune * (1 - FINETUNE_IMAGE_SHARE)
        documents = ceil(self.batch * (self.trunk + midtrain + finetune) * 21 / 10)
        return SyntheticTexts(world=self.world, documents=documents, loss_mask="determined")

    @property
    def captions(self) -> SyntheticCaptions:
        """2.5 images for every image row of a branch."""
        images = ceil(self.batch * self.branch * MIDTRAIN_IMAGE_SHARE * 25 / 10)
        return SyntheticCaptions(world=self.world, images=images, quality="rich")

    @property
    def encoder_captions(self) -> SyntheticCaptions:
        """Images of all (object, place) pairs for three epochs."""
        images = ceil(ENCODER_BATCH_SIZE * self.encoder / 3)
        return SyntheticCaptions(world=self.world, images=images, quality="rich", pairs="all")

    @property
    def dialogues(self) -> SyntheticDialogues:
        """2.2 images for every image row of fine-tuning."""
        images = ceil(self.batch * self.tune * FINETUNE_IMAGE_SHARE * 22 / 10)
        return SyntheticDialogues(world=self.world, images=images, turns=2)


def _synthetic_scale(size: _Size) -> Scale:
    trained = trains_decoder_and_projector(SYNTHETIC_WEIGHT_DECAY)
    midtrain = StageSettings(
        images=size.captions,
        image_share=MIDTRAIN_IMAGE_SHARE,
        packing="best_fit",
        row_shape=size.row_shape,
        tokens=size.tokens(size.branch),
        optim=SYNTHETIC_OPTIM,
        trains=replace(trained, projector=ModuleTraining(lr_scale=4.0, weight_decay=SYNTHETIC_WEIGHT_DECAY)),
    )
    finetune = replace(midtrain, images=size.dialogues, image_share=FINETUNE_IMAGE_SHARE, trains=trained)
    base = base_arm(
        pretrain=_trunk(size),
        model=_model(size),
        midtrain=midtrain,
        rewarm=PAPER_REWARM,
        finetune=replace(finetune, tokens=size.tokens(size.tune)),
        finetune_lr=4e-3,
        epochs=1,
        evaluate=Evaluate(
            benchmarks=SyntheticBenchmarks(world=size.world, questions=size.questions),
            vision_tasks=SYNTHETIC_VISION_TASKS,
            text_tasks=SYNTHETIC_TEXT_TASKS,
        ),
    )
    return Scale(name=size.name, base=base, rewarm=PAPER_REWARM, seeds=size.seeds)


def synthetic_decoder(width: int = 128) -> LMSpec:
    """A decoder of the built-in world: four layers, heads of width 32.

    Token shift and larger input embeddings help it to bind words to positions.
    """
    openlm = openlm_spec(layers=4, width=width, heads=width // 32, vocab_size=512)
    return replace(openlm, mlp_width=4 * width, token_shift=4, embedding_scale=4)


def _trunk(size: _Size) -> Pretrain:
    return Pretrain(
        model=synthetic_decoder(),
        tokenizer=SyntheticVocabulary(world=size.world),
        text=single_source(size.text),
        packing="best_fit",
        row_shape=size.row_shape,
        tokens=size.tokens(size.trunk),
        schedule=Rewarm(peak_lr=4e-3, min_lr=12e-6, warmup=Share(1, 20)),
        optim=SYNTHETIC_OPTIM,
        trains=trains_decoder(SYNTHETIC_WEIGHT_DECAY),
        seed=0,
    )


def _model(size: _Size) -> VLMSpec:
    contrastive = ContrastiveTraining(
        captions=size.encoder_captions,
        text_layers=1,
        text_width=128,
        steps=size.encoder,
        batch_size=ENCODER_BATCH_SIZE,
        peak_lr=2e-3,
        warmup=Share(1, 15),
        weight_decay=0.01,
        seed=0,
    )
    vit = ViTSpec(layers=3, width=256, heads=4, mlp_width=1024, image_size=48, patch_size=24)
    return VLMSpec(
        lm=synthetic_decoder(),
        vision=Siglip(vit=vit, fit="resize", weights=contrastive),
        encoder="external",
        projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=3, has_position_embeddings=True),
        attention="causal",
    )
