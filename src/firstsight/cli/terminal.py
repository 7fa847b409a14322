"""Output in the terminal: lines, tables, findings, errors, and progress as bars (without a terminal as lines)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TaskID, TaskProgressColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from firstsight.visible import VisibleStream, make_output_visible, visible
from firstsight.workspace.doctor import Finding
from firstsight.workspace.progress import ProgressLines, ProgressView

STOPPED = 130
"""The exit code after Ctrl-C, SIGTERM or SIGUSR1, also where a step was stopped alone."""


class OutputClosed(Exception):
    """The reader of the output has ended, as `head` does after its last line."""


class _Console(Console):
    """A console that raises OutputClosed; rich and typer would end the process with the code of a failed step."""

    def on_broken_pipe(self) -> None:
        raise OutputClosed


def prepare_streams() -> None:
    """Make stdout and stderr safe for any text: open, without errors of encoding, `visible` what libraries write."""
    if sys.stdout is None or sys.stderr is None:  # closed by the caller: >&-
        closed = Path(os.devnull).open("w")  # noqa: SIM115 - open as long as the process
        sys.stdout, sys.stderr = sys.stdout or closed, sys.stderr or closed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    make_output_visible(stdout=False)


def make_console(*, errors: bool = False) -> Console:
    """A console on stdout or stderr; 160 columns without line breaks where the output is piped."""
    stream = sys.stderr if errors else sys.stdout
    stream = stream.stream if isinstance(stream, VisibleStream) else stream
    is_terminal = stream.isatty()
    return _Console(file=stream, highlight=False, width=None if is_terminal else 160, soft_wrap=not is_terminal)


def plain(text: str, *, single_line: bool = True) -> str:
    """A text that may contain anything, for a console: without control characters and without markup."""
    return escape(visible(text, single_line=single_line))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines without markup; a text of several lines stays one."""
    console = make_console()
    for line in lines:
        console.print(plain(line, single_line=False), soft_wrap=True)


def print_table(rows: Iterable[Sequence[str]], *, title: str | None = None, wrapped: str = "") -> None:
    """Print a title, a header and rows: the first column to the left, the others to the right, the row `total` bold.

    The column called `wrapped` is to the left, and its long texts are broken into lines.
    """
    if title is not None:
        print_lines([title])
    head, *body = rows
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        is_wrapped = name == wrapped
        is_left = is_wrapped or not table.columns
        table.add_column(plain(name), justify="left" if is_left else "right", no_wrap=not is_wrapped)
    for row in body:
        table.add_row(*map(plain, row), style="bold" if row[0] == "total" else None)
    make_console().print(table)


def print_error(message: str) -> None:
    """Print a message on stderr."""
    make_console(errors=True).print(f"[bold red]error:[/] {plain(message, single_line=False)}", soft_wrap=True)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print the findings of `doctor`: topic, state, value, advice."""
    colors = {"ok": "green", "note": "yellow", "missing": "red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        state = f"[{colors[finding.state]}]{finding.state}[/]"
        table.add_row(plain(finding.topic), state, plain(finding.value), plain(finding.advice))
    make_console().print(table)


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
        bars = RichProgress(
            *columns,
            console=self._console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,  # rich would obey the escapes in what libraries write
            redirect_stderr=False,
        )
        with bars:
            yield _BarView(self._write, bars)


class _BarView(ProgressView):
    """Bars by name, and above them only the lines about failures."""

    def __init__(self, write: Callable[[str], object], bars: RichProgress) -> None:
        super().__init__(write)
        self._progress, self._bars = bars, dict[str, TaskID]()

    def update_bar(self, name: str, text: str, *, done: float | int = 0, total: float | int | None = None) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(plain(name), total=None, text="")
        self._progress.update(self._bars[name], completed=done, total=total, text=plain(text))

    def remove_bar(self, name: str) -> None:
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))

    def print(self, line: str, *, beside_bars: bool = False) -> None:
        if beside_bars:
            super().print(line)
