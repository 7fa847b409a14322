"""Memory and time of the chunked loss, compared with unchunked cross-entropy: forward and backward in bf16.

    python benchmarks/loss.py --tokens 4096 --vocabulary 50432
    python benchmarks/loss.py --tokens 32768 --device cuda

Each loss runs in a separate process; steps are interleaved. Memory is the growth of peak memory over the memory before
the loss: inputs are excluded, gradients included. On a GPU it is allocated device memory. The allocator settings of
training are not applied, because retained memory would raise the figure of the unchunked loss. On a GPU, Liger's kernel
is measured as well.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import torch
import torch.nn.functional as F
from torch import Tensor

from firstsight.model.loss import LossInputs, chunked_loss, compiled_loss, liger_loss
from interleaved import Step, measure_interleaved

Z_COEFFICIENT = 1e-4


def unchunked_loss(inputs: LossInputs) -> tuple[Tensor, Tensor]:
    """Cross-entropy of float32 logits and z-loss, in PyTorch."""
    logits = (inputs.states @ inputs.head_weight.to(inputs.states.dtype).T).float()
    token_losses = F.cross_entropy(logits, inputs.targets, reduction="none")
    return token_losses.sum() + inputs.z_coefficient * logits.logsumexp(dim=1).square().sum(), token_losses.detach()


@dataclass(frozen=True, kw_only=True)
class Size:
    """Sizes, device and threads of a measurement."""

    tokens: int
    vocabulary: int
    width: int
    device: str
    threads: int
    cache: Path


def build(loss_function: Callable[[LossInputs], tuple[Tensor, Tensor]], size: Size) -> Step:
    """A step that computes a loss and its gradients."""
    torch.set_num_threads(size.threads)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(size.cache / "kernels")
    states = torch.randn(size.tokens, size.width, device=size.device).bfloat16().requires_grad_()
    head = torch.randn(size.vocabulary, size.width, device=size.device).mul_(size.width**-0.5).requires_grad_()
    targets = torch.randint(size.vocabulary, (size.tokens,), device=size.device)
    group_labels = torch.zeros_like(targets)

    def step(count: int) -> None:
        inputs = LossInputs(
            states=states[:count],
            head_weight=head,
            targets=targets[:count],
            group_ids=group_labels[:count],
            num_groups=1,
            z_coefficient=Z_COEFFICIENT,
        )
        (loss_function(inputs)[0] / count).backward()
        states.grad = head.grad = None

    step(1)  # compile before the memory baseline is taken
    return partial(step, size.tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of the chunked loss")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocabulary", type=int, default=50_432)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=Path(gettempdir()) / "firstsight-bench")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    size = Size(
        tokens=args.tokens,
        vocabulary=args.vocabulary,
        width=args.width,
        device=args.device,
        threads=args.threads,
        cache=args.cache,
    )
    loss_functions = {"unchunked": unchunked_loss, "chunked, compiled": compiled_loss, "chunked": chunked_loss}
    if args.device.startswith("cuda"):
        loss_functions["liger"] = liger_loss
    results = measure_interleaved(
        [partial(build, loss_function, size) for loss_function in loss_functions.values()], args.rounds
    )
    device_name = f"{args.threads} threads" if args.device == "cpu" else torch.cuda.get_device_name(args.device)
    print(f"{args.tokens} tokens x {args.vocabulary}, width {args.width}, {device_name}, bf16")
    print(f"{'':20}{'ms':>9}{'time x':>9}{'MiB':>9}{'memory x':>10}")
    for name, result in zip(loss_functions, results, strict=True):
        time_ratio = result.seconds / results[0].seconds
        memory_ratio = result.growth_mib / results[0].growth_mib
        print(f"{name:20}{result.seconds * 1e3:9.1f}{time_ratio:9.2f}{result.growth_mib:9,.0f}{memory_ratio:10.3f}")


if __name__ == "__main__":
    main()
