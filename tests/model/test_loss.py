"""Cross-entropy and z-loss against torch's own and against their definitions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from firstsight.errors import ModelError, RequestError
from firstsight.model import loss as module
from firstsight.model.loss import LossInputs, chunked_loss, compiled_loss, liger_loss, lm_loss, next_token_loss
from firstsight.recipe.model import LMSpec
from firstsight.site import Site
from firstsight.site_file import read_site
from firstsight.train.compilation import MIN_COMPILE_STEPS, compile_decoder
from tests.conftest import DEVICE
from tests.model.tiny_models import (
    FEATURE_VLM,
    IMAGE_TOKENS,
    PLAIN_LM,
    SHIFTED_LM,
    cpu_only,
    pack_rows,
    prompt_images,
    random_model,
)


@pytest.fixture
def traceable() -> Iterator[None]:
    """Switch the type checks off: torch cannot compile them."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


class LargestResult(TorchDispatchMode):
    """Records the size of the largest result of any operation."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        actual = func(*args, **(kwargs or {}))
        for item in actual if isinstance(actual, tuple | list) else [actual]:
            if isinstance(item, torch.Tensor):
                self.largest = max(self.largest, item.numel())
        return actual


def single_group() -> torch.Tensor:
    """Group of a batch of one row."""
    return torch.zeros(1, dtype=torch.int8, device=DEVICE)


def random_inputs(count: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states, head = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (count, 11))
    return states.to(DEVICE), head.to(DEVICE), torch.randint(11, (count,), generator=generator).to(DEVICE)


def set_work_sizes(monkeypatch: pytest.MonkeyPatch, chunk: int, piece: int, product: int) -> None:
    for device in ("CPU_SIZES", "GPU_SIZES"):
        monkeypatch.setattr(module, device, module.CPU_SIZES._replace(chunk=chunk, piece=piece, product=product))


CUTS = [(1, 1, 1), (7 * 11, 3 * 11, 4 * 6), (8 * 11, 8 * 11, 11 * 6), (2**26, 4 * 11, 2**22), (2**26, 2**20, 2**22)]
"""Most logits a chunk, a piece, most numbers of a product: rows alone, ragged last ones, even ones, all at once."""


@pytest.mark.parametrize("sizes", CUTS)
def test_loss_and_gradients_match_the_definition(monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int]) -> None:
    set_work_sizes(monkeypatch, *sizes)
    states, head, targets = random_inputs()
    result = (states.clone().requires_grad_(), head.clone().requires_grad_())
    total, item = next_token_loss(*result, targets, z_coefficient=0.3)
    (total / 7).backward()
    reference = [states.clone().requires_grad_(), head.clone().requires_grad_()]
    logits = reference[0] @ reference[1].T
    expected = F.cross_entropy(logits, targets, reduction="none")
    whole = expected.sum() + 0.3 * logits.exp().sum(dim=1).log().square().sum()
    (whole / 7).backward()
    torch.testing.assert_close(item, expected.detach())
    torch.testing.assert_close(total, whole)
    for actual, second in zip(result, reference, strict=True):
        torch.testing.assert_close(actual.grad, second.grad)


def test_sums_and_counts_are_split_by_group() -> None:
    model = random_model(PLAIN_LM)
    rows = pack_rows([[[1, 2, 3]], [[4, 5, 6]], [[7, 8]]], length=4)
    targets = torch.tensor([[2, 3, -100, -100], [-100, 6, -100, -100], [8, -100, -100, -100]], device=DEVICE)
    kinds = torch.tensor([0, 2, 0], dtype=torch.int8, device=DEVICE)
    hidden = model(rows)
    actual = lm_loss(model.lm, hidden, targets, row_groups=kinds, num_groups=3, z_coefficient=0.0)
    item = (
        F.cross_entropy(model.lm.logits(hidden).flatten(0, 1), targets.flatten(), reduction="none")
        .view(3, 4)
        .sum(dim=1)
    )
    torch.testing.assert_close(actual.by_group, torch.stack([item[0] + item[2], item[0] * 0, item[1]]).detach())
    assert actual.token_counts.tolist() == [3, 0, 1]
    torch.testing.assert_close(actual.total, item.sum())


@pytest.mark.parametrize("spec", [PLAIN_LM, replace(PLAIN_LM, ties_embeddings=True)], ids=["head", "tied"])
def test_gradients_equal_those_of_whole_logits(spec: LMSpec) -> None:
    rows, targets = pack_rows([[[1, 2, 3, 4]]], length=5), torch.tensor([[-100, 3, -100, 7, -100]], device=DEVICE)
    grads = []
    for gathered in (True, False):
        model = random_model(spec)
        hidden = model(rows)
        if gathered:
            total = lm_loss(model.lm, hidden, targets, row_groups=single_group(), num_groups=1, z_coefficient=0.1).total
        else:
            logits = model.lm.logits(hidden)[0]
            total = F.cross_entropy(logits, targets[0], reduction="sum")
            total = total + 0.1 * logits.logsumexp(dim=1).square()[targets[0] >= 0].sum()
        total.backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)


def test_batch_without_loss_tokens_has_zero_loss_and_gradients() -> None:
    model = random_model(PLAIN_LM)
    targets = torch.full((1, 3), -100, device=DEVICE)
    hidden = model(pack_rows([[[1, 2, 3]]], length=3))
    actual = lm_loss(model.lm, hidden, targets, row_groups=single_group(), num_groups=1, z_coefficient=0.1)
    actual.total.backward()
    assert actual.total == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_gradients_match_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    set_work_sizes(monkeypatch, 2 * 11, 11, 4 * 6)
    states, head, targets = random_inputs(3)

    def total() -> torch.Tensor:
        return 3 * next_token_loss(states, head, targets, z_coefficient=0.3)[0]

    inputs = [states.requires_grad_(), head.requires_grad_()]
    gradients = torch.autograd.grad(total(), inputs)
    step = 1e-5
    for tensor, gradient in zip((states, head), gradients, strict=True):
        values = tensor.detach().view(-1)
        for index, expected in enumerate(gradient.flatten()):
            original = float(values[index])
            totals = []
            for value in (original + step, original - step, original):
                values[index] = value
                totals.append(total().detach())
            torch.testing.assert_close((totals[0] - totals[1]) / (2 * step), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_tensor_is_larger_than_a_chunk_of_logits(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    count, vocabulary, width = 128, 1000, 8
    set_work_sizes(monkeypatch, 32 * vocabulary, 8 * vocabulary, 2**22)
    states = torch.randn(count, width, dtype=dtype, device=DEVICE, requires_grad=True)
    head, targets = torch.randn(vocabulary, width, device=DEVICE), torch.randint(vocabulary, (count,), device=DEVICE)
    with LargestResult() as probe:
        next_token_loss(states, head.requires_grad_(), targets, z_coefficient=1e-4)[0].backward()
    assert probe.largest == 32 * vocabulary
    with LargestResult() as probe:
        F.cross_entropy((states @ head.to(dtype).T).float(), targets).backward()
    assert probe.largest == count * vocabulary, "the probe must detect such a matrix"


def test_bf16_error_is_that_of_the_plain_loss() -> None:
    generator = torch.Generator().manual_seed(3)
    states, head = (torch.randn(n, 32, generator=generator) for n in (200, 500))
    targets = torch.randint(500, (200,), generator=generator).to(DEVICE)
    states, head = states.bfloat16().to(DEVICE), (head * 0.3).bfloat16().float().to(DEVICE)

    def grads(dtype: torch.dtype, plain: bool) -> list[torch.Tensor]:
        inputs = [states.to(dtype).requires_grad_(), head.double().requires_grad_()]
        if plain:
            logits = (inputs[0] @ inputs[1].to(dtype).T).to(torch.float64 if dtype == torch.float64 else torch.float32)
            total = F.cross_entropy(logits, targets, reduction="sum")
        else:
            total = next_token_loss(inputs[0], inputs[1], targets, z_coefficient=0.0)[0]
        return [total.detach().double(), *(first.double() for first in torch.autograd.grad(total, inputs))]

    exact = grads(torch.float64, True)
    for result, second, true in zip(grads(torch.bfloat16, False), grads(torch.bfloat16, True), exact, strict=True):
        assert (result - true).abs().max() <= 1.5 * (second - true).abs().max() + 1e-4 * true.abs().max()


def test_second_backward_pass_is_an_error() -> None:
    states, head, targets = random_inputs()
    total, _ = next_token_loss(states.requires_grad_(), head, targets, z_coefficient=0.0)
    total.backward(retain_graph=True)
    with pytest.raises(ModelError, match="one backward pass"):
        total.backward()


@pytest.mark.parametrize("ties", [False, True])
def test_frozen_decoder_costs_no_weight_gradients(ties: bool) -> None:
    """torch counts the FLOPs of a step's products: less by 2 for each weight of a product and each of its rows."""
    spec = replace(FEATURE_VLM, lm=replace(SHIFTED_LM, ties_embeddings=ties))
    images = torch.stack([image for image in prompt_images() if image is not None]).to(DEVICE)
    rows = pack_rows(
        [[[None] * IMAGE_TOKENS + [3, 1, 4, 1, 5, 9, 2, 6]], [[5, 6], [None] * IMAGE_TOKENS + [7]]],
        length=16,
        images=images,
    )
    rows.slots.clamp_(max=2 * IMAGE_TOKENS - 1)
    targets = torch.where((rows.docs >= 0) & (rows.slots < 0), rows.tokens, -100)
    groups, results = torch.zeros(2, dtype=torch.int8, device=DEVICE), []
    for is_frozen in (False, True):
        model = random_model(spec, dtype=torch.float32)
        model.lm.requires_grad_(not is_frozen)
        with FlopCounterMode(display=False) as counter:
            sums = lm_loss(model.lm, model(rows), targets, row_groups=groups, num_groups=1, z_coefficient=1e-4)
            sums.total.backward()
        assert all((parameter.grad is None) == is_frozen for parameter in model.lm.parameters())
        assert model.projector is not None
        results.append((counter.get_total_flops(), sums.total, [p.grad for p in model.projector.parameters()]))
    (flops, loss, gradients), (frozen_flops, frozen_loss, frozen_gradients) = results
    assert torch.equal(loss, frozen_loss)
    for trained, frozen in zip(gradients, frozen_gradients, strict=True):
        assert trained is not None and torch.equal(trained, frozen)
    width = spec.lm.width
    matrices = spec.lm.layers * (4 * width * width + 3 * width * spec.lm.mlp_width)
    head = int((targets >= 0).sum()) * width * spec.lm.vocab_size
    assert flops - frozen_flops == 2 * (targets.numel() * matrices + head)


