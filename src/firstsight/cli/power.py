"""`firstsight power`: how many seeds or questions it takes to see a difference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from firstsight.errors import RequestError, StoreError
from firstsight.recipe.study import Study


def power(
    study: Study,
    *,
    effect: Annotated[float, typer.Option("--effect", metavar="POINTS", help="The difference to see, in points.")],
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="Of which stable score: vision or text.")] = (
        "vision"
    ),
    wanted: Annotated[
        float, typer.Option("--power", metavar="SHARE", help="The chance to see it, between 0 and 1.")
    ] = 0.8,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results lie; made if it is not there.")] = (
        Path("runs")
    ),
) -> None:
    """How many seeds or questions it takes to see a difference between two arms, from what is stored of the study.

    Example: firstsight power when --effect 2
    """
    if not 0 < effect <= 100:  # neither is NaN
        raise RequestError(f"--effect: wanted points above 0, at most 100. Got {effect:g}.")
    if kind not in ("vision", "text"):
        raise RequestError(f"--kind: wanted vision or text. Got {kind!r}.")
    if not 0 < wanted < 1:
        raise RequestError(f"--power: wanted a share between 0 and 1. Got {wanted:g}.")
    if not (out / "store.json").is_file():
        raise StoreError(f"nothing is stored under {out}. Run the study first, or name its folder with --out.")
    _tell(study, out, effect=effect / 100, kind=kind, wanted=wanted)


def _tell(study: Study, out: Path, *, effect: float, kind: str, wanted: float) -> None:
    from firstsight.cli import terminal
    from firstsight.plan.store import Store
    from firstsight.report.power import power_report
    from firstsight.report.table import score_table
    from firstsight.workspace.results import results
    from firstsight.workspace.run import site
    from firstsight.workspace.source_ids import known_graph

    arms = results(study, Store(out), steps=known_graph(study, site()))
    found = power_report(arms, score_table(arms), effect=effect, kind=kind, power=wanted)
    terminal.lines(found.lines)
    terminal.table(found.table)
