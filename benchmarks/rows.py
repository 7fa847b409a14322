"""Speed of the loader: token rows against a bare memory-mapped read, resume far into a run, and a long index.

    python benchmarks/rows.py
    python benchmarks/rows.py --records 10000000 --folder /tmp/rows

The yardstick reads as many rows of as many tokens out of the same memory-mapped file, in the same shuffled order, into
one int64 tensor: no documents, no positions, no targets. Everything is measured in one run, in turns, best of several.
The index is synthesised: no source of that size is needed. With --folder it is kept and used again.
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
    """An index of texts of about `tokens` tokens, every one a number."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(0)
    samples = np.zeros(records, dtype=SAMPLE_DTYPE)
    samples["tokens_count"] = chance.integers(tokens // 2, tokens + tokens // 2, records)
    samples["tokens_from"] = np.cumsum(samples["tokens_count"], dtype=np.int64) - samples["tokens_count"]
    total = int(samples["tokens_count"].sum(dtype=np.int64))
    held = {
        "samples": samples,
        "shown": np.zeros(0, IMAGE_REF_DTYPE),
        "tokens": chance.integers(8, 50_000, total, dtype=np.uint16),
        "loss": np.ones(total, np.uint8),
        "images": np.zeros(0, IMAGE_DTYPE),
    }
    for name, array in held.items():
        np.save(folder / f"{name}.npy", array)
    manifest = {
        "format": INDEX_FORMAT,
        "form": "text",
        "counts": {name: len(array) for name, array in held.items() if name != "loss"},
        "special": asdict(SpecialTokenIds(end=0, human=1, answer=2, pad=3)),
        "tokenizer": "made",
        "source": "made",
        "digest": f"made {records} {tokens}",
    }
    source = serialize.to_json(External(name="made", form="text", tokens=Tokens(0)))
    (folder / "shards.json").write_text("[]")
    (folder / "read.json").write_text(json.dumps({"shards": [], "source": source}))
    (folder / "manifest.json").write_text(json.dumps(manifest))


def stream_of(feeds: tuple[LoaderSource, ...], rows: RowShape, *, steps: int, counted_in: ShareUnit) -> BatchStream:
    """Texts alone, in equal shares."""
    shares = (Fraction(1, len(feeds)),) * len(feeds)
    return BatchStream(
        text_mixture=LoaderMixture(sources=feeds, shares=shares, epochs=(10_000,) * len(feeds), counted_in=counted_in),
        image_mixture=None,
        spans=((steps * rows.batch_size, Fraction(0)),),
        counted_in="rows",
        row_shape=rows,
        seed=0,
        text_seed=0,
        text_row_offset=0,
        steps=steps,
    )


def best(work: Callable[[], object], times: int = 5) -> float:
    """Seconds of the fastest of several runs."""
    found: list[float] = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def against_a_bare_read(stream: BatchStream) -> None:
    """Rows a second of whole batches and of the yardstick."""
    tokens, (batch, length) = stream.sources[0].index.tokens, (stream.row_shape.batch_size, stream.row_shape.length)
    table = tokens[: len(tokens) // length * length].reshape(-1, length)

    def bare() -> None:
        for step in range(STEPS):
            nth = np.arange(step * batch, (step + 1) * batch)
            torch.from_numpy(table[epoch_permutation(nth, count=len(table), seed=0)[1]].astype(np.int64))

    def drawn() -> None:
        for step in range(STEPS):
            list(stream.source_rows(np.arange(step * batch, (step + 1) * batch)))

    def made() -> None:
        for step in range(STEPS):
            stream.batch(step)

    seconds = {"bare read": best(bare), "drawing alone": best(drawn), "whole batches": best(made)}
    print(f"\n{batch} rows of {length} tokens a step")
    for name, taken in seconds.items():
        speed, ratio = STEPS * batch / taken, taken / seconds["bare read"]
        print(f"  {name:24}{speed:12,.0f} rows/s{ratio:8.2f} x the time of a bare read")


def far_away(stream: BatchStream, name: str) -> None:
    """A new stream's first batch, at the beginning and a million rows later."""
    steps = (10 // stream.row_shape.batch_size, 10**6 // stream.row_shape.batch_size)
    near, far = (best(lambda step=step: replace(stream).batch(step), 20) for step in steps)
    print(f"  {name:24}row 10: {1e3 * near:.3f} ms   row 10^6: {1e3 * far:.3f} ms   {far / near:.2f} x")


def memory() -> float:
    """MB of this process that are its own, mapped files not among them."""
    kept = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(kept["RssAnon"].split()[0]) / 1024


def main() -> None:
    """Synthesise, then print a table of each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10**5)
    parser.add_argument("--tokens", type=int, default=1000, help="of a record, about: web pages 1000, captions 40")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        place = folder / f"index-{given.records}-{given.tokens}"
        if not (place / "manifest.json").is_file():
            synthesise(place, given.records, tokens=given.tokens)
        measure(place, folder / "cache", RowShape(batch_size=given.batch, length=given.length))


def measure(place: Path, cache: Path, rows: RowShape) -> None:
    """All tables."""
    before, start = memory(), time.perf_counter()
    index = Index.open(place)
    opened = time.perf_counter() - start
    print(f"index of {len(index.samples):,} records, {len(index.tokens):,} tokens")
    print(f"  opened                  {1e3 * opened:.1f} ms, {memory() - before:.1f} MB")
    for again in ("packed", "from the cache"):
        start, before = time.perf_counter(), memory()
        table = pack(index, length=rows.length, image_tokens=0, packing="best_fit", cache=cache)
        print(f"  {again:24}{time.perf_counter() - start:.2f} s, {memory() - before:.1f} MB")
    feed = LoaderSource(name="one", index=index, packed_rows=table, images=None, answers_only=False)
    other = LoaderSource(name="two", index=index, packed_rows=table, images=None, answers_only=False)
    steps, before, start = 10**6 // rows.batch_size + 1, memory(), time.perf_counter()
    plain = stream_of((feed,), rows, steps=steps, counted_in="rows")
    for step in range(STEPS):
        plain.batch(step)
    print(f"  a stream, {STEPS} batches     {time.perf_counter() - start:.2f} s, {memory() - before:.1f} MB")
    before, start = memory(), time.perf_counter()
    weighed = stream_of((feed, other), rows, steps=steps, counted_in="tokens")
    print(f"  10^6 rows by tokens     {time.perf_counter() - start:.2f} s, {memory() - before:.1f} MB")
    print(f"  most memory ever, files among it: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")
    against_a_bare_read(plain)
    print("\nresume")
    far_away(plain, "one text")
    far_away(weighed, "two texts by tokens")


if __name__ == "__main__":
    main()
