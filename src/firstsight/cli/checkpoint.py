"""The commands about checkpoints and public data: ask, donors, import, export, sources, fetch, data verify."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from firstsight.cli import terminal
from firstsight.cli.study_options import RUNS, StoreOption
from firstsight.cli.terminal import TerminalProgress
from firstsight.errors import QuantityError, RequestError, UnknownName
from firstsight.hub.public_data import overview, public_data
from firstsight.plan.verification import check_stored_folder
from firstsight.recipe.scales.donors import public_run, run_lines, run_table
from firstsight.recipe.study import Study
from firstsight.units import parse_bytes, parse_tokens
from firstsight.workspace.sources import as_request_error, current_site
from firstsight.workspace.study_plan import align_table
from firstsight.workspace.workspace import Workspace

if TYPE_CHECKING:
    from firstsight.data.verify_ledger import SourceCoverage


def ask(
    study: Study,
    checkpoint: Annotated[str, typer.Argument(help="A folder, an address under --out, or an arm: start-080.s1.")],
    *,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An image file.")],
    question: Annotated[str, typer.Argument(help="The question, in words of the vocabulary.")],
    out: StoreOption = RUNS,
) -> None:
    """Print a checkpoint's answer to a question about an image.

    Example: firstsight ask start-080.s1 scene.png "what is left of the cat ?"
    """
    terminal.print_lines([Workspace(out).ask(study, checkpoint, image=image, question=question)])


def donors(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run, for its details; default: all of them.")] = "",
) -> None:
    """Show public runs with checkpoints all along them, from which a study can branch in place of a trunk of its own.

    With a name: its schedule, sources, how a study of it differs from the paper's, and the lines that import it.
    Example: firstsight donors pythia-1.4b, then: firstsight plan when --donor pythia-1.4b
    """
    terminal.print_lines(run_lines(public_run(name)) if name else align_table(run_table()))


def sources(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set, for its details; default: all.")] = "",
) -> None:
    """Show the data that the paper used and public stand-ins: form, size, licence, and whether it can be fetched.

    With a name: how to get it, and the lines of the site file to paste. [S] is stated by the paper, [C] by its authors'
    code or the publisher, [2] second-hand.
    Example: firstsight sources cc12m
    """
    terminal.print_lines(public_data(name).lines() if name else overview())


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set that firstsight sources lists.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of the copy.")],
    limit: Annotated[str, typer.Option(metavar="BYTES", help="The most bytes of files: 500MB, 10GB.")] = "10GB",
) -> None:
    """Copy the first files of a public data set, whole files of at most --limit bytes together; continues after a stop.

    Only files of data are copied, and nothing in them is executed; fetch.json has the SHA-256 of each.
    Example: firstsight fetch cc12m --limit 10GB --out data/cc12m
    """
    data = public_data(name)
    if not data.url:
        raise RequestError(f"{name}: wanted a data set whose files can be copied. Got one to get by hand: {data.get}.")
    from firstsight.hub.fetch import fetch_files

    try:
        size = parse_bytes(limit)
    except QuantityError as error:
        raise QuantityError(f"--limit: {error}") from error
    with TerminalProgress().task(name) as on_progress:
        copy = fetch_files(data.url, out, limit=size, pattern=data.pattern, on_progress=on_progress)
    terminal.print_lines([*copy.lines(out), "", "Paste into the site file:", "", *data.site_lines(str(out.absolute()))])


def import_weights(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder, an epoch_N.pt, or a hub name.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The checkpoint folder to write; a new one.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub name.")] = None,
    tokenizer: Annotated[str, typer.Option(help="A path or hub name, if none is next to the weights.")] = "",
    config: Annotated[Path | None, typer.Option(help="For OpenLM: its config (.json) or params.txt.")] = None,
    seen: Annotated[str, typer.Option(metavar="TOKENS", help="Training tokens (2.5T), if its files lack them.")] = "",
) -> None:
    """Make a checkpoint folder from public weights: OpenLM and DCLM, Pythia, the Llama family, OLMo, or an export.

    No code in the files is executed; weights are imported completely or not at all. Encoders (SigLIP, CLIP, DINO) in
    transformers' layout need no import: the site file names their folder or hub name.
    Example: firstsight import TRI-ML/DCLM-1B --out donors/dclm-1b --seen 4T
    """
    from firstsight.hub.import_ import ImportRequest, import_checkpoint

    current_site()  # its limits
    tokens = parse_tokens(seen) if seen else None
    job = ImportRequest(location=source, revision=revision, tokenizer=tokenizer, config_path=config, tokens_seen=tokens)
    with as_request_error(), TerminalProgress().task(source) as on_progress:
        imported = import_checkpoint(job, out, on_progress=on_progress)
    terminal.print_lines(imported.lines())


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
    for noun, name, known in (("form", to, ["hf"]), ("dtype", dtype, ["float32", "bfloat16"])):
        if name not in known:
            raise UnknownName(noun, name, known)
    from firstsight.hub.export import export_checkpoint

    current_site()  # its limits
    check_stored_folder(checkpoint)
    with as_request_error():
        exported = export_checkpoint(checkpoint, out, dtype="bfloat16" if dtype == "bfloat16" else "float32")
    terminal.print_lines([f"{out}: {exported.architecture}, {exported.parameter_count:,} parameters, {dtype}"])
    if exported.fallback_reason:
        terminal.print_lines([f"Load it after `import firstsight.hub.hf_classes`: {exported.fallback_reason}."])


def verify(ledgers: Annotated[list[Path], typer.Argument(metavar="LEDGER…", help="In training order.")]) -> None:
    """Check with sample ledgers that no row was trained on twice or skipped, and that a branch's text is continuous.

    Example: firstsight data verify runs/steps/pretrain-020-3f2a runs/steps/midtrain-010-9c4d
    """
    from firstsight.data.verify_ledger import verify_ledgers

    for path in ledgers:
        check_stored_folder(path if path.is_dir() else path.parent)
    check = verify_ledgers(ledgers)
    if check.coverage:
        terminal.print_table(_coverage_rows(check.coverage))
    if check.problems:
        terminal.print_lines([f"wrong: {problem}" for problem in check.problems])
        raise typer.Exit(1)
    terminal.print_lines(["proved: within every pass each row was read once, and the text continues without a gap."])


def _coverage_rows(sources: Iterable[SourceCoverage]) -> Iterator[tuple[str, ...]]:
    yield ("source", "rows", "distinct", "passes", "repeats", "skipped")
    for source in sources:
        counts = (source.rows, source.distinct_rows, source.repeated_rows, source.skipped_rows)
        rows, distinct, repeats, skipped = (f"{count:,}" for count in counts)
        yield source.name, rows, distinct, f"{source.passes:.3f}", repeats, skipped
