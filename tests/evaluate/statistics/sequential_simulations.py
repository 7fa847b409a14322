"""False decisions and seeds until a decision, with the sequential rule and without it, in simulated studies.

    python -m tests.evaluate.statistics.sequential_simulations

prints the tables of docs/why/differences and docs/log.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from firstsight.evaluate.statistics.differences import FAMILY_ALPHA, DifferenceEstimate, crossed_estimate, holm
from firstsight.evaluate.statistics.sequential import look_share, sequential_p_value


@dataclass(frozen=True, kw_only=True)
class SequentialStudy:
    """Arms over seeds and questions, and a claim that compares the first arm with each of `comparisons` others.

    Spreads are standard deviations in units of that of a difference from seed to seed.
    """

    arms: int = 6
    comparisons: int = 5
    seeds: int = 20
    effect: float = 0.0
    """The true difference of the first arm from the others."""
    question_spread: float = 0.0
    """Of a difference between draws of the questions; with any, the questions are simulated."""
    outlier_factor: float = 1.0
    """Factor of the first arm's spread over seeds."""

    def __str__(self) -> str:
        parts = [f"{self.arms} arms, {self.comparisons} comparisons"]
        parts += [f"questions spread {self.question_spread:g}"] * bool(self.question_spread)
        parts += [f"the first arm's seeds spread {self.outlier_factor:g} times"] * (self.outlier_factor != 1)
        return ", ".join(parts)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Scores [arms, seeds], and deviations of questions from the arms' means [arms, questions] or None."""
        scale = np.where(np.arange(self.arms) == 0, self.outlier_factor, 1.0)[:, None] / np.sqrt(2)
        scores = rng.normal(0, 2, (1, self.seeds)) + scale * rng.normal(size=(self.arms, self.seeds))
        scores[0] += self.effect
        if not self.question_spread:
            return scores, None
        questions = rng.normal(size=(self.arms, 200)) * self.question_spread * np.sqrt(200 / 2)
        return scores + questions.mean(1, keepdims=True), questions


Scores = tuple[np.ndarray, np.ndarray | None]


def estimate_look(drawn: Scores, other: int, *, seeds: int, pool: np.ndarray | None = None) -> DifferenceEstimate:
    """The first arm minus `other` over the first seeds; the variance is pooled over the arms in `pool`."""
    scores, questions = drawn
    pooled = scores[:, :seeds] if pool is None else scores[pool, :seeds]
    influences = None
    if questions is not None:
        difference = questions[0] - questions[other]
        influences = np.tile((difference - difference.mean()) / len(difference), (seeds, 1))
    difference = scores[0, :seeds] - scores[other, :seeds]
    estimate = crossed_estimate(difference, arm_scores=pooled, influences=influences)
    assert estimate is not None
    return estimate


def p_values(study: SequentialStudy, drawn: Scores) -> np.ndarray:
    """The p-value of each comparison at each look, [comparisons, looks at 2, 3, ... seeds]."""
    looks = range(2, study.seeds + 1)
    others = range(1, study.comparisons + 1)
    return np.array([[estimate_look(drawn, other, seeds=n).p_value() for n in looks] for other in others])


def is_significant(adjusted: np.ndarray) -> np.ndarray:
    """Whether Holm's procedure finds any comparison significant at each look, [looks], from [comparisons, looks]."""
    return np.array([min(d.adjusted for d in holm(column.tolist())) <= FAMILY_ALPHA for column in adjusted.T])


def decision_rates(study: SequentialStudy, *, trials: int) -> dict[str, float]:
    """Shares of studies with any significant comparison, by how they are looked at.

    once: with three seeds; always: the same test at every number of seeds; rule: the sequential rule at every number
    of seeds; both: once with three seeds, then by the rule.
    """
    rng, shares = np.random.default_rng(4), look_share_array(study.seeds)
    outcomes = []
    for _ in range(trials):
        p = p_values(study, study.draw(rng))
        plain, by_rule = is_significant(p), is_significant(np.minimum.accumulate(p / shares, axis=1))
        outcomes.append((plain[1], plain.any(), by_rule.any(), plain[1] or by_rule.any()))
    return dict(zip(("once", "always", "rule", "both"), np.mean(outcomes, axis=0).tolist(), strict=True))


def look_share_array(seeds: int) -> np.ndarray:
    return np.array([look_share(n) for n in range(2, seeds + 1)])


def chasing_rate(study: SequentialStudy, *, trials: int) -> float:
    """The share of studies with a decision by the rule, where each next seed goes to the smallest p-value alone.

    The first arm and one other get it, until anything is significant or all seeds are used; all arms begin with two.
    """
    rng, num_decided = np.random.default_rng(5), 0
    for _ in range(trials):
        num_decided += _is_decided_by_chasing(study, study.draw(rng))
    return num_decided / trials


