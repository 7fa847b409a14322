"""Speed and memory of a training step, beside transformers' Llama of the same shape and this machine's matrix rate.

    python benchmarks/step.py --shape 79m --threads 2
    python benchmarks/step.py --shape toy --threads 2
    python benchmarks/step.py --shape 1b --device cuda

Every side is a process of its own; they work in turns, one step each, so that what else the machine does hurts all
alike, and each tells its peak memory. All tokens carry loss. The peer is trained its best plain way: bf16 autocast,
each block compiled (and once not), fused AdamW, its plain loss. The matrix rate is that of exactly the products of a
step's forward and backward passes (weights and head; attention's own products are left out), in a process that is
settled as ours is.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir

import torch

from firstsight.data.loader import Batch
from firstsight.recipe.model import LMSpec, openlm_spec
from firstsight.recipe.stages import AdamWSpec
from firstsight.site import Site
from firstsight.train.compilation import MIN_COMPILE_STEPS, compile_decoder, configure_torch
from firstsight.train.loop import train
from firstsight.train.state import untrained_state
from firstsight.units import Tokens
from turns import Step, in_turns

ADAM = AdamWSpec(
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.01,
    max_grad_norm=1.0,
    z_loss=1e-4,
    encoder_lr_scale=0.0,
    encoder_weight_decay=0.0,
)
RATE = 1e-4
SHAPES = {
    "79m": (openlm_spec(layers=8, width=512, heads=4, vocab_size=50_432), 2, 1024),
    "411m": (openlm_spec(layers=24, width=1024, heads=8, vocab_size=50_432), 8, 2048),
    "1b": (openlm_spec(layers=24, width=2048, heads=16, vocab_size=50_432), 4, 2048),
    "toy": (openlm_spec(layers=4, width=128, heads=4, vocab_size=512), 32, 128),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one side does: a model on a batch of rows."""

    spec: LMSpec
    batch: int
    length: int
    documents: int
    site: Site

    @property
    def tokens(self) -> int:
        return self.batch * self.length


