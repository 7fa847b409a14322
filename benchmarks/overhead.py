"""What a training step costs besides forward, backward and optimizer, with all of its logs on.

    python benchmarks/overhead.py --shape toy --steps 200
    python benchmarks/overhead.py --shape 79m --steps 12

The step runs through its own handler on the built-in texts, as in a run, with log.jsonl, ledger, prefetched batches and
the metrics of every interval, but without resume points. The times of gradients (forward and backward), of clipping and
of the optimizer are measured in that run, so that other work on the machine is in both sides of the share.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch

from firstsight.plan.graph import build_graph
from firstsight.plan.store import Store
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.stages import RowShape
from firstsight.recipe.study import Study
from firstsight.site import Progress, Site
from firstsight.track import MetricsWriter
from firstsight.train import handlers, loop
from firstsight.units import Share, Tokens
from firstsight.workspace.execute import run_step
from memory import MAX_EPOCHS
from step import SHAPES

TARGET = 0.03
FIRST_STEP = 4
"""Steps before that compile."""


class Stopwatch:
    """Seconds inside of some functions, and the moments at which steps begin."""

    def __init__(self) -> None:
        self.inside, self.starts = [0.0], list[float]()

    def timed(self, function: Callable[..., Any], *, starts_step: bool = False) -> Callable[..., Any]:
        """The function, with its time counted in the present step."""

        def run(*arguments: Any, **options: Any) -> Any:
            start = perf_counter()
            if starts_step:
                self.starts.append(start)
                self.inside.append(0.0)
            result = function(*arguments, **options)
            self.inside[-1] += perf_counter() - start
            return result

        return run

    def overhead(self) -> tuple[float, float]:
        """Seconds of a step, and seconds of it outside of the timed functions, after FIRST_STEP."""
        steps = len(self.starts) - 1 - FIRST_STEP
        seconds = self.starts[-1] - self.starts[FIRST_STEP]
        return seconds / steps, (seconds - sum(self.inside[FIRST_STEP + 1 : -1])) / steps


def measure(shape: str, steps: int, *, threads: int, folder: Path) -> tuple[float, float]:
    """Seconds of a step of a text model, and of it outside of forward, backward, clipping and optimizer."""
    base = branch_at(get_scale("smoke"), Share(0))
    lm, batch_size, length = SHAPES[shape]
    row_shape, mix = RowShape(batch_size=batch_size, length=length), base.stages[0].mix.text
    text = replace(mix, components=tuple(replace(part, max_epochs=MAX_EPOCHS) for part in mix.components))
    tokens = Tokens(steps * row_shape.tokens_per_step)
    trunk = replace(base.pretrain, model=lm, row_shape=row_shape, tokens=tokens, text=text)
    arm = replace(base, name="text", pretrain=trunk, start=Share(1), stages=(), at={})
    arm = replace(arm, evaluate=replace(base.evaluate, vision_tasks=()))
    graph = build_graph(Study(name="overhead", scale="smoke", question="What does a step cost?", arms=(arm,)))
    step = next(step for step in graph.steps if step.kind == "pretrain")
    store, site = Store(folder / "runs"), Site(threads=threads, cache=folder / "cache", save_every=1e6)
    inputs, watch = {role: run_step(parent, store, site=site) for role, parent in step.needs}, Stopwatch()
    out = folder / "out"
    out.mkdir()
    optimizer_step = watch.timed(torch.optim.AdamW.step)
    with (
        patch.object(loop, "_sum_gradients", watch.timed(loop._sum_gradients, starts_step=True)),
        patch.object(loop, "clip_grad_norm", watch.timed(loop.clip_grad_norm)),
        patch.object(torch.optim.AdamW, "step", optimizer_step),
        MetricsWriter(store.root, step.address, ()) as metrics,
    ):

        def write(progress: Progress) -> None:
            if progress.record:
                metrics.write(progress.record)

        handlers.pretrain(step.spec, inputs=inputs, out=out, site=site, on_progress=write)
    return watch.overhead()


def main() -> int:
    """Print the share; 1 if it is above the target at a real shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="toy")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        seconds, outside = measure(args.shape, args.steps, threads=args.threads, folder=Path(folder))
    print(
        f"{args.shape}: {seconds * 1e3:.1f} ms a step, {outside * 1e3:.2f} ms of it outside of forward, backward, "
        f"clipping and optimizer: {outside / seconds:.1%} (target at 79m: under {TARGET:.0%})"
    )
    return int(args.shape != "toy" and outside / seconds >= TARGET)


if __name__ == "__main__":
    sys.exit(main())
