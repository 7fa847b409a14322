"""Text and tables in the terminal: what a plan contains and costs, findings, errors."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from firstsight.plan.estimate import CostEstimate, estimate_table
from firstsight.plan.schedules import stage_table, training_lines
from firstsight.recipe.stages import Midtrain, Pretrain
from firstsight.recipe.study import Arm, Study
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


def print_stages(study: Study) -> None:
    """Print horizon and trunks, and of each stage where it starts, its images, learning rate and length."""
    print_lines(training_lines(study))
    print_table(stage_table(study))
    print_lines([""])


def print_mixtures(study: Study) -> None:
    """Print what each stage reads: sources, shares and epochs; stages that read the same are printed once."""
    arms_by_line: dict[str, dict[str, None]] = {}
    for arm in study.arms:
        for line in _mixture_lines(arm):
            arms_by_line.setdefault(line, {})[arm.name] = None
    all_arms = {arm.name for arm in study.arms if arm.stages}
    for line, names in arms_by_line.items():
        print_lines([line if all_arms <= names.keys() else f"{line} ({', '.join(names)})"])
    print_lines([""])


def _mixture_lines(arm: Arm) -> Iterator[str]:
    """What each stage reads; a donor's mixture is not known."""
    if isinstance(arm.pretrain, Pretrain):
        yield f"pretrain reads {arm.pretrain.text}"
    for stage in arm.stages:
        image = f"{stage.model.image_tokens:,} tokens per image, {stage.row_shape.length:,} per row"
        yield f"{'midtrain' if isinstance(stage, Midtrain) else 'finetune'} reads {stage.mix}; {image}"


def print_costs(costs: CostEstimate) -> None:
    """Print the cost of each step as a table, then what the hours and the estimates mean."""
    device = costs.device
    print_table(estimate_table(costs))
    peak = f"{device.utilisation:.0%} of {device.peak_flops / 1e12:,.4g} TFLOP/s (bf16)"
    print_lines([f"Hours on one {device.name} at {peak}."])
    print_lines(dict.fromkeys(f"{step.cost.note}." for step in costs.step_costs if step.cost.note))


def print_findings(findings: Iterable[Finding]) -> None:
    """Print the findings of `doctor`: topic, state, value, advice."""
    colors = {"ok": "green", "note": "yellow", "missing": "red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        state = f"[{colors[finding.state]}]{finding.state}[/]"
        table.add_row(escape(finding.topic), state, escape(finding.value), escape(finding.advice))
    make_console().print(table)
