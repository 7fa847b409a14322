"""Cost of the continuous scores: the answers of one checkpoint to a folder of benchmarks, with them and without.

    python benchmarks/soft.py runs/steps/finetune-1-epoch-0123456789ab runs/steps/benchmarks-0123456789ab

All questions are answered with images and without, once with the likelihoods of reference answers and sampled boxes and
once without both, in turns; the loading of the model is not counted. Use a trained checkpoint: one with random weights
does not end its answers, so that all of them have the most tokens. Target: at most 25 % more CPU time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

from firstsight.evaluate import requests, tasks
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.models.native import load_eval_model
from firstsight.evaluate.requests import ANSWER_TOKEN_LIMITS, Request, build_task_run, run_requests
from firstsight.evaluate.task import PromptStyle
from firstsight.site import Site

_NEEDS = {name: getattr(requests, name) for name in ("reference_forms", "sample_keys")}


def list_requests(path: Path, images: BenchmarkImages, style: PromptStyle) -> list[Request]:
    """All requests of the vision tasks in a folder, and those of text tasks in the prompt style "bare"."""
    found: list[Request] = []
    for name in sorted(folder.name for folder in path.iterdir() if folder.is_dir()):
        if name in tasks.TASKS and (style == "bare" or tasks.TASKS[name].kind == "vision"):
            run = build_task_run(
                tasks.get_task(name, path), path, style=style, images=images, box_format=None, answers_folder=None
            )
            found += run.requests("both")
    return found


def cpu_seconds(checkpoint: Path, path: Path, args: argparse.Namespace, *, is_soft: bool) -> float:
    """CPU seconds of all answers."""
    for name, function in _NEEDS.items():
        setattr(requests, name, function if is_soft else lambda task, question: ())
    images, model = BenchmarkImages(path), load_eval_model(checkpoint, site=Site(threads=args.threads))
    pending = list_requests(path, images, args.style)
    start = time.process_time()
    for _ in run_requests(model, pending, images, max_new_tokens=ANSWER_TOKEN_LIMITS[args.style]):
        pass
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("benchmarks", type=Path)
    parser.add_argument("--style", choices=("bare", "paper"), default="bare")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(args.repeats):
        for is_soft, values in seconds.items():
            values.append(cpu_seconds(args.checkpoint, args.benchmarks, args, is_soft=is_soft))
    without, with_soft = median(seconds[False]), median(seconds[True])
    print(f"without: {without:.2f} s; with: {with_soft:.2f} s; {with_soft / without - 1:+.0%} (target: +25 %)")


if __name__ == "__main__":
    main()
