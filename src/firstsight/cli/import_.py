"""`firstsight import`: public weights in, a checkpoint folder out, with progress."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from firstsight.cli import terminal
from firstsight.site import Progress, ProgressCallback
from firstsight.units import format_bytes, parse_tokens
from firstsight.workspace.resolve import as_request

EVERY = 5.0
"""Seconds between two lines where there is no terminal."""


def import_weights(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A folder, an epoch_N.pt of open_lm, or a hub name (owner/name)."),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The checkpoint folder to write; a new one.")],
    revision: Annotated[
        str | None, typer.Option(metavar="REVISION", help="Of a hub name: a branch, a tag or a commit of the run.")
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(metavar="PLACE", help="A file, folder or hub name, where none lies beside the weights.")
    ] = "",
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For OpenLM: its model config (.json) or params.txt.")
    ] = None,
    seen: Annotated[
        str, typer.Option(metavar="TOKENS", help="Tokens that it was trained on (2.5T), if its files do not say.")
    ] = "",
) -> None:
    """Make a checkpoint folder from public weights: OpenLM and DCLM, the Llama family, or an earlier export.

    Nothing in the files is executed, and nothing is loaded in part. Vision encoders (SigLIP, DINOv2) in
    transformers' layout need no import: the site file names their folder or hub name.
    Example: firstsight import TRI-ML/DCLM-1B --out donors/dclm-1b --seen 4T
    """
    from firstsight.hub.import_ import ImportRequest, import_checkpoint

    request = ImportRequest(
        location=source,
        revision=revision,
        tokenizer=tokenizer,
        config_path=config,
        tokens_seen=parse_tokens(seen) if seen else None,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with as_request(), _shown(source) as tell:
        done = import_checkpoint(request, out, on_progress=tell)
    terminal.lines(done.lines())


@contextmanager
def _shown(name: str) -> Iterator[ProgressCallback]:
    """How far the import is: a bar in a terminal, a line every few seconds anywhere else."""
    console = terminal.console()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=28), DownloadColumn(), TimeRemainingColumn())
    bars = Bars(*columns, console=console, transient=True)
    task, told = bars.add_task(escape(name), total=None), time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal told
        bars.update(task, completed=progress.done, total=progress.total)
        now = time.monotonic()
        if not console.is_terminal and now - told >= EVERY:
            told = now
            size = f"{format_bytes(progress.done)} of {format_bytes(progress.total)}"
            console.print(f"{name}: {size}", markup=False, soft_wrap=True)

    with bars if console.is_terminal else nullcontext():
        yield tell
