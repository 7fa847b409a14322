"""Speed and memory of a training step, compared with transformers' Llama of the same shape and with bare matmuls.

    python benchmarks/step.py --shape 79m --threads 2
    python benchmarks/step.py --shape toy --threads 2
    python benchmarks/step.py --shape 1b --device cuda

Each candidate runs in a separate process; on a CPU the steps are interleaved, which exposes all candidates to the same
background load. All tokens carry loss. transformers trains with bf16 autocast, compiled or eager blocks, fused AdamW
and its default loss. The matmul rate is that of the matrix products of a step's forward and backward passes (weights
and head, without attention scores), under the same PyTorch settings as firstsight's step.
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
from firstsight.recipe.scales.base import adamw, trains_decoder
from firstsight.site import Site
from firstsight.train.compilation import MIN_COMPILE_STEPS, compile_decoder, configure_torch
from firstsight.train.loop import train
from firstsight.train.state import untrained_state
from firstsight.units import Tokens
from interleaved import Step, measure_interleaved

LEARNING_RATE = 1e-4
SHAPES = {
    "79m": (openlm_spec(layers=8, width=512, heads=4, vocab_size=50_432), 2, 1024),
    "411m": (openlm_spec(layers=24, width=1024, heads=8, vocab_size=50_432), 8, 2048),
    "1b": (openlm_spec(layers=24, width=2048, heads=16, vocab_size=50_432), 4, 2048),
    "toy": (openlm_spec(layers=4, width=128, heads=4, vocab_size=512), 32, 128),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """Model, batch and site of a measurement."""

    spec: LMSpec
    batch: int
    length: int
    documents: int
    site: Site

    @property
    def tokens(self) -> int:
        return self.batch * self.length


def random_batch(task: Task, *, documents: int = 1) -> Batch:
    """Random tokens, `documents` per row, all with targets."""
    size, length = (task.batch, task.length), task.length
    tokens = torch.randint(task.spec.vocab_size, size, generator=torch.Generator().manual_seed(0))
    column, document_length = torch.arange(length).expand(size), -(-length // documents)
    batch = Batch(
        tokens=tokens,
        targets=tokens.roll(-1, dims=1),
        docs=(column // document_length).int(),
        positions=(column % document_length).int(),
        slots=torch.full_like(tokens, -1),
        images=torch.zeros(0, 0, 0, dtype=torch.float16),
        source_ids=torch.zeros(task.batch, dtype=torch.int8),
    )
    return replace(batch, **{field.name: getattr(batch, field.name).to(task.site.device) for field in fields(batch)})


def firstsight_step(task: Task) -> Step:
    """A step of firstsight's training loop."""
    configure_torch(task.site)
    optim, trains = adamw(z_loss=1e-4), trains_decoder(0.01)
    state = untrained_state(task.spec, optim, trains=trains, seed=0, device=task.site.device)
    compile_decoder(state.model.lm, task.site, steps=MIN_COMPILE_STEPS)
    data = random_batch(task, documents=task.documents)

    def batches() -> Iterator[tuple[Batch, ...]]:
        while True:
            yield (data,)

    steps = train(state, batches(), lambda tokens_seen: LEARNING_RATE, Tokens(10**15))
    return lambda: next(steps)


def transformers_step(task: Task) -> Step:
    """A training step of transformers' Llama; `site.compile` compiles the blocks."""
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
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue] - passed through **kwargs
    )
    model = LlamaForCausalLM(config).to(torch.device(task.site.device))
    assert sum(p.numel() for p in model.parameters()) == spec.parameters()
    if task.site.compile:
        for layer in model.model.layers:
            layer.compile(fullgraph=True, dynamic=False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    data = random_batch(task)

    def step() -> float:
        with torch.autocast(task.site.device, torch.bfloat16):
            loss = model(input_ids=data.tokens, labels=data.tokens, shift_labels=data.targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def matrix_products(task: Task) -> Step:
    """All matrix products of a step, in sequence."""
    configure_torch(task.site)
    shapes = product_shapes(task)
    calls: list[Step] = []
    for count, num_outputs, num_inputs in shapes:
        operand_shapes = ((count, num_inputs), (count, num_outputs), (num_outputs, num_inputs))
        x, y, w = (torch.randn(*shape, device=task.site.device).bfloat16() for shape in operand_shapes)
        calls += [lambda x=x, w=w: x @ w.T, lambda y=y, w=w: y @ w, lambda x=x, y=y: y.T @ x]

    def step() -> None:
        for call in calls:
            call()

    return step


def product_shapes(task: Task) -> list[tuple[int, int, int]]:
    """Rows, output columns and input columns of the product with each weight."""
    d, f, v = task.spec.width, task.spec.mlp_width, task.spec.vocab_size
    block = [(3 * d, d), (d, d), (2 * f, d), (d, f)]
    return [(task.tokens, *size) for size in [*block * task.spec.layers, (v, d)]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and memory of a training step")
    parser.add_argument("--shape", choices=SHAPES, default="toy")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--length", type=int)
    parser.add_argument("--documents", type=int, default=3, help="documents per row in the multi-document measurement")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--cache", type=Path, default=Path(gettempdir()) / "firstsight-bench")
    args = parser.parse_args()
    spec, batch, length = SHAPES[args.shape]
    site = Site(device=args.device, threads=args.threads, cache=args.cache)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    openlm_task = Task(spec=spec, batch=args.batch or batch, length=args.length or length, documents=1, site=site)
    llama_task = replace(openlm_task, spec=replace(spec, norm="rms", qk_norm=False))
    eager_task = replace(llama_task, site=replace(site, compile=False))
    candidates = {
        "matrix products": (matrix_products, llama_task),
        "transformers, eager": (transformers_step, eager_task),
        "transformers, blocks compiled": (transformers_step, llama_task),
        "firstsight, Llama": (firstsight_step, llama_task),
        "firstsight, OpenLM": (firstsight_step, openlm_task),
        f"firstsight, OpenLM, {args.documents} documents/row": (
            firstsight_step,
            replace(openlm_task, documents=args.documents),
        ),
    }
    builds = [partial(build, task) for build, task in candidates.values()]
    if args.device == "cpu":
        measurements = measure_interleaved(builds, args.steps)
    else:  # all candidates at once would not fit in GPU memory
        measurements = [measurement for build in builds for measurement in measure_interleaved([build], args.steps)]
    product_seconds = measurements[0].seconds
    transformers_seconds = min(measurement.seconds for measurement in measurements[1:3])
    flops = sum(6 * count * num_outputs * num_inputs for count, num_outputs, num_inputs in product_shapes(llama_task))
    print(
        f"{spec.parameters():,} parameters, {spec.layers} x {spec.width}, vocabulary {spec.vocab_size}, "
        f"rows {openlm_task.batch} x {openlm_task.length}, {args.device}, {args.threads} threads; "
        f"matmuls {flops / product_seconds / 1e9:.0f} GFLOP/s in bf16"
    )
    print(f"{'':34}{'ms':>8}{'tokens/s':>10}{'matmul':>9}{'speedup':>8}{'peak MiB':>10}")
    for name, measurement in zip(candidates, measurements, strict=True):
        tokens_per_second = openlm_task.tokens / measurement.seconds
        share, speedup = product_seconds / measurement.seconds, transformers_seconds / measurement.seconds
        print(
            f"{name:34}{measurement.seconds * 1e3:8.1f}{tokens_per_second:10,.0f}{share:9.2f}{speedup:8.2f}"
            f"{measurement.peak_mib:10,.0f}"
        )


if __name__ == "__main__":
    main()
