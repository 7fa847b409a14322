"""What packing wastes on captions of real length: both packings side by side, rows short and long.

    python benchmarks/packing.py --shards cc12m/*.tar datacompdr/*.tar --tokenizer tokenizer.json
    python benchmarks/packing.py --shards ... --tokenizer ... --records 10000000 --only 64:256

Lengths are drawn, seeded, from the token counts of the captions (`.txt` members) in the shards, an end token each.
`floor` is the padding that no packing of these lengths can go below: no row holds more pictures than its length
divided by the shortest record, and no row more than its length. At 729 image tokens a row of 1,024 holds one picture
whatever the packing; only longer rows help there.
"""

from __future__ import annotations

import argparse
import gzip
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, SAMPLE_DTYPE, Index
from firstsight.data.packing import pack
from firstsight.data.packing.bins import best_fit
from firstsight.data.records import SpecialTokenIds
from firstsight.recipe.mixture import External, PackingMode
from firstsight.units import Tokens

SHAPES = ("64:256", "64:1024", "729:1024", "729:4096")
PACKINGS: tuple[PackingMode, ...] = ("one_image_per_row", "best_fit")


def counts(shards: Iterable[Path], tokenizer: Path) -> np.ndarray:
    """Tokens of every caption in the shards, with the end token."""
    data = tokenizer.read_bytes()
    words = Tokenizer.from_str((gzip.decompress(data) if tokenizer.suffix == ".gz" else data).decode())
    captions: list[str] = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            members = (tar.extractfile(member) for member in tar if member.name.endswith(".txt"))
            captions += [member.read().decode() for member in members if member is not None]
    return np.array([len(found.ids) + 1 for found in words.encode_batch(captions)])


def index_of(lengths: np.ndarray) -> Index:
    """A source of captions of these lengths, a picture each, all of whose tokens carry loss."""
    samples, shown = np.zeros(len(lengths), dtype=SAMPLE_DTYPE), np.zeros(len(lengths), dtype=IMAGE_REF_DTYPE)
    samples["tokens_count"], samples["tokens_from"] = lengths, np.cumsum(lengths) - lengths
    samples["shown_count"], samples["shown_from"] = 1, np.arange(len(lengths))
    total = int(lengths.sum())
    return Index(
        path=Path("captions"),
        form="captions",
        samples=samples,
        image_refs=shown,
        tokens=np.zeros(total, dtype=np.uint16),
        loss=np.ones(total, dtype=np.uint8),
        images=np.zeros(1, dtype=IMAGE_DTYPE),
        image_shards=(),
        source_shards=(),
        source=External(name="captions", form="captions", tokens=Tokens(0)),
        special_ids=SpecialTokenIds(end=0, human=1, answer=2, pad=3),
        tokenizer_digest="",
        source_digest="",
        digest="",
    )


def main() -> None:
    ask = argparse.ArgumentParser(description="What packing wastes on captions of real length")
    ask.add_argument("--shards", type=Path, nargs="+", required=True, help="tars with captions as .txt members")
    ask.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json, gzipped or not")
    ask.add_argument("--records", type=int, default=100_000)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--only", nargs="+", default=SHAPES, help="image tokens : row length")
    asked = ask.parse_args()
    real = counts(sorted(asked.shards), asked.tokenizer)
    lengths = np.random.default_rng(asked.seed).choice(real, asked.records)
    print(
        f"{len(real)} captions of {real.min()} to {real.max()} tokens, mean {real.mean():.1f}; {asked.records:,} drawn"
    )
    print("image:row  packing                rows  images/row  padding   floor  loss share  cut  pack s  fit s")
    index = index_of(lengths)
    for shape in asked.only:
        slots, length = map(int, shape.split(":"))
        size = np.minimum(lengths + slots, length).astype(np.int32)
        floor = 1 - float(size.sum()) / length / max(size.sum() / length, len(size) / (length // size.min()))
        begin = time.perf_counter()
        best_fit(size, length)
        fitting = time.perf_counter() - begin
        for packing in PACKINGS:
            begin = time.perf_counter()
            stats = pack(index, length=length, image_tokens=slots, packing=packing).stats
            seconds = time.perf_counter() - begin
            fits = fitting if packing == "best_fit" else 0
            images, loss = stats.images / stats.rows, stats.loss_targets / (stats.rows * stats.length)
            shares = f"{images:10.2f}  {stats.padding:7.1%}  {floor:6.1%}  {loss:10.1%}"
            print(
                f"{shape:9}  {packing:17}  {stats.rows:8,}  {shares}  {stats.truncated:3}  {seconds:6.2f}  {fits:5.2f}"
            )


if __name__ == "__main__":
    main()
