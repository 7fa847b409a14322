"""Run the fault campaign, print its table, and exit with 1 where a fault passed in silence.

    python -m benchmarks.chaos --kills 200 --damages 100
    python -m benchmarks.chaos --studies texts --kills 20 --damages 0 --disks 0 --logs 0 --clocks 0

Faults are drawn from a seed: the same options try the same faults. Each line of the output is a fault and how it ended.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import gettempdir

from benchmarks.chaos import damage, disks, kills
from benchmarks.chaos.clock import run_clock
from benchmarks.chaos.command import Bench
from benchmarks.chaos.outcome import ACCEPTED, Outcome, table
from benchmarks.chaos.processes import ForkedProcess
from benchmarks.chaos.projects import STUDIES, Project


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 if every fault ended as accepted."""
    options = _options(arguments)
    outcomes: list[Outcome] = []
    for number, name in enumerate(options.studies):
        for outcome in disturb(name, options, share=len(options.studies), seed=options.seed + number):
            outcomes.append(outcome)
            print(f"{outcome.study}\t{outcome.ending}\t{outcome.kind}\t{outcome.fault}", flush=True)
            if outcome.ending not in ACCEPTED:
                print("    " + outcome.detail.replace("\n", "\n    "), flush=True)
    print(*table(outcomes), sep="\n")
    return int(any(outcome.ending not in ACCEPTED for outcome in outcomes))


def disturb(name: str, options: argparse.Namespace, *, share: int, seed: int) -> Iterator[Outcome]:
    """The outcomes of one study's share of the faults."""
    bench, rng = Bench(Project(name, options.folder / name)), random.Random(seed)
    shutil.rmtree(bench.project.root, ignore_errors=True)
    ForkedProcess(bench.project.write, new_session=False).wait()
    writes = bench.make_reference()
    shutil.rmtree(bench.store)
    start = time.monotonic()
    bench.run()
    seconds = time.monotonic() - start
    counts = {kind: -(-getattr(options, kind) // share) for kind in ("kills", "damages", "disks", "logs", "clocks")}
    num_aimed = counts["kills"] // 2
    yield from kills.run_aimed(bench, kills.aimed_kills(writes, rng, num_aimed))
    yield from kills.run_timed(bench, kills.timed_kills(rng, counts["kills"] - num_aimed), seconds)
    num_work = counts["damages"] // 3
    stored = damage.damages(bench.reference, STORED_FOLDERS, rng, counts["damages"] - num_work)
    yield from damage.run_stored(bench, stored)
    yield from damage.run_interrupted(bench, writes, rng, num_work)
    third = counts["disks"] // 3
    yield from disks.run_full(bench, writes, rng, counts["disks"] - 2 * third)
    yield from disks.run_limited(bench, rng, third)
    yield from disks.run_small(bench, rng, third)
    yield from disks.run_logs(bench, rng, counts["logs"])
    yield from run_clock(bench, rng, counts["clocks"])


STORED_FOLDERS = ("steps", "provenance", "logs", "locks", "reports", "verified")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--kills", type=int, default=200, help="half of them at moments of writing")
    parser.add_argument("--damages", type=int, default=100, help="a third of them in working folders")
    parser.add_argument("--disks", type=int, default=24, help="full, read-only and slow disks")
    parser.add_argument("--logs", type=int, default=6, help="logs that cannot be written")
    parser.add_argument("--clocks", type=int, default=3, help="runs under a clock that jumps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(gettempdir()) / "firstsight-chaos")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
