"""Projectors against loops written by hand, transformers' own projector and counted products."""

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
from firstsight.recipe.lm import LMSpec, openlm_spec
from firstsight.recipe.model import ProjectorSpec
from firstsight.recipe.vision import PatchProjectionSpec
from tests.conftest import DEVICE

LM: LMSpec = replace(openlm_spec(layers=1, width=8, heads=2, vocab_size=16), mlp_width=8)
Kind = Literal["linear", "mlp2", "mlp3"]
KINDS: tuple[Kind, ...] = ("linear", "mlp2", "mlp3")


def grid(side: int, width: int) -> PatchProjectionSpec:
    """A vision of side x side tokens, which is all that a projector asks for."""
    return PatchProjectionSpec(image_size=4 * side, patch_size=4, width=width, fit="resize")


def spec_of(kind: Kind, *, shuffle: int = 1, spread: int = 1, positions: bool = False) -> ProjectorSpec:
    return ProjectorSpec(kind=kind, pixel_shuffle=shuffle, tokens_per_patch=spread, has_position_embeddings=positions)


def built(spec: ProjectorSpec, vision: PatchProjectionSpec, seed: int = 0) -> Projector:
    """A projector in float64 with every number random, positions and biases too."""
    made = Projector(spec, vision, LM).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return made.to(DEVICE)


def seen(vision: PatchProjectionSpec, count: int = 2) -> Tensor:
    return (
        torch.randn(count, vision.tokens, vision.width, generator=torch.Generator().manual_seed(9)).double().to(DEVICE)
    )


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def by_hand(projector: Projector, spec: ProjectorSpec, vision: PatchProjectionSpec, features: Tensor) -> Tensor:
    """One number at a time, from what the recipe says: squares of tokens, layers with GELUs between, spread, places."""
    side, factor, pictures = vision.grid_size, spec.pixel_shuffle, list[Tensor]()
    squares = math.ceil(side / factor)
    for picture in features:
        tokens = list[list[float]]()
        for row in range(squares):
            for column in range(squares):
                x = list[float]()
                for down in range(factor):
                    for right in range(factor):
                        y, z = row * factor + down, column * factor + right
                        inside = y < side and z < side
                        x += picture[y * side + z].tolist() if inside else [0.0] * vision.width
                for number, linear in enumerate(projector.linears):
                    x = [gelu(value) for value in x] if number else x
                    assert isinstance(linear, nn.Linear)
                    weight, bias = linear.weight.tolist(), linear.bias.tolist()
                    x = [sum(a * b for a, b in zip(w, x, strict=True)) + c for w, c in zip(weight, bias, strict=True)]
                tokens += [x[part * LM.width : (part + 1) * LM.width] for part in range(spec.tokens_per_patch)]
        placed = torch.tensor(tokens, dtype=torch.float64, device=DEVICE)
        pictures.append(placed if projector.positions is None else placed + projector.positions)
    return torch.stack(pictures)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shuffle", "spread", "positions"), [(1, 1, False), (2, 1, True), (3, 1, False), (2, 3, True)])
def test_a_projector_is_what_its_recipe_says(kind: Kind, shuffle: int, spread: int, positions: bool) -> None:
    spec, vision = spec_of(kind, shuffle=shuffle, spread=spread, positions=positions), grid(4, 3)
    projector, features = built(spec, vision), seen(vision)
    found = projector(features, torch.float64)
    torch.testing.assert_close(found, by_hand(projector, spec, vision, features), rtol=1e-10, atol=1e-10)
    assert found.shape == (2, spec.tokens(vision), LM.width)


def test_widths_of_each_kind() -> None:
    """Oracle: paper section 3: mlp3 is d_v to 4 d_v to d_llm to d_llm; mlp2 is Prismatic's d_v to d_llm to d_llm."""
    vision, wide = grid(2, 3), 8
    assert spec_of("linear").widths(vision, LM) == (3, wide)
    assert spec_of("mlp2").widths(vision, LM) == (3, wide, wide)
    assert spec_of("mlp3").widths(vision, LM) == (3, 12, wide, wide)


def test_mlp2_is_llavas_projector() -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
    from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

    vision = grid(3, 6)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=6, num_attention_heads=2),
        text_config=LlamaConfig(hidden_size=8, num_attention_heads=2),
    )
    theirs, ours = LlavaMultiModalProjector(config).to(DEVICE), Projector(spec_of("mlp2"), vision, LM).to(DEVICE)
    names = {"linears.0": "linear_1", "linears.1": "linear_2"}
    state = {name: theirs.state_dict()[f"{names[name[:9]]}{name[9:]}"] for name in ours.state_dict()}
    ours.load_state_dict(state)
    features = seen(vision).float()
    assert torch.equal(ours(features, torch.float32), theirs(features))


