"""`firstsight report STUDY --watch` in a process of its own follows what other processes publish."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from firstsight.plan.store import Store
from firstsight.workspace.results import run_state
from tests.workspace.decision_store import DecisionStore, small_study

WATCH = ["-m", "firstsight", "report", "when", "--scale", "smoke", "--seeds", "1", "--watch", "--out", "runs"]
REFRESH = 'data-refresh="1"'


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.timeout(600)
def test_the_page_follows_another_process_and_an_interrupt_leaves_one_that_stays(tmp_path: Path) -> None:
    Store(tmp_path / "runs")
    store = DecisionStore(tmp_path, {80: 0.7, 100: 0.5}, noise=0.0)
    page = tmp_path / "runs" / "reports" / "when-smoke" / "report.html"

    def shows(text: str) -> bool:
        return page.is_file() and text in page.read_text(encoding="utf-8")

    process = subprocess.Popen(
        [sys.executable, *WATCH],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        wait_for(lambda: shows("0 of "), process)
        assert shows(REFRESH) and shows("7 of 7 arms have no scores")
        store.fill(small_study(1))  # two arms of when, published by this process
        count = run_state(store.workspace.stored(small_study(1))).stored
        wait_for(lambda: shows(f"{count} of ") and shows("5 of 7 arms have no scores"), process)
        assert shows(REFRESH)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert not shows(REFRESH) and shows("5 of 7 arms have no scores"), "a page that stays, of all that is stored"