@pytest.mark.slow
@pytest.mark.usefixtures("traceable")
def test_compiled_loss_equals_chunked_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    set_work_sizes(monkeypatch, 8 * 11, 4 * 11, 2**22)
    for count in (30, 5, 0):
        states, head, targets = random_inputs(count)
        leaves = (states.requires_grad_(), head.requires_grad_())
        inputs = LossInputs(*leaves, targets, torch.zeros_like(targets), 1, 0.3)
        (first, first_sums), (second, second_sums) = compiled_loss(inputs), chunked_loss(inputs)
        torch.testing.assert_close((first, first_sums), (second, second_sums))
        for result, reference in zip(
            torch.autograd.grad(first, leaves), torch.autograd.grad(second, leaves), strict=True
        ):
            torch.testing.assert_close(result, reference)


def loss_inputs(device: str, dtype: torch.dtype) -> LossInputs:
    states, head, targets = (first.to(device) for first in random_inputs())
    group = torch.arange(30, device=device) % 2 * 2  # the group between has no tokens
    return LossInputs(states.to(dtype).requires_grad_(), head.float().requires_grad_(), targets, group, 3, 0.3)


def test_liger_without_gpu_or_package_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"wanted a GPU.*Got cpu.*Take loss"):
        liger_loss(loss_inputs("cpu", torch.float32))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(ModelError, match=r"wanted the package liger-kernel.*install it"):
        module._liger_kernel(torch.device("cuda"))
    (tmp_path / "site.toml").write_text("[machine]\nloss = 'ligr'")
    with pytest.raises(RequestError, match=r"\[machine\] loss: wanted chunked or liger. Got 'ligr'"):
        read_site(tmp_path / "site.toml")


