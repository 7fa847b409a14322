"""Seconds in which a report page opens in a headless Chromium: its load event, and all of its charts drawn.

    python -m benchmarks.page runs/reports/when-cpu/report.html

The seconds of processor time of the page's main thread stand beside those of the clock, which other work prolongs.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tests.browser import Browser, open_browser

TARGET_SECONDS = 2.0


def open_seconds(page: Path, browser: Browser) -> dict[str, float]:
    """Seconds from the navigation to the load event and to the last chart, and the main thread's processor seconds."""
    started = time.perf_counter()
    browser.open(page)
    drawn = time.perf_counter() - started
    loaded = browser.value("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
    metrics = browser.call("Performance.getMetrics")["metrics"]
    (tasks,) = [metric["value"] for metric in metrics if metric["name"] == "TaskDuration"]
    return {"loaded": loaded, "drawn": drawn, "processor": tasks}


def main() -> None:
    """Print the seconds of three openings, each in a new browser."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("page", type=Path)
    page = parser.parse_args().page
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB; target: opened in {TARGET_SECONDS:g} s")
    for _ in range(3):
        with open_browser() as browser:
            browser.call("Performance.enable", timeDomain="threadTicks")
            seconds = open_seconds(page, browser)
            print(", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
