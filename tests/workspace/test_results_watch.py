"""A study is followed from its store alone: its state, a page that reads itself again, and one that stays."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from firstsight.plan.store import Store
from firstsight.report.results import RunState
from firstsight.workspace import results as results_module
from firstsight.workspace.results import StudyResults, run_state, watch_report
from tests.workspace.decision_store import DecisionStore, small_study

STUDY = small_study(seeds=1)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DecisionStore:
    """An empty store; pages are not drawn, but written as the state that they would show."""

    def write_report(results: StudyResults, state: RunState | None = None) -> Path:
        page = tmp_path / "report.html"
        page.write_text("final" if state is None else str(state))
        return page

    monkeypatch.setattr(StudyResults, "write_report", write_report)
    Store(tmp_path / "runs")
    return DecisionStore(tmp_path, {80: 0.5, 100: 0.5}, noise=0.0)


def test_page_follows_the_store_and_stays_once_nothing_is_missing(
    store: DecisionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = store.workspace.stored(STUDY)
    total = run_state(stored).total
    polls = 0

    def sleep(seconds: float) -> None:
        nonlocal polls
        polls += 1
        if polls == 3:  # the first polls find nothing new, and write nothing
            store.fill(STUDY)

    monkeypatch.setattr(results_module.time, "sleep", sleep)
    pages = [(state.stored, page.read_text()) for state, page in watch_report(lambda: store.workspace.stored(STUDY))]
    assert [stored for stored, _ in pages] == [0, total]
    assert pages[0][1].startswith(f"0 of {total} steps are stored.") and pages[1][1] == "final"
    assert polls == 3 and str(RunState(stored=total, total=total)) == f"All {total} steps are stored."


def test_an_interrupt_leaves_a_page_that_stays(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results_module.time, "sleep", interrupt)
    pages = watch_report(lambda: store.workspace.stored(STUDY))
    _, page = next(pages)
    assert page.read_text() != "final"
    with pytest.raises(KeyboardInterrupt):
        next(pages)
    assert page.read_text() == "final"


def test_what_runs_is_what_was_written_lately(store: DecisionStore) -> None:
    stored = store.workspace.stored(STUDY)
    step = next(step for step in stored.graph.steps if step.kind == "midtrain")
    other = next(step for step in stored.graph.steps if step.kind == "evaluate")
    folder = stored.root / "work" / step.address
    folder.mkdir()
    rows = [{"seen": step.spec.rounded_tokens * part // 4} for part in (1, 2)]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"seen": 1')
    (stored.root / "work" / other.address).mkdir()
    assert set(run_state(stored).running) == {f"{step.slug} 50 %", other.slug}
    old = time.time() - 2 * results_module.RECENT_SECONDS
    for path in (folder, folder / "log.jsonl"):
        os.utime(path, (old, old))
    assert run_state(stored).running == (other.slug,)


def test_a_segment_of_a_trunk_counts_from_its_own_start(store: DecisionStore) -> None:
    stored = store.workspace.stored(STUDY)
    segment = [step for step in stored.graph.steps if step.kind == "pretrain"][-1]
    trunk, spec = segment.spec.pretrain, segment.spec
    folder = stored.root / "work" / segment.address
    folder.mkdir()
    middle = trunk.tokens_at(spec.start) + spec.tokens // 2
    (folder / "log.jsonl").write_text(json.dumps({"seen": middle}) + "\n")
    [text] = run_state(stored).running
    assert spec.start and text == f"{segment.slug} 50 %"
