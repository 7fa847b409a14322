"""How fast an audit is: near-duplicates among hashes, repeated records, and the scan of a token store for other texts.

    python benchmarks/audit.py
    python benchmarks/audit.py --hashes 1000000 --tokens 100000000 --texts 5000

The scan stands beside a bare pass over the same memory map (np.sum), which is what reading alone costs; near-duplicates
stand beside one sort of the same hashes. Yardstick and work are taken in turns in one run, the fastest of each counts.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from firstsight.data.audit import duplicates, hamming, ngrams
from timing import fastest


def hashes(count: int) -> np.ndarray:
    """Random hashes, of which every hundredth is another one with two bits changed."""
    chance = np.random.default_rng(0)
    made = chance.integers(0, 2**64, count, dtype=np.uint64)
    copies = np.arange(0, count - 1, 100)
    made[copies] = made[copies + 1] ^ np.uint64(0b11)
    return np.unique(made)


def store(folder: Path, count: int, texts: int) -> tuple[np.ndarray, ngrams.NgramSet]:
    """A memory-mapped token store of words as frequent as in a language, and texts of 30 tokens to look for in it.

    One text in ten stands in the store.
    """
    chance = np.random.default_rng(0)
    made = np.minimum(chance.zipf(1.2, count), 50_000).astype(np.uint16)
    np.save(folder / "tokens.npy", made)
    wanted = np.minimum(chance.zipf(1.2, (texts, 30)), 50_000)
    starts = chance.integers(0, count - 30, texts // 10)
    wanted[: len(starts)] = made[starts[:, None] + np.arange(30)]
    return np.load(folder / "tokens.npy", mmap_mode="r").view(np.ndarray), ngrams.NgramSet(
        wanted.tolist(), range(texts)
    )


def told(name: str, seconds: float, bare: float, tokens: int) -> None:
    print(f"{name:18}{tokens / seconds / 1e6:8,.0f} M tokens/s {seconds / bare:5.0f} x a bare pass")


def main() -> None:
    ask = argparse.ArgumentParser(description="How fast an audit is")
    ask.add_argument("--hashes", type=int, default=1_000_000)
    ask.add_argument("--tokens", type=int, default=50_000_000)
    ask.add_argument("--texts", type=int, default=5_000)
    ask.add_argument("--repeats", type=int, default=5)
    asked = ask.parse_args()
    codes = hashes(asked.hashes)
    linked = len(codes) - len(np.unique(hamming.group_hashes(codes)[0]))
    mixed = np.random.default_rng(1).permutation(codes)
    sort, group = fastest([lambda: np.argsort(mixed), lambda: hamming.group_hashes(codes)], asked.repeats)
    print(f"near-duplicates   {group:8.2f} s for {len(codes):,} hashes, {linked:,} linked, {group / sort:.0f} x a sort")
    with tempfile.TemporaryDirectory() as folder:
        tokens, wanted = store(Path(folder), asked.tokens, asked.texts)
        count = np.full(len(tokens) // 500, 500)
        start = np.cumsum(count) - 500

        def look() -> int:
            return sum(len(positions) for positions, _ in ngrams.find_ngrams(tokens, wanted))

        def tell() -> None:
            for some in duplicates._token_chunks(count):
                duplicates._hash_records(tokens, start[some], count[some])

        hits = look()
        bare, scan, tale = fastest([lambda: np.sum(tokens), look, tell], asked.repeats)
    told("bare pass", bare, bare, len(tokens))
    told("scan", scan, bare, len(tokens))
    print(f"                  for {len(wanted.hashes):,} stretches, {hits:,} hits")
    told("repeated records", tale, bare, len(tokens))


if __name__ == "__main__":
    main()
