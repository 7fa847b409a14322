"""Speed of the check of stored results: digests against `sha256sum` and reading, and checks that are remembered.

    python -m benchmarks.verify --folder runs --gb 10 --files 4
    python -m benchmarks.verify --store runs --seconds 1100

The first writes a checkpoint of that size and reads it with an empty and with a full page cache. The second says what
the checks of a run cost: each step's inputs once for each step that reads them, against the seconds of the study.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from firstsight.files import file_sha256
from firstsight.plan.store import Store
from firstsight.plan.verification import ResultCheck, digest_files

CHUNK = 1 << 22


def write_files(folder: Path, *, size: int, count: int) -> list[Path]:
    """Files of random bytes, `size` in all, on the disk."""
    paths = [folder / f"model-{number}.safetensors" for number in range(count)]
    for path in paths:
        with path.open("wb") as file:
            for _ in range(size // count // CHUNK):
                file.write(os.urandom(CHUNK))
            os.fsync(file.fileno())
    return paths


def empty_cache(paths: Sequence[Path]) -> None:
    """Remove the files from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(paths: Sequence[Path]) -> None:
    buffer = bytearray(CHUNK)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_files(folder: Path, *, gigabytes: float, count: int) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        paths = write_files(Path(name), size=int(gigabytes * 1e9), count=count)
        size = sum(path.stat().st_size for path in paths) / 1e9
        functions: dict[str, Callable[[], object]] = {
            "reading the files": lambda: read(paths),
            "sha256sum": lambda: subprocess.run(["sha256sum", *paths], check=True, stdout=subprocess.DEVNULL),
            "file_sha256, one after the other": lambda: [file_sha256(path) for path in paths],
            "digest_files": lambda: digest_files(paths),
        }
        print(f"{size:.2f} GB in {count} files, {len(os.sched_getaffinity(0))} cores")
        print(f"{'':34}{'from the disk':>16}{'from the cache':>16}")
        for label, function in functions.items():
            empty_cache(paths)
            cold, warm = seconds(function), min(seconds(function) for _ in range(2))
            print(f"{label:34}{size / cold:11.2f} GB/s{size / warm:11.2f} GB/s")


def measure_store(root: Path, *, study_seconds: float) -> None:
    store = Store(root)
    records = {address: store.provenance(address) for address in store.addresses()}
    inputs = [parent for record in records.values() for parent in record["needs"].values() if parent in records]
    full = seconds(lambda: [store.verify(address) for address in records])
    first = seconds(lambda: [(ResultCheck(root, address).forget(), store.check_result(address)) for address in records])
    remembered = seconds(lambda: [store.check_result(parent) for parent in inputs])
    print(f"{len(records)} results, read as inputs {len(inputs)} times; the study took {study_seconds:,.0f} s")
    for label, cost in (("all digests", full), ("nothing remembered", first), ("the checks of a run", remembered)):
        print(f"{label:20} {cost:8.3f} s  {cost / study_seconds:8.3%}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the check of stored results")
    parser.add_argument("--folder", type=Path, default=Path(), help="a folder on the disk to measure")
    parser.add_argument("--gb", type=float, default=10)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--store", type=Path, help="a store of a finished study, instead")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long that study took")
    args = parser.parse_args()
    if args.store:
        measure_store(args.store.absolute(), study_seconds=args.seconds)
    else:
        measure_files(args.folder, gigabytes=args.gb, count=args.files)


if __name__ == "__main__":
    main()
