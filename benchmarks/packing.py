"""Padding and loss share of packed captions: both packing modes, at several image token counts and row lengths.

    python benchmarks/packing.py --shards cc12m/*.tar datacompdr/*.tar --tokenizer tokenizer.json
    python benchmarks/packing.py --shards ... --tokenizer ... --records 10000000 --only 64:256

Lengths are sampled with a seed from the token counts of the captions (`.txt` members) in the shards, with an end token.
`floor` is a lower bound on padding: a row holds at most its length in tokens, and at most its length divided by the
shortest record in images. At 729 image tokens, a row of 1,024 holds one image in both modes; only longer rows reduce
padding.
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


def count_caption_tokens(shards: Iterable[Path], tokenizer: Path) -> np.ndarray:
    """Token count of each caption in the shards, with the end token."""
    data = tokenizer.read_bytes()
    encoder = Tokenizer.from_str((gzip.decompress(data) if tokenizer.suffix == ".gz" else data).decode())
    captions: list[str] = []
    for shard in shards:
        with tarfile.open(shard) as tar:
            members = (tar.extractfile(member) for member in tar if member.name.endswith(".txt"))
            captions += [member.read().decode() for member in members if member is not None]
    return np.array([len(encoding.ids) + 1 for encoding in encoder.encode_batch(captions)])


def build_index(lengths: np.ndarray) -> Index:
    """An index of captions of these lengths, with one image per caption and loss on all tokens."""
    samples, image_refs = np.zeros(len(lengths), dtype=SAMPLE_DTYPE), np.zeros(len(lengths), dtype=IMAGE_REF_DTYPE)
    samples["tokens_count"], samples["tokens_from"] = lengths, np.cumsum(lengths) - lengths
    samples["shown_count"], samples["shown_from"] = 1, np.arange(len(lengths))
    total = int(lengths.sum())
    return Index(
        path=Path("captions"),
        form="captions",
        samples=samples,
        image_refs=image_refs,
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
    parser = argparse.ArgumentParser(description="Padding and loss share of packed captions")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="tars with captions as .txt members")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json, gzipped or not")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=SHAPES, help="image tokens : row length")
    args = parser.parse_args()
    caption_lengths = count_caption_tokens(sorted(args.shards), args.tokenizer)
    lengths = np.random.default_rng(args.seed).choice(caption_lengths, args.records)
    print(
        f"{len(caption_lengths)} captions of {caption_lengths.min()} to {caption_lengths.max()} tokens, "
        f"mean {caption_lengths.mean():.1f}; {args.records:,} sampled"
    )
    print("image:row  packing                rows  images/row  padding   floor  loss share  cut  pack s  fit s")
    index = build_index(lengths)
    for shape in args.only:
        image_tokens, length = map(int, shape.split(":"))
        row_lengths = np.minimum(lengths + image_tokens, length).astype(np.int32)
        floor = 1 - float(row_lengths.sum()) / length / max(
            row_lengths.sum() / length, len(row_lengths) / (length // row_lengths.min())
        )
        start = time.perf_counter()
        best_fit(row_lengths, length)
        fit_seconds = time.perf_counter() - start
        for packing in PACKINGS:
            start = time.perf_counter()
            stats = pack(index, length=length, image_tokens=image_tokens, packing=packing).stats
            seconds = time.perf_counter() - start
            mode_fit_seconds = fit_seconds if packing == "best_fit" else 0
            images_per_row, loss_share = stats.images / stats.rows, stats.loss_targets / (stats.rows * stats.length)
            shares = f"{images_per_row:10.2f}  {stats.padding:7.1%}  {floor:6.1%}  {loss_share:10.1%}"
            print(
                f"{shape:9}  {packing:17}  {stats.rows:8,}  {shares}  "
                f"{stats.truncated:3}  {seconds:6.2f}  {mode_fit_seconds:5.2f}"
            )


if __name__ == "__main__":
    main()
