"""Image loading throughput on one core, from tars to batches of pixels, compared with decoders and data loaders.

    python benchmarks/images.py                       # 384 px, a few hundred real or synthetic JPEGs
    python benchmarks/images.py --size 48 --rounds 8

All candidates process the same images in interleaved rounds. The minimum CPU time (all threads, and workers) is
reported, which is independent of background load. Ratios are relative to Pillow.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
import webdataset
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader

from firstsight.data.image_reader import ImageReader
from firstsight.data.images import decode_image_fast, perceptual_hash
from firstsight.data.index import Index
from firstsight.data.loader import BatchStream, DecodedImages, LoaderMixture, LoaderSource
from firstsight.data.packing import pack
from firstsight.data.prepare import prepare
from firstsight.recipe.mixture import External, ExternalForm
from firstsight.recipe.stages import Prepare, RowShape
from firstsight.site import Location, Site
from firstsight.units import Tokens

REAL_IMAGES = Path(__file__).resolve().parents[2] / "shared" / "data" / "torchtitan_cc12m" / "cc12m-train-0000.tar"
SPECIAL_TOKENS = ("<|endoftext|>", "<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>", "<|pad|>", "<unk>")
IMAGE_TOKENS, ROW_LENGTH = 64, 128


def load_jpegs() -> list[bytes]:
    """The real JPEGs if available, otherwise synthetic ones with noise and varying sizes."""
    if REAL_IMAGES.is_file():
        with tarfile.open(REAL_IMAGES) as tar:
            members = [tar.extractfile(member) for member in tar if member.name.endswith(".jpg")]
            return [file.read() for file in members if file is not None]
    rng, jpegs = np.random.default_rng(0), list[bytes]()
    for width, height in rng.integers(420, 840, (32, 2)).tolist():
        coarse = Image.fromarray(rng.integers(0, 256, (height // 24, width // 24, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = rng.normal(0, 8, smooth.shape)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
        jpegs.append(buffer.getvalue())
    return jpegs


def write_tars(root: Path, jpegs: Sequence[bytes], copies: int) -> list[Path]:
    """Write `copies` tars, all with the same JPEGs under distinct names."""
    root.mkdir()
    for copy in range(copies):
        with tarfile.open(root / f"{copy:03d}.tar", "w") as tar:
            for number, jpeg in enumerate(jpegs):
                for ending, data in (("jpg", jpeg), ("txt", b"w1 w2 w3 w4"), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{copy:03d}{number:05d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return sorted(root.glob("*.tar"))


def build_index(root: Path, source_path: Path, form: ExternalForm) -> Index:
    """Prepare a source with a tokenizer of a few words."""
    tokenizer_path, out = root / "words", root / f"{form}.index"
    tokenizer_path.mkdir(exist_ok=True)
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate([*SPECIAL_TOKENS, "w1", "w2", "w3", "w4"])}, "<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS[:7]))
    tokenizer.save(str(tokenizer_path / "tokenizer.json"))
    out.mkdir()
    spec = Prepare(
        source=External(name="s", form=form, tokens=Tokens(0)),
        tokenizer=External(name="t", form="tokenizer", tokens=Tokens(0)),
    )
    site = Site(sources={"s": Location(path=str(source_path))})
    prepare(spec, inputs={"tokenizer": tokenizer_path}, out=out, site=site, on_progress=lambda progress: None)
    return Index.open(out)


def build_stream(root: Path, source_path: Path, size: int, batch: int) -> BatchStream:
    """A stream of image rows, with one image per row."""
    (root / "texts").mkdir()
    (root / "texts" / "0.jsonl").write_text('{"id": "0", "text": "w1 w2"}\n')
    text_index, caption_index = build_index(root, root / "texts", "text"), build_index(root, source_path, "captions")
    pixels = DecodedImages(reader=ImageReader(caption_index, Location(path=str(source_path)), None), size=size)
    packed_images = pack(caption_index, length=ROW_LENGTH, image_tokens=IMAGE_TOKENS, packing="one_image_per_row")
    packed_texts = pack(text_index, length=ROW_LENGTH, image_tokens=0, packing="best_fit")
    text = LoaderSource(name="text", index=text_index, packed_rows=packed_texts, images=None, answers_only=False)
    images = LoaderSource(
        name="images", index=caption_index, packed_rows=packed_images, images=pixels, answers_only=False
    )
    whole, steps = (Fraction(1),), len(caption_index.images) // batch
    return BatchStream(
        text_mixture=LoaderMixture(sources=(text,), shares=whole, epochs=(1,), counted_in="rows"),
        image_mixture=LoaderMixture(sources=(images,), shares=whole, epochs=(1,), counted_in="rows"),
        spans=((steps * batch, Fraction(1)),),
        counted_in="rows",
        row_shape=RowShape(batch_size=batch, length=ROW_LENGTH),
        seed=0,
        text_seed=0,
        text_row_offset=0,
        steps=steps,
    )


def decode_with_pillow(data: bytes, size: int) -> np.ndarray:
    """Decode and resize with Pillow."""
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(whole.resize((size, size), Image.Resampling.BICUBIC))


def decode_with_simplejpeg(data: bytes, size: int) -> np.ndarray:
    """Decode with simplejpeg and resize with PyTorch, without validation and EXIF rotation."""
    pixels = torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB", min_width=3 * size, min_height=3 * size))
    planes = pixels[None].permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(planes, (size, size), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


class TarDataset(torch.utils.data.Dataset[Any]):
    """A map-style dataset of the images in tars."""

    def __init__(self, tars: Sequence[Path], size: int) -> None:
        self.size, self.locations = size, list[tuple[Path, int, int]]()
        for file in tars:
            with tarfile.open(file) as tar:
                self.locations += [
                    (file, member.offset_data, member.size) for member in tar if member.name.endswith(".jpg")
                ]

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, number: int) -> torch.Tensor:
        path, offset, size = self.locations[number]
        with path.open("rb") as file:
            file.seek(offset)
            return torch.from_numpy(decode_with_pillow(file.read(size), self.size).copy())


def webdataset_loader(tars: Sequence[Path], size: int, batch: int) -> Iterable[Any]:
    """The pipeline of webdataset's examples: decode to Pillow, resize, batch."""

    def resize(image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))

    dataset = webdataset.WebDataset([str(file) for file in tars], shardshuffle=False)
    return dataset.decode("pilrgb").to_tuple("jpg", "txt").map_tuple(resize, str).batched(batch)


