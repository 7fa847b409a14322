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

from firstsight.errors import ModelError, RequestError
from firstsight.model import loss as module
from firstsight.model.loss import LossInputs, chunked_loss, compiled_loss, liger_loss, lm_loss, next_token_loss
from firstsight.recipe.lm import LMSpec
from firstsight.site import Site
from firstsight.site_file import read_site
from firstsight.train.compilation import MIN_COMPILE_STEPS, compile_decoder
from tests.conftest import DEVICE
from tests.model.tiny_models import PLAIN, cpu_only, grown, packed


@pytest.fixture
def traceable() -> Iterator[None]:
    """Take the type checks off for a while: torch cannot compile them."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


class Largest(TorchDispatchMode):
    """Remembers the most numbers that one operation's result held."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            if isinstance(one, torch.Tensor):
                self.most = max(self.most, one.numel())
        return found


def one_kind() -> torch.Tensor:
    """Kinds of a batch of one row."""
    return torch.zeros(1, dtype=torch.int8, device=DEVICE)


def drawn(count: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states, head = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (count, 11))
    return states.to(DEVICE), head.to(DEVICE), torch.randint(11, (count,), generator=generator).to(DEVICE)


def cut(monkeypatch: pytest.MonkeyPatch, chunk: int, piece: int, product: int) -> None:
    for device in ("CPU", "GPU"):
        monkeypatch.setattr(module, device, module.CPU._replace(chunk=chunk, piece=piece, product=product))


CUTS = [(1, 1, 1), (7 * 11, 3 * 11, 4 * 6), (8 * 11, 8 * 11, 11 * 6), (2**26, 4 * 11, 2**22), (2**26, 2**20, 2**22)]
"""Most logits a chunk, a piece, most numbers of a product: rows alone, ragged last ones, even ones, all at once."""


@pytest.mark.parametrize("sizes", CUTS)
def test_sum_and_gradients_are_those_of_the_definition(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int, int]
) -> None:
    cut(monkeypatch, *sizes)
    states, head, targets = drawn()
    mine = (states.clone().requires_grad_(), head.clone().requires_grad_())
    total, each = next_token_loss(*mine, targets, z_coefficient=0.3)
    (total / 7).backward()
    theirs = [states.clone().requires_grad_(), head.clone().requires_grad_()]
    logits = theirs[0] @ theirs[1].T
    wanted = F.cross_entropy(logits, targets, reduction="none")
    whole = wanted.sum() + 0.3 * logits.exp().sum(dim=1).log().square().sum()
    (whole / 7).backward()
    torch.testing.assert_close(each, wanted.detach())
    torch.testing.assert_close(total, whole)
    for ours, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(ours.grad, other.grad)


def test_sums_and_counts_are_split_by_kind_of_row() -> None:
    model = grown(PLAIN)
    rows = packed([[[1, 2, 3]], [[4, 5, 6]], [[7, 8]]], length=4)
    targets = torch.tensor([[2, 3, -100, -100], [-100, 6, -100, -100], [8, -100, -100, -100]], device=DEVICE)
    kinds = torch.tensor([0, 2, 0], dtype=torch.int8, device=DEVICE)
    hidden = model(rows)
    found = lm_loss(model.lm, hidden, targets, row_groups=kinds, num_groups=3, z_coefficient=0.0)
    each = (
        F.cross_entropy(model.lm.logits(hidden).flatten(0, 1), targets.flatten(), reduction="none")
        .view(3, 4)
        .sum(dim=1)
    )
    torch.testing.assert_close(found.by_group, torch.stack([each[0] + each[2], each[0] * 0, each[1]]).detach())
    assert found.token_counts.tolist() == [3, 0, 1]
    torch.testing.assert_close(found.total, each.sum())


@pytest.mark.parametrize("spec", [PLAIN, replace(PLAIN, ties_embeddings=True)], ids=["head", "tied"])
def test_gradients_reach_every_parameter_as_with_whole_logits(spec: LMSpec) -> None:
    rows, targets = packed([[[1, 2, 3, 4]]], length=5), torch.tensor([[-100, 3, -100, 7, -100]], device=DEVICE)
    grads = []
    for gathered in (True, False):
        model = grown(spec)
        hidden = model(rows)
        if gathered:
            total = lm_loss(model.lm, hidden, targets, row_groups=one_kind(), num_groups=1, z_coefficient=0.1).total
        else:
            logits = model.lm.logits(hidden)[0]
            total = F.cross_entropy(logits, targets[0], reduction="sum")
            total = total + 0.1 * logits.logsumexp(dim=1).square()[targets[0] >= 0].sum()
        total.backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], msg=name)


