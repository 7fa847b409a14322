"""Prepare external sources: equal requests of the `prepare` command and of studies share one folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from firstsight.errors import QuantityError, RequestError, UnknownName
from firstsight.files import file_name_part, read_json
from firstsight.plan.store import Store
from firstsight.recipe.mixture import DataSource, External, ExternalForm, Recaptioned, base_source
from firstsight.recipe.scales import evening, paper
from firstsight.recipe.stages import Prepare, TokenizerSource
from firstsight.site import Location, ProgressCallback, Site
from firstsight.units import Tokens, parse_share
from firstsight.workspace.progress import ProgressDisplay
from firstsight.workspace.sources import RECORD_FORMS, download_models

DIGEST_CHARACTERS = 8
"""Characters of a digest in a folder's name."""


def prepare_source(job: Prepare, *, tokenizer_path: Path, site: Site, out: Path, on_progress: ProgressCallback) -> Path:
    """The folder under `out` with the prepared source, which is written or completed if necessary.

    Raises DataError when the source is refused, StepFailed when the disk is full, RequestError when the site does not
    list the source or another process is preparing it.
    """
    from firstsight.data.prepare import prepare

    store = Store(out)
    folder = prepared_folder(job.source, tokenizer_path=tokenizer_path, out=out, site=site)
    folder.mkdir(parents=True, exist_ok=True)
    with store.lock(f"sources-{folder.name}") as lease:
        if lease is None:
            raise RequestError(f"{folder}: another process prepares this source. Wait for it, or choose another --out.")
        prepare(job, inputs={"tokenizer": tokenizer_path}, out=folder, site=site, on_progress=on_progress)
    return folder


