"""How far a judging is: a bar in a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from firstsight.cli.progress import EVERY
from firstsight.site import Progress


class Watching:
    """Is told the progress of one checkpoint's judging and shows it; hold it open with `around`."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name = console, name
        self._told = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn())
        self._bars = Bars(
            *columns, TextColumn("{task.fields[unit]}"), TimeRemainingColumn(), console=console, transient=True
        )
        self._task = self._bars.add_task(escape(name), total=None, unit="")

    def around(self) -> AbstractContextManager[object]:
        """What to hold open while questions are asked."""
        return self._bars if self._console.is_terminal else nullcontext()

    def __call__(self, told: Progress) -> None:
        """Show how far it is."""
        self._bars.update(self._task, completed=told.done, total=told.total, unit=told.unit)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._told >= EVERY:
            self._told = now
            part = told.done / max(told.total, 1)
            self._console.print(
                f"{self._name}: {part:.0%}, {told.done:,} of {told.total:,} {told.unit}", markup=False, soft_wrap=True
            )
