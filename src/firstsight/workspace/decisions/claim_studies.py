"""The studies whose claims are looked at together: one alone, or the parts of a combined one.

Claims and arms of a part are called as in the combined study, by study and name: when.two-points, when.start-080.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

from firstsight.recipe.analysis import Comparison
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.claims import ClaimResult
from firstsight.report.collect import collect_results
from firstsight.report.compare import PairedDifference
from firstsight.report.results import ArmResult
from firstsight.workspace.decisions.record import Look, SequentialRecord, record_path
from firstsight.workspace.study_graph import StoredStudy


@dataclass(frozen=True)
class ClaimStudy:
    """A study and a look at its claims by the sequential rule."""

    stored: StoredStudy
    prefix: str = ""
    """Before the names of its arms and claims: when. in a combined study."""

    @cached_property
    def record(self) -> SequentialRecord:
        """The record before this look; empty where there is none."""
        return self.stored.record or SequentialRecord()

    @cached_property
    def _results(self) -> StudyAnalysis:
        stored = self.stored
        arms = collect_results(stored.study, stored.open_store(), stored.graph)
        return StudyAnalysis(arms, stored.study, rule="sequential")

    @cached_property
    def claims(self) -> list[ClaimResult]:
        """All claims."""
        return [_with_prefix(result, self.prefix) for result in self._results.claims]

    @cached_property
    def arms(self) -> list[ArmResult]:
        """All arms."""
        prefix = self.prefix
        return [replace(arm, name=f"{prefix}{arm.name}", label=f"{prefix}{arm.label}") for arm in self._results.arms]

    @property
    def added_labels(self) -> set[str]:
        """The arms that were added to decide claims."""
        return {f"{self.prefix}{label}" for label in self.record.labels}

    def write_record(self, labels: Collection[str] = ()) -> None:
        """Store this look, and those of `labels` that are arms of this study as added; nothing without claims."""
        if self._look.verdicts:
            names = {f"{self.prefix}{arm.name}" for arm in self.stored.study.arms}
            added = [label.removeprefix(self.prefix) for label in labels if label.rpartition(".s")[0] in names]
            record = self.record.with_look(self._look)
            record = replace(record, labels=tuple(dict.fromkeys((*record.labels, *added))))
            record.write(record_path(self.stored.study, self.stored.root))

    @cached_property
    def _look(self) -> Look:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        verdicts = {r.claim.name: r.verdict for r in self._results.claims if r.verdict != "not tested"}
        return Look(time=now, seeds=evaluated_seeds(self._results.arms), verdicts=verdicts)


def claim_studies(stored: StoredStudy) -> list[ClaimStudy]:
    """The study, or the parts of a combined one."""
    if not stored.parts:
        return [ClaimStudy(stored)]
    return [ClaimStudy(part, f"{part.study.name}.") for part in stored.parts]


def evaluated_seeds(arms: Sequence[ArmResult]) -> dict[str, int]:
    """The number of evaluated seeds of each arm, by name."""
    counts = dict.fromkeys((arm.name for arm in arms), 0)
    for arm in arms:
        counts[arm.name] += arm.scores is not None
    return counts


def _with_prefix(result: ClaimResult, prefix: str) -> ClaimResult:
    """A result with `prefix` before the names of the claim and of all arms; its evidence stays."""
    if not prefix:
        return result
    claim = result.claim
    comparisons = tuple(_prefixed_comparisons(claim.compare, prefix))
    return replace(
        result,
        claim=replace(claim, name=f"{prefix}{claim.name}", compare=comparisons),
        differences=tuple(_prefixed_difference(difference, prefix) for difference in result.differences),
    )


def _prefixed_comparisons(comparisons: Sequence[Comparison], prefix: str) -> Iterator[Comparison]:
    for comparison in comparisons:
        arms, others = (tuple(f"{prefix}{name}" for name in names) for names in (comparison.arms, comparison.others))
        yield replace(comparison, arms=arms, others=others)


def _prefixed_difference(difference: PairedDifference, prefix: str) -> PairedDifference:
    pair = difference.pair
    return replace(difference, pair=replace(pair, a=f"{prefix}{pair.a}", b=f"{prefix}{pair.b}"))