def prepared_folder(source: DataSource, *, tokenizer_path: Path, out: Path, site: Site) -> Path:
    """Where a source is prepared under `out`: the name has the source's name and form and the tokenizer's digest.

    Also a digest of the site's limits for records, where they are not the defaults: they decide which are valid.
    """
    from firstsight.data import tokenizer

    external = base_source(source)
    if not isinstance(external, External):
        raise RequestError(f"only sources of the site file are prepared separately. Got {type(source).__name__}.")
    name = external.name
    parts = [file_name_part(name.rstrip("/").rpartition("/")[2]) or "source", external.form]
    if parts[0] != name:  # a digest distinguishes names that differ only in replaced characters
        parts.insert(1, hashlib.sha256(name.encode()).hexdigest()[:DIGEST_CHARACTERS])
    if isinstance(source, Recaptioned):
        share = source.synthetic_share
        parts.append(f"synthetic-{share.numerator}-{share.denominator}-seed-{source.seed}")
    if changed := site.limits.changed_for_records():
        parts.append(f"limits-{hashlib.sha256(repr(changed).encode()).hexdigest()[:DIGEST_CHARACTERS]}")
    digest = tokenizer.load_tokenizer(tokenizer_path).digest[:DIGEST_CHARACTERS]
    return out / "sources" / "-".join([*parts, digest])


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedSource:
    """A source that was checked, counted, tokenized and indexed."""

    folder: Path
    manifest: Mapping[str, Any]
    """manifest.json: counts, splits, captions, rejected records by reason, digests."""
    seconds: float | None
    """How long it took; None if it was prepared before."""
    request: PreparationRequest

    def audit(self) -> Iterator[str]:
        """Lines on the duplicates inside the source and its overlap with benchmarks, listed in FOLDER.audit."""
        from firstsight.data import audit, tokenizer
        from firstsight.data.index import Index

        index, benchmarks = Index.open(self.folder), self.request.benchmarks
        yield from audit.find_duplicates(index).summary_lines()
        if benchmarks:
            words = tokenizer.load_tokenizer(self.request.tokenizer_path)
            overlap = audit.find_overlap(index, eval_paths=benchmarks, tokenizer=words)
            audit_folder = self.folder.with_name(f"{self.folder.name}.audit")
            audit_folder.mkdir(exist_ok=True)
            yield from ("", *overlap.summary_lines(), f"all of these: {overlap.write(audit_folder)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationRequest:
    """A source to prepare: its names are known, nothing is read yet."""

    spec: Prepare
    tokenizer_path: Path
    site: Site
    benchmarks: tuple[Path, ...]

    def folder(self, root: Path) -> Path:
        """Where the source is prepared under `root`."""
        return prepared_folder(self.spec.source, tokenizer_path=self.tokenizer_path, out=root, site=self.site)

    def prepare(self, root: Path, *, display: ProgressDisplay) -> PreparedSource:
        """The source, prepared under `root`; errors as in `prepare_source`."""
        manifest, started = self.folder(root) / "manifest.json", monotonic()
        before = manifest.stat().st_mtime_ns if manifest.is_file() else None
        with display.task(manifest.parent.name) as view:
            prepare_source(self.spec, tokenizer_path=self.tokenizer_path, site=self.site, out=root, on_progress=view)
        seconds = None if before == manifest.stat().st_mtime_ns else monotonic() - started
        keys, advice = (
            ("counts", "captions", "splits", "refused", "source", "digest"),
            "Delete that folder and try again.",
        )
        values = read_json(manifest, keys=keys, advice=advice)
        return PreparedSource(folder=manifest.parent, manifest=values, seconds=seconds, request=self)


def request_preparation(
    names: Sequence[str],
    site: Site,
    *,
    tokenizer: str,
    form: str = "",
    synthetic: str = "",
    seed: int | None = None,
    against: Sequence[str] = (),
    jobs: int | None = None,
) -> list[PreparationRequest]:
    """The requests for sources by name, path or URL; RequestError for an unknown or an incomplete one."""
    site = site_with_paths(names, site, jobs=jobs)
    tokenizer_spec, path = find_tokenizer(tokenizer, site)
    sources = [requested_source(name, form=form, synthetic=synthetic, seed=seed) for name in names]
    benchmarks = tuple(find_benchmarks(name, site) for name in against)
    specs = [Prepare(source=source, tokenizer=tokenizer_spec) for source in sources]
    return [PreparationRequest(spec=spec, tokenizer_path=path, site=site, benchmarks=benchmarks) for spec in specs]


def site_with_paths(names: Sequence[str], site: Site, *, jobs: int | None) -> Site:
    """The site with every path or URL among `names` as a source of that name, and `jobs` readers (default: all cores).

    UnknownName or RequestError for what is neither a path nor a source of the site file.
    """
    if jobs is not None and jobs < 1:
        raise QuantityError(f"--jobs: wanted at least 1. Got {jobs}.")
    for name in names:
        if name not in site.sources and not ("://" in name or "/" in name or Path(name).exists()):
            if site.sources:
                raise UnknownName("source of the site file", name, site.sources)
            raise RequestError(f"{name}: wanted a path, or a name of a site file. Got neither: no such file.")
    paths = {name: name if "://" in name else str(Path(name).absolute()) for name in names}
    sources = {name: Location(path=path) for name, path in paths.items()} | dict(site.sources)
    return replace(site, readers=jobs or len(os.sched_getaffinity(0)), sources=sources)


def find_tokenizer(name: str, site: Site) -> tuple[TokenizerSource, Path]:
    """The tokenizer with a name of the site file or at a path, as a recipe names it, and its local path."""
    tokenizer = External(name=name, form="tokenizer", tokens=Tokens(0))
    if name in site.sources:
        return tokenizer, Path(download_models([tokenizer], site).sources[name].path)
    if Path(name).exists():
        return tokenizer, Path(name)
    advice = f"Known names: {', '.join(sorted(site.sources))}." if site.sources else "Give a path."
    expected = "wanted a name of the site file or the path of a tokenizer.json"
    raise RequestError(f"--tokenizer: {expected}. Got {name!r}. {advice}")


def find_benchmarks(name: str, site: Site) -> Path:
    """The path of a benchmark, by its name in the site file or as a path."""
    path = Path(site.sources[name].path if name in site.sources else name)
    if not path.exists():
        raise RequestError(f"--against: wanted a name of the site file or a path. Got {name!r}, which does not exist.")
    return path


def requested_source(name: str, *, form: str, synthetic: str, seed: int | None) -> DataSource:
    """The spec of a source from the words of a request; sources of the paper have a known form, all others need one."""
    published_forms = {source.name: source.form for source in published_sources()}
    form = form or published_forms.get(name, "")
    forms: dict[str, ExternalForm] = {known: known for known in RECORD_FORMS}
    if form not in forms:
        raise RequestError(f"{name}: wanted --form, one of {', '.join(RECORD_FORMS)}. Got {form or 'none'}.")
    source = External(name=name, form=forms[form], tokens=Tokens(0))
    if synthetic:
        return Recaptioned(external=source, synthetic_share=parse_share(synthetic), seed=seed or 0)
    if seed is not None:
        raise RequestError("--seed chooses synthetic captions. Give --synthetic SHARE as well, or leave it out.")
    return source


def published_sources() -> list[External]:
    """The external sources of the shipped scales, the paper's first, data first."""
    specs = [*vars(paper).values(), paper.PAPER_ENCODER.weights, paper.PAPER_EVALUATION.benchmarks]
    specs += [*vars(evening).values(), evening.ENCODER.weights]
    sources = (spec.external if isinstance(spec, Recaptioned) else spec for spec in specs)
    return [source for source in sources if isinstance(source, External)]
