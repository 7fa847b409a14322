"""`firstsight prepare`: prepare sources, and print what they contain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from firstsight.cli import terminal
from firstsight.cli.progress import TerminalProgress
from firstsight.cli.study_options import RUNS, OutOption
from firstsight.errors import DataError
from firstsight.recipe.stages import Prepare
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
    site = preparation.site_with_paths(sources, current_site(), jobs=jobs)
    tokenizer_spec, path = preparation.find_tokenizer(tokenizer, site)
    requested = [preparation.requested_source(name, form=form, synthetic=synthetic, seed=seed) for name in sources]
    benchmarks = [preparation.find_benchmarks(name, site) for name in against or ()]
    display, exit_code = TerminalProgress(), 0
    for source in requested:
        spec = Prepare(source=source, tokenizer=tokenizer_spec)
        folder = preparation.prepared_folder(source, tokenizer_path=path, out=out)
        started, stamp = monotonic(), _time_stamp(folder)
        try:
            with display.task(folder.name) as on_progress:
                preparation.prepare_source(spec, tokenizer_path=path, site=site, out=out, on_progress=on_progress)
        except DataError as error:
            terminal.print_error(str(error))
            exit_code = 1
            refused = folder / "refused.json"
            if refused.is_file():
                _print_counts(f"{folder.name} (refused)", folder, json.loads(refused.read_text()))
            continue
        _print_source(folder, seconds=None if stamp == _time_stamp(folder) else monotonic() - started)
        terminal.print_lines(["", *preparation.audit_source(folder, benchmarks, path)])
    raise typer.Exit(exit_code)


def _time_stamp(folder: Path) -> int | None:
    manifest = folder / "manifest.json"
    return manifest.stat().st_mtime_ns if manifest.is_file() else None


def _print_source(folder: Path, *, seconds: float | None) -> None:
    """Print a prepared source's manifest and how fast it was prepared; `seconds` is None if it was prepared before."""
    manifest = json.loads((folder / "manifest.json").read_text())
    counts, captions = manifest["counts"], manifest["captions"]
    _print_counts(folder.name, folder, manifest)
    speed = "was prepared before"
    if seconds is not None:
        records, tokens = (format_count(float(round(counts[key] / seconds))) for key in ("samples", "tokens"))
        speed = f"in {seconds:.1f} s: {records} records/s, {tokens} tokens/s"
    recaptioned = f"captions: {captions['real']:,} real, {captions['synthetic']:,} synthetic"
    terminal.print_lines(["", *([recaptioned] if any(captions.values()) else []), speed])
    terminal.print_lines([f"folder: {folder}", f"source: {manifest['source']}", f"digest: {manifest['digest']}"])


def _print_counts(title: str, folder: Path, stats: Mapping[str, Any]) -> None:
    terminal.print_table(_count_rows(stats), title=f"\n{title}")
    if stats["refused"]:
        terminal.print_table(_rejected_rows(folder, stats["refused"]), title="")


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
