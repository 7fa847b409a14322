"""Cross-entropy and z-loss (paper section 1.2: coefficient x mean of logsumexp squared) over loss tokens only.

The forward pass computes the gradients too, chunk by chunk: no [tokens, vocabulary] matrix is larger than a chunk, in
which logits become gradients in place, a few rows at a time, so that the float32 part fits the CPU's cache.
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
from firstsight.model.lm import LM
from firstsight.recipe.stages import IGNORE_INDEX


class _WorkSizes(NamedTuple):
    """Maximum count of numbers processed at once: as many as fit a CPU's cache, or keep a GPU busy."""

    chunk: int
    """Logits in memory."""
    piece: int
    """Logits of one call of the gradient kernel."""
    product: int
    """Numbers of a chunk's gradient of the head."""


CPU_SIZES = _WorkSizes(chunk=2**26, piece=2**20, product=2**22)
"""128 MiB in bf16, 4 MiB in float32, 8 MiB in bf16."""
GPU_SIZES = _WorkSizes(chunk=2**28, piece=2**26, product=2**62)
"""512 MiB in bf16, 256 MiB in float32, the whole gradient."""

GradKernel = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSums:
    """Sums over loss tokens; the caller divides them by its count of loss tokens."""

    total: Tensor
    """Cross-entropy plus z-loss, differentiable."""
    by_group: Tensor
    """[num_groups] cross-entropy by group of rows, no gradient."""
    token_counts: Tensor
    """[num_groups] loss tokens by group of rows."""


class LossInputs(NamedTuple):
    """Normed states [N, D], a head [V, D], targets [N] and the group of each token [N]."""

    states: Tensor
    head_weight: Tensor
    targets: Tensor
    group_ids: Tensor
    num_groups: int
    z_coefficient: float


def logits_to_grad(logits: Tensor, targets: Tensor, z_coefficient: float) -> tuple[Tensor, Tensor]:
    """Replace logits [n, V] by the loss's gradient for targets [n, 1]; returns cross-entropy and logsumexp [n]."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    lse = wide.logsumexp(dim=1, keepdim=True)
    target_logits, weight = wide.gather(1, targets), 1 + 2 * z_coefficient * lse
    target_grad = (target_logits - lse).exp() * weight - 1
    logits.copy_((wide - lse).exp() * weight)
    logits.scatter_(1, targets, target_grad.to(logits.dtype))
    return (lse - target_logits)[:, 0], lse[:, 0]


@cache
def _compiled_grad_kernel() -> GradKernel:
    return torch.compile(logits_to_grad, fullgraph=True, dynamic=False)


class _Chunks:
    """How N tokens are split: into chunks of `chunk_rows` rows, and those into pieces of `piece_rows` rows."""

    def __init__(self, num_tokens: int, head_weight: Tensor) -> None:
        vocabulary, limits = head_weight.shape[0], GPU_SIZES if head_weight.is_cuda else CPU_SIZES
        self.piece_rows = max(1, limits.piece // vocabulary)
        num_chunks = max(1, -(-num_tokens * vocabulary // limits.chunk))
        self.chunk_rows = -(-max(1, -(-num_tokens // num_chunks)) // self.piece_rows) * self.piece_rows
        self.starts = range(0, num_tokens, self.chunk_rows)


class _HeadCrossEntropy(torch.autograd.Function):
    """Summed loss of states [N, D] with a head [V, D] and targets [N]; the forward pass computes the gradients."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, head_weight: Tensor, targets: Tensor, z_coefficient: float, grad_kernel: GradKernel
    ) -> tuple[Tensor, Tensor]:
        count, wide_dtype = states.shape[0], torch.float64 if states.dtype == torch.float64 else torch.float32
        chunks, cast_weight = _Chunks(count, head_weight), head_weight.to(states.dtype)
        # a gradient that nothing needs (of a frozen head, or of states before which all is frozen) is not computed
        needs_states_grad, needs_head_grad = ctx.needs_input_grad[:2]
        states_grad = torch.empty_like(states) if needs_states_grad else None
        head_grad = torch.empty_like(head_weight, dtype=wide_dtype) if needs_head_grad else None
        cross_entropy, lse = (states.new_empty(count, dtype=wide_dtype) for _ in range(2))
        # all pieces have one shape, whatever the count is, so that the kernel is compiled once
        padded_targets = F.pad(targets, (0, -count % chunks.piece_rows))[:, None]
        buffer = states.new_empty(min(chunks.chunk_rows, padded_targets.shape[0]), head_weight.shape[0])
        for start in chunks.starts:
            chunk = slice(start, min(start + chunks.chunk_rows, count))
            logits_grad = buffer[: chunk.stop - start]
            torch.mm(states[chunk], cast_weight.T, out=logits_grad)
            buffer[logits_grad.shape[0] :].zero_()
            for row in range(0, logits_grad.shape[0], chunks.piece_rows):
                end, stop = row + chunks.piece_rows, min(row + chunks.piece_rows, logits_grad.shape[0])
                piece = grad_kernel(buffer[row:end], padded_targets[start + row : start + end], z_coefficient)
                for losses, values in zip((cross_entropy, lse), piece, strict=True):
                    losses[start + row : start + stop] = values[: stop - row]
            if states_grad is not None:
                torch.mm(logits_grad, cast_weight, out=states_grad[chunk])
            if head_grad is not None:
                _accumulate_head_grad(head_grad, logits_grad, states[chunk], is_first=start == 0)
        ctx.grads = (states_grad, head_grad.zero_() if head_grad is not None and not count else head_grad)
        ctx.mark_non_differentiable(cross_entropy)
        return cross_entropy.sum() + z_coefficient * lse.square().sum(), cross_entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if ctx.grads is None:
            raise ModelError("loss: wanted one backward pass per loss. Got a second one. Compute the loss again.")
        states_grad, head_grad = ctx.grads
        ctx.grads = None  # returned without a copy: the head's gradient is the largest tensor of a small model
        if states_grad is not None:
            states_grad.mul_(grads[0].to(states_grad.dtype))
        if head_grad is not None:
            head_grad.mul_(grads[0])
        return states_grad, head_grad, None, None, None


