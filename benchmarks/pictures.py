"""Pictures a second, from tars to a batch of pixels on one core, beside bare decoders and other people's loaders.

    python benchmarks/pictures.py                     384 pixels a side, a few hundred real or photo-like JPEGs
    python benchmarks/pictures.py --size 48 --rounds 8

All ways read the same tars and take turns; each counts by its fastest round, in processor time (all threads, workers
too), so that a busy neighbour does not count. Ratios are to bare Pillow.
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

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "torchtitan_cc12m" / "cc12m-train-0000.tar"
SPECIAL = ("<|endoftext|>", "<|img_patch|>", "<|a|>", "<|/a|>", "<|h|>", "<|/h|>", "<|pad|>", "<unk>")
SLOTS, LENGTH = 64, 128


def photographs() -> list[bytes]:
    """The real JPEGs where they are at hand, or photo-like ones of odd sizes."""
    if SHARED.is_file():
        with tarfile.open(SHARED) as tar:
            held = [tar.extractfile(member) for member in tar if member.name.endswith(".jpg")]
            return [one.read() for one in held if one is not None]
    rng, made = np.random.default_rng(0), list[bytes]()
    for width, height in rng.integers(420, 840, (32, 2)).tolist():
        coarse = Image.fromarray(rng.integers(0, 256, (height // 24, width // 24, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = rng.normal(0, 8, smooth.shape)
        held = io.BytesIO()
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(held, "JPEG", quality=88)
        made.append(held.getvalue())
    return made


def write(root: Path, shots: Sequence[bytes], copies: int) -> list[Path]:
    """`copies` tars with all of `shots` under names of their own."""
    root.mkdir()
    for copy in range(copies):
        with tarfile.open(root / f"{copy:03d}.tar", "w") as tar:
            for number, shot in enumerate(shots):
                for ending, data in (("jpg", shot), ("txt", b"w1 w2 w3 w4"), ("json", b"{}")):
                    member = tarfile.TarInfo(f"{copy:03d}{number:05d}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return sorted(root.glob("*.tar"))


def indexed(root: Path, place: Path, form: ExternalForm) -> Index:
    """A source prepared with a tokenizer of ten words."""
    words, out = root / "words", root / f"{form}.index"
    words.mkdir(exist_ok=True)
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*SPECIAL, "w1", "w2", "w3", "w4"])}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    made.add_special_tokens(list(SPECIAL[:7]))
    made.save(str(words / "tokenizer.json"))
    out.mkdir()
    spec = Prepare(
        source=External(name="s", form=form, tokens=Tokens(0)),
        tokenizer=External(name="t", form="tokenizer", tokens=Tokens(0)),
    )
    site = Site(sources={"s": Location(path=str(place))})
    prepare(spec, inputs={"tokenizer": words}, out=out, site=site, on_progress=lambda progress: None)
    return Index.open(out)


def streamed(root: Path, place: Path, size: int, batch: int) -> BatchStream:
    """Image rows alone, one picture each."""
    (root / "texts").mkdir()
    (root / "texts" / "0.jsonl").write_text('{"id": "0", "text": "w1 w2"}\n')
    texts, shown = indexed(root, root / "texts", "text"), indexed(root, place, "captions")
    pixels = DecodedImages(reader=ImageReader(shown, Location(path=str(place)), None), size=size)
    table = pack(shown, length=LENGTH, image_tokens=SLOTS, packing="one_image_per_row")
    words = pack(texts, length=LENGTH, image_tokens=0, packing="best_fit")
    text = LoaderSource(name="text", index=texts, packed_rows=words, images=None, answers_only=False)
    images = LoaderSource(name="images", index=shown, packed_rows=table, images=pixels, answers_only=False)
    one, steps = (Fraction(1),), len(shown.images) // batch
    return BatchStream(
        text_mixture=LoaderMixture(sources=(text,), shares=one, epochs=(1,), counted_in="rows"),
        image_mixture=LoaderMixture(sources=(images,), shares=one, epochs=(1,), counted_in="rows"),
        spans=((steps * batch, Fraction(1)),),
        counted_in="rows",
        row_shape=RowShape(batch_size=batch, length=LENGTH),
        seed=0,
        text_seed=0,
        text_row_offset=0,
        steps=steps,
    )


def pillow(data: bytes, size: int) -> np.ndarray:
    """What everybody writes."""
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(whole.resize((size, size), Image.Resampling.BICUBIC))


def bare(data: bytes, size: int) -> np.ndarray:
    """The chosen decoder and resizing without a check, a refusal or a rotation around them."""
    pixels = torch.from_numpy(simplejpeg.decode_jpeg(data, "RGB", min_width=3 * size, min_height=3 * size))
    planes = pixels[None].permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(planes, (size, size), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


class Places(torch.utils.data.Dataset[Any]):
    """Pictures of tars by number, as a plain map-style dataset has them."""

    def __init__(self, tars: Sequence[Path], size: int) -> None:
        self.size, self.places = size, list[tuple[Path, int, int]]()
        for file in tars:
            with tarfile.open(file) as tar:
                self.places += [(file, one.offset_data, one.size) for one in tar if one.name.endswith(".jpg")]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> torch.Tensor:
        file, offset, size = self.places[number]
        with file.open("rb") as data:
            data.seek(offset)
            return torch.from_numpy(pillow(data.read(size), self.size).copy())


def webdatasets(tars: Sequence[Path], size: int, batch: int) -> Iterable[Any]:
    """The pipeline of webdataset's own examples: decode to Pillow, resize, batch."""

    def squeezed(picture: Image.Image) -> np.ndarray:
        return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))

    found = webdataset.WebDataset([str(file) for file in tars], shardshuffle=False)
    return found.decode("pilrgb").to_tuple("jpg", "txt").map_tuple(squeezed, str).batched(batch)


