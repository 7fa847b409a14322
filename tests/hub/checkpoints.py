"""Small checkpoints of every kind of model, and their logits and answers by firstsight's own functions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor

from firstsight.data import images
from firstsight.data.tokenizer import encode_prompt, load_tokenizer
from firstsight.hub.import_ import ImportRequest, ImportResult, import_checkpoint
from firstsight.model.checkpoint_io import LoadedCheckpoint, load, save
from firstsight.model.generate import generate
from firstsight.model.vision import extract_features
from firstsight.recipe.mixture import External
from firstsight.recipe.model import LMSpec, ProjectorSpec, VLMSpec, llama_family_spec
from firstsight.recipe.vision import Dinov2, FusedEncoders, PatchProjectionSpec, Siglip, ViTSpec
from firstsight.units import Tokens
from tests.conftest import DEVICE
from tests.model.tiny_models import PLAIN_LM, pack_rows, random_model

WORDS = ("what", "where", "is", "the", "cat", "red", "blue", "left", "of", "a", "dog", "?")
SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|unk|>")
CHAT_TOKENS = ("<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>")
OPENLM = replace(PLAIN_LM, vocab_size=24)
SHIFTED = replace(OPENLM, token_shift=3, embedding_scale=4)
LLAMA = llama_family_spec(layers=2, width=16, heads=4, kv_heads=2, mlp_width=24, vocab_size=24)
EXTERNAL = External(name="tower", form="encoder", tokens=Tokens(0))
VIT = ViTSpec(layers=3, width=8, heads=2, mlp_width=16, image_size=12, patch_size=4)
SIGLIP = Siglip(vit=VIT, fit="resize", weights=EXTERNAL)
DINOV2 = Dinov2(vit=VIT, fit="resize", registers=2, position_grid_size=5, weights=EXTERNAL)
PATCHES = PatchProjectionSpec(image_size=12, patch_size=4, width=6, fit="resize")
PROJECTOR = ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False)
LLAVA = VLMSpec(lm=LLAMA, vision=SIGLIP, encoder="external", projector=PROJECTOR, attention="causal")
NATIVE: dict[str, LMSpec | VLMSpec] = {
    "llama": LLAMA,
    "llama-tied": replace(LLAMA, ties_embeddings=True),
    "llava": LLAVA,
    "llava-included": replace(LLAVA, lm=replace(LLAMA, ties_embeddings=True), encoder="included"),
}
FALLBACK: dict[str, LMSpec | VLMSpec] = {
    "openlm": OPENLM,
    "shifted": SHIFTED,
    "vision": replace(
        LLAVA, lm=SHIFTED, projector=replace(PROJECTOR, has_position_embeddings=True, tokens_per_patch=3)
    ),
    "letterbox": replace(LLAVA, vision=replace(SIGLIP, fit="letterbox"), projector=replace(PROJECTOR, pixel_shuffle=2)),
    "prefix": replace(LLAVA, attention="prefix"),
    "patches": replace(LLAVA, lm=OPENLM, vision=PATCHES, projector=replace(PROJECTOR, kind="mlp3")),
    "fused": replace(
        LLAVA, vision=FusedEncoders(first=SIGLIP, second=DINOV2), projector=replace(PROJECTOR, kind="linear")
    ),
    "dinov2-included": replace(LLAVA, vision=DINOV2, encoder="included"),
}
ALL = NATIVE | FALLBACK


def write_tokenizer(folder: Path, *, chat_tokens: Sequence[str] = CHAT_TOKENS) -> Path:
    """A tokenizer of whole words, with these chat tokens in its file."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL_TOKENS, *chat_tokens, *WORDS))}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    fast.add_special_tokens(
        [AddedToken(word, special=True, normalized=False) for word in (*SPECIAL_TOKENS, *chat_tokens)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def write_checkpoint(folder: Path, spec: LMSpec | VLMSpec) -> Path:
    """A checkpoint folder with random weights; the towers of an external encoder are whole, as they are published."""
    encoders: list[Path] = []
    if isinstance(spec, VLMSpec) and spec.encoder == "external":
        for number, tower in enumerate(spec.vision.towers):
            encoders.append(folder.with_name(f"{folder.name}-tower{number}"))
            write_published_tower(tower, encoders[-1])
    save(
        folder,
        random_model(spec, dtype=torch.float32),
        tokens_seen=640,
        tokenizer=write_tokenizer(folder / "tokenizer"),
        encoders=encoders,
    )
    return folder


def write_published_tower(tower: Siglip | Dinov2, folder: Path) -> None:
    """A whole tower in transformers' layout."""
    from transformers import (
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    torch.manual_seed(0)
    vit = tower.vit
    shape = {
        "num_hidden_layers": vit.layers,
        "hidden_size": vit.width,
        "num_attention_heads": vit.heads,
        "patch_size": vit.patch_size,
    }
    if isinstance(tower, Siglip):
        config = SiglipVisionConfig(intermediate_size=vit.mlp_width, image_size=vit.image_size, **shape)
        SiglipVisionModel(config).save_pretrained(folder)
    else:
        size = tower.position_grid_size * vit.patch_size
        ratio = vit.mlp_width // vit.width
        config = Dinov2WithRegistersConfig(
            mlp_ratio=ratio, image_size=size, num_register_tokens=tower.registers, **shape
        )
        Dinov2WithRegistersModel(config).save_pretrained(folder)


def png_bytes(seed: int, *, size: tuple[int, int] = (20, 13), mode: str = "RGB") -> bytes:
    """An image of noise."""
    depth = {"RGB": 3, "RGBA": 4}[mode]
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], depth), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def import_weights(location: Path | str, out: Path, **options: Any) -> ImportResult:
    """Import with defaults for the options that are not given."""
    on_progress = options.pop("on_progress", lambda _: None)
    defaults = {"revision": None, "tokenizer": "", "config_path": None, "tokens_seen": None}
    request = ImportRequest(**({"location": str(location)} | defaults | options))  # type: ignore[arg-type]
    return import_checkpoint(request, out, on_progress=on_progress)


