"""Parameters against published counts, FLOPs against matrix shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.errors import QuantityError
from firstsight.recipe.model import LMSpec, llama_family_spec, openlm_spec, swiglu_width


@pytest.mark.parametrize(
    ("layers", "width", "heads", "published"),
    [(24, 2048, 16, 1_439_795_200), (32, 4096, 32, 6_889_410_560)],
)
def test_parameter_counts_are_the_published_ones_without_qk_gains(
    layers: int, width: int, heads: int, published: int
) -> None:
    spec = openlm_spec(layers=layers, width=width, heads=heads, vocab_size=50_432)
    assert spec.parameters() - layers * 2 * width == published


def matrices(spec: LMSpec) -> list[tuple[int, int]]:
    """(inputs, outputs) of every matrix that a token is multiplied with."""
    head = spec.head_dim
    block = [
        (spec.width, spec.heads * head),
        *[(spec.width, spec.kv_heads * head)] * 2,
        (spec.heads * head, spec.width),
    ]
    mlp = [*[(spec.width, spec.mlp_width)] * 2, (spec.mlp_width, spec.width)]
    return [*(block + mlp) * spec.layers, (spec.width, spec.vocab_size)]


@pytest.mark.parametrize(
    "spec",
    [
        openlm_spec(layers=2, width=64, heads=4, vocab_size=100),
        llama_family_spec(layers=3, width=96, heads=6, kv_heads=2, mlp_width=128, vocab_size=50),
    ],
)
def test_flops_and_parameters_are_sums_over_matrices(spec: LMSpec) -> None:
    """A token in a row of n attends to n / 2 others on average: two products of a head's width for each, at 2 FLOPs."""
    weights = sum(inputs * outputs for inputs, outputs in matrices(spec))
    for length in (16, 1024):
        attention = spec.layers * spec.heads * 2 * spec.head_dim * 2 * length // 2
        assert spec.flops(length) == 2 * weights + attention
    norms = spec.width * (2 * spec.layers + 1)
    norms += spec.layers * spec.head_dim * (spec.heads + spec.kv_heads) if spec.qk_norm else 0
    assert spec.parameters() == weights + spec.vocab_size * spec.width + norms
    assert replace(spec, ties_embeddings=True).parameters() == weights + norms
    assert replace(spec, token_shift=4).parameters() == spec.parameters() + spec.layers * 4 * spec.width


@pytest.mark.parametrize(("width", "expected"), [(2048, 5632), (4096, 11_008), (512, 1536)])
def test_mlp_widths_are_open_lm_s(width: int, expected: int) -> None:
    assert swiglu_width(width) == expected


@pytest.mark.parametrize("heads", [0, 3])
def test_heads_must_divide_the_width(heads: int) -> None:
    with pytest.raises(QuantityError, match=f"heads must divide width. Got {heads} heads for width 64"):
        openlm_spec(layers=1, width=64, heads=heads, vocab_size=10)


def test_windows_and_periods_count_what_layers_do() -> None:
    """Of eight layers with a window of 100 in rows of 400, two see the whole row: pairs are counted one by one."""
    full = llama_family_spec(layers=8, width=32, heads=4, kv_heads=4, mlp_width=48, vocab_size=40)
    spec = replace(full, window=100, window_period=4, rotary_period=4)
    assert [layer for layer in range(8) if not spec.is_windowed(layer)] == [3, 7]
    assert [layer for layer in range(8) if not spec.has_rotary(layer)] == [3, 7]
    pairs = 6 * sum(min(token + 0.5, 100) for token in range(400)) + 2 * sum(token + 0.5 for token in range(400))
    assert spec.attention_flops(400) == pytest.approx(4 * 32 * pairs / 400, rel=0.01)
    assert spec.attention_flops(100) == full.attention_flops(100)
