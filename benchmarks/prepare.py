"""Speed of `prepare` on text, compared with the bare tokenizer on the same documents and number of processes.

    python benchmarks/prepare.py --texts ../shared/data --tokenizer tokenizer.json --megabytes 50 --jobs 1 2

Text comes from the .jsonl and .jsonl.gz files below --texts, repeated with shuffled sentences up to the requested size;
without --texts, words are random. The tokenizer is read from a file (gzipped or not) or trained on that text. The
baseline is encode_batch of `tokenizers` on documents in memory, in the same number of single-threaded processes; it is
measured before and after `prepare`, and the faster run is used. The last column is the ratio of CPU time, which is
independent of background load.
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

NUM_SHARDS, BATCH_SIZE = 16, 1000


def long_strings(value: object) -> Iterator[str]:
    """All long strings in a decoded JSON value, at any depth."""
    if isinstance(value, str) and len(value) > 200:
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from long_strings(child)


def read_texts(folder: Path) -> Iterator[str]:
    """The long strings of all JSON Lines files below a folder."""
    for file in sorted(path for ending in ("*.jsonl", "*.jsonl.gz") for path in folder.rglob(ending)):
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
            for line in lines:
                yield from long_strings(json.loads(line))


def random_document(rng: random.Random) -> str:
    """A document of random words with a Zipf-like distribution."""
    vocabulary = ("".join(rng.choices("etaoinshrdlu", k=2 + int(rng.paretovariate(1)) % 9)) for _ in range(400))
    return " ".join(vocabulary) + "."


def generate_documents(texts: list[str], size: int) -> Iterator[str]:
    """Documents of `size` bytes in total: texts with shuffled sentences, or random words without texts."""
    rng, remaining_bytes = random.Random(0), size
    while remaining_bytes > 0:
        text = " ".join(rng.choices(texts, k=3)) if texts else random_document(rng)
        sentences = re.split(r"(?<=[.!?]) ", text)
        rng.shuffle(sentences)
        document = " ".join(sentences)
        remaining_bytes -= len(document.encode())
        yield document


def write_shards(folder: Path, texts: list[str], size: int) -> list[Path]:
    """Write the documents as JSON Lines, in shards of equal size."""
    files = [folder / f"{number:02d}.jsonl" for number in range(NUM_SHARDS)]
    streams = [file.open("w") for file in files]
    for number, document in enumerate(generate_documents(texts, size)):
        streams[number % NUM_SHARDS].write(json.dumps({"id": str(number), "text": document}) + "\n")
    for stream in streams:
        stream.close()
    return files


def write_tokenizer(source: Path | None, folder: Path, files: list[Path]) -> Path:
    """Write tokenizer.json: the decompressed source file, or a tokenizer trained on the first shard."""
    path = folder / "tokenizer.json"
    if source is not None:
        data = source.read_bytes()
        path.write_bytes(gzip.decompress(data) if source.suffix == ".gz" else data)
        return path
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=8192, special_tokens=[END_OF_TEXT])
    tokenizer.train_from_iterator((json.loads(line)["text"] for line in files[0].open()), trainer)
    tokenizer.save(str(path))
    return path


def encode_worker(
    tokenizer_path: Path, files: list[Path], ready_queue: object, start_event: object, results: object
) -> None:
    """Worker process: encode documents in memory; put token count, wall-clock and CPU seconds into `results`."""
    encoder = tokenizers.Tokenizer.from_file(str(tokenizer_path))
    texts = [json.loads(line)["text"] for file in files for line in file.open()]
    ready_queue.put(True)  # type: ignore[attr-defined]
    start_event.wait()  # type: ignore[attr-defined]
    count, wall_start, cpu_start = 0, time.perf_counter(), time.process_time()
    for first in range(0, len(texts), BATCH_SIZE):
        count += sum(
            len(encoding)
            for encoding in encoder.encode_batch(texts[first : first + BATCH_SIZE], add_special_tokens=False)
        )
    results.put((count, time.perf_counter() - wall_start, time.process_time() - cpu_start))  # type: ignore[attr-defined]


def measure_encode_batch(tokenizer_path: Path, files: list[Path], jobs: int) -> tuple[float, float]:
    """Tokens per wall-clock second and per CPU second of `jobs` processes that run encode_batch."""
    context = multiprocessing.get_context("spawn")
    ready_queue, results, start_event = context.Queue(), context.Queue(), context.Event()
    shard_groups = [files[number::jobs] for number in range(jobs)]
    processes = [
        context.Process(target=encode_worker, args=(tokenizer_path, shard_group, ready_queue, start_event, results))
        for shard_group in shard_groups
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready_queue.get()
    start_event.set()
    measurements = [results.get() for _ in processes]
    for process in processes:
        process.join()
    tokens = sum(count for count, _, _ in measurements)
    return tokens / max(seconds for _, seconds, _ in measurements), tokens / sum(cpu for _, _, cpu in measurements)


def ignore_progress(progress: Progress) -> None:
    """A progress callback without effect."""


def cpu_seconds() -> float:
    """CPU seconds of this process and its finished children."""
    return sum(os.times()[:4])


def measure_prepare(tokenizer_path: Path, source: Path, out: Path, jobs: int) -> tuple[float, float, int]:
    """Tokens per wall-clock second, tokens per CPU second and tokens of the `prepare` handler."""
    out.mkdir()
    spec = Prepare(
        source=External(name="s", form="text", tokens=Tokens(0)),
        tokenizer=External(name="t", form="tokenizer", tokens=Tokens(0)),
    )
    site = Site(sources={"s": Location(path=str(source))}, readers=jobs)
    wall_start, cpu_start = time.perf_counter(), cpu_seconds()
    prepare(spec, inputs={"tokenizer": tokenizer_path}, out=out, site=site, on_progress=ignore_progress)
    seconds, cpu = time.perf_counter() - wall_start, cpu_seconds() - cpu_start
    tokens = len(Index.open(out).tokens)
    return tokens / seconds, tokens / cpu, tokens


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "source").mkdir()
        texts = list(read_texts(args.texts)) if args.texts else []
        files = write_shards(root / "source", texts, args.megabytes * 10**6)
        tokenizer_path = write_tokenizer(args.tokenizer, root, files)
        size = sum(file.stat().st_size for file in files)
        print(f"{size / 1e6:.0f} MB of JSON Lines from {len(texts)} texts, {NUM_SHARDS} shards, {os.cpu_count()} cores")
        header = f"{'processes':>9} {'tokens':>11} {'encode_batch/s':>15} {'prepare/s':>11} {'MB/s':>6}"
        print(f"{header} {'ratio':>6} {'CPU':>6}")
        for jobs in args.jobs:
            before = measure_encode_batch(tokenizer_path, files, jobs)
            tokens_per_second, tokens_per_cpu_second, tokens = measure_prepare(
                tokenizer_path, root / "source", root / f"out-{jobs}", jobs
            )
            baseline, cpu_baseline = map(max, before, measure_encode_batch(tokenizer_path, files, jobs))
            speed = size / 1e6 * tokens_per_second / tokens
            row = f"{jobs:>9} {tokens:>11,} {baseline:>15,.0f} {tokens_per_second:>11,.0f} {speed:>6.1f}"
            print(
                f"{row} {tokens_per_second / baseline:>6.2f} {tokens_per_cpu_second / cpu_baseline:>6.2f}", flush=True
            )


if __name__ == "__main__":
    main()