def load_processor(folder: Path) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, backend="pil")  # torchvision, if installed, rounds otherwise


class Reference:
    """A checkpoint's logits and answers by firstsight's own functions, in any dtype."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        self.loaded: LoadedCheckpoint = load(folder, device=DEVICE)
        self.tokenizer, self.dtype = load_tokenizer(folder), dtype
        self.loaded.model.to(dtype)
        self.loaded.model.lm.compute_dtype = dtype
        if self.loaded.encoder is not None:
            self.loaded.encoder.to(dtype)

    def image_input(self, data: bytes, *, is_half: bool) -> Tensor:
        """The model's input for an image: pixels, or an external encoder's features, in half precision or not."""
        spec = self.loaded.spec
        assert isinstance(spec, VLMSpec)
        vision = spec.vision
        square = images.decode_image(data, vision.image_size, vision.fit, pad_color=vision.pad_color)
        pixels = torch.from_numpy(square.copy()).to(DEVICE)[None]
        if self.loaded.encoder is None:
            return pixels[0]
        features = extract_features(self.loaded.encoder, pixels)[0]
        return features.half() if is_half else features

    def prompt(self, question: str, *, has_image: bool) -> list[int]:
        """Token ids of a dialogue up to its answer, with pad ids in place of an image."""
        spec = self.loaded.spec
        return encode_prompt(self.tokenizer, question, image_tokens=spec.image_tokens if has_image else 0)  # pyright: ignore

    def logits(self, ids: Sequence[int], image: Tensor | None) -> Tensor:
        """[T, V] of one row."""
        model, count = self.loaded.model, 0
        if image is not None:
            count = self.loaded.spec.image_tokens  # pyright: ignore[reportAttributeAccessIssue]
        row = [None if position < count else token_id for position, token_id in enumerate(ids)]
        rows = pack_rows([[row]], length=len(row), images=None if image is None else image[None])
        with torch.no_grad():
            return model.lm.logits(model(rows))[0]

    def answers(self, prompts: Sequence[Sequence[int]], inputs: Sequence[Tensor | None], limit: int) -> list[list[int]]:
        """Greedy token ids without the stop token."""
        stop = {self.tokenizer.special_ids.end, self.tokenizer.special_ids.answer}
        return generate(self.loaded.model, prompts, inputs, stop=stop, max_new_tokens=limit)
