"""Projectors and image tokens, counted by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from firstsight.errors import QuantityError
from firstsight.recipe.model import ProjectorSpec, decoder_spec
from firstsight.recipe.scales import get_scale
from firstsight.recipe.serialize import canonical_json, to_json
from firstsight.recipe.vision import PatchProjectionSpec

PAPER = get_scale("1b").base.stages[0].model


@pytest.mark.parametrize(
    ("projector", "tokens", "widths"),
    [
        ({}, 729, (1152, 4608, 2048, 2048)),
        ({"kind": "linear"}, 729, (1152, 2048)),
        ({"kind": "mlp2", "pixel_shuffle": 2}, 14**2, (4 * 1152, 2048, 2048)),
        ({"kind": "mlp3", "pixel_shuffle": 3}, 9**2, (9 * 1152, 4608, 2048, 2048)),
        ({"kind": "mlp2", "tokens_per_patch": 3}, 3 * 729, (1152, 2048, 3 * 2048)),
    ],
)
def test_tokens_widths_parameters_and_flops(projector: dict, tokens: int, widths: tuple[int, ...]) -> None:
    """27 tokens a side; shuffled squares at the edge are filled up: 14 of 2, 9 of 3."""
    spec = replace(PAPER.projector, **projector)
    assert spec.tokens(PAPER.vision) == replace(PAPER, projector=spec).image_tokens == tokens
    assert spec.widths(PAPER.vision, PAPER.lm) == widths
    pairs = list(pairwise(widths))
    parameters = sum((inputs + 1) * outputs for inputs, outputs in pairs)
    assert spec.parameters(PAPER.vision, PAPER.lm) == parameters
    positions = replace(spec, has_position_embeddings=True)
    assert positions.parameters(PAPER.vision, PAPER.lm) == parameters + tokens * 2048
    squares = tokens // spec.tokens_per_patch
    assert spec.flops(PAPER.vision, PAPER.lm) == squares * sum(2 * inputs * outputs for inputs, outputs in pairs)


def test_patches_have_no_encoder_to_include() -> None:
    patches = PatchProjectionSpec(image_size=28, patch_size=14, width=8, fit="resize")
    assert replace(PAPER, vision=patches).image_tokens == 4
    with pytest.raises(QuantityError, match="has no encoder"):
        replace(PAPER, vision=patches, encoder="included")


@pytest.mark.parametrize(("new", "old"), [("external", "frozen"), ("included", "trained")])
def test_former_words_for_the_encoder_are_refused_with_the_new_ones(new: str, old: str) -> None:
    """As someone sees it whose study or checkpoint has them."""
    text = canonical_json(to_json(PAPER)).replace('"encoder":"external"', f'"encoder":"{old}"')
    script = f"from firstsight.recipe.serialize import from_json; import json; from_json(json.loads({text!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{new!r} was formerly called {old!r}." in done.stderr.splitlines()[-1]
    assert f"Got {old!r}" in done.stderr.splitlines()[-1]


def test_the_decoder_of_a_spec() -> None:
    assert decoder_spec(PAPER) == decoder_spec(PAPER.lm) == PAPER.lm


def test_projector_counts_start_at_1() -> None:
    with pytest.raises(QuantityError, match="Got 0 and 1"):
        ProjectorSpec(kind="mlp2", pixel_shuffle=0, tokens_per_patch=1, has_position_embeddings=False)
