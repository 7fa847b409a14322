"""Prepare sources from the command line, and for the steps of a study: one function, one folder for equal requests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from firstsight.cli import terminal
from firstsight.cli.prepare import Asked
from firstsight.cli.prepare_progress import Following
from firstsight.errors import DataError, QuantityError, RequestError, UnknownName
from firstsight.plan.store import Store
from firstsight.recipe.mixture import DataSource, External, ExternalForm, Recaptioned
from firstsight.recipe.scales import paper
from firstsight.recipe.stages import Prepare, TokenizerSource
from firstsight.site import Location, ProgressCallback, Site
from firstsight.units import Tokens, format_count, parse_share
from firstsight.workspace import run
from firstsight.workspace.source_ids import brought

PREPARED: tuple[ExternalForm, ...] = ("text", "captions", "interleaved", "dialogues")
"""Forms that have records to prepare."""
_FORMS: dict[str, ExternalForm] = {form: form for form in PREPARED}
SHORT = 8
"""Letters of a digest that stand in a folder's name."""


def prepared(
    source: DataSource, tokenizer: TokenizerSource, *, words: Path, site: Site, out: Path, tell: ProgressCallback
) -> Path:
    """The folder under `out` where a source of the site lies prepared; made, or gone on with, if it is not complete.

    `words` is where the tokenizer lies. Raises DataError when the source is refused, StepFailed when the disk is full,
    RequestError when the site does not know the source or another process is at it.
    """
    from firstsight.data.prepare import prepare

    store = Store(out)
    folder = place_of(source, words=words, out=out)
    folder.mkdir(parents=True, exist_ok=True)
    spec = Prepare(source=source, tokenizer=tokenizer)
    with store.lock(f"sources-{folder.name}") as free:
        if not free:
            raise RequestError(f"{folder}: another process prepares this source. Wait for it, or take another --out.")
        prepare(spec, inputs={"tokenizer": words}, out=folder, site=site, on_progress=tell)
    return folder


def place_of(source: DataSource, *, words: Path, out: Path) -> Path:
    """Where a source, read so and with that tokenizer, lies prepared: name, form, tokenizer's digest."""
    from firstsight.data import tokenizer

    named = source.external if isinstance(source, Recaptioned) else source
    if not isinstance(named, External):
        raise RequestError(f"only sources of the site are prepared on their own. Got {type(source).__name__}.")
    told = [_slug(named.name), named.form]
    if isinstance(source, Recaptioned):
        told.append(
            f"synthetic-{source.synthetic_share.numerator}-{source.synthetic_share.denominator}-seed-{source.seed}"
        )
    return out / "sources" / "-".join([*told, tokenizer.load_tokenizer(words).digest[:SHORT]])


def _slug(name: str) -> str:
    """A name as part of a folder's; where letters had to go, a digest keeps two names apart."""
    plain = re.sub(r"[^\w.-]+", "-", name.rstrip("/").rpartition("/")[2]).strip("-.") or "source"
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:SHORT]}"


def prepare_all(asked: Asked) -> int:
    """Prepare every source that was asked for and tell what it holds; the exit code of the command."""
    site, out = _site(asked.sources, asked.jobs), asked.out
    vocabulary, words = _words(asked.tokenizer, site)
    sources = [_source(word, asked) for word in asked.sources]
    against = [_place(word, site) for word in asked.against or ()]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shown, code = Following(terminal.console()), 0
    for source in sources:
        folder = place_of(source, words=words, out=out)
        began, before = monotonic(), _stamp(folder)
        try:
            with shown.around():
                shown.begin(folder.name)
                prepared(source, vocabulary, words=words, site=site, out=out, tell=shown)
        except DataError as error:
            terminal.complain(str(error))
            code = 1
            _tell_refused(folder)
            continue
        _tell(folder, seconds=None if before and before == _stamp(folder) else monotonic() - began)
        _audit(folder, against, words)
    return code


def _words(asked: str, site: Site) -> tuple[TokenizerSource, Path]:
    """The tokenizer as a recipe names it, and where it lies."""
    if asked in site.sources:
        named = External(name=asked, form="tokenizer", tokens=Tokens(0))
        return named, Path(brought([named], site).sources[asked].path)
    if Path(asked).exists():
        return External(name=asked, form="tokenizer", tokens=Tokens(0)), Path(asked)
    raise RequestError(
        f"--tokenizer: wanted a name of the site file or the path of a tokenizer.json. Got {asked!r}. "
        + (f"Known names: {', '.join(sorted(site.sources))}." if site.sources else "Give a path.")
    )


def _site(words: Sequence[str], jobs: int | None) -> Site:
    """This machine, with every path among `words` as a source of that name."""
    site = run.site()
    if jobs is not None and jobs < 1:
        raise QuantityError(f"--jobs: wanted at least 1. Got {jobs}.")
    for word in words:
        if word not in site.sources and not ("://" in word or "/" in word or Path(word).exists()):
            if site.sources:
                raise UnknownName("source of the site file", word, site.sources)
            raise RequestError(f"{word}: wanted a path, or a name of a site file. Got neither: nothing lies there.")
    paths = {word: Location(path=_full(word)) for word in words if word not in site.sources}
    return replace(site, readers=jobs or len(os.sched_getaffinity(0)), sources={**site.sources, **paths})


