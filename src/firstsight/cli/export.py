"""`firstsight export`: a checkpoint as a folder that other programs load."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from firstsight.errors import UnknownName
from firstsight.workspace.resolve import as_request

FORMS = ("hf",)
NUMBERS = ("float32", "bfloat16")


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A folder: runs/steps/finetune-...")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write: new, or an earlier export.")],
    to: Annotated[str, typer.Option(metavar="FORM", help="hf: what transformers and vLLM load.")] = "hf",
    dtype: Annotated[str, typer.Option(metavar="NUMBER", help="float32 or bfloat16.")] = "float32",
) -> None:
    """Write a checkpoint for transformers: weights, tokenizer, processor, chat template and model card.

    Example: firstsight export runs/steps/finetune-1-epoch-3f2a --to hf --out exported
    """
    if to not in FORMS:
        raise UnknownName("form", to, FORMS)
    if dtype not in NUMBERS:
        raise UnknownName("dtype", dtype, NUMBERS)
    from firstsight.hub import export as exporting

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with as_request():
        told = exporting.export_checkpoint(checkpoint, out, dtype="bfloat16" if dtype == "bfloat16" else "float32")
    typer.echo(f"{out}: {told.architecture}, {told.parameter_count:,} parameters, {dtype}")
    if told.fallback_reason:
        typer.echo(f"Load it after `import firstsight.hub.hf_classes`: {told.fallback_reason}.")