def test_a_batch_without_loss_tokens_has_zero_loss_and_zero_gradients() -> None:
    model = grown(PLAIN)
    targets = torch.full((1, 3), -100, device=DEVICE)
    hidden = model(packed([[[1, 2, 3]]], length=3))
    found = lm_loss(model.lm, hidden, targets, row_groups=one_kind(), num_groups=1, z_coefficient=0.1)
    found.total.backward()
    assert found.total == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_slopes_are_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 2 * 11, 11, 4 * 6)
    states, head, targets = drawn(3)

    def total() -> torch.Tensor:
        return 3 * next_token_loss(states, head, targets, z_coefficient=0.3)[0]

    given = [states.requires_grad_(), head.requires_grad_()]
    slopes = torch.autograd.grad(total(), given)
    step = 1e-5
    for tensor, slope in zip((states, head), slopes, strict=True):
        numbers = tensor.detach().view(-1)
        for place, wanted in enumerate(slope.flatten()):
            was = float(numbers[place])
            ends = []
            for value in (was + step, was - step, was):
                numbers[place] = value
                ends.append(total().detach())
            torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_matrix_of_tokens_and_vocabulary_is_ever_made(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    count, vocabulary, width = 128, 1000, 8
    cut(monkeypatch, 32 * vocabulary, 8 * vocabulary, 2**22)
    states = torch.randn(count, width, dtype=dtype, device=DEVICE, requires_grad=True)
    head, targets = torch.randn(vocabulary, width, device=DEVICE), torch.randint(vocabulary, (count,), device=DEVICE)
    with Largest() as seen:
        next_token_loss(states, head.requires_grad_(), targets, z_coefficient=1e-4)[0].backward()
    assert seen.most == 32 * vocabulary
    with Largest() as seen:
        F.cross_entropy((states @ head.to(dtype).T).float(), targets).backward()
    assert seen.most == count * vocabulary, "the measure sees such a matrix where there is one"


def test_in_bf16_it_is_as_near_to_the_truth_as_the_plain_loss() -> None:
    generator = torch.Generator().manual_seed(3)
    states, head = (torch.randn(n, 32, generator=generator) for n in (200, 500))
    targets = torch.randint(500, (200,), generator=generator).to(DEVICE)
    states, head = states.bfloat16().to(DEVICE), (head * 0.3).bfloat16().float().to(DEVICE)

    def grads(dtype: torch.dtype, plain: bool) -> list[torch.Tensor]:
        given = [states.to(dtype).requires_grad_(), head.double().requires_grad_()]
        if plain:
            logits = (given[0] @ given[1].to(dtype).T).to(torch.float64 if dtype == torch.float64 else torch.float32)
            total = F.cross_entropy(logits, targets, reduction="sum")
        else:
            total = next_token_loss(given[0], given[1], targets, z_coefficient=0.0)[0]
        return [total.detach().double(), *(one.double() for one in torch.autograd.grad(total, given))]

    truth = grads(torch.float64, True)
    for mine, other, true in zip(grads(torch.bfloat16, False), grads(torch.bfloat16, True), truth, strict=True):
        assert (mine - true).abs().max() <= 1.5 * (other - true).abs().max() + 1e-4 * true.abs().max()


def test_a_loss_is_differentiated_once() -> None:
    states, head, targets = drawn()
    total, _ = next_token_loss(states.requires_grad_(), head, targets, z_coefficient=0.0)
    total.backward(retain_graph=True)
    with pytest.raises(ModelError, match="one backward pass"):
        total.backward()


@pytest.mark.slow
@pytest.mark.usefixtures("traceable")
def test_compiled_it_is_the_same_whatever_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, 8 * 11, 4 * 11, 2**22)
    for count in (30, 5, 0):
        states, head, targets = drawn(count)
        given = (states.requires_grad_(), head.requires_grad_())
        asked = LossInputs(*given, targets, torch.zeros_like(targets), 1, 0.3)
        (one, each), (other, sums) = compiled_loss(asked), chunked_loss(asked)
        torch.testing.assert_close((one, each), (other, sums))
        for mine, theirs in zip(torch.autograd.grad(one, given), torch.autograd.grad(other, given), strict=True):
            torch.testing.assert_close(mine, theirs)


def asked_on(device: str, dtype: torch.dtype) -> LossInputs:
    states, head, targets = (one.to(device) for one in drawn())
    group = torch.arange(30, device=device) % 2 * 2  # the group between has no tokens
    return LossInputs(states.to(dtype).requires_grad_(), head.float().requires_grad_(), targets, group, 3, 0.3)


def test_liger_is_refused_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"wanted a GPU.*Got cpu.*Take loss"):
        liger_loss(asked_on("cpu", torch.float32))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(ModelError, match=r"wanted the package liger-kernel.*install it"):
        module._liger_kernel(torch.device("cuda"))
    (tmp_path / "site.toml").write_text("[machine]\nloss = 'ligr'")
    with pytest.raises(RequestError, match=r"\[machine\] loss: wanted chunked or liger. Got 'ligr'"):
        read_site(tmp_path / "site.toml")


@cpu_only
def test_the_site_says_how_the_loss_is_worked_out_and_what_is_recomputed(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("[machine]\nloss = 'liger'\nrecompute = true\ncompile = false")
    model = grown(PLAIN)
    compile_decoder(model.lm, read_site(tmp_path / "site.toml"), steps=MIN_COMPILE_STEPS)
    assert model.lm.recompute
    hidden, targets = model(packed([[[1, 2, 3]]], length=3)), torch.ones(1, 3, dtype=torch.int64)
    with pytest.raises(ModelError, match="wanted a GPU"):
        lm_loss(model.lm, hidden, targets, row_groups=one_kind(), num_groups=1, z_coefficient=0.1)
    other = grown(PLAIN)
    compile_decoder(other.lm, Site(compile=False), steps=MIN_COMPILE_STEPS)
    assert not other.lm.recompute
    lm_loss(other.lm, hidden, targets, row_groups=one_kind(), num_groups=1, z_coefficient=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_liger_gives_sums_and_gradients_of_ours(dtype: torch.dtype, near: float) -> None:
    pytest.importorskip("liger_kernel")
    found = []
    for way in (liger_loss, chunked_loss):
        asked = asked_on("cuda", dtype)
        total, sums = way(asked)
        found.append([total, sums, *torch.autograd.grad(total / 7, [asked.states, asked.head_weight])])
    for one, other in zip(*found, strict=True):
        assert (one.float() - other.float()).abs().max() <= near * other.float().abs().max()