def batches(stream: BatchStream) -> Iterator[Any]:
    return (stream.batch(step) for step in range(stream.steps))


def run_through(found: Iterable[Any]) -> None:
    for _ in found:
        pass


def fastest(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Processor seconds of the fastest of `rounds` runs of each, taken in turns: neighbours hurt all alike."""
    times = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            begin = os.times()
            work()
            times[name] = min(times[name], sum(os.times()[:4]) - sum(begin[:4]))
    return times


def threads(shots: Sequence[bytes], size: int, rounds: int) -> float:
    """How many times faster two threads are than one, by the clock, where there are two cores."""
    times = {1: float("inf"), 2: float("inf")}
    for _ in range(rounds):
        for count in times:
            with ThreadPoolExecutor(count) as crew:
                begin = time.perf_counter()
                run_through(crew.map(lambda data: decode_image_fast(data, size), shots))
                times[count] = min(times[count], time.perf_counter() - begin)
    return times[1] / times[2]


def measured(root: Path, shots: Sequence[bytes], asked: argparse.Namespace) -> tuple[dict[str, float], int]:
    """Seconds of each way to go through all pictures once, and how many these are."""
    size, batch = asked.size, asked.batch
    tars = write(root / "tars", shots, asked.copies)
    stream, places = streamed(root, root / "tars", size, batch), Places(tars, size)
    many = list(shots) * asked.copies

    def plain(workers: int) -> Iterable[Any]:
        return DataLoader(places, batch_size=batch, num_workers=workers)

    works: dict[str, Callable[[], None]] = {
        "bare Pillow, bicubic (a)": lambda: run_through(pillow(data, size) for data in many),
        "bare libjpeg-turbo, torch's bicubic (b)": lambda: run_through(bare(data, size) for data in many),
        "quick": lambda: run_through(decode_image_fast(data, size) for data in many),
        "our image rows (c)": lambda: run_through(batches(stream)),
        "webdataset (d)": lambda: run_through(webdatasets(tars, size, batch)),
        "DataLoader, no worker (e)": lambda: run_through(plain(0)),
        "DataLoader, one worker (e)": lambda: run_through(plain(1)),
        "checked, at the door": lambda: run_through(perceptual_hash(data) for data in many),
    }
    return fastest(works, asked.rounds), len(many)


def main() -> None:
    ask = argparse.ArgumentParser(description="Pictures a second on one core")
    ask.add_argument("--size", type=int, default=384)
    ask.add_argument("--copies", type=int, default=8, help="tars, each with all pictures")
    ask.add_argument("--batch", type=int, default=32)
    ask.add_argument("--rounds", type=int, default=4)
    asked = ask.parse_args()
    torch.set_num_threads(1)
    shots, cores = photographs(), os.sched_getaffinity(0)
    scale = threads(shots * 4, asked.size, asked.rounds) if len(cores) > 1 else float("nan")
    os.sched_setaffinity(0, {min(cores)})
    with tempfile.TemporaryDirectory() as root:
        times, count = measured(Path(root), shots, asked)
    base = times["bare Pillow, bicubic (a)"]
    print(f"{count} JPEGs to {asked.size} pixels on one core{'' if SHARED.is_file() else ' (made, not real)'}")
    for name, seconds in times.items():
        print(f"{name:40s} {count / seconds:7.0f} a second   {base / seconds:5.2f} x (a)")
    ours = times["our image rows (c)"]
    for name in times:
        if name.endswith(("(b)", "(d)", "(e)")):
            print(f"ours against {name:40s} {times[name] / ours:5.2f}")
    print(f"two threads against one {scale:5.2f}")


if __name__ == "__main__":
    main()
