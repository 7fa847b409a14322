"""The decoder against an independent transcription of the published formulas, token by token in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from firstsight.model.lm import LM
from firstsight.recipe.lm import LMSpec, openlm
from tests.model.rows import PLAIN, SHIFTED, grown, packed


def layer_norm(x: Tensor, gain: Tensor) -> Tensor:
    return (x - x.mean()) / torch.sqrt(((x - x.mean()) ** 2).mean() + 1e-5) * gain


def turned(head: Tensor, position: int, base: float) -> Tensor:
    size = len(head)
    out = torch.empty_like(head)
    for i in range(size // 2):
        angle = position / base ** (2 * i / size)
        a, b = head[i], head[i + size // 2]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + size // 2] = a * math.sin(angle) + b * math.cos(angle)
    return out


def transcription(lm: LM, ids: list[int]) -> Tensor:
    """Logits [T, V] of one document from the formulas of the specification's section 1.2, one token at a time."""
    spec, w = lm.spec, {name: value.detach() for name, value in lm.named_parameters()}
    size = spec.width // spec.heads
    stream = [w["tok_embeddings.weight"][token] * spec.embedding_scale for token in ids]
    for n in range(spec.layers):
        layer = {
            name.removeprefix(f"layers.{n}."): value for name, value in w.items() if name.startswith(f"layers.{n}.")
        }
        normed = [layer_norm(x, layer["attention_norm.weight"]) for x in stream]
        if spec.token_shift > 1:
            taps = layer["attention.shift"]
            normed = [
                sum(
                    (taps[k] * normed[t - k] for k in range(spec.token_shift) if t >= k),
                    torch.zeros(spec.width).double(),
                )
                for t in range(len(ids))
            ]
        queries, keys, values = [], [], []
        for position, h in enumerate(normed):
            q, k, v = (layer["attention.in_proj.weight"] @ h).split(spec.width)
            q, k = layer_norm(q, layer["attention.q_norm.weight"]), layer_norm(k, layer["attention.k_norm.weight"])
            queries.append([turned(head, position, spec.rope.base) for head in q.split(size)])
            keys.append([turned(head, position, spec.rope.base) for head in k.split(size)])
            values.append(v.split(size))
        for t in range(len(ids)):
            found = []
            for head in range(spec.heads):
                scores = torch.stack([queries[t][head] @ keys[s][head] / math.sqrt(size) for s in range(t + 1)])
                shares = torch.exp(scores) / torch.exp(scores).sum()
                found.append(sum(share * values[s][head] for s, share in enumerate(shares)))
            x = stream[t] + layer["attention.out_proj.weight"] @ torch.cat(found)
            gate, value = (layer["feed_forward.w12.weight"] @ layer_norm(x, layer["ffn_norm.weight"])).split(
                spec.hidden
            )
            stream[t] = x + layer["feed_forward.w3.weight"] @ (gate / (1 + torch.exp(-gate)) * value)
    return torch.stack([w["output.weight"] @ layer_norm(x, w["norm.weight"]) for x in stream])


@pytest.mark.parametrize("spec", [PLAIN, SHIFTED], ids=["openlm", "token shift"])
def test_logits_are_those_of_the_published_formulas(spec: LMSpec) -> None:
    model, ids = grown(spec), [3, 1, 4, 1, 5, 9, 2, 6]
    logits = model.lm.logits(model(packed([[ids]], length=8)))[0]
    torch.testing.assert_close(logits, transcription(model.lm, ids), rtol=1e-9, atol=1e-9)


def test_long_rows_take_the_fused_kernel_to_the_same_numbers() -> None:
    model, ids = grown(PLAIN), torch.randint(20, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    long = model(packed([[ids]], length=300))[0]
    short = model(packed([[ids[:200]]], length=200))[0]
    torch.testing.assert_close(long[:200], short, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", [PLAIN, SHIFTED], ids=["openlm", "token shift"])
def test_gradients_are_those_of_finite_differences(spec: LMSpec) -> None:
    model = grown(replace(spec, layers=1))
    rows = packed([[[3, 1, 4], [1, 5]]], length=7)

    def value() -> Tensor:
        return model.lm.logits(model(rows))[:, :5].square().mean()

    value().backward()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        assert parameter.grad is not None, name
        with torch.no_grad():
            parameter.add_(way, alpha=1e-5)
            above = value()
            parameter.sub_(way, alpha=2e-5)
            below = value()
            parameter.add_(way, alpha=1e-5)
        torch.testing.assert_close((parameter.grad * way).sum(), (above - below) / 2e-5, rtol=1e-5, atol=1e-8, msg=name)


def test_initial_values_have_the_published_spread() -> None:
    spec = openlm(layers=3, width=256, heads=4, vocabulary=1000)
    lm = LM(spec)
    lm.initialise(torch.Generator().manual_seed(0))
    cut = 0.98658  # deviation of a normal law that is cut at three deviations, by its closed form
    wide = dict.fromkeys(("tok_embeddings.weight", "output.weight"), 256 ** (-0.5))
    for n in range(3):
        wide |= {f"layers.{n}.attention.in_proj.weight": 256**-0.5, f"layers.{n}.feed_forward.w12.weight": 256**-0.5}
        wide[f"layers.{n}.attention.out_proj.weight"] = 256**-0.5 / math.sqrt(2 * (n + 1))
        wide[f"layers.{n}.feed_forward.w3.weight"] = spec.hidden**-0.5 / math.sqrt(2 * (n + 1))
    for name, value in lm.named_parameters():
        if name in wide:
            assert value.std().item() == pytest.approx(cut * wide[name], rel=0.02), name
            assert value.abs().max() <= 3.0001 * wide[name], name
        else:
            assert (value == 1).all(), f"{name}: gains start at one"


def test_token_shift_of_one_whole_tap_is_the_plain_model() -> None:
    plain, shifted = LM(PLAIN), LM(replace(PLAIN, token_shift=3))
    plain.initialise(torch.Generator().manual_seed(0))
    taps = {f"layers.{n}.attention.shift": torch.eye(3)[0, :, None].expand(3, 16) for n in range(2)}
    shifted.load_state_dict(plain.state_dict() | taps)
    rows = packed([[[3, 1, 4, 1, 5]]], length=5)
    x = plain.embed(rows.tokens)
    frame = plain.frame(rows.docs, rows.positions)
    assert torch.equal(plain(x, frame), shifted(x, frame))


@pytest.mark.parametrize("spec", [PLAIN, SHIFTED, openlm(layers=2, width=32, heads=4, vocabulary=50)])
def test_parameters_are_as_many_as_the_spec_says(spec: LMSpec) -> None:
    assert sum(parameter.numel() for parameter in LM(spec).parameters()) == spec.parameters()


@pytest.mark.parametrize(
    ("layers", "width", "heads", "published"), [(24, 2048, 16, 1_439_795_200), (32, 4096, 32, 6_889_410_560)]
)
def test_paper_sizes_have_the_published_counts(layers: int, width: int, heads: int, published: int) -> None:
    spec = openlm(layers=layers, width=width, heads=heads, vocabulary=50_432)
    with torch.device("meta"):
        names = {name: value.numel() for name, value in LM(spec).named_parameters()}
    assert sum(names.values()) == spec.parameters()
    assert sum(size for name, size in names.items() if "q_norm" not in name and "k_norm" not in name) == published
