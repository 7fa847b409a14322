"""What `firstsight prepare` can be asked for: a field here is an option there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from firstsight.cli.study_options import ask_for


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request as it was typed."""

    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Names of the site file; or paths or URLs, with --form.")
    ]
    tokenizer: Annotated[
        str, typer.Option(metavar="NAME|PATH", help="A name of the site file, or where a tokenizer.json lies.")
    ] = "gpt-neox-20b"
    form: Annotated[
        str, typer.Option(metavar="FORM", help="text, captions, interleaved or dialogues; the paper's names have one.")
    ] = ""
    synthetic: Annotated[
        str, typer.Option(metavar="SHARE", help="Captions: how many are told by their synthetic caption (10%, 1/2).")
    ] = ""
    seed: Annotated[int | None, typer.Option(metavar="N", help="Which ones those are; 0 if not given.")] = None
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|PATH", help="Benchmarks to look for in the source; may be given several times."),
    ] = None
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Shards side by side; as many as cores if not given.")
    ] = None
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results lie; made if it is not there.")] = (
        Path("runs")
    )


def prepare(**given: Any) -> None:
    """Check, count, tokenize and index data; what is bad is set aside with a reason. Pictures stay where they are.

    Stop it at any time; the same command goes on where it stopped.
    Example: firstsight prepare captions/ --form captions --tokenizer tokenizer.json
    """
    from firstsight.workspace.preparing import prepare_all

    raise typer.Exit(prepare_all(Asked(**given)))


ask_for(Asked, prepare, about=False)
