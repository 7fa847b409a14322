"""Cross-entropy and z-loss on the tokens that carry loss, and on no others.

The hidden states are gathered before the head, so that a batch with few loss tokens pays for few logits.
Gradients are worked out in the forward pass, chunk by chunk: no [tokens, vocabulary] matrix outlives its chunk, and
within a chunk logits become slopes in place, a few rows at a time, so that what is float32 stays in the CPU's cache.
Source: paper section 1.2 (z-loss: coefficient x mean of logsumexp squared), here over loss tokens only.
Shapes: N loss tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from firstsight.errors import ModelError
from firstsight.model.layers import norm
from firstsight.model.lm import LM
from firstsight.recipe.stages import IGNORE_INDEX


class _WorkSizes(NamedTuple):
    """How many numbers are worked on at once: what a CPU's cache holds, and on a GPU what keeps it busy."""

    chunk: int
    """Logits that are held."""
    piece: int
    """Logits in float32."""
    product: int
    """Of a chunk's gradient of the head."""


CPU = _WorkSizes(chunk=2**26, piece=2**20, product=2**22)
"""128, 4 and 8 MiB."""
GPU = _WorkSizes(chunk=2**28, piece=2**26, product=2**62)
"""512 and 256 MiB, and the gradient whole."""

GradKernel = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSums:
    """Sums over loss tokens, so that the caller normalises by the count it means."""

    total: Tensor
    """Cross-entropy and z-loss, summed: the one to differentiate."""
    by_group: Tensor
    """[kinds] cross-entropy summed by kind of row; no gradient."""
    token_counts: Tensor
    """[kinds] loss tokens by kind of row."""


class LossInputs(NamedTuple):
    """Whose loss is asked for: normed states [N, D], a head [V, D], targets [N] and each token's group [N]."""

    states: Tensor
    head_weight: Tensor
    targets: Tensor
    group_ids: Tensor
    num_groups: int
    z_coefficient: float


def logits_to_grad(logits: Tensor, targets: Tensor, z_coefficient: float) -> tuple[Tensor, Tensor]:
    """Logits [n, V] become, in place, the slope of the loss against targets [n, 1]; cross-entropy and logsumexp [n]."""
    wide_logits = logits if logits.dtype == torch.float64 else logits.float()
    lse = wide_logits.logsumexp(dim=1, keepdim=True)
    target_logits, weight = wide_logits.gather(1, targets), 1 + 2 * z_coefficient * lse
    target_grad = (target_logits - lse).exp() * weight - 1
    logits.copy_((wide_logits - lse).exp() * weight)
    logits.scatter_(1, targets, target_grad.to(logits.dtype))
    return (lse - target_logits)[:, 0], lse[:, 0]


@cache
def _compiled_grad_kernel() -> GradKernel:
    return torch.compile(logits_to_grad, fullgraph=True, dynamic=False)


