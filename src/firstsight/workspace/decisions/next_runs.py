"""Which arms and seeds to run next, so that the open claims of a study are decided at the least cost; and running them.

Those of a combined study are the open claims of all its parts, whose arms share steps.

An option is a set of arms that get seeds up to a number. Its cost is that of its steps that are not stored, at the
speeds that this machine had in the study so far; its value is the expected number of claims that it decides an hour.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import accumulate
from math import fsum

from firstsight.errors import DamagedResult, DataError, QuantityError, RequestError
from firstsight.plan.graph import select_arms
from firstsight.plan.remaining_time import RemainingTime
from firstsight.plan.scheduler import RunSummary, missing_steps
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.recipe.analysis import Claim
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.claims import ClaimResult, claim_tests, evaluate_claims, family_sentence, rule_sentence
from firstsight.report.format import format_duration, format_percent
from firstsight.report.prospects import MAX_SEEDS, ClaimProspects
from firstsight.report.results import ArmResult
from firstsight.units import parse_duration
from firstsight.workspace.decisions.claim_studies import ClaimStudy, claim_studies, evaluated_seeds
from firstsight.workspace.execute import run_graph, worker_count
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay
from firstsight.workspace.study_graph import StoredStudy, prepare_study

LIKELY = 0.8
"""The chance to be decided at which the cost of a claim is stated."""
FEW_ARMS = 4
MAX_LISTED = 10
"""Options in a table."""
MIN_CHANCE = 0.005
"""Smaller chances are left out of a table."""
DECIDES = "decides, with its chance in %"
"""The last column of `NextRuns.table`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextOption:
    """Arms to run, by label, with the estimated time and the chance that each open claim is decided then."""

    labels: tuple[str, ...]
    seconds: float
    chances: Mapping[str, float]
    """By name of the claim."""

    def claims_text(self) -> str:
        """The claims that it may decide with their chances in percent, the likeliest first: two-points 62, best 10."""
        ranked = sorted(self.chances.items(), key=lambda item: -item[1])
        texts = [f"{name} {100 * chance:.0f}" for name, chance in ranked if chance >= MIN_CHANCE]
        return ", ".join(texts) or f"none, by {100 * MIN_CHANCE:g} % or more"

    @property
    def value(self) -> float:
        """The expected number of decided claims, a second."""
        return sum(self.chances.values()) / max(self.seconds, 1e-9)

    def cost_text(self) -> str:
        """The arms, their seeds and the time: start-080 x seed 2 (about 3.1 min on this machine)."""
        return f"{self} (about {format_duration(self.seconds)} on this machine)"

    def first_seed(self) -> tuple[str, ...]:
        """The labels of the lowest seed."""
        seeds = {label: int(label.rpartition(".s")[2]) for label in self.labels}
        return tuple(label for label, seed in seeds.items() if seed == min(seeds.values()))

    def __str__(self) -> str:
        """The arms and their new seeds: start-080, start-100 x seeds 4-5."""
        seeds: dict[str, list[int]] = {}
        for label in self.labels:
            name, _, seed = label.rpartition(".s")
            seeds.setdefault(name, []).append(int(seed))
        names: dict[tuple[int, ...], list[str]] = {}
        for name, numbers in seeds.items():
            names.setdefault(tuple(numbers), []).append(name)
        return "; ".join(f"{_arms_text(arms)} x {_seeds_text(numbers)}" for numbers, arms in names.items())


