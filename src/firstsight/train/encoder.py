"""Handlers for the frozen encoder: train a small SigLIP on captions, and encode every picture of a source once.

Shapes: B pictures of a batch, P different phrases of a batch, L words a phrase, S pixels a side.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from firstsight.data.images import decode_image
from firstsight.data.index import Index
from firstsight.data.loader import DecodedImages
from firstsight.data.readers import IMAGE_EXTENSIONS, list_tar_members, locate_source
from firstsight.data.sampling import epoch_permutation
from firstsight.data.source_check import check_source_unchanged
from firstsight.errors import DataError, ModelError
from firstsight.model.vision import extract_features, load_encoder, normalize_pixels, siglip_processor_config
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Encode
from firstsight.recipe.vision import ContrastiveTraining, PatchProjectionSpec, Siglip
from firstsight.site import Progress, ProgressCallback, Site
from firstsight.train.compilation import configure_torch
from firstsight.train.streams import source_pixels
from firstsight.units import Tokens

ENCODE_BATCH = 256
"""Pictures encoded together."""
PIXEL_CACHE_BYTES = 256 << 20
"""Bytes of pixels that `contrast` keeps in memory; what is beyond is decoded in every epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionedImage:
    """A picture's place in its tar and what is true of it."""

    file: Path
    offset: int
    size: int
    phrases: tuple[str, ...]