@cpu_only
def test_site_file_selects_loss_and_recompute(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("[machine]\nloss = 'liger'\nrecompute = true\ncompile = false")
    model = random_model(PLAIN_LM)
    compile_decoder(model.lm, read_site(tmp_path / "site.toml"), steps=MIN_COMPILE_STEPS)
    assert model.lm.recompute
    hidden, targets = model(pack_rows([[[1, 2, 3]]], length=3)), torch.ones(1, 3, dtype=torch.int64)
    with pytest.raises(ModelError, match="wanted a GPU"):
        lm_loss(model.lm, hidden, targets, row_groups=single_group(), num_groups=1, z_coefficient=0.1)
    second = random_model(PLAIN_LM)
    compile_decoder(second.lm, Site(compile=False), steps=MIN_COMPILE_STEPS)
    assert not second.lm.recompute
    lm_loss(second.lm, hidden, targets, row_groups=single_group(), num_groups=1, z_coefficient=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_liger_matches_chunked_loss(dtype: torch.dtype, near: float) -> None:
    pytest.importorskip("liger_kernel")
    actual = []
    for way in (liger_loss, chunked_loss):
        inputs = loss_inputs("cuda", dtype)
        total, sums = way(inputs)
        actual.append([total, sums, *torch.autograd.grad(total / 7, [inputs.states, inputs.head_weight])])
    for first, second in zip(*actual, strict=True):
        assert (first.float() - second.float()).abs().max() <= near * second.float().abs().max()
