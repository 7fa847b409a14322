"""Projectors against explicit loops, LLaVA's projector in transformers, and torch's FLOP counter."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from firstsight.errors import QuantityError
from firstsight.model.vlm import Projector, pixel_shuffle
from firstsight.recipe.model import LMSpec, ProjectorSpec, openlm_spec
from firstsight.recipe.vision import PatchProjectionSpec
from tests.conftest import DEVICE

LM: LMSpec = replace(openlm_spec(layers=1, width=8, heads=2, vocab_size=16), mlp_width=8)
Kind = Literal["linear", "mlp2", "mlp3"]
KINDS: tuple[Kind, ...] = ("linear", "mlp2", "mlp3")


def grid(side: int, width: int) -> PatchProjectionSpec:
    """A vision spec with side x side tokens."""
    return PatchProjectionSpec(image_size=4 * side, patch_size=4, width=width, fit="resize")


def projector_spec(kind: Kind, *, shuffle: int = 1, per_patch: int = 1, positions: bool = False) -> ProjectorSpec:
    return ProjectorSpec(
        kind=kind, pixel_shuffle=shuffle, tokens_per_patch=per_patch, has_position_embeddings=positions
    )


def random_projector(spec: ProjectorSpec, vision: PatchProjectionSpec, seed: int = 0) -> Projector:
    """A projector in float64 with random weights, biases and positions."""
    module = Projector(spec, vision, LM).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return module.to(DEVICE)


def random_features(vision: PatchProjectionSpec, count: int = 2) -> Tensor:
    return (
        torch.randn(count, vision.tokens, vision.width, generator=torch.Generator().manual_seed(9)).double().to(DEVICE)
    )


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def project_by_definition(
    projector: Projector, spec: ProjectorSpec, vision: PatchProjectionSpec, features: Tensor
) -> Tensor:
    """The projector's definition, number by number: pixel shuffle, layers with GELUs, tokens per patch, positions."""
    side, factor, image_embeddings = vision.grid_size, spec.pixel_shuffle, list[Tensor]()
    squares = math.ceil(side / factor)
    for image in features:
        tokens = list[list[float]]()
        for row in range(squares):
            for column in range(squares):
                x = list[float]()
                for down in range(factor):
                    for right in range(factor):
                        y, z = row * factor + down, column * factor + right
                        inside = y < side and z < side
                        x += image[y * side + z].tolist() if inside else [0.0] * vision.width
                for number, linear in enumerate(projector.linears):
                    x = [gelu(value) for value in x] if number else x
                    assert isinstance(linear, nn.Linear)
                    weight, bias = linear.weight.tolist(), linear.bias.tolist()
                    x = [sum(a * b for a, b in zip(w, x, strict=True)) + c for w, c in zip(weight, bias, strict=True)]
                tokens += [x[part * LM.width : (part + 1) * LM.width] for part in range(spec.tokens_per_patch)]
        embeddings = torch.tensor(tokens, dtype=torch.float64, device=DEVICE)
        image_embeddings.append(embeddings if projector.positions is None else embeddings + projector.positions)
    return torch.stack(image_embeddings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shuffle", "per_patch", "positions"), [(1, 1, False), (2, 1, True), (3, 1, False), (2, 3, True)]
)
def test_projector_matches_its_definition(kind: Kind, shuffle: int, per_patch: int, positions: bool) -> None:
    spec, vision = projector_spec(kind, shuffle=shuffle, per_patch=per_patch, positions=positions), grid(4, 3)
    projector, features = random_projector(spec, vision), random_features(vision)
    actual = projector(features, torch.float64)
    torch.testing.assert_close(actual, project_by_definition(projector, spec, vision, features), rtol=1e-10, atol=1e-10)
    assert actual.shape == (2, spec.tokens(vision), LM.width)


def test_widths_of_each_kind() -> None:
    """Oracle: paper section 3: mlp3 is d_v to 4 d_v to d_llm to d_llm; mlp2 is Prismatic's d_v to d_llm to d_llm."""
    vision, wide = grid(2, 3), 8
    assert projector_spec("linear").widths(vision, LM) == (3, wide)
    assert projector_spec("mlp2").widths(vision, LM) == (3, wide, wide)
    assert projector_spec("mlp3").widths(vision, LM) == (3, 12, wide, wide)


