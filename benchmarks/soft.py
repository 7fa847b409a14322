"""Cost of the continuous scores: the answers of one checkpoint to a folder of benchmarks, with them and without.

    python benchmarks/soft.py runs/steps/finetune-1-epoch-0123456789ab runs/steps/benchmarks-0123456789ab

All questions are answered with images and without, in five parts, once with the likelihoods of reference answers and
sampled boxes and once without both, in turns; the loading of the model and a first turn are not counted. Use a trained
checkpoint: one with random weights does not end its answers, so that all of them have the most tokens. Target: at most
25 % more CPU time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from zlib import crc32

from firstsight.evaluate import requests, tasks
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.models.interface import EvalModel
from firstsight.evaluate.models.native import load_eval_model
from firstsight.evaluate.requests import ANSWER_TOKEN_LIMITS, Request, build_task_run, run_requests
from firstsight.evaluate.task import PromptStyle
from firstsight.site import Site

_NEEDS = {name: getattr(requests, name) for name in ("reference_forms", "sample_keys")}


def list_requests(path: Path, images: BenchmarkImages, style: PromptStyle) -> list[list[Request]]:
    """The requests of the vision tasks in a folder, and of text tasks in the prompt style "bare", in five parts.

    The first part has those without an image; all requests about one image are in one of the others.
    """
    parts: list[list[Request]] = [[] for _ in range(5)]
    for name in sorted(folder.name for folder in path.iterdir() if folder.is_dir()):
        if name in tasks.TASKS and (style == "bare" or tasks.TASKS[name].kind == "vision"):
            run = build_task_run(
                tasks.get_task(name, path), path, style=style, images=images, box_format=None, answers_folder=None
            )
            for request in run.requests("both"):
                parts[1 + crc32(request.image[0].encode()) % 4 if request.uses_image else 0].append(request)
    return parts


def cpu_seconds(
    model: EvalModel, pending: list[Request], images: BenchmarkImages, *, limit: int, is_soft: bool
) -> float:
    """CPU seconds of the answers to these requests."""
    for name, function in _NEEDS.items():
        setattr(requests, name, function if is_soft else lambda task, question: ())
    start = time.process_time()
    for _ in run_requests(model, pending, images, max_new_tokens=limit):
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
    images, model = BenchmarkImages(args.benchmarks), load_eval_model(args.checkpoint, site=Site(threads=args.threads))
    parts = list_requests(args.benchmarks, images, args.style)
    seconds = {False: 0.0, True: 0.0}
    for repeat in range(args.repeats + 1):
        for number, pending in enumerate(parts):
            limit = ANSWER_TOKEN_LIMITS[args.style]
            costs = {is_soft: cpu_seconds(model, pending, images, limit=limit, is_soft=is_soft) for is_soft in seconds}
            for is_soft, cost in costs.items():
                seconds[is_soft] += cost if repeat else 0.0  # the first turn loads code and lays out weights
            print(f"part {number}: without {costs[False]:6.2f} s, with {costs[True]:6.2f} s")
    print(f"without {seconds[False]:.2f} s, with {seconds[True]:.2f} s: {seconds[True] / seconds[False] - 1:+.0%}")


if __name__ == "__main__":
    main()
