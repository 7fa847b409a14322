"""Tiny specs and data of every training step: forty words, 160 images, a decoder of two layers."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from firstsight.model.vision_modules import siglip_vision_settings
from firstsight.recipe.mixture import (
    External,
    ImageTextMix,
    SyntheticCaptions,
    SyntheticTexts,
    SyntheticVocabulary,
    SyntheticWorld,
    single_source,
)
from firstsight.recipe.model import ProjectorSpec, VLMSpec, openlm_spec
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import (
    AdamWSpec,
    Finetune,
    Midtrain,
    ModuleTraining,
    Pretrain,
    RowShape,
    Trains,
    TrunkSegment,
)
from firstsight.recipe.vision import ContrastiveTraining, Dinov2, PatchProjectionSpec, Siglip, ViTSpec
from firstsight.site import Site
from firstsight.units import Share, Tokens

WORLD = SyntheticWorld(objects=4, kinds=2, image_size=8, max_objects=1, seed=0)
ROW_SHAPE = RowShape(batch_size=4, length=16)
OPTIM = AdamWSpec(
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    max_grad_norm=1.0,
    z_loss=1e-4,
)
TRAINED = ModuleTraining(lr_scale=1.0, weight_decay=0.1)
TEXT_TRAINS = Trains(decoder=TRAINED, projector=None, encoder=None)
TRAINS = replace(TEXT_TRAINS, projector=TRAINED)
ENCODER_TRAINS = replace(TRAINS, encoder=ModuleTraining(lr_scale=0.5, weight_decay=0.01))
LM = replace(openlm_spec(layers=2, width=32, heads=2, vocab_size=64), mlp_width=32, token_shift=3, embedding_scale=2)
VOCABULARY = SyntheticVocabulary(world=WORLD)
TEXTS = SyntheticTexts(world=WORLD, documents=400, loss_mask="all")
CAPTIONS = SyntheticCaptions(world=WORLD, images=64, quality="rich")
COLOURS = {"red": (200, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 200), "grey": (120, 120, 120)}
VIT = ViTSpec(layers=2, width=16, heads=2, mlp_width=32, image_size=8, patch_size=4)
SIGLIP = Siglip(
    fit="resize",
    vit=VIT,
    weights=ContrastiveTraining(
        captions=CAPTIONS,
        text_layers=1,
        text_width=16,
        steps=6,
        batch_size=8,
        peak_lr=1e-3,
        warmup=Share(1, 3),
        weight_decay=0.01,
        seed=0,
    ),
)
EXTERNAL_SIGLIP = replace(SIGLIP, weights=External(name="siglip", form="encoder", tokens=Tokens(0)))
DINOV2 = Dinov2(
    vit=VIT,
    fit="resize",
    registers=2,
    position_grid_size=3,
    weights=External(name="dinov2", form="encoder", tokens=Tokens(0)),
)
PROJECTOR = ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=True)
FEATURE_VLM = VLMSpec(lm=LM, vision=SIGLIP, encoder="external", projector=PROJECTOR, attention="causal")
INCLUDED_VLM = replace(FEATURE_VLM, encoder="included")
PATCH_VLM = VLMSpec(
    lm=LM,
    vision=PatchProjectionSpec(image_size=8, patch_size=4, width=12, fit="resize"),
    encoder="external",
    projector=replace(PROJECTOR, kind="mlp3"),
    attention="causal",
)


def ignore_progress(_: object) -> None:
    """A progress callback that does nothing."""


def run_handler(handler: Any, spec: Any, inputs: Mapping[str, Path], out: Path, site: Site) -> Path:
    """Run a handler and return its output folder, without the resume points, as if it were published."""
    out.mkdir(parents=True, exist_ok=True)
    handler(spec, inputs=inputs, out=out, site=site, on_progress=ignore_progress)
    return remove_unfinished(out)


def remove_unfinished(out: Path) -> Path:
    """Remove the resume points of a step, as publishing does."""
    for folder in out.glob("resume*"):
        shutil.rmtree(folder)
    return out


SCHEDULE = Rewarm(peak_lr=1e-2, min_lr=1e-4, warmup=Share(1, 10))


def pretrain_spec(steps: int) -> Pretrain:
    tokens = Tokens(steps * ROW_SHAPE.tokens_per_step)
    return Pretrain(
        model=LM,
        tokenizer=VOCABULARY,
        text=single_source(TEXTS),
        packing="best_fit",
        row_shape=ROW_SHAPE,
        tokens=tokens,
        schedule=SCHEDULE,
        optim=OPTIM,
        trains=TEXT_TRAINS,
        seed=1,
    )


def segment_spec(steps: int, since: str, until: str) -> TrunkSegment:
    return TrunkSegment(pretrain=pretrain_spec(steps), start=Share(since), end=Share(until))


def midtrain_spec(model: VLMSpec, steps: int, share: str) -> Midtrain:
    tokens = Tokens(steps * ROW_SHAPE.tokens_per_step)
    mix = ImageTextMix(
        text=single_source(TEXTS),
        images=single_source(CAPTIONS),
        image_share=Share(share),
        share_unit="rows",
        packing="best_fit",
    )
    return Midtrain(
        model=model,
        tokenizer=VOCABULARY,
        mix=mix,
        row_shape=ROW_SHAPE,
        tokens=tokens,
        schedule=SCHEDULE,
        moments="carried",
        optim=OPTIM,
        trains=TRAINS,
        seed=1,
    )


def finetune_spec(model: VLMSpec, steps: int) -> Finetune:
    mid, tokens = midtrain_spec(model, steps, "1"), Tokens(steps * ROW_SHAPE.tokens_per_step)
    return Finetune(
        model=model,
        tokenizer=VOCABULARY,
        mix=mid.mix,
        row_shape=ROW_SHAPE,
        epoch_tokens=tokens,
        epochs=1,
        schedule=SCHEDULE,
        moments="fresh",
        optim=OPTIM,
        trains=TRAINS,
        seed=1,
    )


def write_tokenizer(root: Path) -> Path:
    special = ["<|endoftext|>", "<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>", "<|pad|>"]
    words = [*special, "<unk>", *COLOURS, *(f"w{n}" for n in range(40))]
    built = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.add_special_tokens(special)
    folder = root / "tokenizer"
    folder.mkdir()
    built.save(str(folder / "tokenizer.json"))
    return folder


def write_texts(root: Path, rng: np.random.Generator) -> Path:
    folder = root / "texts"
    folder.mkdir()
    lines = [
        json.dumps({"id": str(n), "text": " ".join(f"w{k}" for k in (start + np.arange(size)) % 40)})
        for n, (start, size) in enumerate(zip(rng.integers(40, size=1600), rng.integers(3, 20, size=1600), strict=True))
    ]
    (folder / "texts-00000.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def png_image(left: str, right: str) -> bytes:
    """A PNG with two colours, left and right."""
    pixels = np.concatenate([np.full((8, 4, 3), COLOURS[word], np.uint8) for word in (left, right)], axis=1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_captions(root: Path, rng: np.random.Generator) -> Path:
    folder = root / "captions"
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for n in range(160):
            words = [list(COLOURS)[k] for k in rng.integers(4, size=2)]
            truth = json.dumps({"uid": str(n), "phrases": [f"{words[0]} w0", f"{words[1]} w1"]})
            parts = {"png": png_image(*words), "txt": " ".join(words).encode(), "json": truth.encode()}
            for ending, data in parts.items():
                member = tarfile.TarInfo(f"{n:05d}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder


def write_siglip(folder: Path, seed: int, vit: ViTSpec = VIT) -> Path:
    """Save an untrained SigLIP tower."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(seed)
    settings = siglip_vision_settings(vit, layers=vit.layers)
    SiglipVisionModel(SiglipVisionConfig(**settings)).save_pretrained(folder)
    return folder


def write_dinov2(folder: Path, seed: int) -> Path:
    """Save an untrained DINOv2 tower with registers of VIT's shape, with 3 x 3 position embeddings."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(seed)
    config = Dinov2WithRegistersConfig(
        num_hidden_layers=VIT.layers,
        hidden_size=VIT.width,
        mlp_ratio=VIT.mlp_width // VIT.width,
        num_attention_heads=VIT.heads,
        image_size=3 * VIT.patch_size,
        patch_size=VIT.patch_size,
        num_register_tokens=DINOV2.registers,
    )
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