def _is_decided_by_chasing(study: SequentialStudy, drawn: Scores) -> bool:
    counts = np.full(study.arms, 2)
    others = range(1, study.comparisons + 1)
    while True:
        p = []
        for other in others:
            looks = range(2, counts[other] + 1)
            estimates = [estimate_look(drawn, other, seeds=n, pool=np.flatnonzero(counts >= n)) for n in looks]
            p.append(sequential_p_value(estimates)[0])
        if min(decision.adjusted for decision in holm(p)) <= FAMILY_ALPHA:
            return True
        chased = 1 + int(np.argmin(p))
        if counts[chased] == study.seeds:
            return False
        counts[chased] += 1
        counts[0] = max(counts[0], counts[chased])


def family_rates(study: SequentialStudy, *, claims: int, trials: int) -> dict[str, float]:
    """Papers of many claims without an effect, each looked at by the rule at every number of seeds.

    claim: the share of claims that are decided; any: of papers with any; together: of papers in which any is decided
    after Holm's correction over the claims. The claims of `trials` papers are drawn from those of `trials` studies.
    """
    rng, shares = np.random.default_rng(8), look_share_array(study.seeds)
    smallest = [(p_values(study, study.draw(rng)) / shares).min(1).tolist() for _ in range(trials)]
    p = np.array([min(decision.adjusted for decision in holm(looks)) for looks in smallest], dtype=float)
    papers = p[np.array(rng.integers(0, trials, (trials, claims)))]
    together = [min(decision.adjusted for decision in holm(paper.tolist())) for paper in papers]
    flags = {"claim": p, "any": papers.min(1), "together": np.array(together)}
    return {name: float(np.mean(values <= FAMILY_ALPHA)) for name, values in flags.items()}


def seeds_until_decided(study: SequentialStudy, *, trials: int) -> np.ndarray:
    """The number of seeds at which the rule finds the first comparison significant, [trials]; inf where it does not."""
    rng, shares = np.random.default_rng(6), look_share_array(study.seeds)
    seeds = []
    for _ in range(trials):
        significant = p_values(study, study.draw(rng))[0] / shares <= FAMILY_ALPHA
        seeds.append(2 + int(significant.argmax()) if significant.any() else np.inf)
    return np.array(seeds)


def fixed_power(study: SequentialStudy, *, trials: int) -> np.ndarray:
    """The power of one test at exactly 2, 3, ... seeds, [looks]."""
    rng = np.random.default_rng(7)
    return np.mean([p_values(study, study.draw(rng))[0] <= FAMILY_ALPHA for _ in range(trials)], axis=0)


NULL_STUDIES = [
    SequentialStudy(arms=2, comparisons=1),
    SequentialStudy(comparisons=1),
    SequentialStudy(),
    SequentialStudy(question_spread=0.3),
    SequentialStudy(question_spread=2.0),
    SequentialStudy(outlier_factor=3.0),
]
NUM_CLAIMS = 29
"""Those of the study `paper` at smoke."""
EFFECTS = (0.5, 1.0, 2.0, 4.0)


def lines(trials: int) -> Iterator[str]:
    """Both tables as lines of Markdown."""
    yield f"{trials} studies without an effect, looks at 2, 3 ... 20 seeds; false decisions in %"
    for study in NULL_STUDIES:
        rates = decision_rates(study, trials=trials)
        yield f"| {study} | {' | '.join(f'{100 * rate:.1f}' for rate in rates.values())} |"
    chasing = SequentialStudy(seeds=12)
    yield f"| {chasing}, seeds for the smallest p alone | | | {100 * chasing_rate(chasing, trials=trials):.1f} | |"
    yield f"papers of {NUM_CLAIMS} claims; false decisions in % of claims, of papers, of papers after Holm over claims"
    for study in (SequentialStudy(comparisons=1), SequentialStudy()):
        rates = family_rates(study, claims=NUM_CLAIMS, trials=trials)
        yield f"| {study} | {' | '.join(f'{100 * rate:.1f}' for rate in rates.values())} |"
    yield "seeds until decided: the rule's median, 80 %, 95 %; the fewest seeds of a fixed test with power 50, 80, 95 %"
    for arms in (2, 6):
        for effect in EFFECTS:
            study = SequentialStudy(arms=arms, comparisons=1, effect=effect, seeds=30 if effect > 1 else 90)
            seeds = np.quantile(seeds_until_decided(study, trials=trials // 4), (0.5, 0.8, 0.95), method="higher")
            power = fixed_power(study, trials=trials // 4)
            fixed = [2 + int((power >= target).argmax()) for target in (0.5, 0.8, 0.95)]
            yield f"| {arms} arms | {effect:g} | {' | '.join(f'{n:g}' for n in (*seeds, *fixed))} |"


def print_tables(trials: int, write_line: Callable[[str], None]) -> None:
    """Both tables, line by line."""
    for line in lines(trials):
        write_line(line)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The sequential rule in simulations")
    parser.add_argument("--trials", type=int, default=2000)
    print_tables(parser.parse_args().trials, lambda line: print(line, flush=True))  # noqa: T201