def _arms_text(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= FEW_ARMS else f"{len(names)} arms ({names[0]} to {names[-1]})"


def _seeds_text(numbers: Sequence[int]) -> str:
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"seeds {numbers[0]}-{numbers[-1]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class NextRuns:
    """A look at the claims of a study, or of all parts of a combined one, by the sequential rule, and what could be run
    next within the budget.
    """

    claims: tuple[ClaimResult, ...]
    """All claims that can be tested."""
    options: tuple[NextOption, ...]
    """For each set of arms the option of the greatest value that fits the budget, the best first."""
    cheapest_option: NextOption | None
    """The option of the least cost, also beyond the budget; None where nothing is open."""
    likely_option: NextOption | None
    """The least cost at which a claim is decided with the chance LIKELY; None where MAX_SEEDS seeds are not enough."""
    seeds: Mapping[str, int]
    """The number of evaluated seeds of each arm, by name."""
    studies: tuple[ClaimStudy, ...] = field(default=(), repr=False)
    """The study, or the parts of a combined one."""
    summary: RunSummary | None = None
    """Of the run before this look."""

    @property
    def open_claims(self) -> list[ClaimResult]:
        return [result for result in self.claims if result.verdict == "undecided"]

    def lines(self) -> Iterator[str]:
        """The claims with their verdicts, and what it would cost to decide the next one."""
        for result in self.claims:
            yield f"{result.claim.name}: {result.verdict}. {result.evidence}"
        yield rule_sentence("sequential")
        if sentence := family_sentence({result.claim.name: result for result in self.claims}):
            yield sentence
        if self.open_claims:
            yield self.cost_line()
        if self.cheapest_option and not self.options:
            time_text = format_duration(self.cheapest_option.seconds)
            yield f"The budget is used: the cheapest next run, {self.cheapest_option}, takes about {time_text}."

    def cost_line(self) -> str:
        """What it would cost to decide the next claim, as a sentence."""
        if not self.open_claims:
            return "All claims are decided."
        if self.likely_option is None:
            odds = f"a chance of {100 * LIKELY:.0f} %"
            return f"No open claim would be decided with {odds} by {MAX_SEEDS} further seeds of its arms."
        name, chance = max(self.likely_option.chances.items(), key=lambda item: item[1])
        cost = f"about {format_duration(self.likely_option.seconds)} on this machine"
        return f"To decide {name} with a chance of {format_percent(chance)} %: {self.likely_option}, {cost}."

    def table(self) -> list[tuple[str, ...]]:
        """The best options with a header row: arms and new seeds, time, open claims with the chance to decide them."""
        rows = [(str(o), format_duration(o.seconds), o.claims_text()) for o in self.options[:MAX_LISTED]]
        return [("run", "time", DECIDES), *rows]


def plan_next(
    stored: StoredStudy, *, budget: float, jobs: int | None = None, names: Collection[str] | None = None
) -> NextRuns:
    """What to run next within `budget` seconds. RequestError where the study's claims cannot be decided by seeds.

    With `names` only these claims are looked at.
    """
    studies = claim_studies(stored)
    arms = [arm for study in studies for arm in study.arms]
    considered = [result for study in studies for result in study.claims if names is None or result.claim.name in names]
    claims = tuple(result for result in considered if result.verdict != "not tested")
    _check_decidable(stored, studies, claims)
    prospects = ClaimProspects([result for result in claims if result.verdict == "undecided"])
    options = _all_options(stored, arms, prospects, jobs=jobs)
    affordable = [option for option in options if option.seconds <= budget]
    best = {frozenset(_names(o)): o for o in sorted(affordable, key=lambda o: (o.value, -o.seconds))}
    likely = [option for option in options if max(option.chances.values()) >= LIKELY]
    return NextRuns(
        claims=claims,
        options=tuple(sorted(best.values(), key=lambda option: -option.value)),
        cheapest_option=min(options, key=lambda option: option.seconds, default=None),
        likely_option=min(likely, key=lambda option: option.seconds, default=None),
        seeds=evaluated_seeds(arms),
        studies=tuple(studies),
    )


def _all_options(
    stored: StoredStudy, arms: Sequence[ArmResult], prospects: ClaimProspects, *, jobs: int | None
) -> list[NextOption]:
    """Options for the arms of each claim, and for those of the best claim and the next ones together.

    Arms of several studies that are one model are in an option together: they have the same steps.
    """
    finals = {arm.name: stored.graph.final_step(arm.label) for arm in reversed(arms)}
    sets = prospects.arm_sets()
    names = list(dict.fromkeys(name for arms in sets for name in arms))
    costs = _SeedCosts(stored, arms, names=set(names), jobs=jobs)

    def options(models: Collection[Step]) -> list[NextOption]:
        equal_arms = tuple(name for name in names if finals[name] in models)
        return [costs.option(equal_arms, count, prospects) for count in _seed_counts(prospects, equal_arms)]

    by_set = {models: options(models) for models in (frozenset(finals[name] for name in arms) for arms in sets)}
    ranked = sorted(by_set, key=lambda models: -max(option.value for option in by_set[models]))
    unions = accumulate(ranked, frozenset[Step].union)
    return [option for models in dict.fromkeys((*ranked, *unions)) for option in by_set.get(models) or options(models)]


def _seed_counts(prospects: ClaimProspects, arms: Sequence[str]) -> range:
    start = prospects.min_seeds(arms) + 1
    return range(start, start + MAX_SEEDS)


def _names(option: NextOption) -> set[str]:
    return {label.rpartition(".s")[0] for label in option.labels}


def _check_decidable(stored: StoredStudy, studies: Sequence[ClaimStudy], claims: Sequence[ClaimResult]) -> None:
    """RequestError without claims that can be tested, for claims about arms that are not stored, and for one seed."""
    study = stored.study
    if not claims:
        results = [result for part in studies for result in part.claims]
        reasons = "; ".join(f"{result.claim.name}: {result.evidence}" for result in results)
        got = f"Got {len(results)}: {reasons}" if reasons else "Got none. Write claims=(Claim(...),) in its Study."
        raise RequestError(f"{study.name}: wanted claims about its arms, which further seeds could decide. {got}")
    names = {name for result in claims for _, pair in claim_tests(result.claim) for name in (pair.a, pair.b)}
    arms = [arm for part in studies for arm in part.arms if arm.name in names and arm.label not in part.added_labels]
    if missing := [arm for arm in arms if arm.scores is None]:
        rest = f" and {len(missing) - FEW_ARMS} more" if len(missing) > FEW_ARMS else ""
        lacking = f"{', '.join(arm.label for arm in missing[:FEW_ARMS])}{rest}"
        wanted = f"{study.name}: wanted stored scores of all arms that the claims compare. Got none of {lacking}"
        if damaged := next((arm.missing_reason for arm in missing if arm.damage), ""):
            raise DamagedResult(f"{wanted}: {damaged}")
        num_seeds = len({arm.seed for arm in study.arms})
        raise RequestError(f"{wanted}. Run {study_command('run', stored, num_seeds)} first.")
    differences = [difference for result in claims for difference in result.differences]
    if all(difference.estimate is None for difference in differences):
        raise RequestError(
            f"{study.name}: wanted at least two seeds of every arm: one has no variance between seeds. Got one. "
            f"Run {study_command('run', stored, 2)} first, and give --seeds 2 here too."
        )


def cheapest_runs(stored: StoredStudy, results: StudyAnalysis, *, jobs: int | None = None) -> dict[str, str]:
    """What to run to decide each undecided claim of a study at the least cost, as a sentence by the claim's name.

    Of a claim whose arms have no scores, or those of one seed, the runs after which its chance is known. A combined
    study has no claims of its own.
    """
    open_claims = [result.claim for result in results.claims if result.verdict == "undecided"]
    if not open_claims:
        return {}
    claims = evaluate_claims(open_claims, results.arms, results.comparison.with_rule("sequential"))
    trained = {arm.name for arm in results.arms if arm.stages}
    names = {name for claim in open_claims for name in _claim_arms(claim)}
    costs = _SeedCosts(stored, results.arms, names=names & trained, jobs=jobs)
    return {result.claim.name: _cheapest_run(result, results.arms, costs) for result in claims}


def _claim_arms(claim: Claim) -> list[str]:
    return list(dict.fromkeys(name for _, pair in claim_tests(claim) for name in (pair.a, pair.b)))


def _cheapest_run(result: ClaimResult, arms: Sequence[ArmResult], costs: _SeedCosts) -> str:
    """The least seeds of its arms at which a claim is decided with the chance LIKELY, as a sentence."""
    names = _claim_arms(result.claim)
    own = [arm for arm in arms if arm.name in names]
    if damaged := [arm.label for arm in own if arm.scores is None and arm.damage]:
        return f"Not known: stored results of {_arms_text(damaged)} are damaged. Run firstsight doctor --repair."
    if missing := [arm.label for arm in own if arm.scores is None]:
        first = "Not all of its arms have scores"
        return f"{first}. Run {costs.first_run(missing)}; the chance is known after that."
    trained = list(dict.fromkeys(arm.name for arm in own if arm.stages))
    if all(difference.estimate is None for difference in result.differences):
        if len(trained) < len({arm.name for arm in own}):
            return "No seed can decide it: it compares a model that is not trained here. More questions could."
        run = costs.first_run(costs.next_labels(trained))
        return f"One seed has no variance between seeds. Run {run}; the chance is known after that."
    if result.verdict != "undecided":
        return f"By the sequential rule, which allows further looks, it is decided: {result.verdict}."
    prospects = ClaimProspects([result])
    for compared in prospects.arm_sets():
        for count in _seed_counts(prospects, compared):
            option = costs.option(compared, count, prospects)
            if (chance := option.chances[result.claim.name]) >= LIKELY:
                return f"{option.cost_text()} decides it with a chance of {format_percent(chance, 0)} %."
    odds = f"a chance of {100 * LIKELY:.0f} %"
    return f"{MAX_SEEDS} further seeds of its arms would not decide it with {odds}: it needs more questions too."


def study_command(name: str, stored: StoredStudy, num_seeds: int | None = None) -> str:
    """A command about a study and its store, such as firstsight run when --scale cpu --seeds 2 --out runs."""
    seeds = f" --seeds {num_seeds}" if num_seeds else ""
    return f"firstsight {name} {stored.study.name} --scale {stored.study.scale}{seeds} --out {stored.root}"


class _SeedCosts:
    """The time of arms at further seeds: of the steps that are not stored, each once."""

    def __init__(self, stored: StoredStudy, arms: Sequence[ArmResult], *, names: set[str], jobs: int | None) -> None:
        """`names` are the arms that may get seeds. Seeds after the next new one cost as much as that."""
        store = stored.open_store()
        self._workers = worker_count(stored.site, jobs)
        self._scored = {arm.label for arm in arms if arm.scores is not None}
        seeds = sorted({arm.seed for arm in arms})
        self._seeds = [*seeds, *range(seeds[-1] + 1, seeds[-1] + 1 + MAX_SEEDS)]
        self._new_seed = seeds[-1] + 1
        labels = [label for seed in self._seeds[: len(seeds) + 1] for label in self._missing(sorted(names), seed)]
        extended = replace(stored, study=stored.study.with_arms(labels))
        self._steps = extended.graph.arms
        missing = missing_steps(extended.graph, store)
        self._seconds = _measured_speeds(stored, store).step_seconds(missing)
        self._costs: dict[tuple[tuple[str, ...], int], tuple[float, float]] = {}

    def option(self, arms: tuple[str, ...], num_seeds: int, prospects: ClaimProspects) -> NextOption:
        """The option that gives `arms` the first `num_seeds` seeds of the study."""
        seeds = self._seeds[:num_seeds]
        costs = [self._cost(arms, min(seed, self._new_seed)) for seed in seeds]
        return NextOption(
            labels=tuple(label for seed in seeds for label in self._missing(arms, seed)),
            seconds=max(fsum(total for total, _ in costs) / self._workers, *(chain for _, chain in costs)),
            chances=prospects.chances(arms, num_seeds),
        )

    def next_labels(self, arms: Sequence[str]) -> list[str]:
        """The next new seed of `arms`."""
        return self._missing(arms, self._new_seed)

    def first_run(self, labels: Sequence[str]) -> str:
        """These arms and the time of their missing steps as text."""
        steps = set[Step]().union(*(self._steps[label] for label in labels)) & self._seconds.keys()
        seconds = fsum(map(self._seconds.__getitem__, steps)) / self._workers
        return NextOption(labels=tuple(labels), seconds=seconds, chances={}).cost_text()

    def _missing(self, arms: Sequence[str], seed: int) -> list[str]:
        return [label for name in arms if (label := f"{name}.s{seed}") not in self._scored]

    def _cost(self, arms: tuple[str, ...], seed: int) -> tuple[float, float]:
        """Seconds of all missing steps of arms at one seed together, and of the longest chain of one arm."""
        if (arms, seed) not in self._costs:
            chains = [set(self._steps[label]) & self._seconds.keys() for label in self._missing(arms, seed)]
            seconds = [fsum(map(self._seconds.__getitem__, chain)) for chain in chains]
            steps = set[Step]().union(*chains)
            self._costs[arms, seed] = fsum(map(self._seconds.__getitem__, steps)), max(seconds, default=0.0)
        return self._costs[arms, seed]


def _measured_speeds(stored: StoredStudy, store: Store) -> RemainingTime:
    """The speeds of the study's stored steps, from their provenance."""
    speeds = RemainingTime(workers=1)
    for step in stored.graph.steps:
        with suppress(DataError):  # a damaged record says nothing
            if store.has(step.address):
                record = store.provenance(step.address)
                started, ended = (datetime.fromisoformat(record[key]).timestamp() for key in ("started", "ended"))
                speeds.start(step, time=started)
                speeds.finish(step, time=ended)
    return speeds


def run_until_decided(
    stored: StoredStudy,
    *,
    budget: float,
    max_runs: int | None = None,
    jobs: int | None = None,
    display: ProgressDisplay = NO_DISPLAY,
) -> Iterator[NextRuns]:
    """Look at the claims, run the best option within `budget` seconds, and so on; gives each look.

    Of a study only these arms are run, not what else is missing. Ends where all claims are decided, no option fits what
    is left of the budget, a step has failed, or after `max_runs` runs. Of an option only the first seed is run before
    the next look, unless `max_runs` limits the looks. RequestError, before anything runs, where not even the cheapest
    option fits.
    """
    deadline, summary, num_runs = time.monotonic() + budget, None, 0
    state = plan_next(stored, budget=budget, jobs=jobs)
    check_budget(state, budget)
    while True:
        for study in state.studies:
            study.write_record()
        yield replace(state, summary=summary)
        is_stopped = (summary is not None and not summary.ok) or num_runs == max_runs
        if is_stopped or not state.open_claims or not state.options:
            return
        labels = state.options[0].labels if max_runs else state.options[0].first_seed()
        for study in state.studies:
            study.write_record(labels)
        stored = StoredStudy.find(stored.study, stored.root, stored.site)
        store, graph = prepare_study(stored, jobs=jobs, display=display, select=partial(select_arms, labels=labels))
        summary = run_graph(select_arms(graph, labels), store, site=stored.site, jobs=jobs, display=display)
        num_runs += 1
        state = plan_next(stored, budget=max(deadline - time.monotonic(), 0.0), jobs=jobs)


def check_budget(state: NextRuns, budget: float) -> None:
    """RequestError where claims are open and not even the cheapest option fits the budget in seconds."""
    if state.open_claims and not state.options and state.cheapest_option:
        need = f"{format_duration(state.cheapest_option.seconds)} ({state.cheapest_option})"
        raise RequestError(f"--budget: wanted at least {need}, the cheapest next run. Got {format_duration(budget)}.")


def parse_budget(budget: str | float) -> float:
    """Seconds of a budget: a number of seconds above 0, or text such as 2h; QuantityError otherwise."""
    try:
        return parse_duration(budget if isinstance(budget, str) else f"{budget:f}s")
    except QuantityError as error:
        raise QuantityError(f"--budget: {error}") from error
