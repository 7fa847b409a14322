"""Handler `contrast`: train a small SigLIP on captioned images.

Shapes: B images of a batch, P distinct phrases of a batch, S pixels per side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from firstsight.data.images import decode_image
from firstsight.data.readers import IMAGE_EXTENSIONS, TarMember, list_tar_members
from firstsight.data.sampling import epoch_permutation
from firstsight.errors import DataError, ModelError
from firstsight.model.vision import normalize_pixels, siglip_processor_config, siglip_vision_settings
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.vision import ContrastiveTraining, Siglip
from firstsight.site import ProgressCallback, Site
from firstsight.train.compilation import configure_torch
from firstsight.train.loop import ProgressReporter
from firstsight.units import Tokens

PIXEL_CACHE_BYTES = 256 << 20
"""Maximum bytes of decoded images kept in memory; others are decoded in every epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionedImage:
    """Where an image is in its tar, and the phrases that describe it."""

    file: Path
    offset: int
    size: int
    phrases: tuple[str, ...]


def train_contrastive(
    spec: Siglip, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Train a SigLIP from scratch, every image of a batch against every phrase of the batch.

    A phrase of another image that describes this one too is a positive, so that the negatives are hard but correct.
    """
    if not isinstance(spec.weights, ContrastiveTraining):
        raise ModelError(f"contrast trains new weights. Got published ones, {spec.weights.name}. Use them as they are.")
    configure_torch(site)
    recipe, images = spec.weights, list(_read_captioned_images(inputs["captions"]))
    tokenizer = _build_tokenizer(images)
    model = _build_siglip(spec, recipe, tokenizer).to(site.device)
    schedule = Rewarm(peak_lr=recipe.peak_lr, min_lr=0.0, warmup=recipe.warmup)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=recipe.weight_decay, betas=(0.9, 0.95))
    progress, cache = ProgressReporter(on_progress, total=recipe.steps, unit="steps"), _PixelCache(images, spec)
    for step in range(recipe.steps):
        optimizer.param_groups[0]["lr"] = schedule.lr(Tokens(step + 1), Tokens(recipe.steps))
        indices = np.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        rows = epoch_permutation(indices, count=len(images), seed=recipe.seed)[1].tolist()
        loss = _sigmoid_loss(model, [images[row].phrases for row in rows], tokenizer, cache.stack(rows))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if progress.is_due:
            progress.report(step + 1, loss=loss.item())
    model.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    processor = siglip_processor_config(spec.vit.image_size)
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2, sort_keys=True) + "\n")


def _read_captioned_images(folder: Path) -> Iterator[CaptionedImage]:
    for file in sorted(folder.glob("*.tar")):
        with file.open("rb") as data:
            for key, group in groupby(list_tar_members(file), key=lambda member: _split_name(member)[0]):
                members = {_split_name(member)[1]: member for member in group}
                image = next((member for kind, member in reversed(members.items()) if kind in IMAGE_EXTENSIONS), None)
                if image is None or "txt" not in members:
                    names = ", ".join(members)
                    raise DataError(f"{file}: sample {key} wants an image and its txt. Got {names}. Make it again.")
                content = dict[str, bytes]()
                for kind in members.keys() & {"txt", "json"}:
                    data.seek(members[kind].offset_data)
                    content[kind] = data.read(members[kind].size)
                phrases = json.loads(content.get("json", b"{}")).get("phrases") or [content["txt"].decode().strip()]
                yield CaptionedImage(file=file, offset=image.offset_data, size=image.size, phrases=tuple(phrases))


def _split_name(member: TarMember) -> tuple[str, str]:
    key, _, extension = PurePosixPath(member.name).name.partition(".")
    return key, extension


def _build_tokenizer(images: list[CaptionedImage]) -> Tokenizer:
    phrases = {phrase for image in images for phrase in image.phrases}
    if not phrases:
        raise DataError("contrast needs captioned images. Got none. Check the captions' folder.")
    words = ["[PAD]", "[UNK]", *sorted({word for phrase in phrases for word in phrase.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    length = min(64, max(len(phrase.split()) for phrase in phrases))
    tokenizer.enable_padding(length=length, pad_id=0, pad_token="[PAD]")
    tokenizer.enable_truncation(length)
    return tokenizer


def _build_siglip(spec: Siglip, recipe: ContrastiveTraining, tokenizer: Tokenizer) -> Any:
    from transformers import SiglipConfig, SiglipModel

    vit = spec.vit
    text_settings = {
        "num_hidden_layers": recipe.text_layers,
        "hidden_size": recipe.text_width,
        "intermediate_size": 2 * recipe.text_width,
        "num_attention_heads": vit.heads,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": tokenizer.padding["length"],  # pyright: ignore[reportOptionalSubscript]
        "projection_size": vit.width,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    vision_settings = siglip_vision_settings(vit, layers=vit.layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        config = SiglipConfig(text_config=text_settings, vision_config=vision_settings)
        config._attn_implementation = "eager"  # torch's fused backward pass is three times slower on short rows
        model = SiglipModel(config)
    with torch.no_grad():
        # SigLIP's own start (scale 10, bias -10) suits one positive among thousands; here positives weigh half
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(0.0)
    return model


def _sigmoid_loss(model: Any, captions: list[tuple[str, ...]], tokenizer: Tokenizer, pixels: np.ndarray) -> Tensor:
    """Sigmoid loss of all B x P pairs, each phrase against its best patch; positives and negatives weigh half each."""
    device = model.device
    phrases = sorted(set(chain.from_iterable(captions)))
    columns, labels = {phrase: i for i, phrase in enumerate(phrases)}, torch.zeros(len(captions), len(phrases))
    for row, caption in enumerate(captions):
        labels[row, [columns[phrase] for phrase in caption]] = 1
    ids = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch_fast(phrases)], device=device)
    pixel_values = normalize_pixels(torch.from_numpy(pixels).to(device))
    with torch.autocast(device.type, dtype=torch.bfloat16):
        patches = model.vision_model(pixel_values=pixel_values).last_hidden_state
        texts = model.text_model(input_ids=ids).pooler_output
    similarity = (F.normalize(patches.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T).amax(dim=1)
    logits = similarity * model.logit_scale.exp() + model.logit_bias
    labels = labels.to(device)
    weight = labels / labels.sum() + (1 - labels) / (1 - labels).sum().clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits, labels, weight=weight, reduction="sum") / 2


class _PixelCache:
    """Decoded images, kept in memory up to PIXEL_CACHE_BYTES."""

    def __init__(self, images: list[CaptionedImage], spec: Siglip) -> None:
        self._images, self._spec = images, spec
        self._capacity, self._pixels = PIXEL_CACHE_BYTES // (spec.image_size**2 * 3), dict[int, np.ndarray]()

    def stack(self, rows: list[int]) -> np.ndarray:
        """Pixels [B, S, S, 3] of these images."""
        return np.stack([self._pixels[row] if row in self._pixels else self._decode(row) for row in rows])

    def _decode(self, row: int) -> np.ndarray:
        image, spec = self._images[row], self._spec
        with image.file.open("rb") as data:
            data.seek(image.offset)
            pixels = decode_image(data.read(image.size), spec.image_size, spec.fit, pad_color=spec.pad_color)
        if len(self._pixels) < self._capacity:
            self._pixels[row] = pixels
        return pixels