@pytest.mark.parametrize(("shuffle", "tokens"), [(1, 729), (2, 196), (3, 81)])
def test_what_a_picture_of_729_tokens_costs(shuffle: int, tokens: int) -> None:
    assert spec_of("mlp2", shuffle=shuffle).tokens(grid(27, 4)) == tokens
    assert pixel_shuffle(torch.zeros(1, 729, 4), 27, shuffle).shape == (1, tokens, 4 * shuffle**2)


@settings(deadline=None)
@given(side=st.integers(1, 9), by=st.integers(1, 4), width=st.integers(1, 3))
def test_a_shuffle_can_be_undone(side: int, by: int, width: int) -> None:
    """Every number has its place; what is not a number of the picture is zero, at the right and below."""
    count = side * side * width
    x = torch.arange(1, count + 1, dtype=torch.float64).view(1, side * side, width)
    found = pixel_shuffle(x, side, by)
    assert sorted(found[found > 0].tolist()) == x.flatten().tolist()
    squares = -(-side // by)
    whole = (
        found.view(squares, squares, by, by, width).permute(0, 2, 1, 3, 4).reshape(squares * by, squares * by, width)
    )
    assert torch.equal(whole[:side, :side].reshape(1, side * side, width), x)
    assert not whole[side:].any() and not whole[:, side:].any()


SHAPES = st.builds(spec_of, st.sampled_from(KINDS), shuffle=st.integers(1, 3), spread=st.integers(1, 3))


@settings(deadline=None, max_examples=50)
@given(spec=SHAPES, positions=st.booleans(), side=st.integers(1, 7), width=st.integers(1, 9))
def test_parameters_are_those_of_the_built_projector(
    spec: ProjectorSpec, positions: bool, side: int, width: int
) -> None:
    spec, vision = replace(spec, has_position_embeddings=positions), grid(side, width)
    with torch.device("meta"):
        made = Projector(spec, vision, LM)
    assert sum(parameter.numel() for parameter in made.parameters()) == spec.parameters(vision, LM)


@settings(deadline=None, max_examples=25)
@given(spec=SHAPES, side=st.integers(1, 5), width=st.integers(1, 5))
def test_flops_are_counted_in_its_products(spec: ProjectorSpec, side: int, width: int) -> None:
    vision = grid(side, width)
    with FlopCounterMode(display=False) as counter:
        built(spec, vision)(seen(vision, 2), torch.float64)
    assert counter.get_total_flops() == 2 * spec.flops(vision, LM)


def test_the_first_values_are_the_seeds() -> None:
    """Fan-in scale, cut at three deviations; biases and nothing else are zero."""
    spec, vision = spec_of("mlp3", positions=True), grid(4, 16)
    made = Projector(spec, vision, LM)
    made.initialise(torch.Generator().manual_seed(3))
    for linear in made.linears:
        assert isinstance(linear, nn.Linear)
        fan = linear.weight.shape[1] ** -0.5
        assert 0.8 * fan < linear.weight.std() < 1.1 * fan
        assert linear.weight.abs().max() <= 3 * fan and not linear.bias.any()
    again = Projector(spec, vision, LM)
    again.initialise(torch.Generator().manual_seed(3))
    assert all(torch.equal(one, other) for one, other in zip(made.parameters(), again.parameters(), strict=True))
    assert made.positions is not None and made.positions.any()


def test_narrow_products_are_those_of_rounded_weights() -> None:
    """bf16 rounds what goes into a product, not the learned positions."""
    spec, vision = spec_of("mlp2", positions=True), grid(2, 3)
    made, features = built(spec, vision).float(), seen(vision).float()
    exact, narrow = made(features, torch.float32), made(features, torch.bfloat16)
    assert narrow.dtype == torch.float32
    assert 0 < (narrow - exact).abs().max() < 0.1


@pytest.mark.parametrize("changed", [{"pixel_shuffle": 0}, {"tokens_per_patch": 0}])
def test_counts_begin_at_one(changed: dict[str, int]) -> None:
    with pytest.raises(QuantityError, match="are 1 or more"):
        replace(spec_of("linear"), **changed)
