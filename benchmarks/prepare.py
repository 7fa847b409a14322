"""Speed of `prepare` on text, and how it stands to the bare tokenizer on the same documents, cores and processes.

    python benchmarks/prepare.py --texts ../shared/data --tokenizer tokenizer.json --megabytes 50 --jobs 1 2

Text is taken from the .jsonl and .jsonl.gz files below --texts and repeated in another order of sentences until there
is enough; without any, words are made up. A tokenizer is read from a (packed) file, or trained on that text. The
yardstick is `tokenizers`' encode_batch of documents that are in memory already, in as many processes with one thread
each; it is measured before and after, and the better one counts. The last column compares processor time instead of
the clock's, which a busy neighbour does not change.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import tokenizers

from firstsight.data.index import Index
from firstsight.data.prepare import prepare
from firstsight.data.tokenizer import END_OF_TEXT
from firstsight.recipe.mixture import External
from firstsight.recipe.stages import Prepare
from firstsight.site import Location, Progress, Site
from firstsight.units import Tokens

SHARDS, BATCH = 16, 1000


def strings(value: object) -> Iterator[str]:
    """All long strings of a decoded value, at any depth."""
    if isinstance(value, str) and len(value) > 200:
        yield value
    for inside in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(inside)


def found(folder: Path) -> Iterator[str]:
    """Texts of a folder's JSON lines."""
    for file in sorted(path for ending in ("*.jsonl", "*.jsonl.gz") for path in folder.rglob(ending)):
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            for line in lines:
                yield from strings(json.loads(line))


def written(chance: random.Random) -> str:
    """A document of made-up words, as often as in Zipf's law."""
    words = ("".join(chance.choices("etaoinshrdlu", k=2 + int(chance.paretovariate(1)) % 9)) for _ in range(400))
    return " ".join(words) + "."


def documents(texts: list[str], size: int) -> Iterator[str]:
    """Documents of `size` bytes together: texts of the folder, their sentences in another order each time."""
    chance, left = random.Random(0), size
    while left > 0:
        text = " ".join(chance.choices(texts, k=3)) if texts else written(chance)
        sentences = re.split(r"(?<=[.!?]) ", text)
        chance.shuffle(sentences)
        document = " ".join(sentences)
        left -= len(document.encode())
        yield document


def write(folder: Path, texts: list[str], size: int) -> list[Path]:
    """The documents as JSON lines in equal shards."""
    files = [folder / f"{number:02d}.jsonl" for number in range(SHARDS)]
    streams = [file.open("w") for file in files]
    for number, document in enumerate(documents(texts, size)):
        streams[number % SHARDS].write(json.dumps({"id": str(number), "text": document}) + "\n")
    for stream in streams:
        stream.close()
    return files


def tokenizer(asked: Path | None, folder: Path, files: list[Path]) -> Path:
    """A tokenizer.json: what was asked for, unpacked, or one trained on the first shard."""
    goal = folder / "tokenizer.json"
    if asked is not None:
        goal.write_bytes(gzip.decompress(asked.read_bytes()) if asked.suffix == ".gz" else asked.read_bytes())
        return goal
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=8192, special_tokens=[END_OF_TEXT])
    made.train_from_iterator((json.loads(line)["text"] for line in files[0].open()), trainer)
    made.save(str(goal))
    return goal


def bare(words: Path, files: list[Path], ready: object, go: object, took: object) -> None:
    """In a process of its own: encode what is in memory, and tell tokens and seconds."""
    encoder = tokenizers.Tokenizer.from_file(str(words))
    texts = [json.loads(line)["text"] for file in files for line in file.open()]
    ready.put(True)  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    began, busy, count = time.perf_counter(), time.process_time(), 0
    for start in range(0, len(texts), BATCH):
        count += sum(len(one) for one in encoder.encode_batch(texts[start : start + BATCH], add_special_tokens=False))
    took.put((count, time.perf_counter() - began, time.process_time() - busy))  # type: ignore[attr-defined]


def yardstick(words: Path, files: list[Path], jobs: int) -> tuple[float, float]:
    """Tokens a second, and a second of processor time, of `jobs` processes that do nothing but encode_batch."""
    context = multiprocessing.get_context("spawn")
    ready, took, go = context.Queue(), context.Queue(), context.Event()
    parts = [files[number::jobs] for number in range(jobs)]
    crew = [context.Process(target=bare, args=(words, part, ready, go, took)) for part in parts]
    for process in crew:
        process.start()
    for _ in crew:
        ready.get()
    go.set()
    told = [took.get() for _ in crew]
    for process in crew:
        process.join()
    tokens = sum(count for count, _, _ in told)
    return tokens / max(seconds for _, seconds, _ in told), tokens / sum(busy for _, _, busy in told)


def quiet(progress: Progress) -> None:
    """Nobody listens."""


def processor() -> float:
    """Seconds of processor time that this process and those it waited for have taken."""
    return sum(os.times()[:4])


def prepared(words: Path, source: Path, out: Path, jobs: int) -> tuple[float, float, int]:
    """Tokens a second, and a second of processor time, of the handler, from its call to the finished index; tokens."""
    out.mkdir()
    spec = Prepare(
        source=External(name="s", form="text", tokens=Tokens(0)),
        tokenizer=External(name="t", form="tokenizer", tokens=Tokens(0)),
    )
    site = Site(sources={"s": Location(path=str(source))}, readers=jobs)
    began, busy = time.perf_counter(), processor()
    prepare(spec, inputs={"tokenizer": words}, out=out, site=site, on_progress=quiet)
    seconds, taken = time.perf_counter() - began, processor() - busy
    tokens = len(Index.open(out).tokens)
    return tokens / seconds, tokens / taken, tokens


def main() -> None:
    """Measure and print."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--texts", type=Path)
    ask.add_argument("--tokenizer", type=Path)
    ask.add_argument("--megabytes", type=int, default=50)
    ask.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    asked = ask.parse_args()
    with TemporaryDirectory() as held:
        root = Path(held)
        (root / "source").mkdir()
        texts = list(found(asked.texts)) if asked.texts else []
        files = write(root / "source", texts, asked.megabytes * 10**6)
        words = tokenizer(asked.tokenizer, root, files)
        size = sum(file.stat().st_size for file in files)
        print(f"{size / 1e6:.0f} MB of JSON lines from {len(texts)} texts, {SHARDS} shards, {os.cpu_count()} cores")
        head = f"{'processes':>9} {'tokens':>11} {'encode_batch/s':>15} {'prepare/s':>11} {'MB/s':>6}"
        print(f"{head} {'ratio':>6} {'CPU':>6}")
        for jobs in asked.jobs:
            before = yardstick(words, files, jobs)
            speed, thrift, tokens = prepared(words, root / "source", root / f"out-{jobs}", jobs)
            best, frugal = map(max, before, yardstick(words, files, jobs))
            told = f"{jobs:>9} {tokens:>11,} {best:>15,.0f} {speed:>11,.0f} {size / 1e6 * speed / tokens:>6.1f}"
            print(f"{told} {speed / best:>6.2f} {thrift / frugal:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
