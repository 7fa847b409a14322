"""Speed of the loader: token rows compared with memory-mapped reads, resume, and opening of large indexes.

    python benchmarks/rows.py
    python benchmarks/rows.py --records 10000000 --folder /tmp/rows

The baseline reads the same number of rows and tokens from the same memory-mapped file in shuffled order into an int64
tensor, without documents, positions and targets. Minimum times over several runs are reported. The index is synthetic;
--folder stores it for later runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, INDEX_FORMAT, SAMPLE_DTYPE, Index
from firstsight.data.loader import BatchStream, LoaderMixture, LoaderSource
from firstsight.data.packing import pack
from firstsight.data.records import SpecialTokenIds
from firstsight.data.sampling import epoch_permutation
from firstsight.recipe import serialize
from firstsight.recipe.mixture import External, ShareUnit
from firstsight.recipe.stages import RowShape
from firstsight.units import Tokens

STEPS = 40


def synthesise(folder: Path, records: int, *, tokens: int) -> None:
    """Write an index of random texts with a mean length of `tokens` tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    samples = np.zeros(records, dtype=SAMPLE_DTYPE)
    samples["tokens_count"] = rng.integers(tokens // 2, tokens + tokens // 2, records)
    samples["tokens_from"] = np.cumsum(samples["tokens_count"], dtype=np.int64) - samples["tokens_count"]
    total = int(samples["tokens_count"].sum(dtype=np.int64))
    arrays = {
        "samples": samples,
        "shown": np.zeros(0, IMAGE_REF_DTYPE),
        "tokens": rng.integers(8, 50_000, total, dtype=np.uint16),
        "loss": np.ones(total, np.uint8),
        "images": np.zeros(0, IMAGE_DTYPE),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    manifest = {
        "format": INDEX_FORMAT,
        "form": "text",
        "counts": {name: len(array) for name, array in arrays.items() if name != "loss"},
        "special": asdict(SpecialTokenIds(end=0, human=1, answer=2, pad=3)),
        "tokenizer": "synthetic",
        "source": "synthetic",
        "digest": f"synthetic {records} {tokens}",
    }
    source_json = serialize.to_json(External(name="synthetic", form="text", tokens=Tokens(0)))
    (folder / "shards.json").write_text("[]")
    (folder / "read.json").write_text(json.dumps({"shards": [], "source": source_json}))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def build_stream(
    sources: tuple[LoaderSource, ...], rows: RowShape, *, steps: int, counted_in: ShareUnit
) -> BatchStream:
    """A stream of text sources in equal shares."""
    shares = (Fraction(1, len(sources)),) * len(sources)
    return BatchStream(
        text_mixture=LoaderMixture(
            sources=sources, shares=shares, epochs=(10_000,) * len(sources), counted_in=counted_in
        ),
        image_mixture=None,
        spans=((steps * rows.batch_size, Fraction(0)),),
        counted_in="rows",
        row_shape=rows,
        seed=0,
        text_seed=0,
        text_row_offset=0,
        steps=steps,
    )


def min_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Minimum wall-clock seconds over `repeats` runs."""
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def compare_with_memmap(stream: BatchStream) -> None:
    """Print rows per second of complete batches, of sampling, and of a memory-mapped read."""
    tokens, (batch, length) = stream.sources[0].index.tokens, (stream.row_shape.batch_size, stream.row_shape.length)
    table = tokens[: len(tokens) // length * length].reshape(-1, length)

    def read_memmap() -> None:
        for step in range(STEPS):
            row_numbers = np.arange(step * batch, (step + 1) * batch)
            torch.from_numpy(table[epoch_permutation(row_numbers, count=len(table), seed=0)[1]].astype(np.int64))

    def sample_rows() -> None:
        for step in range(STEPS):
            list(stream.source_rows(np.arange(step * batch, (step + 1) * batch)))

    def load_batches() -> None:
        for step in range(STEPS):
            stream.batch(step)

    seconds = {
        "memory-mapped read": min_seconds(read_memmap),
        "sampling": min_seconds(sample_rows),
        "complete batches": min_seconds(load_batches),
    }
    print(f"\n{batch} rows of {length} tokens per step")
    for name, duration in seconds.items():
        speed, ratio = STEPS * batch / duration, duration / seconds["memory-mapped read"]
        print(f"  {name:24}{speed:12,.0f} rows/s{ratio:8.2f} x the time of a memory-mapped read")


def print_resume_time(stream: BatchStream, name: str) -> None:
    """Print the time to the first batch of a new stream, at row 10 and at row 1,000,000."""
    steps = (10 // stream.row_shape.batch_size, 10**6 // stream.row_shape.batch_size)
    near, far = (min_seconds(lambda step=step: replace(stream).batch(step), 20) for step in steps)
    print(f"  {name:24}row 10: {1e3 * near:.3f} ms   row 10^6: {1e3 * far:.3f} ms   {far / near:.2f} x")


def anonymous_mib() -> float:
    """Anonymous resident memory of this process in MiB, without mapped files."""
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(status["RssAnon"].split()[0]) / 1024


def main() -> None:
    """Write the index and print all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10**5)
    parser.add_argument(
        "--tokens", type=int, default=1000, help="mean tokens per record: about 1000 for web pages, 40 for captions"
    )
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        index_path = folder / f"index-{args.records}-{args.tokens}"
        if not (index_path / "manifest.json").is_file():
            synthesise(index_path, args.records, tokens=args.tokens)
        measure(index_path, folder / "cache", RowShape(batch_size=args.batch, length=args.length))


def measure(index_path: Path, cache: Path, rows: RowShape) -> None:
    """Print all tables."""
    before, start = anonymous_mib(), time.perf_counter()
    index = Index.open(index_path)
    open_seconds = time.perf_counter() - start
    print(f"index of {len(index.samples):,} records, {len(index.tokens):,} tokens")
    print(f"  opened                  {1e3 * open_seconds:.1f} ms, {anonymous_mib() - before:.1f} MiB")
    for label in ("packed", "read from the cache"):
        start, before = time.perf_counter(), anonymous_mib()
        table = pack(index, length=rows.length, image_tokens=0, packing="best_fit", cache=cache)
        print(f"  {label:24}{time.perf_counter() - start:.2f} s, {anonymous_mib() - before:.1f} MiB")
    source = LoaderSource(name="one", index=index, packed_rows=table, images=None, answers_only=False)
    second_source = LoaderSource(name="two", index=index, packed_rows=table, images=None, answers_only=False)
    steps, before, start = 10**6 // rows.batch_size + 1, anonymous_mib(), time.perf_counter()
    row_stream = build_stream((source,), rows, steps=steps, counted_in="rows")
    for step in range(STEPS):
        row_stream.batch(step)
    print(f"  a stream, {STEPS} batches     {time.perf_counter() - start:.2f} s, {anonymous_mib() - before:.1f} MiB")
    before, start = anonymous_mib(), time.perf_counter()
    token_stream = build_stream((source, second_source), rows, steps=steps, counted_in="tokens")
    print(f"  10^6 rows by tokens     {time.perf_counter() - start:.2f} s, {anonymous_mib() - before:.1f} MiB")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak resident memory, mapped files included: {peak:,.0f} MiB")
    compare_with_memmap(row_stream)
    print("\nresume")
    print_resume_time(row_stream, "one source")
    print_resume_time(token_stream, "two sources by tokens")


if __name__ == "__main__":
    main()
