"""Memory and time of the chunked loss beside the plain one: forward and backward, in bf16.

    python benchmarks/loss.py --tokens 4096 --vocabulary 50432
    python benchmarks/loss.py --tokens 32768 --device cuda

Each side is a process of its own that works in turns with the others. Memory is what the process's peak grows by over
what it held before the loss, on a GPU that of its tensors there: inputs are held before, gradients are part of it on
every side. No side is `settled` as training is: a process that keeps its memory needs more of it for the plain loss.
On a GPU Liger's kernel is a side, too.
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
from turns import Step, in_turns

Z = 1e-4


def plain(asked: LossInputs) -> tuple[Tensor, Tensor]:
    """Torch's own cross-entropy of float32 logits, and z-loss."""
    logits = (asked.states @ asked.head_weight.to(asked.states.dtype).T).float()
    each = F.cross_entropy(logits, asked.targets, reduction="none")
    return each.sum() + asked.z_coefficient * logits.logsumexp(dim=1).square().sum(), each.detach()


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a loss is measured on."""

    tokens: int
    vocabulary: int
    width: int
    device: str
    threads: int
    cache: Path


def build(way: Callable[[LossInputs], tuple[Tensor, Tensor]], size: Size) -> Step:
    """A loss and its gradients."""
    torch.set_num_threads(size.threads)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(size.cache / "kernels")
    states = torch.randn(size.tokens, size.width, device=size.device).bfloat16().requires_grad_()
    head = torch.randn(size.vocabulary, size.width, device=size.device).mul_(size.width**-0.5).requires_grad_()
    targets = torch.randint(size.vocabulary, (size.tokens,), device=size.device)
    group = torch.zeros_like(targets)

    def step(count: int) -> None:
        asked = LossInputs(
            states=states[:count],
            head_weight=head,
            targets=targets[:count],
            group_ids=group[:count],
            num_groups=1,
            z_coefficient=Z,
        )
        (way(asked)[0] / count).backward()
        states.grad = head.grad = None

    step(1)  # a compiler's own memory is not the loss's
    return partial(step, size.tokens)


def main() -> None:
    ask = argparse.ArgumentParser(description="Memory and time of the chunked loss beside the plain one")
    ask.add_argument("--tokens", type=int, default=4096)
    ask.add_argument("--vocabulary", type=int, default=50_432)
    ask.add_argument("--width", type=int, default=512)
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--cache", type=Path, default=Path(gettempdir()) / "firstsight-bench")
    asked = ask.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    size = Size(
        tokens=asked.tokens,
        vocabulary=asked.vocabulary,
        width=asked.width,
        device=asked.device,
        threads=asked.threads,
        cache=asked.cache,
    )
    ways = {"plain": plain, "chunked, compiled": compiled_loss, "chunked": chunked_loss}
    if asked.device.startswith("cuda"):
        ways["liger"] = liger_loss
    took = in_turns([partial(build, way, size) for way in ways.values()], asked.rounds)
    where = f"{asked.threads} threads" if asked.device == "cpu" else torch.cuda.get_device_name(asked.device)
    print(f"{asked.tokens} tokens x {asked.vocabulary}, width {asked.width}, {where}, bf16")
    print(f"{'':20}{'ms':>9}{'x plain':>9}{'MiB':>9}{'of plain':>10}")
    for name, one in zip(ways, took, strict=True):
        slower, more = one.seconds / took[0].seconds, one.grown_mib / took[0].grown_mib
        print(f"{name:20}{one.seconds * 1e3:9.1f}{slower:9.2f}{one.grown_mib:9,.0f}{more:10.3f}")


if __name__ == "__main__":
    main()
