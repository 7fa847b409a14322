"""Handlers of external encoders: `contrast` trains a small SigLIP on captioned images, `encode` stores its features.

The features of all images of a source are computed once for all arms.
Shapes: B images of a batch, P distinct phrases of a batch, S pixels per side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from firstsight.data.images import decode_image
from firstsight.data.index import Index, npy_header
from firstsight.data.loader import DecodedImages
from firstsight.data.readers import IMAGE_EXTENSIONS, TarMember, list_tar_members, locate_source
from firstsight.data.readers.source_reader import check_source_unchanged
from firstsight.data.sampling import epoch_permutation
from firstsight.errors import DataError, Diverged, ModelError
from firstsight.files import write_atomic, write_json
from firstsight.leases import owned_name
from firstsight.limits import check_limit, parse_json
from firstsight.model.tensors import check_finite
from firstsight.model.vision import (
    extract_features,
    extract_fixed,
    load_encoder,
    normalize_pixels,
    siglip_processor_config,
)
from firstsight.model.vision_modules import siglip_vision_settings
from firstsight.recipe.mixture import source_label
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Encode
from firstsight.recipe.vision import ContrastiveTraining, PatchProjectionSpec, Siglip
from firstsight.resume_folder import AppendedFile, ResumeFolder
from firstsight.site import ProgressCallback, Site
from firstsight.train.compilation import configure_torch
from firstsight.train.divergence import ADVICE, shorten
from firstsight.train.loop import ProgressReporter
from firstsight.train.streams import source_pixels
from firstsight.units import Tokens, format_bytes

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
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not math.isfinite(loss.item() + norm.item()):
            numbers = f"loss {loss.item():.6g} and gradient norm {norm.item():.6g} in step {step + 1:,}"
            raise _explain_divergence(
                numbers, [images[row] for row in rows], lr=optimizer.param_groups[0]["lr"], out=out
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if progress.is_due:
            progress.report(step + 1, loss=loss.item())
    for name, parameter in model.named_parameters():
        check_finite(name, parameter.detach(), location=out)
    staging = out / ".weights"
    model.save_pretrained(staging)
    for file in staging.iterdir():
        file.replace(out / file.name)
    staging.rmdir()
    write_atomic(out / "tokenizer.json", tokenizer.to_str(pretty=True))
    processor = siglip_processor_config(spec.vit.image_size)
    write_json(out / "preprocessor_config.json", processor, indent=2)


def _explain_divergence(numbers: str, images: Iterable[CaptionedImage], *, lr: float, out: Path) -> Diverged:
    names = dict.fromkeys(f"{image.file.name} at byte {image.offset:,}" for image in images)
    return Diverged(
        f"{owned_name(out)}: wanted a finite loss and gradient norm. Got {numbers}, at learning rate {lr:.6g}, in the "
        f"images {shorten(list(names))}. The update was not made, and nothing of this short step is kept: it starts "
        f"over. {ADVICE}."
    )


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
                for kind, member in members.items():
                    if kind in {"txt", "json"} or member is image:
                        check_limit(f"{file}, {member.name}", member.limit_name, member.size)
                for kind in members.keys() & {"txt", "json"}:
                    data.seek(members[kind].offset_data)
                    content[kind] = data.read(members[kind].size)
                record = parse_json(content.get("json", b"{}"), f"{file}, {key}.json")
                phrases = record.get("phrases") or [content["txt"].decode().strip()]
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


ENCODE_BATCH = 256
FEATURE_FILE_BYTES = 1 << 30
"""About the size of a file of features in fixed batches."""


def encode_features(
    spec: Encode, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Write features.npy: float16 features [images, tokens, width] in the order of the index.

    In fixed batches, several files features-00000.npy ... of equally many images. A rerun after a kill continues with
    the remaining batches and leaves the same bytes. Raises DataError if the source is not the one that was prepared, or
    its features need more than `Site.feature_bytes`; ModelError if the encoder has another shape than the recipe.
    """
    vision = spec.vision
    if isinstance(vision, PatchProjectionSpec):
        raise ModelError("encode needs an external encoder. Got a patch projection, which is part of the model.")
    configure_torch(site)
    index, location = Index.open(inputs["index"]), locate_source(spec.source, inputs.get("source"), site)
    check_source_unchanged(index, location, cache=site.cache)
    folders = [inputs[f"encoder{number}"] for number in range(len(vision.towers))]
    encoder = load_encoder(vision, folders).to(site.device)
    total, pixels = len(index.images), source_pixels(index, location, vision, cache=site.cache)
    progress = ProgressReporter(on_progress, total=total, unit="images")
    resume, shape, rows_per_file = ResumeFolder(out, on_damage=progress.note), (total, vision.tokens, vision.width), 0
    if spec.fixed_batches:
        _check_size(shape, site, source=source_label(spec.source))
        rows_per_file = max(1, FEATURE_FILE_BYTES // (2 * vision.tokens * vision.width))
    features = _FeatureWriter(resume, shape, rows_per_file=rows_per_file, source=index.digest)
    extract = extract_fixed if spec.fixed_batches else extract_features
    starts = range(features.rows_done, total, ENCODE_BATCH)
    batches, last_save = [np.arange(start, min(start + ENCODE_BATCH, total)) for start in starts], monotonic()
    for images in _decode_ahead(pixels, batches, site.readers):
        encoded = extract(encoder, torch.from_numpy(images).to(site.device)).half().cpu().numpy()
        features.write_rows(encoded, location=folders[0])
        if monotonic() - last_save > site.save_every:
            features.save()
            last_save = monotonic()
        if progress.is_due:
            progress.report(features.rows_done)
    resume.finish()


def _check_size(shape: tuple[int, int, int], site: Site, *, source: str) -> None:
    """DataError if features of this shape need more than the site's room, which the plan counts by declared sizes."""
    if (size := 2 * math.prod(shape)) > site.feature_bytes:
        raise DataError(
            f"{source}: wanted features of at most {format_bytes(site.feature_bytes)}, feature_bytes in the site file. "
            f"Got {format_bytes(size)} for {shape[0]:,} images. Raise feature_bytes; or declare these records in the "
            "recipe, then training computes the features afresh."
        )


def _decode_ahead(pixels: DecodedImages, batches: Iterable[np.ndarray], threads: int) -> Iterator[np.ndarray]:
    """The pixels of each batch, decoded by `threads` threads while the batch before is encoded."""
    with ThreadPoolExecutor(threads) as pool:
        submitted = (pool.map(pixels.take, np.array_split(indices, threads)) for indices in batches)
        for parts, _ in pairwise(chain(submitted, [None])):
            assert parts is not None
            yield np.concatenate(list(parts))


class _FeatureWriter:
    """features.npy, or features-00000.npy and on of `rows_per_file` images each, appended to batch by batch in
    `resume/`."""

    def __init__(self, resume: ResumeFolder, shape: tuple[int, int, int], *, rows_per_file: int, source: str) -> None:
        self._resume, self._shape, self._identity = resume, shape, {"source": source, "shape": list(shape)}
        self._rows_per_file, self._is_single = rows_per_file or max(shape[0], 1), not rows_per_file
        state = resume.restore()
        if state is not None and {name: state[name] for name in self._identity} != self._identity:
            resume.clear()
            state = None
        self.rows_done: int = 0 if state is None else state["rows"]
        self._files: list[AppendedFile] = []
        for number in range(self.rows_done // self._rows_per_file + 1):
            self._open(number)

    def _open(self, number: int) -> None:
        """Open file `number` where it has rows; the first one in any case."""
        rows = min(self._rows_per_file, self._shape[0] - number * self._rows_per_file)
        if number and rows <= 0:
            return
        name = "features.npy" if self._is_single else f"features-{number:05d}.npy"
        self._files.append(self._resume.open_appended(name))
        if not self._files[-1].size:
            self._files[-1].append(npy_header(np.dtype("<f2"), (rows, *self._shape[1:])))

    def write_rows(self, features: np.ndarray, *, location: Path) -> None:
        """Write the next rows; ModelError if their shape is wrong or a number is not finite."""
        expected, actual = self._shape[1:], features.shape[1:]
        if actual != expected:
            raise ModelError(f"{location}: wanted features {expected} an image. Got {actual}. Mend the recipe's vit.")
        if (invalid := np.flatnonzero(~np.isfinite(features).all(axis=(1, 2)))).size:
            raise ModelError(
                f"{location}: wanted features that are finite in float16. Got others for {len(invalid)} images, the "
                f"first is image {self.rows_done + int(invalid[0]):,} of the source. Check the encoder's weights and "
                "its image, or choose another encoder."
            )
        while len(features):
            count = self._rows_per_file - self.rows_done % self._rows_per_file
            self._files[-1].append(np.ascontiguousarray(features[:count]).reshape(-1).view(np.uint8).data)
            self.rows_done += len(features[:count])
            features = features[count:]
            if self.rows_done % self._rows_per_file == 0:
                self._open(self.rows_done // self._rows_per_file)

    def save(self) -> None:
        """Make the finished rows the resume point."""
        self._resume.save(self._identity | {"rows": self.rows_done})
