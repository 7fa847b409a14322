"""Which arms and seeds to run next, so that the open claims of a study are decided at the least cost; and running them.

An option is a set of arms that get seeds up to a number. Its cost is that of its steps that are not stored, at the
speeds that this machine had in the study so far; its value is the expected number of claims that it decides an hour.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import fsum

from firstsight.errors import DamagedResult, DataError, RequestError
from firstsight.plan.remaining_time import RemainingTime
from firstsight.plan.scheduler import RunSummary, missing_steps
from firstsight.plan.step import Step
from firstsight.plan.store import Store
from firstsight.report.claims import ClaimResult, claim_tests, rule_sentence
from firstsight.report.format import format_duration, format_percent
from firstsight.report.prospects import MAX_SEEDS, ClaimProspects
from firstsight.report.results import ArmResult
from firstsight.units import parse_duration
from firstsight.workspace.decisions.record import Look, SequentialRecord, record_path
from firstsight.workspace.execute import run_graph, worker_count
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay
from firstsight.workspace.results import StudyResults
from firstsight.workspace.study_graph import StoredStudy, prepare_study

LIKELY = 0.8
"""The chance to be decided at which the cost of a claim is stated."""
FEW_ARMS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class NextOption:
    """Arms to run, by label, with the estimated time and the chance that each open claim is decided then."""

    labels: tuple[str, ...]
    seconds: float
    chances: Mapping[str, float]
    """By name of the claim."""

    @property
    def value(self) -> float:
        """The expected number of decided claims, a second."""
        return sum(self.chances.values()) / max(self.seconds, 1e-9)

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
    """A look at the claims of a study by the sequential rule, and what could be run next within the budget."""

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
        """The options with a header row: arms and new seeds, time, chance to decide each open claim in percent."""
        names = [result.claim.name for result in self.open_claims]
        header = ("run", "time", *(f"decides {name}, %" for name in names))
        rows = [
            (str(option), format_duration(option.seconds), *(format_percent(option.chances[name]) for name in names))
            for option in self.options
        ]
        return [header, *rows]


def plan_next(
    stored: StoredStudy, *, budget: float, jobs: int | None = None, names: Collection[str] | None = None
) -> NextRuns:
    """What to run next within `budget` seconds. RequestError where the study's claims cannot be decided by seeds.

    With `names` only these claims are looked at.
    """
    sequential = replace(stored, record=stored.record or SequentialRecord())
    results = StudyResults(sequential)
    considered = [result for result in results.claims if names is None or result.claim.name in names]
    claims = tuple(result for result in considered if result.verdict != "not tested")
    open_claims = [result for result in claims if result.verdict == "undecided"]
    _check_decidable(sequential, results, claims)
    prospects = ClaimProspects(open_claims)
    sets = prospects.arm_sets()
    costs = _SeedCosts(sequential, results.arms, names={name for arms in sets for name in arms}, jobs=jobs)
    options = [costs.option(arms, count, prospects) for arms in sets for count in _seed_counts(prospects, arms)]
    affordable = [option for option in options if option.seconds <= budget]
    best = {frozenset(_names(o)): o for o in sorted(affordable, key=lambda o: (o.value, -o.seconds))}
    likely = [option for option in options if max(option.chances.values()) >= LIKELY]
    return NextRuns(
        claims=claims,
        options=tuple(sorted(best.values(), key=lambda option: -option.value)),
        cheapest_option=min(options, key=lambda option: option.seconds, default=None),
        likely_option=min(likely, key=lambda option: option.seconds, default=None),
        seeds=_evaluated_seeds(results.arms),
    )


def _seed_counts(prospects: ClaimProspects, arms: Sequence[str]) -> range:
    start = prospects.min_seeds(arms) + 1
    return range(start, start + MAX_SEEDS)


def _names(option: NextOption) -> set[str]:
    return {label.rpartition(".s")[0] for label in option.labels}


def _evaluated_seeds(arms: Sequence[ArmResult]) -> dict[str, int]:
    counts = dict.fromkeys((arm.name for arm in arms), 0)
    for arm in arms:
        counts[arm.name] += arm.scores is not None
    return counts


def _check_decidable(stored: StoredStudy, results: StudyResults, claims: Sequence[ClaimResult]) -> None:
    """RequestError without claims that can be tested, for claims about arms that are not stored, and for one seed."""
    study, record = stored.study, stored.record
    if not claims:
        reasons = "; ".join(f"{result.claim.name}: {result.evidence}" for result in results.claims)
        got = f"Got {len(study.claims)}: {reasons}" if reasons else "Got none. Write claims=(Claim(...),) in its Study."
        raise RequestError(f"{study.name}: wanted claims about its arms, which further seeds could decide. {got}")
    names = {name for result in claims for _, pair in claim_tests(result.claim) for name in (pair.a, pair.b)}
    added = set(record.labels) if record else set[str]()
    arms = [arm for arm in results.arms if arm.name in names and arm.label not in added]
    if missing := [arm for arm in arms if arm.scores is None]:
        rest = f" and {len(missing) - FEW_ARMS} more" if len(missing) > FEW_ARMS else ""
        lacking = f"{', '.join(arm.label for arm in missing[:FEW_ARMS])}{rest}"
        wanted = f"{study.name}: wanted stored scores of all arms that the claims compare. Got none of {lacking}"
        if damaged := next((arm.missing_reason for arm in missing if arm.damage), ""):
            raise DamagedResult(f"{wanted}: {damaged}")
        num_seeds = len({arm.seed for arm in study.arms})
        raise RequestError(f"{wanted}. Run {study_command('run', stored, num_seeds)} first.")
    differences = [difference for result in claims for difference in result.differences]
    if any(difference.estimate is None for difference in differences):
        raise RequestError(
            f"{study.name}: wanted at least two seeds of every arm: one has no variance between seeds. Got one. "
            f"Run {study_command('run', stored, 2)} first, and give --seeds 2 here too."
        )


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

    Ends where all claims are decided, no option fits what is left of the budget, a step has failed, or after
    `max_runs` runs. Of an option only the first seed is run before the next look, unless `max_runs` limits the looks.
    RequestError, before anything runs, where not even the cheapest option fits.
    """
    deadline, path = time.monotonic() + budget, record_path(stored.study, stored.root)
    state, summary, num_runs = plan_next(stored, budget=budget, jobs=jobs), None, 0
    check_budget(state, budget)
    record = stored.record or SequentialRecord()
    base = stored.study
    while True:
        record = record.with_look(_look(state))
        record.write(path)
        yield replace(state, summary=summary)
        is_stopped = (summary is not None and not summary.ok) or num_runs == max_runs
        if is_stopped or not state.open_claims or not state.options:
            return
        labels = state.options[0].labels if max_runs else state.options[0].first_seed()
        record = replace(record, labels=tuple(dict.fromkeys((*record.labels, *labels))))
        record.write(path)
        stored = StoredStudy(base.with_arms(record.labels), stored.root, stored.site, record)
        store, graph = prepare_study(stored, jobs=jobs, display=display)
        summary = run_graph(graph, store, site=stored.site, jobs=jobs, display=display)
        num_runs += 1
        state = plan_next(stored, budget=max(deadline - time.monotonic(), 0.0), jobs=jobs)


def _look(state: NextRuns) -> Look:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Look(time=now, seeds=state.seeds, verdicts={r.claim.name: r.verdict for r in state.claims})


def check_budget(state: NextRuns, budget: float) -> None:
    """RequestError where claims are open and not even the cheapest option fits the budget in seconds."""
    if state.open_claims and not state.options and state.cheapest_option:
        need = f"{format_duration(state.cheapest_option.seconds)} ({state.cheapest_option})"
        raise RequestError(f"--budget: wanted at least {need}, the cheapest next run. Got {format_duration(budget)}.")


def parse_budget(budget: str | float) -> float:
    """Seconds of a budget: a number of seconds above 0, or text such as 2h; QuantityError otherwise."""
    return parse_duration(budget if isinstance(budget, str) else f"{budget:f}s")
