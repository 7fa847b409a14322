"""Published decoders: parameter counts, meta device, FLOPs against torch's counter, invalid specs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from firstsight.errors import ModelError, QuantityError
from firstsight.model.lm import LM, one_hot_taps
from firstsight.model.tensors import allocate_parameters
from firstsight.model.vision import Encoder
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LinearRope, Llama3Rope, LMSpec, Rope, VLMSpec, llama_family_spec, openlm_spec
from firstsight.recipe.scales import models
from tests.model.memory import resident_bytes
from tests.model.tiny_models import FEATURE_VLM, PATCH_VLM, PLAIN_LM, SHIFTED_LM, TOWER, pack_rows, random_model

OPENLM = (
    models.openlm_79m,
    models.openlm_154m,
    models.openlm_411m,
    models.openlm_1b,
    models.openlm_7b,
)
DONORS = {
    models.smollm2_135m: 134_515_008,
    models.smollm2_360m: 361_821_120,
    models.smollm2_1b: 1_711_376_384,
    models.tinyllama_1b: 1_100_048_384,
    models.amber_7b: 6_738_415_616,
    models.llama32_1b: 1_235_814_400,
}
"""Parameters in the published safetensors files; Amber's are Llama 7B's."""


def parameter_sizes(spec: LMSpec) -> dict[str, int]:
    with torch.device("meta"):
        return {name: parameter.numel() for name, parameter in LM(spec).named_parameters()}


def qk_norm_size(named: dict[str, int]) -> int:
    return sum(size for name, size in named.items() if "q_norm" in name or "k_norm" in name)


@pytest.mark.parametrize("vocabulary", [50_432, 66_816], ids=["text", "with image codes"])
@pytest.mark.parametrize("published", OPENLM)
def test_openlm_parameter_counts_match_built_models(published: Callable[..., LMSpec], vocabulary: int) -> None:
    spec = published(vocab_size=vocabulary)
    assert spec.vocab_size == vocabulary
    assert spec.parameters() == sum(parameter_sizes(spec).values())


@pytest.mark.parametrize(
    ("published", "without", "gains"),
    [(models.openlm_1b, 1_439_795_200, 24 * 2 * 2048), (models.openlm_7b, 6_889_410_560, 32 * 2 * 4096)],
    ids=["1.4B", "7B"],
)
def test_published_counts_exclude_qk_norm_weights(published: Callable[[], LMSpec], without: int, gains: int) -> None:
    spec = published()
    assert spec.vocab_size == 50_432
    assert spec.parameters() == without + gains
    assert qk_norm_size(parameter_sizes(spec)) == gains
    assert replace(spec, qk_norm=False).parameters() == without


@pytest.mark.parametrize(("published", "millions"), [(models.openlm_79m, 78.9), (models.openlm_154m, 153.7)])
def test_small_sizes_match_their_names(published: Callable[[], LMSpec], millions: float) -> None:
    assert replace(published(), qk_norm=False).parameters() / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(("published", "count"), DONORS.items(), ids=[entry.__name__ for entry in DONORS])
def test_donors_have_the_published_counts(published: Callable[[], LMSpec], count: int) -> None:
    spec = published()
    assert spec.parameters() == count == sum(parameter_sizes(spec).values())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("has_vision", [False, True], ids=["lm", "vlm"])
def test_large_model_on_the_meta_device_takes_no_memory(has_vision: bool) -> None:
    spec = replace(PATCH_VLM, lm=models.openlm_7b()) if has_vision else models.openlm_7b()
    memory_before = resident_bytes()
    with torch.device("meta"):
        model = VLM(spec)
    assert resident_bytes() - memory_before < 50e6
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.lm.parameters()) == models.openlm_7b().parameters()


@pytest.mark.parametrize(
    "spec",
    [
        PLAIN_LM,
        SHIFTED_LM,
        replace(PLAIN_LM, norm="rms", qk_norm=False, kv_heads=1, head_dim=12, ties_embeddings=True),
        FEATURE_VLM,
        PATCH_VLM,
    ],
    ids=["openlm", "token shift", "llama", "projector", "patches"],
)
def test_allocated_meta_model_initialises_to_the_same_bits(spec: LMSpec | VLMSpec) -> None:
    plain = VLM(spec)
    plain.initialise(7)
    with torch.device("meta"):
        later = VLM(spec)
    allocate_parameters(later)
    with torch.no_grad():
        for parameter in later.parameters():
            parameter.fill_(float("nan"))
    later.initialise(7)
    expected, actual = plain.state_dict(), later.state_dict()
    assert list(expected) == list(actual)
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())


def test_building_does_not_use_the_global_generator() -> None:
    """Initial values are drawn by `initialise` only; the state of the global generator does not change."""
    before = torch.random.get_rng_state()
    LM(PLAIN_LM)
    assert torch.equal(before, torch.random.get_rng_state())


def test_allocated_meta_encoder_equals_a_plain_one() -> None:
    pixels = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = Encoder(TOWER)
    with torch.device("meta"):
        later = Encoder(TOWER)
    allocate_parameters(later)
    later.load_state_dict(plain.state_dict())
    assert torch.equal(plain(pixels), later(pixels))


def test_allocating_unknown_buffers_is_an_error() -> None:
    with torch.device("meta"):
        strange = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(ModelError, match="BatchNorm1d: wanted only parameters"):
        allocate_parameters(strange)


@pytest.mark.parametrize(
    "spec",
    [
        openlm_spec(layers=3, width=32, heads=4, vocab_size=50),
        llama_family_spec(layers=2, width=48, heads=6, kv_heads=2, mlp_width=80, vocab_size=70),
        replace(
            llama_family_spec(layers=2, width=48, heads=6, kv_heads=1, mlp_width=80, vocab_size=70),
            ties_embeddings=True,
            head_dim=10,
        ),
    ],
    ids=["openlm", "grouped", "tied, heads wider than their share"],
)
def test_flops_match_torchs_counter(spec: LMSpec) -> None:
    """torch counts all pairs of tokens in attention; `LMSpec.flops` counts the causal half."""
    tokens = 64
    model, rows = random_model(spec), pack_rows([[list(range(20)) * 3 + [1, 2, 3, 4]]], length=tokens)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.lm.logits(model(rows))
    counted = {str(op).removeprefix("aten."): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    assert counted.keys() == {"mm", "bmm"}
    assert counted["mm"] == tokens * spec.flops(0)
    assert counted["bmm"] == 2 * tokens * (spec.flops(tokens) - spec.flops(0))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kv_heads", 3, "kv_heads must divide heads. Got 3 for 4 heads"),
        ("head_dim", 7, "head_dim must be even. Got 7"),
        ("layers", 0, "layers must be above zero. Got 0"),
        ("width", -8, "width must be above zero. Got -8"),
        ("heads", 0, "heads must be above zero. Got 0"),
        ("kv_heads", 0, "kv_heads must be above zero. Got 0"),
        ("mlp_width", 0, "mlp_width must be above zero. Got 0"),
        ("vocab_size", 0, "vocab_size must be above zero. Got 0"),
        ("eps", 0.0, "eps must be above zero. Got 0.0"),
        ("eps", float("nan"), "eps must be above zero. Got nan"),
        ("token_shift", 0, "token_shift must be 1 or more. Got 0"),
        ("embedding_scale", 0, "embedding_scale must be 1 or more. Got 0"),
    ],
)
def test_invalid_decoder_spec_is_an_error(field: str, value: float, message: str) -> None:
    spec = openlm_spec(layers=2, width=32, heads=4, vocab_size=50)
    with pytest.raises(QuantityError) as caught:
        LMSpec(**{entry.name: getattr(spec, entry.name) for entry in fields(spec)} | {field: value})
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Rope(base=0.0), "rotary base must be above zero. Got 0.0"),
        (lambda: LinearRope(base=-1.0, factor=2.0), "rotary base must be above zero. Got -1.0"),
        (lambda: LinearRope(base=1e4, factor=0.5), "scaling factor must be 1 or more. Got 0.5"),
        (
            lambda: Llama3Rope(base=1e4, factor=0.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8),
            "1 or more. Got 0.0",
        ),
        (
            lambda: Llama3Rope(base=1e4, factor=8.0, low_freq_factor=4.0, high_freq_factor=4.0, original_context=8),
            "low_freq_factor must be below high_freq_factor. Got 4.0",
        ),
        (
            lambda: Llama3Rope(base=1e4, factor=8.0, low_freq_factor=0.0, high_freq_factor=4.0, original_context=8),
            "low_freq_factor must be above zero. Got 0.0",
        ),
        (
            lambda: Llama3Rope(base=1e4, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=0),
            "context must be above zero. Got 0",
        ),
        (
            lambda: openlm_spec(layers=1, width=30, heads=4, vocab_size=9),
            "heads must divide width. Got 4 heads for width 30",
        ),
        (
            lambda: llama_family_spec(layers=1, width=32, heads=0, kv_heads=1, mlp_width=8, vocab_size=9),
            "heads must divide width. Got 0 heads",
        ),
    ],
)
def test_invalid_rope_and_head_counts_are_errors(build: Callable[[], object], message: str) -> None:
    with pytest.raises(QuantityError) as caught:
        build()
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")


def test_embedding_scale_does_not_scale_a_tied_head() -> None:
    """The head is the stored embedding, without the scale."""
    spec = replace(PLAIN_LM, ties_embeddings=True, embedding_scale=4)
    lm = LM(spec)
    lm.initialise(torch.Generator().manual_seed(0))
    assert torch.equal(lm.embed(torch.tensor([[3]]))[0, 0], 4 * lm.head_weight[3])


@pytest.mark.parametrize(("taps", "counts"), [(2, [32, 32]), (3, [32, 16, 16]), (4, [32, 16, 8, 8])])
def test_each_channel_starts_with_one_tap(taps: int, counts: list[int]) -> None:
    """Half of the channels with the token itself, half of the rest with the token before, and so on."""
    start = one_hot_taps(taps, 64)
    assert start.sum(dim=1).tolist() == counts
    assert (start.sum(dim=0) == 1).all() and set(start.unique().tolist()) == {0, 1}
