"""Plans, bills, differences and findings as they stand in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from firstsight.plan import estimate
from firstsight.plan.differences import FieldDifference
from firstsight.plan.estimate import CostEstimate
from firstsight.plan.graph import Graph
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Donor, Midtrain, Pretrain
from firstsight.recipe.study import Arm, Study
from firstsight.units import Tokens

SIGNS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}


def console(*, errors: bool = False) -> Console:
    """Where words go: full width when piped, so that a line stays a line."""
    stream = sys.stderr if errors else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else 160, soft_wrap=not stream.isatty())


def lines(words: Iterable[str]) -> None:
    """Print lines as they are."""
    out = console()
    for line in words:
        out.print(escape(line), soft_wrap=True)


def table(rows: Sequence[Sequence[str]]) -> None:
    """A header and rows, the first column to the left, numbers to the right."""
    head, *body = rows
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(head):
        grid.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    for row in body:
        grid.add_row(*map(escape, row), style="bold" if row[0] == "total" else None)
    console().print(grid)


def branches(study: Study) -> None:
    """Where each arm leaves the trunk, at which rate, and how long its image phase is; seeds are told once."""
    lines(dict.fromkeys(_trunk(arm.pretrain) for arm in study.arms))
    firsts = {arm.name: arm for arm in reversed(study.arms)}
    head = ("arm", "leaves the trunk at", "schedule", "rate", "image phase", "steps", "of rows")
    rows = [row for arm in reversed(firsts.values()) for row in _branch(arm)]
    table([head, *rows])
    lines([""])


def _trunk(trunk: Pretrain | Donor) -> str:
    """What arms branch from, but for its seed."""
    told = f"{trunk.tokens:,} tokens, rate {trunk.schedule.peak_lr:g} to {trunk.schedule.min_lr:g}"
    if isinstance(trunk, Pretrain):
        return f"trunk: {told}"
    held = ", ".join(f"{named.name} at {share}" for share, named in sorted(trunk.checkpoints))
    return f"donor: {told}; checkpoints: {held}; a branch's text begins at its first row"


def _branch(arm: Arm) -> Iterator[tuple[str, ...]]:
    """A row for each image phase of an arm."""
    for stage in arm.stages:
        if isinstance(stage, Midtrain):
            rate, rows = stage.schedule, stage.row_shape
            begins = f"0 to {rate.peak_lr:.3g}" if isinstance(rate, Rewarm) else f"{rate.lr(Tokens(0)):.3e}"
            shape = f"{rows.batch_size} x {rows.length:,}"
            at = f"{arm.pretrain.tokens_at(arm.start):,} ({arm.start})"
            schedule = f"{type(rate).__name__}"
            told = (at, schedule, f"{begins} to {rate.min_lr:g}", f"{stage.tokens:,}")
            yield (arm.name, *told, f"{rows.steps(stage.tokens):,}", shape)


def mixes(study: Study) -> None:
    """What each stage reads: shares, what they count, and epochs; stages that read alike are told once."""
    told: dict[str, list[str]] = {}
    for arm in study.arms:
        for name, spec in _reads(arm):
            told.setdefault(f"{name} reads {spec}", []).append(arm.name)
    every = {arm.name for arm in study.arms if arm.stages}
    for line, names in told.items():
        lines([line if every <= set(names) else f"{line} ({', '.join(dict.fromkeys(names))})"])
    lines([""])


def _reads(arm: Arm) -> Iterator[tuple[str, str]]:
    """What each stage reads; what a donor has read is its own affair."""
    if isinstance(arm.pretrain, Pretrain):
        yield "pretrain", str(arm.pretrain.text)
    for stage in arm.stages:
        room = f"a picture takes {stage.model.image_tokens:,} tokens of a row of {stage.row_shape.length:,}"
        yield ("midtrain" if isinstance(stage, Midtrain) else "finetune"), f"{stage.mix}; {room}"


def provisional(steps: Graph) -> None:
    """One line where addresses hang on data or weights that nobody has looked at."""
    if unknown := steps.undigested_names():
        lines([f"Addresses are provisional until a run has looked at {', '.join(unknown)}."])


def bill(priced: CostEstimate) -> None:
    """The bill as a table, then what its hours and estimates mean."""
    table(estimate.estimate_table(priced))
    device = priced.device
    lines(
        [f"Hours on one {device.name} at {device.utilisation:.0%} of {device.peak_flops / 1e12:,.4g} TFLOP/s (bf16)."]
    )
    lines(dict.fromkeys(f"{row.cost.note}." for row in priced.step_costs if row.cost.note))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table as plain text: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def differences(found: Sequence[FieldDifference], *, first: str, second: str) -> None:
    """Each differing field on a line of its own."""
    if not found:
        lines([f"{first} and {second} are the same."])
        return
    lines([f"{first} | {second}", *map(str, found)])


def findings(found: Iterable[tuple[str, str, str, str]]) -> None:
    """What doctor saw: thing, state, what is there, what to do."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    for what, state, there, advice in found:
        grid.add_row(escape(what), SIGNS[state], escape(there), escape(advice))
    console().print(grid)


def complain(message: str) -> None:
    """One clear message on stderr."""
    console(errors=True).print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
