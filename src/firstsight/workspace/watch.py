"""Follow a study while it runs, here or in another process, from what its store contains."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from firstsight.plan.scheduler import EXTERNAL_KIND
from firstsight.plan.step import Step
from firstsight.report.results import RunState
from firstsight.workspace.results import TRAINING_KINDS, StudyResults
from firstsight.workspace.study_graph import StoredStudy

POLL_SECONDS = 5.0
PROGRESS_SECONDS = 30.0
"""The page is written again after that time where only the progress of running steps has changed."""
RECENT_SECONDS = 60.0
"""A step whose files have not changed for that long is not called running."""
LOG_TAIL_BYTES = 4096


def watch_report(
    load: Callable[[], StoredStudy], *, poll_seconds: float = POLL_SECONDS
) -> Iterator[tuple[RunState, Path]]:
    """Write the report when something was stored or has failed, or running steps have moved on; gives the state and the
    page each time. Ends when no arm can get further scores.

    `load` reads the study again: a run may add arms, or prepare sources. The last page does not read itself again; one
    is also written after KeyboardInterrupt and where the caller stops.
    """
    seen: tuple[object, ...] = ()
    written, state = 0.0, None
    try:
        while True:
            stored = load()
            state = run_state(stored)
            facts = (state.stored, state.total, _failures(stored))
            is_progress = state.running != (seen[-1] if seen else ()) and time.monotonic() - written > PROGRESS_SECONDS
            if not seen or facts != seen[:-1] or is_progress:
                results = StudyResults(stored)
                is_done = all(arm.scores is not None or arm.damage for arm in results.arms)
                page = results.write_report(None if is_done else state)
                seen, written = (*facts, state.running), time.monotonic()
                yield state, page
                if is_done:
                    return
            time.sleep(poll_seconds)
    except (KeyboardInterrupt, GeneratorExit):
        if state is not None:
            StudyResults(load()).write_report()
        raise


def run_state(stored: StoredStudy) -> RunState:
    """How many steps of a study are stored, and which ones are running."""
    store = stored.open_store()
    steps = [step for step in stored.graph.steps if step.kind != EXTERNAL_KIND]
    missing = [step for step in steps if not store.has(step.address)]
    running = (_running_text(step, store.root / "work" / step.address) for step in missing)
    return RunState(stored=len(steps) - len(missing), total=len(steps), running=tuple(filter(None, running)))


def _failures(stored: StoredStudy) -> tuple[str, ...]:
    store = stored.open_store()
    return tuple(step.address for step in stored.graph.steps if store.last_failure(step.address))


def _running_text(step: Step, work: Path) -> str:
    """The name of a step whose working folder has changed lately, with its progress; else an empty text."""
    changed = 0.0
    with suppress(OSError):  # it may be published meanwhile
        changed = max(path.stat().st_mtime for path in (work, *work.iterdir()))
    if time.time() - changed > RECENT_SECONDS:
        return ""
    tokens = _logged_tokens(work / "log.jsonl") if step.kind in TRAINING_KINDS else None
    if tokens is None:
        return step.slug
    spec, start = step.spec, 0
    if step.kind == "pretrain":  # its log counts from the beginning of the trunk
        start = spec.pretrain.tokens_at(spec.start)
    total = spec.tokens if step.kind == "pretrain" else spec.rounded_tokens
    return f"{step.slug} {100 * min(max((tokens - start) / total, 0.0), 1.0):.0f} %"


def _logged_tokens(log: Path) -> float | None:
    """The tokens of the last whole line of a training log; None without one."""
    with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - LOG_TAIL_BYTES, 0))
            *lines, _ = file.read().split(b"\n")
        row: Any = json.loads(lines[-1])
        return float(row["seen"])
    return None