class _Chunks:
    """How N tokens are cut: chunks of `size` rows whose logits are held, in pieces of `piece` rows."""

    def __init__(self, num_tokens: int, head_weight: Tensor) -> None:
        vocabulary, limits = head_weight.shape[0], GPU if head_weight.is_cuda else CPU
        self.piece_rows = max(1, limits.piece // vocabulary)
        num_chunks = max(1, -(-num_tokens * vocabulary // limits.chunk))
        self.chunk_rows = -(-max(1, -(-num_tokens // num_chunks)) // self.piece_rows) * self.piece_rows
        self.starts = range(0, num_tokens, self.chunk_rows)


class _HeadCrossEntropy(torch.autograd.Function):
    """Summed loss of states [N, D] against a head [V, D] and targets [N], with its gradients found on the way."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, head_weight: Tensor, targets: Tensor, z_coefficient: float, grad_kernel: GradKernel
    ) -> tuple[Tensor, Tensor]:
        num_tokens, wide_dtype = states.shape[0], torch.float64 if states.dtype == torch.float64 else torch.float32
        chunks, cast_weight = _Chunks(num_tokens, head_weight), head_weight.to(states.dtype)
        states_grad, head_grad = torch.empty_like(states), torch.empty_like(head_weight, dtype=wide_dtype)
        cross_entropy, lse = (states.new_empty(num_tokens, dtype=wide_dtype) for _ in range(2))
        # every piece has the same shape, whatever the batch holds: one compiled function, chosen without looking at it
        padded_targets = F.pad(targets, (0, -num_tokens % chunks.piece_rows))[:, None]
        buffer = states.new_empty(min(chunks.chunk_rows, padded_targets.shape[0]), head_weight.shape[0])
        for start in chunks.starts:
            chunk = slice(start, min(start + chunks.chunk_rows, num_tokens))
            logits_grad = buffer[: chunk.stop - start]
            torch.mm(states[chunk], cast_weight.T, out=logits_grad)
            buffer[logits_grad.shape[0] :].zero_()
            for row in range(0, logits_grad.shape[0], chunks.piece_rows):
                piece, stop = slice(row, row + chunks.piece_rows), min(row + chunks.piece_rows, logits_grad.shape[0])
                piece_losses = grad_kernel(
                    buffer[piece], padded_targets[start + row : start + row + chunks.piece_rows], z_coefficient
                )
                for losses, piece_values in zip((cross_entropy, lse), piece_losses, strict=True):
                    losses[start + row : start + stop] = piece_values[: stop - row]
            torch.mm(logits_grad, cast_weight, out=states_grad[chunk])
            _accumulate_head_grad(head_grad, logits_grad, states[chunk], is_first=start == 0)
        ctx.found = (states_grad, head_grad if num_tokens else head_grad.zero_())
        ctx.mark_non_differentiable(cross_entropy)
        return cross_entropy.sum() + z_coefficient * lse.square().sum(), cross_entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        if ctx.found is None:
            raise ModelError("loss: wanted one backward pass a loss. Got another. Work the loss out again.")
        states_grad, head_grad = ctx.found
        ctx.found = None  # handed over, not copied: the head's gradient is the largest tensor of a small model
        return states_grad.mul_(grads[0].to(states_grad.dtype)), head_grad.mul_(grads[0]), None, None, None


def _accumulate_head_grad(head_grad: Tensor, logits_grad: Tensor, states: Tensor, *, is_first: bool) -> None:
    """Add slope' x states to float32 `to_head`, or begin it, so many rows at a time as the cache holds."""
    rows = max(1, (GPU if head_grad.is_cuda else CPU).product // head_grad.shape[1])
    buffer = states.new_empty(min(rows, head_grad.shape[0]), head_grad.shape[1])
    for start in range(0, head_grad.shape[0], rows):
        grad_rows = head_grad[start : start + rows]
        partial_grad = torch.mm(logits_grad[:, start : start + rows].T, states, out=buffer[: grad_rows.shape[0]])
        if is_first:
            grad_rows.copy_(partial_grad)
        else:
            grad_rows.add_(partial_grad)


def next_token_loss(
    states: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    *,
    z_coefficient: float,
    grad_kernel: GradKernel = logits_to_grad,
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy + z-loss, and each token's cross-entropy (no gradient), of normed states [N, D].

    It can be differentiated once.
    """
    return _HeadCrossEntropy.apply(states, head_weight, targets, z_coefficient, grad_kernel)


def chunked_loss(inputs: LossInputs, grad_kernel: GradKernel = logits_to_grad) -> tuple[Tensor, Tensor]:
    """Summed loss, and cross-entropy summed by group (no gradient)."""
    total, cross_entropy = next_token_loss(
        inputs.states, inputs.head_weight, inputs.targets, z_coefficient=inputs.z_coefficient, grad_kernel=grad_kernel
    )
    groups = torch.arange(inputs.num_groups, device=cross_entropy.device)[:, None]
    return total, (cross_entropy * (inputs.group_ids == groups)).sum(
        dim=1
    )  # not added up by index: a GPU would do so in any order


def liger_loss(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """What `chunked` gives, by Liger's fused kernel on a GPU: called once for each group, as it tells sums alone."""
    kernel = _liger_kernel(inputs.states.device)(
        ignore_index=IGNORE_INDEX,
        lse_square_scale=inputs.z_coefficient,
        reduction="sum",
        return_z_loss=True,
        accum_dtype=torch.float32,
    )
    head_weight, sums = (
        inputs.head_weight.to(inputs.states.dtype),
        torch.zeros(inputs.num_groups, device=inputs.states.device),
    )
    total = (inputs.states.sum() + head_weight.sum()) * 0.0  # gradients of zero for a batch without loss tokens
    for group in inputs.group_ids.unique().tolist():
        group_rows = (inputs.group_ids == group).nonzero()[:, 0]
        liger_output = kernel(head_weight, inputs.states[group_rows], inputs.targets[group_rows])
        total = total + liger_output.loss
        sums[group] = (liger_output.loss - liger_output.z_loss).detach()
    return total, sums


def _liger_kernel(device: torch.device) -> Any:
    advice = 'Take loss = "liger" out of the site file'
    if device.type != "cuda":
        raise ModelError(f"loss: wanted a GPU for Liger's kernel. Got {device.type}. {advice}.")
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # pyright: ignore
    except ImportError as error:
        raise ModelError(f"loss: wanted the package liger-kernel. Got {error}. {advice}, or install it.") from error
    return LigerFusedLinearCrossEntropyLoss


def compiled_loss(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """What `chunked` gives to rounding, its elementwise part compiled."""
    return chunked_loss(inputs, _compiled_grad_kernel())


def lm_loss(
    lm: LM, hidden: Tensor, targets: Tensor, *, row_groups: Tensor, num_groups: int, z_coefficient: float
) -> LossSums:
    """The loss of hidden states [B, T, D] before the last norm; `kinds` [B] names each row's group, 0 to groups-1."""
    loss_positions = (targets.flatten() != IGNORE_INDEX).nonzero()[:, 0]
    states = norm(hidden.flatten(0, 1).index_select(0, loss_positions), lm.norm.weight, lm.block_config)
    group_ids = row_groups.long()[loss_positions // targets.shape[1]]
    inputs = LossInputs(
        states=states,
        head_weight=lm.head_weight,
        targets=targets.flatten()[loss_positions],
        group_ids=group_ids,
        num_groups=num_groups,
        z_coefficient=z_coefficient,
    )
    total, sums = (lm.loss_fn or chunked_loss)(inputs)
    return LossSums(total=total, by_group=sums, token_counts=torch.bincount(group_ids, minlength=num_groups))
