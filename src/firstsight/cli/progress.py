"""Progress in the terminal: bars, or without a terminal a line every few seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TaskProgressColumn
from rich.progress import Progress as RichProgress

from firstsight.cli.terminal import make_console
from firstsight.workspace.progress import ProgressLines, ProgressView


class TerminalProgress(ProgressLines):
    """A `workspace.progress.ProgressDisplay` on a console, by default standard output."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or make_console()
        super().__init__(lambda line: self._console.print(line, markup=False, soft_wrap=True))

    @contextmanager
    def view(self) -> Iterator[ProgressView]:
        """Bars in a terminal, lines without one."""
        if not self._console.is_terminal:
            yield ProgressView(self._write)
            return
        columns = ("{task.description}", BarColumn(bar_width=28), TaskProgressColumn(), "{task.fields[text]}")
        with RichProgress(*columns, console=self._console, refresh_per_second=4, transient=True) as bars:
            yield _BarView(self._write, bars)


class _BarView(ProgressView):
    """Bars by name, and above them only the lines about failures."""

    def __init__(self, write: Callable[[str], object], bars: RichProgress) -> None:
        super().__init__(write)
        self._progress, self._bars = bars, dict[str, TaskID]()

    def update_bar(self, name: str, text: str, *, done: float | int = 0, total: float | int | None = None) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(escape(name), total=None, text="")
        self._progress.update(self._bars[name], completed=done, total=total, text=escape(text))

    def remove_bar(self, name: str) -> None:
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))

    def print(self, line: str, *, beside_bars: bool = False) -> None:
        if beside_bars:
            super().print(line)