def train_contrastive(
    spec: Siglip, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Handler: a SigLIP from scratch, every picture of a batch against every phrase of the batch, true or not.

    Phrases of other pictures that hold here too count as true, so that what is left are honest and hard negatives.
    """
    if not isinstance(spec.weights, ContrastiveTraining):
        raise ModelError(f"contrast trains its own weights. Got weights that exist: {spec.weights.name}.")
    configure_torch(site)
    recipe, captioned_images = spec.weights, list(_read_captioned_images(inputs["captions"]))
    tokenizer = _build_tokenizer(captioned_images)
    model = _build_siglip(spec, recipe, tokenizer).to(site.device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.peak_lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.95)
    )
    schedule = Rewarm(
        peak_lr=recipe.peak_lr, min_lr=0.0, warmup_tokens=Tokens(recipe.warmup_steps), tokens=Tokens(recipe.steps)
    )
    last_report, pixel_cache = monotonic(), _PixelCache(captioned_images, spec)
    for step in range(recipe.steps):
        optimizer.param_groups[0]["lr"] = schedule.lr(Tokens(step + 1))
        sample_indices = np.arange(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        _, rows = epoch_permutation(sample_indices, count=len(captioned_images), seed=recipe.seed)
        loss = _sigmoid_loss(
            model, [captioned_images[row].phrases for row in rows.tolist()], tokenizer, pixel_cache.stack(rows.tolist())
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if monotonic() - last_report > 0.5:
            last_report = monotonic()
            on_progress(Progress(done=step + 1, total=recipe.steps, unit="steps", metrics={"loss": loss.item()}))
    _save_model(model, tokenizer, spec, out)


def _read_captioned_images(folder: Path) -> Iterator[CaptionedImage]:
    """Captioned pictures in file order; the caption is the phrase where json lists none."""
    for file in sorted(folder.glob("*.tar")):
        with file.open("rb") as data:
            current_stem, members = "", dict[str, Any]()
            for member in list_tar_members(file):
                stem, _, extension = PurePosixPath(member.name).name.partition(".")
                if stem != current_stem and members:
                    yield _captioned_image(file, current_stem, members)
                    members = {}
                current_stem = stem
                if extension in IMAGE_EXTENSIONS:
                    members["place"] = (member.offset_data, member.size)
                elif extension in ("txt", "json"):
                    data.seek(member.offset_data)
                    members[extension] = data.read(member.size)
            if members:
                yield _captioned_image(file, current_stem, members)


def _captioned_image(file: Path, key: str, members: Mapping[str, Any]) -> CaptionedImage:
    if "place" not in members or "txt" not in members:
        raise DataError(f"{file}: sample {key} wants a picture and its txt. Got {', '.join(members)}. Make it again.")
    phrases = json.loads(members.get("json", b"{}")).get("phrases") or [members["txt"].decode().strip()]
    return CaptionedImage(file=file, offset=members["place"][0], size=members["place"][1], phrases=tuple(phrases))


def _build_tokenizer(captioned_images: list[CaptionedImage]) -> Tokenizer:
    """The words of all phrases as a tokenizer that pads to the longest phrase."""
    phrases = {phrase for captioned_image in captioned_images for phrase in captioned_image.phrases}
    if not phrases:
        raise DataError("contrast needs captioned pictures. Got none. Check the captions' folder.")
    vocabulary = ["[PAD]", "[UNK]", *sorted({word for phrase in phrases for word in phrase.split()})]
    tokenizer = Tokenizer(
        models.WordLevel({word: token_id for token_id, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    max_words = min(64, max(len(phrase.split()) for phrase in phrases))
    tokenizer.enable_padding(length=max_words, pad_id=0, pad_token="[PAD]")
    tokenizer.enable_truncation(max_words)
    return tokenizer


def _build_siglip(spec: Siglip, recipe: ContrastiveTraining, tokenizer: Tokenizer) -> Any:
    from transformers import SiglipConfig, SiglipModel

    vit = spec.vit
    vision_settings = {
        "num_hidden_layers": vit.layers,
        "hidden_size": vit.width,
        "intermediate_size": vit.mlp_width,
        "num_attention_heads": vit.heads,
        "image_size": vit.image_size,
        "patch_size": vit.patch_size,
    }
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        config = SiglipConfig(text_config=text_settings, vision_config=vision_settings)
        config._attn_implementation = "eager"  # torch's fused attention goes backwards three times slower on short rows
        model = SiglipModel(config)
    with torch.no_grad():
        # SigLIP's own start (scale 10, bias -10) suits one true phrase among thousands; here the two sides are balanced
        model.logit_scale.fill_(2.3)
        model.logit_bias.fill_(0.0)
    return model


def _sigmoid_loss(
    model: Any, phrases_by_image: list[tuple[str, ...]], tokenizer: Tokenizer, pixels: np.ndarray
) -> Tensor:
    """Sigmoid loss over all B x P pairs, each phrase against its best patch; true and untrue pairs weigh the same."""
    device = model.device
    phrases = sorted({phrase for image_phrases in phrases_by_image for phrase in image_phrases})
    phrase_columns = {phrase: column for column, phrase in enumerate(phrases)}
    labels = torch.zeros(len(phrases_by_image), len(phrases))
    for row, image_phrases in enumerate(phrases_by_image):
        labels[row, [phrase_columns[phrase] for phrase in image_phrases]] = 1
    ids = torch.tensor([encoding.ids for encoding in tokenizer.encode_batch_fast(phrases)], device=device)
    pixel_values = normalize_pixels(torch.from_numpy(pixels).to(device))
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        patch_embeddings = model.vision_model(pixel_values=pixel_values).last_hidden_state
        text_embeddings = model.text_model(input_ids=ids).pooler_output
    similarity = (F.normalize(patch_embeddings.float(), dim=-1) @ F.normalize(text_embeddings.float(), dim=-1).T).amax(
        dim=1
    )
    logits = similarity * model.logit_scale.exp() + model.logit_bias
    labels = labels.to(device)
    weight = labels / labels.sum() + (1 - labels) / (1 - labels).sum().clamp(min=1)
    return F.binary_cross_entropy_with_logits(logits, labels, weight=weight, reduction="sum") / 2


class _PixelCache:
    """Pixels of captioned pictures, decoded once each as far as KEPT has room."""

    def __init__(self, captioned_images: list[CaptionedImage], spec: Siglip) -> None:
        self._captioned_images, self._spec = captioned_images, spec
        self._capacity, self._pixels = PIXEL_CACHE_BYTES // (spec.image_size**2 * 3), dict[int, np.ndarray]()

    def stack(self, rows: list[int]) -> np.ndarray:
        return np.stack([self._pixels[row] if row in self._pixels else self._decode(row) for row in rows])

    def _decode(self, row: int) -> np.ndarray:
        captioned_image, spec = self._captioned_images[row], self._spec
        with captioned_image.file.open("rb") as data:
            data.seek(captioned_image.offset)
            pixels = decode_image(data.read(captioned_image.size), spec.image_size, spec.fit, pad_color=spec.pad_color)
        if len(self._pixels) < self._capacity:
            self._pixels[row] = pixels
        return pixels


def _save_model(model: Any, tokenizer: Tokenizer, spec: Siglip, out: Path) -> None:
    model.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    processor = siglip_processor_config(spec.vit.image_size)
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2, sort_keys=True) + "\n")


def encode_features(
    spec: Encode, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Handler: the frozen encoder's features of every picture of an index, float16, in the index's order.

    Killed and run again it goes on with the batches that are left, to the same bytes. Raises DataError where the
    source is no longer what was prepared, ModelError where the encoder has another shape than the recipe.
    """
    vision = spec.vision
    if isinstance(vision, PatchProjectionSpec):
        raise ModelError("encode needs a frozen encoder. Got Patches, which train with the model.")
    configure_torch(site)
    index, location = Index.open(inputs["index"]), locate_source(spec.source, inputs.get("source"), site)
    check_source_unchanged(index, location)
    folders = [inputs[f"encoder{number}"] for number in range(len(vision.towers))]
    encoder, last_report = load_encoder(vision, folders).to(site.device), monotonic()
    feature_file = _FeatureFile(out, (len(index.images), vision.tokens, vision.width), index_digest=index.digest)
    batches = [
        np.arange(start, min(start + ENCODE_BATCH, len(feature_file.array)))
        for start in range(feature_file.rows_done, len(feature_file.array), ENCODE_BATCH)
    ]
    decoded_batches, last_save = (
        _decode_ahead(source_pixels(index, location, vision, cache=site.cache), batches, site.readers),
        monotonic(),
    )
    for indices, pixels in zip(batches, decoded_batches, strict=True):
        image_features = extract_features(encoder, torch.from_numpy(pixels).to(site.device)).half().cpu().numpy()
        feature_file.write_rows(indices, image_features, location=folders[0])
        if monotonic() - last_save > site.save_every:
            feature_file.save()
            last_save = monotonic()
        if monotonic() - last_report > 0.5:
            last_report = monotonic()
            on_progress(Progress(done=feature_file.rows_done, total=len(feature_file.array), unit="pictures"))
    feature_file.finish()


def _decode_ahead(pixels: DecodedImages, batches: Iterable[np.ndarray], readers: int) -> Iterator[np.ndarray]:
    """Pixels of each of `cuts`, made by `readers` threads while those before are encoded."""
    with ThreadPoolExecutor(readers) as pool:
        pending: Iterator[np.ndarray] | None = None
        for indices in batches:
            submitted = pool.map(pixels.take, np.array_split(indices, readers))
            if pending is not None:
                yield np.concatenate(list(pending))
            pending = submitted
        if pending is not None:
            yield np.concatenate(list(pending))


class _FeatureFile:
    """The features while they are made: an array in `resume/`, and beside it how many of its rows are done."""

    def __init__(self, out: Path, shape: tuple[int, int, int], *, index_digest: str) -> None:
        self._out, self._folder, self._index_digest = out, out / "resume", index_digest
        self._state_path, features_path = self._folder / "point.json", self._folder / "features.npy"
        saved_state = json.loads(self._state_path.read_text()) if self._state_path.is_file() else {}
        self.rows_done = (
            saved_state["done"]
            if saved_state.get("mark") == index_digest and saved_state.get("shape") == list(shape)
            else 0
        )
        self._folder.mkdir(exist_ok=True)
        mode = "r+" if self.rows_done else "w+"
        self.array = np.lib.format.open_memmap(features_path, mode=mode, dtype=np.float16, shape=shape)

    def write_rows(self, indices: np.ndarray, image_features: np.ndarray, *, location: Path) -> None:
        """Write the next rows; ModelError when they are of another shape."""
        expected_shape = self.array.shape[1:]
        if image_features.shape[1:] != expected_shape:
            raise ModelError(
                f"{location}: wanted {expected_shape} a picture. Got {image_features.shape[1:]}. Mend the Vit."
            )
        self.array[indices] = image_features
        self.rows_done = int(indices[-1]) + 1

    def save(self) -> None:
        """Make what is done the resume point: first the rows, then the note that names them."""
        self.array.flush()
        new_file = self._state_path.with_suffix(".new")
        new_file.write_text(
            json.dumps({"done": self.rows_done, "mark": self._index_digest, "shape": list(self.array.shape)})
        )
        new_file.replace(self._state_path)

    def finish(self) -> None:
        """Leave features.npy and nothing else."""
        self.array.flush()
        (self._folder / "features.npy").replace(self._out / "features.npy")
        shutil.rmtree(self._folder)