def _full(word: str) -> str:
    return word if "://" in word else str(Path(word).absolute())


def _place(word: str, site: Site) -> Path:
    """Where a benchmark lies: under a name of the site file, or at a path."""
    place = Path(site.sources[word].path if word in site.sources else word)
    if not place.exists():
        raise RequestError(f"--against: wanted a name of the site file or a path. Got {word!r}, where nothing lies.")
    return place


def _source(word: str, asked: Asked) -> DataSource:
    """A source as a recipe tells it; RequestError where its form is not said."""
    known = {named.name: named.form for named in _published()}
    form = asked.form or known.get(word, "")
    if form not in PREPARED:
        raise RequestError(f"{word}: wanted --form, one of {', '.join(PREPARED)}. Got {form or 'none'}.")
    named = External(name=word, form=_FORMS[form], tokens=Tokens(0))
    if not asked.synthetic:
        if asked.seed is not None:
            raise RequestError("--seed chooses synthetic captions. Give --synthetic SHARE as well, or leave it out.")
        return named
    return Recaptioned(external=named, synthetic_share=parse_share(asked.synthetic), seed=asked.seed or 0)


def _published() -> Iterator[External]:
    """The sources that the paper's recipes name: their forms are known."""
    for value in vars(paper).values():
        if isinstance(value, External | Recaptioned):
            yield value.external if isinstance(value, Recaptioned) else value


def _stamp(folder: Path) -> int:
    """When the source was complete; 0 where it is not."""
    manifest = folder / "manifest.json"
    return manifest.stat().st_mtime_ns if manifest.is_file() else 0


def _tell(folder: Path, *, seconds: float | None) -> None:
    """What a source holds, as tables; `seconds` of work, None for none."""
    told = json.loads((folder / "manifest.json").read_text())
    _tables(folder.name, folder, told)
    captions = told["captions"]
    recaptioned = [f"captions: {captions['real']:,} real, {captions['synthetic']:,} synthetic"]
    terminal.lines(["", *(recaptioned if any(captions.values()) else []), _rate(told["counts"], seconds)])
    terminal.lines([f"folder: {folder}", f"source: {told['source']}", f"digest: {told['digest']}"])


def _tell_refused(folder: Path) -> None:
    """What was counted of a source that is too bad; nothing where counting was not finished."""
    if (folder / "refused.json").is_file():
        _tables(f"{folder.name} (refused)", folder, json.loads((folder / "refused.json").read_text()))


def _tables(title: str, folder: Path, told: dict[str, Any]) -> None:
    terminal.lines(["", title])
    terminal.table(list(_counts(told)))
    if told["refused"]:
        terminal.lines([""])
        terminal.table(list(_refusals(folder, told["refused"])))


def _rate(counts: dict[str, int], seconds: float | None) -> str:
    if seconds is None:
        return "was there already"
    records, tokens = (format_count(float(round(counts[name] / seconds))) for name in ("samples", "tokens"))
    return f"in {seconds:.1f} s: {records} records/s, {tokens} tokens/s"


def _counts(told: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each split, and the total; pictures that two records show are counted once, in the total alone."""
    yield ("split", "records", "tokens", "loss tokens", "pictures shown", "pictures", "refused")
    names = ("samples", "tokens", "loss tokens", "shown", "images", "bad")
    splits = told["splits"] if len(told["splits"]) > 1 else {}
    for name, counts in (*splits.items(), ("total", told["counts"])):
        yield (name or "none told", *(f"{counts[key]:,}" if key in counts else "" for key in names))


def _refusals(folder: Path, refused: dict[str, int]) -> Iterator[tuple[str, ...]]:
    """A row for each reason with its first place, the most frequent first."""
    first: dict[str, dict[str, str]] = {}
    with (folder / "quarantine.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            bad = json.loads(line)
            first.setdefault(bad["reason"], bad)
            if len(first) == len(refused):
                break
    yield ("refused because", "records", "first")
    for reason, count in sorted(refused.items(), key=lambda item: (-item[1], item[0])):
        bad = first[reason]
        yield (reason, f"{count:,}", f"{bad['shard']}, {bad['where']}: {bad['detail']}")


def _audit(folder: Path, against: Sequence[Path], words: Path) -> None:
    """Duplicates inside the source, and what it shares with benchmarks; all of that in a folder beside it."""
    from firstsight.data import audit, tokenizer
    from firstsight.data.index import Index

    index = Index.open(folder)
    terminal.lines(["", *audit.find_duplicates(index).summary_lines()])
    if against:
        found = audit.find_overlap(index, eval_paths=against, tokenizer=tokenizer.load_tokenizer(words))
        beside = folder.with_name(f"{folder.name}.audit")
        beside.mkdir(exist_ok=True)
        terminal.lines(["", *found.summary_lines(), f"all of these: {found.write(beside)}"])