def _accumulate_head_grad(head_grad: Tensor, logits_grad: Tensor, states: Tensor, *, is_first: bool) -> None:
    """Add logits_grad.T @ states to float32 `head_grad`, or set it if `is_first`, in blocks that fit the cache."""
    rows = max(1, (GPU_SIZES if head_grad.is_cuda else CPU_SIZES).product // head_grad.shape[1])
    buffer = states.new_empty(min(rows, head_grad.shape[0]), head_grad.shape[1])
    for start in range(0, head_grad.shape[0], rows):
        target = head_grad[start : start + rows]
        product = torch.mm(logits_grad[:, start : start + rows].T, states, out=buffer[: target.shape[0]])
        if is_first:
            target.copy_(product)
        else:
            target.add_(product)


def next_token_loss(
    states: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    *,
    z_coefficient: float,
    grad_kernel: GradKernel = logits_to_grad,
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and z-loss, and the cross-entropy of each token (no gradient), of normed states [N, D].

    It can be differentiated once.
    """
    return _HeadCrossEntropy.apply(states, head_weight, targets, z_coefficient, grad_kernel)


def chunked_loss(inputs: LossInputs, grad_kernel: GradKernel = logits_to_grad) -> tuple[Tensor, Tensor]:
    """Summed loss, and cross-entropy summed by group (no gradient)."""
    total, cross_entropy = next_token_loss(
        inputs.states, inputs.head_weight, inputs.targets, z_coefficient=inputs.z_coefficient, grad_kernel=grad_kernel
    )
    groups = torch.arange(inputs.num_groups, device=cross_entropy.device)[:, None]
    return total, (cross_entropy * (inputs.group_ids == groups)).sum(dim=1)  # index_add's order varies on a GPU


def liger_loss(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """The result of `chunked_loss` by Liger's fused GPU kernel, called once per group because it returns only sums."""
    states, device = inputs.states, inputs.states.device
    settings = {"ignore_index": IGNORE_INDEX, "lse_square_scale": inputs.z_coefficient, "reduction": "sum"}
    kernel = _liger_kernel(device)(**settings, return_z_loss=True, accum_dtype=torch.float32)
    head_weight, sums = inputs.head_weight.to(states.dtype), torch.zeros(inputs.num_groups, device=device)
    trained = [tensor for tensor in (states, head_weight) if tensor.requires_grad]  # the kernel skips frozen ones too
    total = sum((tensor.sum() * 0.0 for tensor in trained), torch.zeros((), device=device))  # gradients without tokens
    for group in inputs.group_ids.unique().tolist():
        rows = (inputs.group_ids == group).nonzero()[:, 0]
        output = kernel(head_weight, states[rows], inputs.targets[rows])
        total = total + output.loss
        sums[group] = (output.loss - output.z_loss).detach()
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
    """`chunked_loss` with its elementwise part compiled; equal up to rounding."""
    return chunked_loss(inputs, _compiled_grad_kernel())


def lm_loss(
    lm: LM, hidden: Tensor, targets: Tensor, *, row_groups: Tensor, num_groups: int, z_coefficient: float
) -> LossSums:
    """The loss of hidden states [B, T, D] before the last norm; `row_groups` [B] are 0 to num_groups - 1."""
    indices = (targets.flatten() != IGNORE_INDEX).nonzero()[:, 0]
    group_ids = row_groups.long()[indices // targets.shape[1]]
    states = lm.final_norm(hidden.flatten(0, 1).index_select(0, indices))
    inputs = LossInputs(states, lm.head_weight, targets.flatten()[indices], group_ids, num_groups, z_coefficient)
    total, sums = (lm.loss_fn or chunked_loss)(inputs)
    return LossSums(total=total, by_group=sums, token_counts=torch.bincount(group_ids, minlength=num_groups))
