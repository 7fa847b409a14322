"""The update against the definitions of AdamW and clipping; tokens seen and rates."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import repeat

import pytest
import torch
import torch.nn.functional as F

from firstsight.data.loader import Batch
from firstsight.train.loop import clip_grad_norm, train
from firstsight.train.state import TrainState, untrained_state
from firstsight.units import Tokens
from tests.train import tiny_study


def batch(seed: int = 0) -> Batch:
    tokens = torch.randint(64, (4, 16), generator=torch.Generator().manual_seed(seed))
    targets = tokens.roll(-1, dims=1).masked_fill(torch.arange(16) % 3 == 0, -100)
    column = torch.arange(16, dtype=torch.int32).expand(4, 16)
    return Batch(
        tokens=tokens,
        targets=targets,
        docs=torch.where(column < 14, column // 7, -1).int(),
        positions=column % 7,
        slots=torch.full_like(tokens, -1),
        images=torch.zeros(0, 0, 0, dtype=torch.float16),
        source_ids=torch.tensor([0, 1, 0, 1], dtype=torch.int8),
    )


def initial_state(dtype: torch.dtype) -> TrainState:
    state = untrained_state(tiny_study.LM, tiny_study.OPTIM, trains=tiny_study.TEXT_TRAINS, seed=0)
    state.model.to(dtype)
    state.model.lm.compute_dtype = dtype
    return state


def test_update_is_adamw_on_the_clipped_gradient_of_the_mean_loss() -> None:
    trained, rows, adam, lr = initial_state(torch.float64), batch(), tiny_study.OPTIM, 0.01
    reference = initial_state(torch.float64)
    before = {name: value.clone() for name, value in reference.model.state_dict().items()}
    logits = reference.model.lm.logits(reference.model(rows)).flatten(0, 1)
    has_loss = rows.targets.flatten() >= 0
    z = logits.logsumexp(dim=1)[has_loss].square().mean()
    (F.cross_entropy(logits, rows.targets.flatten()) + adam.z_loss * z).backward()
    grads = {name: p.grad for name, p in reference.model.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads.values()))
    info = next(train(trained, repeat((rows,)), lambda tokens_seen: lr, Tokens(64)))
    assert info.grad_norm == pytest.approx(norm)
    assert info.loss == pytest.approx(F.cross_entropy(logits, rows.targets.flatten()).item())
    for name, value in trained.model.state_dict().items():
        grad = grads[name] * min(1.0, adam.max_grad_norm / (norm + 1e-6))
        first, second = (1 - adam.beta1) * grad, (1 - adam.beta2) * grad**2
        step = (first / (1 - adam.beta1)) / ((second / (1 - adam.beta2)).sqrt() + adam.eps)
        expected = before[name] * (1 - lr * tiny_study.TRAINED.weight_decay) - lr * step
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8, msg=name)


def test_tokens_seen_count_padding_and_set_the_rate() -> None:
    requested: list[int] = []

    def rate(tokens_seen: Tokens) -> float:
        requested.append(tokens_seen)
        return 1e-3 * tokens_seen

    steps = list(train(initial_state(torch.float32), repeat((batch(),)), rate, Tokens(3 * 64)))
    assert requested == [64, 128, 192]
    assert [(info.step, info.tokens_seen) for info in steps] == [(1, 64), (2, 128), (3, 192)]
    assert [info.lr for info in steps] == [1e-3 * tokens_seen for tokens_seen in requested]


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    rows, whole, split = batch(), initial_state(torch.float64), initial_state(torch.float64)
    names = ("tokens", "targets", "docs", "positions", "slots", "source_ids")
    micro = tuple(
        replace(rows, **{name: getattr(rows, name)[part] for name in names}) for part in (slice(1), slice(1, 4))
    )
    for _ in range(3):
        infos = [
            next(
                train(
                    state,
                    repeat(micro_batches),
                    lambda tokens_seen: 0.01,
                    Tokens(state.tokens_seen + 1),
                )
            )
            for state, micro_batches in ((whole, (rows,)), (split, micro))
        ]
        assert infos[0].loss_tokens == infos[1].loss_tokens and infos[0].tokens_seen == infos[1].tokens_seen
        assert infos[0].losses == pytest.approx(infos[1].losses)
        assert infos[0].grad_norm == pytest.approx(infos[1].grad_norm)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(split.model.state_dict()[name], value, rtol=1e-7, atol=1e-9, msg=name)


def test_losses_are_split_by_source() -> None:
    info = next(train(initial_state(torch.float32), repeat((batch(),)), lambda tokens_seen: 1e-3, Tokens(64)))
    tokens = [(batch().targets[kind::2] >= 0).sum().item() for kind in range(2)]
    assert list(info.loss_tokens[:2]) == tokens
    assert not any(info.loss_tokens[2:])
    assert sum(info.losses) / sum(tokens) == pytest.approx(info.loss)


def test_no_batch_is_taken_beyond_the_end() -> None:
    drawn = iter([(batch(),), (batch(1),)])
    assert len(list(train(initial_state(torch.float32), drawn, lambda tokens_seen: 1e-3, Tokens(65)))) == 2
    assert next(drawn, None) is None


def test_zero_gradients_do_not_change_the_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(n, 7, generator=generator) for n in (3, 11, 5)]

    def norm(extra: list[torch.Tensor]) -> torch.Tensor:
        parameters = [torch.nn.Parameter(grad) for grad in [*grads, *extra]]
        for parameter, grad in zip(parameters, [*grads, *extra], strict=True):
            parameter.grad = grad.clone()
        return clip_grad_norm(parameters, 1.0)

    assert torch.equal(norm([]), norm([torch.zeros(9, 9), torch.zeros(4)]))
    assert norm([]).item() == pytest.approx(math.sqrt(sum(float(grad.square().sum()) for grad in grads)), rel=1e-6)


def test_bf16_losses_follow_float32() -> None:
    curves = []
    for dtype in (torch.float32, torch.bfloat16):
        state = initial_state(torch.float32)
        state.model.lm.compute_dtype = dtype
        curves.append(
            [info.loss for info in train(state, repeat((batch(),)), lambda tokens_seen: 3e-3, Tokens(64 * 30))]
        )
    assert curves[0][-1] < 0.6 * curves[0][0]
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) < 0.15
