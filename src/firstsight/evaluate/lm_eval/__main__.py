"""`python -m firstsight.evaluate.lm_eval BENCHMARKS OUT [TASK ...]`: definitions of offline copies for `lm_eval`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from firstsight.errors import DataError, FirstsightError
from firstsight.evaluate.lm_eval.tasks import LM_EVAL_TASKS, find_definition


def main() -> int:
    """Write OUT/TASK.yaml for every task with a folder in BENCHMARKS, or for those named; their places go to stdout."""
    parser = argparse.ArgumentParser(prog="python -m firstsight.evaluate.lm_eval", description=__doc__)
    parser.add_argument("benchmarks", type=Path, help="folder with a folder of data for each task")
    parser.add_argument("out", type=Path, help="folder to write TASK.yaml into, for lm_eval --tasks")
    parser.add_argument("tasks", nargs="*", help="which tasks; all that have a folder by default")
    args = parser.parse_args()
    try:
        for file in _write_definitions(args.benchmarks, args.out, args.tasks):
            sys.stdout.write(f"{file}\n")
    except FirstsightError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _write_definitions(benchmarks: Path, out: Path, names: list[str]) -> list[Path]:
    task_names = names or [name for name in LM_EVAL_TASKS if (benchmarks / name).is_dir()]
    if not task_names:
        raise DataError(
            f"{benchmarks}: wanted folders named after tasks. Got none of {', '.join(LM_EVAL_TASKS)}. Add one."
        )
    for name in task_names:
        find_definition(name)  # refuses a name that is none and a machine without lm-eval before anything is written
    from firstsight.evaluate.lm_eval import task_definitions
    from firstsight.evaluate.lm_eval.run import silence_lm_eval

    with silence_lm_eval():
        return [task_definitions.write(name, benchmarks / name, out) for name in task_names]


if __name__ == "__main__":
    raise SystemExit(main())
