"""Speed of data audits: near-duplicate hashes, duplicate records, and n-gram search in a token store.

    python benchmarks/audit.py
    python benchmarks/audit.py --hashes 1000000 --tokens 100000000 --texts 5000

Baselines: np.sum over the same memory map (the cost of reading) for the n-gram search, and a sort of the same hashes
for near-duplicates. Runs are interleaved; minimum times are reported.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from firstsight.data.audit import contamination, duplicates
from timing import min_seconds


def random_hashes(count: int) -> np.ndarray:
    """Random 64-bit hashes; 1 % are copies with two bits flipped."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, count, dtype=np.uint64)
    copies = np.arange(0, count - 1, 100)
    values[copies] = values[copies + 1] ^ np.uint64(0b11)
    return np.unique(values)


def token_store(folder: Path, count: int, texts: int) -> tuple[np.ndarray, contamination.NgramSet]:
    """A memory-mapped token store with Zipf-distributed tokens, and query texts of 30 tokens.

    One query in ten occurs in the store.
    """
    rng = np.random.default_rng(0)
    tokens = np.minimum(rng.zipf(1.2, count), 50_000).astype(np.uint16)
    np.save(folder / "tokens.npy", tokens)
    queries = np.minimum(rng.zipf(1.2, (texts, 30)), 50_000)
    starts = rng.integers(0, count - 30, texts // 10)
    queries[: len(starts)] = tokens[starts[:, None] + np.arange(30)]
    return np.load(folder / "tokens.npy", mmap_mode="r").view(np.ndarray), contamination.NgramSet(
        queries.tolist(), range(texts)
    )


def print_throughput(name: str, seconds: float, read_seconds: float, tokens: int) -> None:
    print(f"{name:18}{tokens / seconds / 1e6:8,.0f} M tokens/s {seconds / read_seconds:5.0f} x np.sum")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of data audits")
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=50_000_000)
    parser.add_argument("--texts", type=int, default=5_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    hashes = random_hashes(args.hashes)
    num_linked = len(hashes) - len(np.unique(duplicates.group_hashes(hashes)[0]))
    shuffled = np.random.default_rng(1).permutation(hashes)
    sort_seconds, group_seconds = min_seconds(
        [lambda: np.argsort(shuffled), lambda: duplicates.group_hashes(hashes)], args.repeats
    )
    print(
        f"near-duplicates   {group_seconds:8.2f} s for {len(hashes):,} hashes, {num_linked:,} linked, "
        f"{group_seconds / sort_seconds:.0f} x a sort"
    )
    with tempfile.TemporaryDirectory() as folder:
        tokens, query_ngrams = token_store(Path(folder), args.tokens, args.texts)
        counts = np.full(len(tokens) // 500, 500)
        starts = np.cumsum(counts) - 500

        def count_hits() -> int:
            return sum(len(positions) for positions, _ in contamination.find_ngrams(tokens, query_ngrams))

        def hash_records() -> None:
            for chunk in duplicates._token_chunks(counts):
                duplicates._hash_records(tokens, starts[chunk], counts[chunk])

        num_hits = count_hits()
        read_seconds, scan_seconds, record_seconds = min_seconds(
            [lambda: np.sum(tokens), count_hits, hash_records], args.repeats
        )
    print_throughput("np.sum", read_seconds, read_seconds, len(tokens))
    print_throughput("n-gram search", scan_seconds, read_seconds, len(tokens))
    print(f"                  for {len(query_ngrams.hashes):,} n-grams, {num_hits:,} hits")
    print_throughput("record hashes", record_seconds, read_seconds, len(tokens))


if __name__ == "__main__":
    main()
