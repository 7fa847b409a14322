"""The last lines of a run: the answer, which claims are decided, and what it would cost to decide the next one."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

from firstsight.errors import DamagedResult, RequestError
from firstsight.workspace.decisions.next_runs import plan_next, study_command
from firstsight.workspace.results import StudyResults
from firstsight.workspace.study_graph import StoredStudy


def conclusion_lines(stored: StoredStudy, results: StudyResults, *, jobs: int | None = None) -> Iterator[str]:
    """Three sentences, or one where the study states no claim that its arms can test.

    Of a combined study, before them, the answer of each part.
    """
    for part in results.parts:
        yield f"{part.study.name}: {part.answer}"
    yield results.answer
    claims = {result.claim.name: result for result in results.claims}
    for part in results.parts:
        claims |= {f"{part.study.name}.{result.claim.name}": result for result in part.claims}
    tested = {name: result.verdict for name, result in claims.items() if result.verdict != "not tested"}
    if not tested:
        return
    undecided = [name for name, verdict in tested.items() if verdict == "undecided"]
    decided = [f"{name} {verdict}" for name, verdict in tested.items() if verdict != "undecided"]
    yield f"Claims decided: {', '.join(decided) or 'none'}. Undecided: {', '.join(undecided) or 'none'}."
    yield _cost_sentence(stored, undecided, jobs)


def _cost_sentence(stored: StoredStudy, undecided: list[str], jobs: int | None) -> str:
    if not undecided:
        return "No claim is left to decide."
    try:
        cost = plan_next(stored, budget=inf, jobs=jobs, names=undecided).cost_line()
        return f"{cost} More, by the stricter rule for added seeds: {study_command('next', stored)}"
    except (DamagedResult, RequestError) as error:
        return f"What it would cost to decide the next claim is not known. {error}"
