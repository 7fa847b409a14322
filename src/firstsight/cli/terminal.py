"""Text and tables in the terminal: lines, tables, findings, errors."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from firstsight.workspace.doctor import Finding


def make_console(*, errors: bool = False) -> Console:
    """A console on stdout or stderr; 160 columns without line breaks where the output is piped."""
    stream = sys.stderr if errors else sys.stdout
    is_terminal = stream.isatty()
    return Console(file=stream, highlight=False, width=None if is_terminal else 160, soft_wrap=not is_terminal)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines without markup."""
    console = make_console()
    for line in lines:
        console.print(escape(line), soft_wrap=True)


def print_table(rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """Print a title, a header and rows: the first column to the left, the others to the right, the row `total` bold."""
    if title is not None:
        print_lines([title])
    head, *body = rows
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        table.add_column(name, justify="right" if table.columns else "left", no_wrap=True)
    for row in body:
        table.add_row(*map(escape, row), style="bold" if row[0] == "total" else None)
    make_console().print(table)


def print_error(message: str) -> None:
    """Print a message on stderr."""
    make_console(errors=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print the findings of `doctor`: topic, state, value, advice."""
    colors = {"ok": "green", "note": "yellow", "missing": "red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        state = f"[{colors[finding.state]}]{finding.state}[/]"
        table.add_row(escape(finding.topic), state, escape(finding.value), escape(finding.advice))
    make_console().print(table)