def rows(task: Task, *, documents: int = 1) -> Batch:
    """Random text, `documents` to a row, every token with a target."""
    size, length = (task.batch, task.length), task.length
    tokens = torch.randint(task.spec.vocab_size, size, generator=torch.Generator().manual_seed(0))
    column, each = torch.arange(length).expand(size), -(-length // documents)
    made = Batch(
        tokens=tokens,
        targets=tokens.roll(-1, dims=1),
        docs=(column // each).int(),
        positions=(column % each).int(),
        slots=torch.full_like(tokens, -1),
        images=torch.zeros(0, 0, 0, dtype=torch.float16),
        source_ids=torch.zeros(task.batch, dtype=torch.int8),
    )
    return replace(made, **{one.name: getattr(made, one.name).to(task.site.device) for one in fields(made)})


def ours(task: Task) -> Step:
    """A step of firstsight's own loop."""
    configure_torch(task.site)
    state = untrained_state(task.spec, ADAM, seed=0, device=task.site.device)
    compile_decoder(state.model.lm, task.site, steps=MIN_COMPILE_STEPS)
    data = rows(task, documents=task.documents)

    def again() -> Iterator[tuple[Batch, ...]]:
        while True:
            yield (data,)

    steps = train(state, again(), lambda seen: RATE, Tokens(10**15))
    return lambda: next(steps)


def peer(task: Task) -> Step:
    """A step of transformers' Llama; `site.compile` compiles each block."""
    torch.set_num_threads(task.site.threads)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(task.site.cache / "kernels")
    from transformers import LlamaConfig, LlamaForCausalLM

    spec = task.spec
    config = LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        max_position_embeddings=task.length,
        use_cache=False,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue] - transformers takes it in its **kwargs
    )
    model = LlamaForCausalLM(config).to(torch.device(task.site.device))
    assert sum(p.numel() for p in model.parameters()) == spec.parameters()
    if task.site.compile:
        for layer in model.model.layers:
            layer.compile(fullgraph=True, dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    data = rows(task)

    def step() -> float:
        with torch.autocast(task.site.device, torch.bfloat16):
            found = model(input_ids=data.tokens, labels=data.tokens, shift_labels=data.targets).loss
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(found.detach())

    return step


def products(task: Task) -> Step:
    """Every matrix product of one step, one after the other."""
    configure_torch(task.site)
    shapes = sizes(task)
    calls: list[Step] = []
    for count, out, into in shapes:
        shapes_of = ((count, into), (count, out), (out, into))
        x, y, w = (torch.randn(*shape, device=task.site.device).bfloat16() for shape in shapes_of)
        calls += [lambda x=x, w=w: x @ w.T, lambda y=y, w=w: y @ w, lambda x=x, y=y: y.T @ x]

    def step() -> None:
        for call in calls:
            call()

    return step


def sizes(task: Task) -> list[tuple[int, int, int]]:
    """Tokens, columns out and columns in of each weight's product."""
    d, f, v = task.spec.width, task.spec.mlp_width, task.spec.vocab_size
    block = [(3 * d, d), (d, d), (2 * f, d), (d, f)]
    return [(task.tokens, *size) for size in [*block * task.spec.layers, (v, d)]]


def main() -> None:
    ask = argparse.ArgumentParser(description="Speed and memory of a training step beside its peer")
    ask.add_argument("--shape", choices=SHAPES, default="toy")
    ask.add_argument("--batch", type=int)
    ask.add_argument("--length", type=int)
    ask.add_argument("--documents", type=int, default=3, help="documents a row, of the OpenLM side that has several")
    ask.add_argument("--device", default="cpu")
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--steps", type=int, default=10)
    ask.add_argument("--cache", type=Path, default=Path(gettempdir()) / "firstsight-bench")
    asked = ask.parse_args()
    spec, batch, length = SHAPES[asked.shape]
    site = Site(device=asked.device, threads=asked.threads, cache=asked.cache)
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    openlm_task = Task(spec=spec, batch=asked.batch or batch, length=asked.length or length, documents=1, site=site)
    llama_task = replace(openlm_task, spec=replace(spec, norm="rms", qk_norm=False))
    eager = replace(llama_task, site=replace(site, compile=False))
    sides = {
        "matrix products alone": (products, llama_task),
        "transformers, eager": (peer, eager),
        "transformers, blocks compiled": (peer, llama_task),
        "ours, Llama settings": (ours, llama_task),
        "ours, OpenLM settings": (ours, openlm_task),
        f"ours, OpenLM, {asked.documents} documents a row": (ours, replace(openlm_task, documents=asked.documents)),
    }
    builds = [partial(build, task) for build, task in sides.values()]
    if asked.device == "cpu":
        took = in_turns(builds, asked.steps)
    else:  # a GPU is not shared, and has no room for all at once
        took = [one for build in builds for one in in_turns([build], asked.steps)]
    ideal, best = took[0].seconds, min(one.seconds for one in took[1:3])
    work = sum(6 * count * out * into for count, out, into in sizes(llama_task))
    print(
        f"{spec.parameters():,} parameters, {spec.layers} x {spec.width}, vocabulary {spec.vocab_size}, "
        f"rows {openlm_task.batch} x {openlm_task.length}, {asked.device}, {asked.threads} threads; "
        f"products {work / ideal / 1e9:.0f} GFLOP/s in bf16"
    )
    print(f"{'':34}{'ms':>8}{'tokens/s':>10}{'of rate':>9}{'x peer':>8}{'peak MiB':>10}")
    for name, one in zip(sides, took, strict=True):
        speed, share, faster = openlm_task.tokens / one.seconds, ideal / one.seconds, best / one.seconds
        print(f"{name:34}{one.seconds * 1e3:8.1f}{speed:10,.0f}{share:9.2f}{faster:8.2f}{one.peak_mib:10,.0f}")


if __name__ == "__main__":
    main()
