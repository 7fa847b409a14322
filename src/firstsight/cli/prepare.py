"""`firstsight prepare`: prepare sources, and print what they contain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from firstsight.cli import terminal
from firstsight.cli.study_options import RUNS, OutOption
from firstsight.cli.terminal import TerminalProgress
from firstsight.errors import DataError
from firstsight.units import format_count
from firstsight.workspace import prepare as preparation
from firstsight.workspace.sources import current_site

COUNTS = ("samples", "tokens", "loss tokens", "shown", "images", "bad")
"""Keys of manifest.json that are columns of the table of counts."""
COUNT_LABELS = {"samples": "records", "shown": "images shown", "bad": "rejected"}
"""The headings of columns, where they are not the keys."""


def prepare(
    *,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Names of the site file, paths or URLs.")],
    tokenizer: Annotated[str, typer.Option(help="A name of the site file, or a path.")] = "gpt-neox-20b",
    form: Annotated[str, typer.Option(help="text, captions, interleaved or dialogues, if it is not known.")] = "",
    synthetic: Annotated[str, typer.Option(metavar="SHARE", help="Synthetic part of captions (10%, 1/2).")] = "",
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed that selects these captions; default: 0.")] = None,
    against: Annotated[list[str] | None, typer.Option(help="Benchmarks to check for overlap; names or paths.")] = None,
    jobs: Annotated[int | None, typer.Option(metavar="N", help="Parallel processes; default: all cores.")] = None,
    out: OutOption = RUNS,
) -> None:
    """Check, count, tokenize and index data; rejected records are listed with a reason. Images are not copied.

    Stop it at any time; the same command resumes it.
    Example: firstsight prepare captions/ --form captions --tokenizer tokenizer.json
    """
    requests = preparation.request_preparation(
        sources,
        current_site(),
        tokenizer=tokenizer,
        form=form,
        synthetic=synthetic,
        seed=seed,
        against=against or (),
        jobs=jobs,
    )
    display, exit_code = TerminalProgress(), 0
    for request in requests:
        try:
            prepared = request.prepare(out, display=display)
        except DataError as error:
            terminal.print_error(str(error))
            exit_code = 1
            with suppress(DataError):  # the error again, of its tokenizer
                _print_refused(request.folder(out))
            continue
        _print_source(prepared)
        terminal.print_lines(["", *prepared.audit()])
    raise typer.Exit(exit_code)


def _print_refused(folder: Path) -> None:
    if (folder / "refused.json").is_file():
        _print_counts(f"{folder.name} (refused)", folder, json.loads((folder / "refused.json").read_text()))


def _print_source(prepared: preparation.PreparedSource) -> None:
    """Print a prepared source's manifest and how fast it was prepared."""
    folder, manifest = prepared.folder, prepared.manifest
    counts, captions = manifest["counts"], manifest["captions"]
    _print_counts(folder.name, folder, manifest)
    speed = "was prepared before"
    if prepared.seconds is not None:
        records, tokens = (format_count(float(round(counts[key] / prepared.seconds))) for key in ("samples", "tokens"))
        speed = f"in {prepared.seconds:.1f} s: {records} records/s, {tokens} tokens/s"
    recaptioned = f"captions: {captions['real']:,} real, {captions['synthetic']:,} synthetic"
    terminal.print_lines(["", *([recaptioned] if any(captions.values()) else []), speed])
    terminal.print_lines([f"folder: {folder}", f"source: {manifest['source']}", f"digest: {manifest['digest']}"])


def _print_counts(title: str, folder: Path, stats: Mapping[str, Any]) -> None:
    terminal.print_table(_count_rows(stats), title=f"\n{title}")
    if stats["refused"]:
        terminal.print_table(_rejected_rows(folder, stats["refused"]), title="")
    if notices := stats.get("notices"):  # an index of an earlier version has none
        rows = ((reason, f"{count:,}", first) for reason, (count, first) in sorted(notices.items()))
        terminal.print_table([("not read", "number", "first"), *rows], title="")


def _count_rows(stats: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each split, and the total; an image of two records is counted once, only in the total."""
    yield ("split", *(COUNT_LABELS.get(key, key) for key in COUNTS))
    splits = stats["splits"] if len(stats["splits"]) > 1 else {}
    for name, counts in (*splits.items(), ("total", stats["counts"])):
        yield (name or "none", *(f"{counts[key]:,}" if key in counts else "" for key in COUNTS))


def _rejected_rows(folder: Path, reason_counts: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    first: dict[str, dict[str, str]] = {}
    with (folder / "quarantine.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            first.setdefault(record["reason"], record)
            if len(first) == len(reason_counts):
                break
    yield ("rejected because", "records", "first")
    for reason, count in sorted(reason_counts.items(), key=lambda item: (-item[1], item[0])):
        record = first[reason]
        yield (reason, f"{count:,}", f"{record['shard']}, {record['where']}: {record['detail']}")
