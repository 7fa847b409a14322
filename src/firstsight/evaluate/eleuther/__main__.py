"""`python -m firstsight.evaluate.eleuther BENCHMARKS OUT [TASK ...]`: definitions of offline copies for `lm_eval`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from firstsight.errors import DataError, FirstsightError
from firstsight.evaluate.eleuther.known import TASKS, definition


def main() -> int:
    """Write OUT/TASK.yaml for every task with a folder in BENCHMARKS, or for those named; their places go to stdout."""
    parser = argparse.ArgumentParser(prog="python -m firstsight.evaluate.eleuther", description=__doc__)
    parser.add_argument("benchmarks", type=Path, help="folder with a folder of data for each task")
    parser.add_argument("out", type=Path, help="folder to write TASK.yaml into, for lm_eval --tasks")
    parser.add_argument("tasks", nargs="*", help="which tasks; all that have a folder by default")
    told = parser.parse_args()
    try:
        for file in _written(told.benchmarks, told.out, told.tasks):
            sys.stdout.write(f"{file}\n")
    except FirstsightError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _written(benchmarks: Path, out: Path, names: list[str]) -> list[Path]:
    asked = names or [name for name in TASKS if (benchmarks / name).is_dir()]
    if not asked:
        raise DataError(f"{benchmarks}: wanted folders named after tasks. Got none of {', '.join(TASKS)}. Add one.")
    for name in asked:
        definition(name)  # refuses a name that is none and a machine without lm-eval before anything is written
    from firstsight.evaluate.eleuther import definitions
    from firstsight.evaluate.eleuther.judging import quiet

    with quiet():
        return [definitions.write(name, benchmarks / name, out) for name in asked]


if __name__ == "__main__":
    raise SystemExit(main())
