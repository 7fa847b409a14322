"""The decoder's layers against an independent implementation of the published formulas, token by token in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointWrapper,
    apply_activation_checkpointing,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from firstsight.model.generate import generate
from firstsight.model.layers import Block
from firstsight.model.lm import LM
from firstsight.model.loss import lm_loss
from firstsight.model.vlm import VLM
from firstsight.recipe.model import LinearRope, Llama3Rope, LMSpec, Rope, Rotary, llama_family_spec, openlm_spec
from tests.conftest import DEVICE
from tests.model.tiny_models import PLAIN_LM, SHIFTED_LM, PackedRows, cpu_only, pack_rows, random_model

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
LLAMA3 = Llama3Rope(base=50.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=3.0, original_context=24)
SPECS = {
    "openlm": PLAIN_LM,
    "token shift": SHIFTED_LM,
    "tied": replace(PLAIN_LM, ties_embeddings=True),
    "tied, larger embeddings": replace(PLAIN_LM, ties_embeddings=True, embedding_scale=4),
    "a key for two queries": replace(PLAIN_LM, heads=4, head_dim=4, kv_heads=2),
    "one key, heads wider than their share": replace(PLAIN_LM, heads=3, head_dim=10, kv_heads=1),
    "rms": replace(PLAIN_LM, norm="rms", eps=1e-3),
    "rms, no norm of queries, grouped": replace(PLAIN_LM, norm="rms", qk_norm=False, heads=4, head_dim=6, kv_heads=2),
    "rotary base": replace(PLAIN_LM, rope=Rope(base=37.0)),
    "linear scaling": replace(PLAIN_LM, rope=LinearRope(base=10_000.0, factor=2.5)),
    "llama3 scaling": replace(PLAIN_LM, head_dim=12, rope=LLAMA3),
}


def apply_norm(x: Tensor, gain: Tensor, spec: LMSpec) -> Tensor:
    centred = x - x.mean() if spec.norm == "layer" else x
    return centred / torch.sqrt((centred**2).mean() + spec.eps) * gain


def frequency(rope: Rotary, pair: int, size: int) -> float:
    """Radians per position by Llama 3.1's rule, which compares a wavelength with the context."""
    plain = rope.base ** (-2 * pair / size)
    if isinstance(rope, LinearRope):
        return plain / rope.factor
    if isinstance(rope, Rope):
        return plain
    wave = 2 * math.pi / plain
    if wave < rope.original_context / rope.high_freq_factor:
        return plain
    if wave > rope.original_context / rope.low_freq_factor:
        return plain / rope.factor
    smooth = (rope.original_context / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return (1 - smooth) * plain / rope.factor + smooth * plain


def rotate(head: Tensor, position: int, rope: Rotary) -> Tensor:
    half = len(head) // 2
    angles = [position * frequency(rope, i, 2 * half) for i in range(half)]
    first = [head[i] * math.cos(a) - head[i + half] * math.sin(a) for i, a in enumerate(angles)]
    second = [head[i] * math.sin(a) + head[i + half] * math.cos(a) for i, a in enumerate(angles)]
    return torch.stack(first + second)


def transcription(lm: LM, ids: list[int]) -> Tensor:
    """Logits [T, V] of one document from the formulas of the specification's section 1.2, one token at a time."""
    spec, w = lm.spec, dict(lm.named_parameters())
    stream = [w["tok_embeddings.weight"][token] * spec.embedding_scale for token in ids]
    for n in range(spec.layers):
        begins = f"layers.{n}."
        layer = {name.removeprefix(begins): value for name, value in w.items() if name.startswith(begins)}
        actual = attend(layer, [apply_norm(x, layer["attention_norm.weight"], spec) for x in stream], spec)
        for t, x in enumerate(actual):
            stream[t] = stream[t] + layer["attention.out_proj.weight"] @ x
            between = layer["feed_forward.w12.weight"] @ apply_norm(stream[t], layer["ffn_norm.weight"], spec)
            gate, value = between.split(spec.mlp_width)
            stream[t] = stream[t] + layer["feed_forward.w3.weight"] @ (gate / (1 + torch.exp(-gate)) * value)
    head = w["tok_embeddings.weight" if spec.ties_embeddings else "output.weight"]
    return torch.stack([head @ apply_norm(x, w["norm.weight"], spec) for x in stream])


def attend(layer: Mapping[str, Tensor], inputs: list[Tensor], spec: LMSpec) -> list[Tensor]:
    if spec.token_shift > 1:
        taps = layer["attention.shift"]
        inputs = [
            torch.stack([taps[k] * inputs[t - k] for k in range(min(spec.token_shift, t + 1))]).sum(0)
            for t in range(len(inputs))
        ]
    queries, keys, values = [], [], []
    for position, h in enumerate(inputs):
        query_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        q, k, v = (layer["attention.in_proj.weight"] @ h).split([query_width, kv_width, kv_width])
        if spec.qk_norm:
            q, k = (
                apply_norm(q, layer["attention.q_norm.weight"], spec),
                apply_norm(k, layer["attention.k_norm.weight"], spec),
            )
        queries.append([rotate(head, position, spec.rope) for head in q.split(spec.head_dim)])
        keys.append([rotate(head, position, spec.rope) for head in k.split(spec.head_dim)])
        values.append(v.split(spec.head_dim))
    actual = []
    for t in range(len(inputs)):
        heads = []
        for head in range(spec.heads):
            key = head // (spec.heads // spec.kv_heads)
            scores = torch.stack([queries[t][head] @ keys[s][key] / math.sqrt(spec.head_dim) for s in range(t + 1)])
            shares = torch.exp(scores) / torch.exp(scores).sum()
            heads.append(torch.stack([share * values[s][key] for s, share in enumerate(shares)]).sum(0))
        actual.append(torch.cat(heads))
    return actual


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_logits_and_gradients_match_the_published_formulas(spec: LMSpec) -> None:
    """In float64 correct implementations agree to 1e-13; the bound of 1e-10 excludes other formulas."""
    model = random_model(spec)
    weigh = torch.randn(len(IDS), spec.vocab_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weigh, message = weigh.to(DEVICE), transcription(model.lm, IDS)
    (message * weigh).sum().backward()
    published = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    logits = model.lm.logits(model(pack_rows([[IDS]], length=len(IDS))))[0]
    (logits * weigh).sum().backward()
    torch.testing.assert_close(logits, message, rtol=1e-10, atol=1e-10)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, published[name], rtol=1e-10, atol=1e-10, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize(
    "rope", [PLAIN_LM.rope, LinearRope(base=10_000.0, factor=4.0), LLAMA3], ids=["plain", "linear", "llama3"]
)
def test_angles_and_logits_stay_float32_under_bf16_autocast(rope: Rotary) -> None:
    """An angle of 1,023 radians in bf16 would have an error of up to 4."""
    model = random_model(replace(PLAIN_LM, head_dim=16, rope=rope), dtype=torch.float32)
    model.lm.compute_dtype = torch.bfloat16
    rows = pack_rows([[[t % 20 for t in range(1024)]]], length=1024)
    with torch.autocast(DEVICE, dtype=torch.bfloat16), torch.no_grad():
        frame = model.lm.attention_inputs(rows.docs, rows.positions)
        logits = model.lm.logits(model.lm.embed(rows.tokens[:, :3]))
    angles = [[position * frequency(rope, pair, 16) for pair in range(8)] for position in range(1024)]
    exact = torch.tensor(angles, dtype=torch.float64)
    assert frame.cos.dtype == frame.sin.dtype == logits.dtype == torch.float32
    near = 1e-4 if DEVICE == "cpu" else 5e-4  # a GPU's float32 powers are off by up to four units in the last place
    torch.testing.assert_close(frame.cos[0, 0].double().cpu(), exact.cos(), rtol=0, atol=near)
    torch.testing.assert_close(frame.sin[0, 0].double().cpu(), exact.sin(), rtol=0, atol=near)


@pytest.mark.parametrize("name", ["openlm", "token shift", "rms, no norm of queries, grouped"])
def test_recompute_saves_one_hidden_state_a_block_and_gives_the_same_bits(name: str) -> None:
    model, rows = (
        random_model(replace(SPECS[name], layers=4), dtype=torch.float32),
        pack_rows([[IDS * 4]] * 2, length=32),
    )
    actual = []
    for recompute in (False, True):
        model.lm.recompute = recompute
        model.zero_grad()
        x = model.lm.embed(rows.tokens)
        frame = model.lm.attention_inputs(rows.docs, rows.positions)
        saved: dict[int, int] = {}
        weights = {parameter.data_ptr() for parameter in model.parameters()}

        def keep(tensor: Tensor, saved: dict[int, int] = saved, weights: set[int] = weights) -> Tensor:
            if tensor.data_ptr() not in weights:
                saved[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model.lm(x, frame)
        hidden.square().sum().backward()
        actual.append((hidden.detach(), [p.grad for p in model.lm.layers.parameters()], sum(saved.values())))
    (plain, gradients, all_of_it), (again, same, little) = actual
    assert torch.equal(plain, again)
    assert all(torch.equal(left, right) for left, right in zip(gradients, same, strict=True))
    assert little == 4 * x.numel() < all_of_it / 5


def test_prefix_of_a_long_row_equals_a_short_row() -> None:
    model, ids = random_model(PLAIN_LM), torch.randint(20, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    long = model(pack_rows([[ids]], length=300))[0]
    short = model(pack_rows([[ids[:200]]], length=200))[0]
    torch.testing.assert_close(long[:200], short, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", [PLAIN_LM, SHIFTED_LM], ids=["openlm", "token shift"])
def test_gradients_match_finite_differences(spec: LMSpec) -> None:
    model = random_model(replace(spec, layers=1))
    rows = pack_rows([[[3, 1, 4], [1, 5]]], length=7)

    def value() -> Tensor:
        return model.lm.logits(model(rows))[:, :5].square().mean()

    value().backward()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(DEVICE)
        assert parameter.grad is not None, name
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-5)
            above = value()
            parameter.sub_(direction, alpha=2e-5)
            below = value()
            parameter.add_(direction, alpha=1e-5)
        torch.testing.assert_close(
            (parameter.grad * direction).sum(), (above - below) / 2e-5, rtol=1e-5, atol=1e-8, msg=name
        )


@pytest.mark.parametrize(
    "spec",
    [
        openlm_spec(layers=3, width=256, heads=4, vocab_size=1000),
        replace(
            llama_family_spec(layers=2, width=256, heads=8, kv_heads=2, mlp_width=320, vocab_size=600),
            head_dim=64,
            ties_embeddings=True,
        ),
        replace(openlm_spec(layers=2, width=256, heads=4, vocab_size=600), head_dim=32, kv_heads=1),
    ],
    ids=["openlm", "heads wider than their share", "heads narrower than their share"],
)
def test_initial_values_have_the_published_standard_deviation(spec: LMSpec) -> None:
    """fan-in ** -0.5; the fan-in of `out_proj` is heads x head_dim, in open_lm the width."""
    lm = LM(spec)
    lm.initialise(torch.Generator().manual_seed(0))
    truncated_std = 0.98658  # deviation of a normal law that is cut at three deviations, by its closed form
    expected_std: dict[str, float] = {"tok_embeddings.weight": 1 / 16, "output.weight": 1 / 16}
    for n in range(spec.layers):
        depth_scale = math.sqrt(2 * (n + 1))
        expected_std |= {f"layers.{n}.attention.in_proj.weight": 1 / 16, f"layers.{n}.feed_forward.w12.weight": 1 / 16}
        expected_std[f"layers.{n}.attention.out_proj.weight"] = (spec.heads * spec.head_dim) ** -0.5 / depth_scale
        expected_std[f"layers.{n}.feed_forward.w3.weight"] = spec.mlp_width**-0.5 / depth_scale
    for name, value in lm.named_parameters():
        if name in expected_std:
            assert value.std().item() == pytest.approx(truncated_std * expected_std[name], rel=0.02), name
            assert value.abs().max() <= 3.0001 * expected_std[name], name
        else:
            assert (value == 1).all(), f"{name}: gains start at one"


def test_token_shift_with_identity_taps_is_the_plain_model() -> None:
    plain, shifted = LM(PLAIN_LM), LM(replace(PLAIN_LM, token_shift=3))
    plain.initialise(torch.Generator().manual_seed(0))
    taps = {f"layers.{n}.attention.shift": torch.eye(3)[0, :, None].expand(3, 16) for n in range(2)}
    shifted.load_state_dict(plain.state_dict() | taps)
    plain, shifted, rows = plain.to(DEVICE), shifted.to(DEVICE), pack_rows([[[3, 1, 4, 1, 5]]], length=5)
    x = plain.embed(rows.tokens)
    frame = plain.attention_inputs(rows.docs, rows.positions)
    assert torch.equal(plain(x, frame), shifted(x, frame))


def loss_and_gradients(model: VLM, rows: PackedRows) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    targets = torch.where(rows.docs >= 0, rows.tokens, -100)
    groups = torch.zeros(len(targets), dtype=torch.int8, device=DEVICE)
    sums = lm_loss(model.lm, model(rows), targets, row_groups=groups, num_groups=1, z_coefficient=1e-4)
    sums.total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return sums.total.detach(), gradients


@pytest.mark.parametrize("recompute", [False, True])
def test_hooks_of_blocks_are_called_in_order(recompute: bool) -> None:
    model, rows = random_model(replace(PLAIN_LM, layers=3)), pack_rows([[IDS]], length=8)
    starts, ends = list[int](), list[int]()

    def record(calls: list[int], depth: int, *arguments: object) -> None:
        calls.append(depth)

    model.lm.recompute = recompute
    for depth, layer in enumerate(model.lm.layers):
        layer.register_forward_pre_hook(partial(record, starts, depth))
        layer.register_forward_hook(partial(record, ends, depth))
    loss_and_gradients(model, rows)
    assert starts == ([0, 1, 2, 2, 1, 0] if recompute else [0, 1, 2]), "recomputed from the last block to the first"
    assert ends == [0, 1, 2], "a recomputation stops at the last tensor that it is for"


def test_checkpoint_wrapper_of_torch_leaves_names_and_bits() -> None:
    model, rows = random_model(SHIFTED_LM), pack_rows([[IDS]], length=8)
    names, (loss, gradients) = list(model.state_dict()), loss_and_gradients(model, rows)
    answer = generate(model, [IDS], stop=(), max_new_tokens=4)
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Block))
    assert all(isinstance(layer, CheckpointWrapper) for layer in model.lm.layers)
    assert list(model.state_dict()) == names
    wrapped_loss, wrapped_gradients = loss_and_gradients(model, rows)
    assert torch.equal(loss, wrapped_loss)
    assert len(gradients) == len(wrapped_gradients)
    for plain, wrapped in zip(gradients.values(), wrapped_gradients.values(), strict=True):
        assert torch.equal(plain, wrapped)
    assert generate(model, [IDS], stop=(), max_new_tokens=4) == answer


@cpu_only
def test_fully_sharded_blocks_compute_the_same_bits(tmp_path: Path) -> None:
    """FSDP2 on one process: parameters are sharded DTensors outside of a block's forward pass, tensors inside."""
    model, rows = random_model(PLAIN_LM, dtype=torch.float32), pack_rows([[IDS]], length=8)
    loss, gradients = loss_and_gradients(model, rows)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        for layer in model.lm.layers:
            fully_shard(layer, mesh=mesh)
        assert all(isinstance(parameter, DTensor) for parameter in model.lm.layers.parameters())
        sharded_loss, sharded_gradients = loss_and_gradients(model, rows)
        assert torch.equal(loss, sharded_loss)
        for name, gradient in sharded_gradients.items():
            local = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
            assert torch.equal(local, gradients[name]), name
    finally:
        torch.distributed.destroy_process_group()
