"""How far a source is, as it is prepared: a bar in a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from firstsight.cli.progress import EVERY
from firstsight.site import Progress
from firstsight.units import format_count


class Following:
    """Is told the progress of one source after the other, and shows it; hold it open with `around`."""

    def __init__(self, console: Console) -> None:
        self._console, self._name = console, ""
        self._told = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), TaskProgressColumn(), DownloadColumn())
        words = TextColumn("{task.fields[words]}")
        self._bars = Bars(*columns, words, TimeRemainingColumn(), console=console, transient=True)
        self._task = self._bars.add_task("", total=None, words="")

    def around(self) -> AbstractContextManager[object]:
        """What to hold open while sources are prepared."""
        return self._bars if self._console.is_terminal else nullcontext()

    def begin(self, name: str) -> None:
        """From here on it is `name` that is prepared."""
        self._name = name
        self._bars.reset(self._task, description=escape(name), total=None, words="")

    def __call__(self, told: Progress) -> None:
        """Show how far the source is."""
        records = int(told.metrics["records"])
        words = f"{records:,} records  {format_count(float(round(told.metrics['tokens/s'])))} tokens/s"
        self._bars.update(self._task, completed=told.done, total=told.total, words=words)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._told >= EVERY:
            self._told = now
            size = f"{told.done:,} of {told.total:,} bytes"
            part = told.done / max(told.total, 1)
            self._console.print(f"{self._name}: {part:.0%}, {size}, {words}", markup=False, soft_wrap=True)