def batches(stream: BatchStream) -> Iterator[Any]:
    return (stream.batch(step) for step in range(stream.steps))


def consume(iterable: Iterable[Any]) -> None:
    for _ in iterable:
        pass


def min_cpu_seconds(functions: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Minimum CPU seconds of each function over `rounds` interleaved runs."""
    times = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            start = os.times()
            function()
            times[name] = min(times[name], sum(os.times()[:4]) - sum(start[:4]))
    return times


def thread_speedup(jpegs: Sequence[bytes], size: int, rounds: int) -> float:
    """Wall-clock speedup of decoding with two threads over one thread."""
    times = {1: float("inf"), 2: float("inf")}
    for _ in range(rounds):
        for count in times:
            with ThreadPoolExecutor(count) as executor:
                start = time.perf_counter()
                consume(executor.map(lambda data: decode_image_fast(data, size), jpegs))
                times[count] = min(times[count], time.perf_counter() - start)
    return times[1] / times[2]


def measure(root: Path, jpegs: Sequence[bytes], args: argparse.Namespace) -> tuple[dict[str, float], int]:
    """CPU seconds of each candidate for one pass over all images, and the number of images."""
    size, batch = args.size, args.batch
    tars = write_tars(root / "tars", jpegs, args.copies)
    stream, dataset = build_stream(root, root / "tars", size, batch), TarDataset(tars, size)
    repeated_jpegs = list(jpegs) * args.copies

    def dataloader(workers: int) -> Iterable[Any]:
        return DataLoader(dataset, batch_size=batch, num_workers=workers)

    functions: dict[str, Callable[[], None]] = {
        "Pillow, bicubic (a)": lambda: consume(decode_with_pillow(data, size) for data in repeated_jpegs),
        "libjpeg-turbo, PyTorch bicubic (b)": lambda: consume(
            decode_with_simplejpeg(data, size) for data in repeated_jpegs
        ),
        "decode_image_fast": lambda: consume(decode_image_fast(data, size) for data in repeated_jpegs),
        "firstsight image rows (c)": lambda: consume(batches(stream)),
        "webdataset (d)": lambda: consume(webdataset_loader(tars, size, batch)),
        "DataLoader, 0 workers (e)": lambda: consume(dataloader(0)),
        "DataLoader, 1 worker (e)": lambda: consume(dataloader(1)),
        "perceptual_hash": lambda: consume(perceptual_hash(data) for data in repeated_jpegs),
    }
    return min_cpu_seconds(functions, args.rounds), len(repeated_jpegs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Image loading throughput on one core")
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--copies", type=int, default=8, help="number of tars with all images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    jpegs, cpus = load_jpegs(), os.sched_getaffinity(0)
    speedup = thread_speedup(jpegs * 4, args.size, args.rounds) if len(cpus) > 1 else float("nan")
    os.sched_setaffinity(0, {min(cpus)})
    with tempfile.TemporaryDirectory() as root:
        times, count = measure(Path(root), jpegs, args)
    pillow_seconds = times["Pillow, bicubic (a)"]
    print(f"{count} JPEGs to {args.size} px on one core{'' if REAL_IMAGES.is_file() else ' (synthetic)'}")
    for name, seconds in times.items():
        print(f"{name:40s} {count / seconds:7.0f} images/s   {pillow_seconds / seconds:5.2f} x (a)")
    stream_seconds = times["firstsight image rows (c)"]
    for name in times:
        if name.endswith(("(b)", "(d)", "(e)")):
            print(f"firstsight / {name:40s} {times[name] / stream_seconds:5.2f}")
    print(f"two threads / one thread {speedup:5.2f}")


if __name__ == "__main__":
    main()
