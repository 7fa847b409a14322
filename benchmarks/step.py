"""Speed of a training step, and how it stands to this machine's own bf16 matrix products of the same shapes.

    python benchmarks/step.py --scale cpu --threads 1
    python benchmarks/step.py --scale cpu --length 128

The yardstick multiplies exactly the matrices of a step's forward and backward passes (weights and head; attention's
products are left out of both sides), in the same run, so the share says how much of the time is arithmetic.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import gettempdir

import torch

from firstsight.data.loader import Batch
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.scales import scale_named
from firstsight.recipe.stages import Adam
from firstsight.site import Site
from firstsight.train.compiled import WORTH, settle, speed_up
from firstsight.train.loop import train
from firstsight.train.state import fresh
from firstsight.units import Tokens
from timing import fastest

ADAM = Adam(beta1=0.9, beta2=0.95, eps=1e-8, decay=0.01, clip=1.0, z_loss=1e-4, encoder_rate=0.0, encoder_decay=0.0)


def rows(batch: int, length: int, vocabulary: int, *, share: float) -> Batch:
    """Random text in documents of a third of a row; `share` of the tokens carry loss."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (batch, length), generator=generator)
    column, document = torch.arange(length).expand(batch, length), length // 3
    carries = torch.rand(batch, length, generator=generator) < share
    return Batch(
        tokens=tokens,
        targets=torch.where(carries, tokens.roll(-1, dims=1), -100),
        docs=(column // document).int(),
        positions=(column % document).int(),
        slots=torch.full_like(tokens, -1),
        images=torch.zeros(0, 0, 0, dtype=torch.float16),
        kinds=torch.zeros(batch, dtype=torch.int8),
    )


def products(spec: LMSpec, tokens: int, share: float) -> tuple[list[Callable[[], object]], float]:
    """Every matrix product of one step as something to call, and their floating-point operations."""
    d, f = spec.width, spec.hidden
    sizes = [(3 * d, d), (d, d), (2 * f, d), (d, f)]
    shapes = [(tokens, *size) for size in sizes] * spec.layers + [(int(tokens * share), spec.vocabulary, spec.width)]
    calls: list[Callable[[], object]] = []
    for count, out, into in shapes:
        x, y, w = (torch.randn(*shape).bfloat16() for shape in ((count, into), (count, out), (out, into)))
        calls += [lambda x=x, w=w: x @ w.T, lambda y=y, w=w: y @ w, lambda x=x, y=y: y.T @ x]
    return calls, float(sum(6 * count * out * into for count, out, into in shapes))


def main() -> None:
    ask = argparse.ArgumentParser(description="Speed of a training step")
    ask.add_argument("--scale", default="cpu")
    ask.add_argument("--batch", type=int)
    ask.add_argument("--length", type=int)
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--share", type=float, default=0.5, help="share of tokens that carry loss")
    ask.add_argument("--steps", type=int, default=30)
    ask.add_argument("--eager", action="store_true")
    ask.add_argument("--cache", type=Path, default=Path(gettempdir()) / "firstsight-bench")
    asked = ask.parse_args()
    trunk = scale_named(asked.scale).base.pretrain
    spec, batch, length = trunk.model, asked.batch or trunk.rows.batch, asked.length or trunk.rows.length
    site = Site(threads=asked.threads, compile=not asked.eager, cache=asked.cache)
    settle(site)
    state = fresh(spec, ADAM, seed=0)
    speed_up(state.model.lm, site, steps=WORTH)
    data = rows(batch, length, spec.vocabulary, share=asked.share)

    def again() -> Iterator[tuple[Batch, ...]]:
        while True:
            yield (data,)

    steps = train(state, again(), lambda seen: 1e-4, Tokens(10**15))
    begin = time.perf_counter()
    next(steps)
    first = time.perf_counter() - begin
    for _ in range(3):
        next(steps)
    calls, work = products(spec, batch * length, asked.share)
    step, *each = fastest([lambda: next(steps), *calls], asked.steps)
    ideal = sum(each)
    print(f"model         {spec.parameters():,} parameters, {spec.layers} x {spec.width}, rows {batch} x {length}")
    print(f"first step    {first:.1f} s (compiling; less when {asked.cache} is warm)")
    print(f"step          {step * 1e3:.1f} ms, {batch * length / step:,.0f} tokens/s with {asked.threads} thread(s)")
    print(f"products      {ideal * 1e3:.1f} ms, {work / ideal / 1e9:.0f} GFLOP/s in bf16")
    print(f"share of the matrix rate {ideal / step:.2f}")


if __name__ == "__main__":
    main()
