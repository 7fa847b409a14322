"""Specs of tiny models, models with random weights, and packed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from firstsight.model.vlm import VLM
from firstsight.recipe.mixture import External
from firstsight.recipe.model import LMSpec, ProjectorSpec, Rope, VLMSpec, openlm_spec
from firstsight.recipe.vision import PatchProjectionSpec, Siglip, ViTSpec
from firstsight.units import Tokens
from tests.conftest import DEVICE

PLAIN_LM = replace(openlm_spec(layers=2, width=16, heads=2, vocab_size=20), mlp_width=24)
SHIFTED_LM = replace(PLAIN_LM, token_shift=3, embedding_scale=4)
TOWER = Siglip(
    vit=ViTSpec(layers=2, width=6, heads=2, mlp_width=8, image_size=8, patch_size=4),
    fit="resize",
    weights=External(name="tower", form="encoder", tokens=Tokens(0)),
)
FEATURE_VLM = VLMSpec(
    lm=SHIFTED_LM,
    vision=TOWER,
    encoder="external",
    projector=ProjectorSpec(kind="mlp2", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=True),
    attention="causal",
)
PATCH_VLM = VLMSpec(
    lm=PLAIN_LM,
    vision=PatchProjectionSpec(image_size=8, patch_size=4, width=6, fit="resize"),
    encoder="external",
    projector=ProjectorSpec(kind="mlp3", pixel_shuffle=1, tokens_per_patch=1, has_position_embeddings=False),
    attention="causal",
)
IMAGE_TOKENS = 4
"""Tokens of one image, in all VLM specs."""

LLAMA_LM = replace(
    PLAIN_LM, heads=4, kv_heads=2, head_dim=4, norm="rms", qk_norm=False, ties_embeddings=True, rope=Rope(base=500.0)
)
PREFIX_VLM = replace(FEATURE_VLM, lm=replace(SHIFTED_LM, heads=4, kv_heads=2, head_dim=4), attention="prefix")
PROMPTS = [[3], [1, 4, 1, 5], [9, 2, 6, 5, 3, 5], [8, 9]]
IMAGE_PROMPTS = [[0] * IMAGE_TOKENS + [7], [1, 4], [0] * IMAGE_TOKENS + [9, 2, 6], [0] * IMAGE_TOKENS]

cpu_only = pytest.mark.skipif(DEVICE != "cpu", reason="tests CPU behaviour")


@dataclass(frozen=True)
class PackedRows:
    """Input of `VLM.forward`."""

    tokens: Tensor
    docs: Tensor
    positions: Tensor
    slots: Tensor
    images: Tensor


def random_model(spec: LMSpec | VLMSpec, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> VLM:
    """A model with noise on every parameter, so that each affects the result."""
    model = VLM(spec)
    model.initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.to(DEVICE, dtype)
    model.lm.compute_dtype = dtype
    return model


def pack_rows(
    documents: Sequence[Sequence[Sequence[int | None]]], *, length: int, images: Tensor | None = None
) -> PackedRows:
    """Rows of documents of ids; None is the next image slot; the rest of a row is padding."""
    shape = (len(documents), length)
    tokens, positions = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int32)
    docs, slots = torch.full(shape, -1, dtype=torch.int32), torch.full(shape, -1, dtype=torch.int64)
    next_slot = 0
    for row, texts in enumerate(documents):
        column = 0
        for number, ids in enumerate(texts):
            for position, token in enumerate(ids):
                docs[row, column], positions[row, column] = number, position
                if token is None:
                    slots[row, column], next_slot = next_slot, next_slot + 1
                else:
                    tokens[row, column] = token
                column += 1
    blank = torch.zeros(0, 0, 0, dtype=torch.float16)
    images = blank if images is None else images
    tensors = (tensor.to(DEVICE) for tensor in (tokens, docs, positions, slots, images))
    return PackedRows(*tensors)


def prompt_images(spec: VLMSpec = FEATURE_VLM) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(2)
    if spec is PATCH_VLM:
        pixels = torch.randint(0, 256, (3, 8, 8, 3), generator=generator, dtype=torch.uint8)
        return [pixels[0], None, pixels[1], pixels[2]]
    drawn = torch.randn(3, IMAGE_TOKENS, 6, generator=generator).half()
    return [drawn[0], None, drawn[1], drawn[2]]


def record_calls(monkeypatch: pytest.MonkeyPatch, where: type, name: str) -> list[Any]:
    """A list that collects the first argument of every call of a method."""
    calls: list[Any] = []
    method: Callable[..., Any] = getattr(where, name)

    def counted(self: Any, first: Any, *rest: Any, **named: Any) -> Any:
        calls.append(first)
        return method(self, first, *rest, **named)

    monkeypatch.setattr(where, name, counted)
    return calls
