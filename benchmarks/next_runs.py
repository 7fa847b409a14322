"""CPU seconds of `firstsight next` and `firstsight report` on a study of 200 arms whose results are stored.

    python -m benchmarks.next_runs

The arms are 20 starts with 10 seeds; the claims compare one start with the 19 others and with its neighbour. Steps are
written, not run. The reading of results is a part of the time, and printed alone too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.workspace.decision_store import DecisionStore

from firstsight.recipe.analysis import Claim, Comparison
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.study import Study, over_seeds
from firstsight.units import Share

TARGET_SECONDS, REPORT_TARGET_SECONDS = 5.0, 10.0
STARTS = range(0, 100, 5)


def many_arms(seeds: int) -> Study:
    """A study of 20 starts, with a claim about one of them against all others, and one against its neighbour."""
    scale = get_scale("smoke")
    arms = [branch_at(scale, Share(percent, 100)) for percent in STARTS]
    best, *others = [arm.name for arm in reversed(arms)]
    compare = {"best": tuple(others), "neighbour": (others[0],)}
    claims = [
        Claim(name=name, statement=name, source="benchmark", compare=(_more(best, names),))
        for name, names in compare.items()
    ]
    arms = over_seeds(arms, range(1, seeds + 1))
    return Study(name="many", scale="smoke", question="Which?", arms=arms, claims=tuple(claims))


def _more(best: str, others: tuple[str, ...]) -> Comparison:
    return Comparison(arms=(best,), others=others, measure="vision")


def main() -> None:
    """Print the CPU seconds of reading the results, of the whole answer and of the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--questions", type=int, default=60, help="Of each of 12 tasks.")
    args = parser.parse_args()
    study = many_arms(args.seeds)
    with TemporaryDirectory() as folder:
        vision = {percent: 0.5 + 0.001 * percent for percent in STARTS}
        store = DecisionStore(Path(folder), vision, noise=0.1, questions=args.questions)
        store.fill(study)
        for number in (1, 2):
            started = time.process_time()
            store.workspace.results(study)
            read = time.process_time() - started
            look = store.workspace.next(study, budget="20h")
            total = time.process_time() - started - read
            store.workspace.report(study)
            report = time.process_time() - started - read - total
            answer = f"next {total:.1f} s of {TARGET_SECONDS:g}, report {report:.1f} s of {REPORT_TARGET_SECONDS:g}"
            print(f"call {number}: {len(study.arms)} arms, results {read:.1f} s, {answer}")
        print(*look.lines(), *look.table(), sep="\n")


if __name__ == "__main__":
    main()