def test_mlp2_equals_llavas_projector() -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    vision = grid(3, 6)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=6, num_attention_heads=2),
        text_config=LlamaConfig(hidden_size=8, num_attention_heads=2),
    )
    llava_projector, plain = (
        LlavaMultiModalProjector(config).to(DEVICE),
        Projector(projector_spec("mlp2"), vision, LM).to(DEVICE),
    )
    names = {"linears.0": "linear_1", "linears.1": "linear_2"}
    state = {name: llava_projector.state_dict()[f"{names[name[:9]]}{name[9:]}"] for name in plain.state_dict()}
    plain.load_state_dict(state)
    features = random_features(vision).float()
    assert torch.equal(plain(features, torch.float32), llava_projector(features))


@pytest.mark.parametrize(("shuffle", "tokens"), [(1, 729), (2, 196), (3, 81)])
def test_pixel_shuffle_of_729_tokens(shuffle: int, tokens: int) -> None:
    assert projector_spec("mlp2", shuffle=shuffle).tokens(grid(27, 4)) == tokens
    assert pixel_shuffle(torch.zeros(1, 729, 4), 27, shuffle).shape == (1, tokens, 4 * shuffle**2)


@settings(deadline=None)
@given(side=st.integers(1, 9), by=st.integers(1, 4), width=st.integers(1, 3))
def test_pixel_shuffle_is_a_permutation_with_zero_padding(side: int, by: int, width: int) -> None:
    """Every number occurs once; padding at the right and bottom is zero."""
    count = side * side * width
    x = torch.arange(1, count + 1, dtype=torch.float64).view(1, side * side, width)
    actual = pixel_shuffle(x, side, by)
    assert sorted(actual[actual > 0].tolist()) == x.flatten().tolist()
    squares = -(-side // by)
    whole = (
        actual.view(squares, squares, by, by, width).permute(0, 2, 1, 3, 4).reshape(squares * by, squares * by, width)
    )
    assert torch.equal(whole[:side, :side].reshape(1, side * side, width), x)
    assert not whole[side:].any() and not whole[:, side:].any()


SHAPES = st.builds(projector_spec, st.sampled_from(KINDS), shuffle=st.integers(1, 3), per_patch=st.integers(1, 3))


@settings(deadline=None, max_examples=50)
@given(spec=SHAPES, positions=st.booleans(), side=st.integers(1, 7), width=st.integers(1, 9))
def test_parameter_counts_match_built_projectors(spec: ProjectorSpec, positions: bool, side: int, width: int) -> None:
    spec, vision = replace(spec, has_position_embeddings=positions), grid(side, width)
    with torch.device("meta"):
        module = Projector(spec, vision, LM)
    assert sum(parameter.numel() for parameter in module.parameters()) == spec.parameters(vision, LM)


@settings(deadline=None, max_examples=25)
@given(spec=SHAPES, side=st.integers(1, 5), width=st.integers(1, 5))
def test_flops_match_torchs_counter(spec: ProjectorSpec, side: int, width: int) -> None:
    vision = grid(side, width)
    with FlopCounterMode(display=False) as counter:
        random_projector(spec, vision)(random_features(vision, 2), torch.float64)
    assert counter.get_total_flops() == 2 * spec.flops(vision, LM)


def test_initial_values_depend_on_the_seed_only() -> None:
    """fan-in ** -0.5, truncated at three standard deviations; only biases are zero."""
    spec, vision = projector_spec("mlp3", positions=True), grid(4, 16)
    module = Projector(spec, vision, LM)
    module.initialise(torch.Generator().manual_seed(3))
    for linear in module.linears:
        assert isinstance(linear, nn.Linear)
        fan = linear.weight.shape[1] ** -0.5
        assert 0.8 * fan < linear.weight.std() < 1.1 * fan
        assert linear.weight.abs().max() <= 3 * fan and not linear.bias.any()
    repeated = Projector(spec, vision, LM)
    repeated.initialise(torch.Generator().manual_seed(3))
    assert all(
        torch.equal(first, second) for first, second in zip(module.parameters(), repeated.parameters(), strict=True)
    )
    assert module.positions is not None and module.positions.any()


def test_bf16_products_stay_close() -> None:
    """bf16 rounds the inputs of products, not the position embeddings."""
    spec, vision = projector_spec("mlp2", positions=True), grid(2, 3)
    module, features = random_projector(spec, vision).float(), random_features(vision).float()
    exact, narrow = module(features, torch.float32), module(features, torch.bfloat16)
    assert narrow.dtype == torch.float32
    assert 0 < (narrow - exact).abs().max() < 0.1


@pytest.mark.parametrize("changed", [{"pixel_shuffle": 0}, {"tokens_per_patch": 0}])
def test_counts_below_one_are_errors(changed: dict[str, int]) -> None:
    with pytest.raises(QuantityError, match="are 1 or more"):
        replace(projector_spec("linear"), **changed)
