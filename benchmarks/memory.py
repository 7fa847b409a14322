"""Growth of a worker's memory over the steps of a stage: nothing may accumulate, however long a stage is.

    python benchmarks/memory.py --steps 2000

Each stage runs through its own handler in a process of its own, on the small data of scale smoke, which it reads many
times. Growth is the slope of the memory in use over the second half of the steps: private pages after freed memory went
back to the system, as at every resume point, of which there is one a second here. Pages of mapped files do not count,
because the kernel takes them back when it needs them. The exit code is 1 if a stage grows by more than the limit.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from firstsight.plan.executor import worker_environment
from firstsight.plan.graph import Graph, build_graph
from firstsight.plan.store import Store
from firstsight.recipe.mixture import Mixture
from firstsight.recipe.model import openlm_spec
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.study import Arm, Study
from firstsight.site import Progress, Site
from firstsight.studies.frozen import train_encoder
from firstsight.train.compilation import release_free_memory
from firstsight.units import Share, Tokens
from firstsight.workspace.execute import HANDLERS, run_step

LIMIT_KB = 4.0
"""Largest growth of the memory in use per step that is allowed."""
STAGES = {"text": "pretrain", "frozen": "midtrain", "trained": "midtrain"}
"""The kind of step that is measured of each arm."""
MAX_EPOCHS = 10_000
SAVE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """The memory in use of the worker of one stage."""

    first_mb: float
    last_mb: float
    kb_per_step: float
    """Slope over the second half of the steps."""


def long_arms(steps: int) -> list[Arm]:
    """A text model, and a frozen and a trained encoder from the first step on, each `steps` steps over little data."""
    base = branch_at(get_scale("smoke"), Share(0))
    lm = openlm_spec(layers=2, width=64, heads=2, vocab_size=512)
    midtrain = replace(base.stages[0], model=replace(base.stages[0].model, lm=lm))
    tokens = Tokens(steps * midtrain.row_shape.tokens_per_step)
    mix = replace(midtrain.mix, text=_repeat(midtrain.mix.text), images=_repeat(midtrain.mix.images))
    trunk = replace(base.pretrain, model=lm, tokens=tokens, text=mix.text)
    text = replace(base, name="text", pretrain=trunk, start=Share(1), stages=())
    text = replace(text, evaluate=replace(base.evaluate, vision_tasks=()))
    frozen = replace(base, name="frozen", pretrain=trunk, stages=(replace(midtrain, tokens=tokens, mix=mix),))
    return [replace(arm, at={}) for arm in (text, frozen, train_encoder(frozen, "trained", Share(1, 10)))]


def _repeat(mixture: Mixture) -> Mixture:
    return replace(mixture, components=tuple(replace(part, max_epochs=MAX_EPOCHS) for part in mixture.components))


def measure(graph: Graph, store: Store, label: str, *, kind: str, site: Site) -> Growth:
    """Run the last step of a kind of an arm in a new process; its inputs are run before."""
    step = [step for step in graph.arms[label] if step.kind == kind][-1]
    inputs = {role: run_step(parent, store, site=site) for role, parent in step.needs}
    os.environ.update(worker_environment(site))
    context = get_context("spawn")
    parent_end, child_end = context.Pipe()
    out = store.root / "measured" / label
    process = context.Process(target=_sample, args=(child_end, HANDLERS[kind].function, step.spec, inputs, out, site))
    process.start()
    child_end.close()
    samples = np.array(parent_end.recv())
    process.join()
    steps, megabytes = samples[:, 0] / step_tokens(step.spec), samples[:, 1]
    is_late = steps > steps[-1] / 2
    slope = np.polyfit(steps[is_late], megabytes[is_late], 1)[0]
    return Growth(first_mb=megabytes[0], last_mb=megabytes[-1], kb_per_step=slope * 1000)


def step_tokens(spec: Any) -> int:
    """Tokens of one step of a training step's spec."""
    return int(getattr(spec, "pretrain", spec).row_shape.tokens_per_step)


def _sample(connection: Any, handler: str, spec: Any, inputs: Mapping[str, Path], out: Path, site: Site) -> None:
    samples: list[tuple[int, float]] = []
    out.mkdir(parents=True)

    def add_sample(progress: Progress) -> None:
        release_free_memory()
        samples.append((progress.done, private_megabytes()))

    pkgutil.resolve_name(handler)(spec, inputs=inputs, out=out, site=site, on_progress=add_sample)
    connection.send(samples)


def private_megabytes() -> float:
    """Resident memory of this process that no file backs, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024 / 1e6


def main() -> int:
    """Print the growth of each stage; 1 if one is above the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    study = Study(name="memory", scale="smoke", question="Does memory grow?", arms=tuple(long_arms(args.steps)))
    graph, is_within = build_graph(study), True
    print(f"{args.steps} steps; memory in use of the worker; limit {LIMIT_KB:g} kB per step")
    with TemporaryDirectory() as folder:
        store = Store(Path(folder) / "runs")
        site = Site(compile=args.compile, cache=Path(folder) / "cache", save_every=SAVE_SECONDS)
        for name in args.stages:
            growth = measure(graph, store, f"{name}.s0", kind=STAGES[name], site=site)
            is_within &= growth.kb_per_step <= LIMIT_KB
            memory = f"{growth.first_mb:7.0f} to {growth.last_mb:5.0f} MB"
            print(f"{name:10}{memory}{growth.kb_per_step:9.2f} kB per step", flush=True)
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
