"""`python -m firstsight.evaluate.lm_eval BENCHMARKS OUT [TASK ...]`: task definitions over offline data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from firstsight.errors import DataError, FirstsightError, describe_error
from firstsight.evaluate.lm_eval.run import silence_lm_eval
from firstsight.evaluate.lm_eval.tasks import LM_EVAL_TASKS, find_definition
from firstsight.visible import make_output_visible


def main() -> int:
    """Write OUT/TASK.yaml for all tasks with a folder in BENCHMARKS, or the named ones, and print the files' paths."""
    parser = argparse.ArgumentParser(prog="python -m firstsight.evaluate.lm_eval", description=__doc__)
    parser.add_argument("benchmarks", type=Path, help="folder with a folder of data for each task")
    parser.add_argument("out", type=Path, help="folder to write TASK.yaml into, for lm_eval --tasks")
    parser.add_argument("tasks", nargs="*", help="names of tasks; by default all that have a folder")
    args = parser.parse_args()
    try:
        files = _write_definitions(args.benchmarks, args.out, args.tasks)
    except (FirstsightError, OSError) as error:
        sys.stderr.write(f"{describe_error(error)}\n")
        return 2
    sys.stdout.writelines(f"{file}\n" for file in files)
    return 0


def _write_definitions(benchmarks: Path, out: Path, names: list[str]) -> list[Path]:
    names = names or [name for name in LM_EVAL_TASKS if (benchmarks / name).is_dir()]
    if not names:
        known_names = ", ".join(LM_EVAL_TASKS)
        raise DataError(f"{benchmarks}: wanted folders named after tasks. Got none of {known_names}. Add one of them.")
    for name in names:
        find_definition(name)  # raises for an unknown name or a missing lm-eval before any file is written
    from firstsight.evaluate.lm_eval import task_definitions  # imports lm-eval, which is optional

    with silence_lm_eval():
        return [task_definitions.write(name, benchmarks / name, out) for name in names]


if __name__ == "__main__":
    make_output_visible(stdout=True)
    raise SystemExit(main())
