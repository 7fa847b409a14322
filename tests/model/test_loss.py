"""Cross-entropy and z-loss against torch's own and against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from firstsight.model import loss as module
from firstsight.model.loss import loss, next_token
from tests.model.rows import PLAIN, grown, packed


def drawn(count: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states, head = (torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (count, 11))
    return states, head, torch.randint(11, (count,), generator=generator)


@pytest.mark.parametrize("chunk", [1, 7 * 11, 2**26])
def test_sum_and_gradients_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    states, head, targets = drawn()
    mine = [states.clone().requires_grad_(), head.clone().requires_grad_()]
    total, each = next_token(*mine, targets, z=0.3)
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
    targets = torch.tensor([[2, 3, -100, -100], [-100, 6, -100, -100], [8, -100, -100, -100]])
    kinds = torch.tensor([0, 2, 0], dtype=torch.int8)
    hidden = model(rows)
    found = loss(model.lm, hidden, targets, kinds=kinds, groups=3, z=0.0)
    each = (
        F.cross_entropy(model.lm.logits(hidden).flatten(0, 1), targets.flatten(), reduction="none")
        .view(3, 4)
        .sum(dim=1)
    )
    torch.testing.assert_close(found.each, torch.stack([each[0] + each[2], each[0] * 0, each[1]]).detach())
    assert found.counts.tolist() == [3, 0, 1]
    torch.testing.assert_close(found.total, each.sum())


def test_gradients_reach_every_parameter_as_with_whole_logits() -> None:
    rows, targets = packed([[[1, 2, 3, 4]]], length=5), torch.tensor([[-100, 3, -100, 7, -100]])
    grads = []
    for gathered in (True, False):
        model = grown(PLAIN)
        hidden = model(rows)
        if gathered:
            total = loss(model.lm, hidden, targets, kinds=torch.zeros(1, dtype=torch.int8), groups=1, z=0.1).total
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
    targets = torch.full((1, 3), -100)
    hidden = model(packed([[[1, 2, 3]]], length=3))
    found = loss(model.lm, hidden, targets, kinds=torch.zeros(1, dtype=torch.int8), groups=1, z=0.1)
    found.total.backward()
    assert found.total == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
