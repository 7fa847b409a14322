"""From a study to the graph of its steps, with the content of the user's own sources in the addresses.

Models and benchmarks are identified by their files' digest, data by the records that preparing reads: it is prepared
first, under `OUT/sources`, and then published as the result of its prepare step by hard links.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from firstsight.errors import DataError, RequestError, StoreError
from firstsight.files import FileDigests, read_cached_json, read_json, write_atomic
from firstsight.plan.data_requirements import SourceSize, check_data_sufficient
from firstsight.plan.features import FeatureRoom
from firstsight.plan.graph import Graph, build_graph
from firstsight.plan.scheduler import EXTERNAL_KIND, missing_steps
from firstsight.plan.step import Step, content_key
from firstsight.plan.store import Store
from firstsight.recipe.mixture import External, Recaptioned, base_source
from firstsight.recipe.serialize import find_specs
from firstsight.recipe.stages import Prepare
from firstsight.recipe.study import Study, combine
from firstsight.site import Site
from firstsight.workspace import sources
from firstsight.workspace.check_models import check_models
from firstsight.workspace.decisions.record import SequentialRecord, read_sequential_record
from firstsight.workspace.execute import HANDLERS, run_step
from firstsight.workspace.prepare import prepare_source, prepared_folder
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay


@dataclass(frozen=True)
class StoredStudy:
    """A study, the folder of its results, and the machine with the user's data."""

    study: Study
    root: Path
    site: Site = field(default_factory=sources.current_site)
    record: SequentialRecord | None = None
    """Of a study that is decided step by step; the study has its added arms."""

    @classmethod
    def find(cls, study: Study, root: Path, site: Site) -> StoredStudy:
        """A study with the arms that were added to decide its claims, or to decide those of its parts.

        StoreError where `root` is no folder.
        """
        if root.is_file():
            raise StoreError(f"{root}: wanted a folder of results. Got a file. Name another with --out.")
        if study.parts:
            parts = [cls.find(part, root, site).study for part in study.parts]
            return cls(combine(study.name, question=study.question, parts=parts), root, site)
        record = read_sequential_record(study, root)
        return cls(study.with_arms(record.labels) if record else study, root, site, record)

    @cached_property
    def parts(self) -> tuple[StoredStudy, ...]:
        """The parts of a combined study, each stored like a study of its own."""
        return tuple(self.find(part, self.root, self.site) for part in self.study.parts)

    @cached_property
    def graph(self) -> Graph:
        """The steps, with the digests that the last run recorded for the user's own sources; no data is read.

        `Graph.undigested_names` lists the sources without a digest.
        """
        return self.build_graph(recorded_content_ids(self.study, self.site))

    def build_graph(self, content_ids: dict[str, str]) -> Graph:
        """The steps with these digests, and with the stored features that the site has room for."""
        folders = (self.root / "steps").glob("encode-*")
        stored = {folder.name: sum(file.stat().st_size for file in folder.iterdir()) for folder in folders}
        return build_graph(self.study, content_ids, FeatureRoom(self.site.feature_bytes - sum(stored.values()), stored))

    @property
    def store(self) -> Store | None:
        """The store under `root`; None, and nothing is written, where there is none."""
        return Store(self.root) if (self.root / "store.json").is_file() else None

    def open_store(self) -> Store:
        """The store under `root`; StoreError where there is none yet."""
        if store := self.store:
            return store
        raise StoreError(f"nothing is stored under {self.root}. Run the study first, or name its folder with --out.")


def prepare_study(
    stored: StoredStudy,
    *,
    jobs: int | None = None,
    display: ProgressDisplay = NO_DISPLAY,
    select: Callable[[Graph], Graph] = lambda graph: graph,
) -> tuple[Store, Graph]:
    """The store and the graph of a study, with all its external sources read, checked and prepared.

    `select` limits this to the sources of a part of the graph. RequestError for a source without a location, of another
    form, changed since it was prepared, or with too little data.
    """
    readers, site, graph = jobs or len(os.sched_getaffinity(0)), stored.site, stored.graph
    preparer = _SourcePreparer(site=replace(site, readers=max(site.readers, readers)), out=stored.root, display=display)
    if sources.external_sources(graph):
        recorded = recorded_content_ids(stored.study, site)
        content_ids = recorded | preparer.prepare_all(select(graph))
        graph = graph if content_ids == recorded else stored.build_graph(content_ids)
    part = select(graph)
    check_data_sufficient(part, preparer.sizes)
    store = Store(stored.root)
    for step in missing_steps(part, store):
        if isinstance(step.spec, Prepare) and step.spec in preparer.folders:
            store.adopt(step, preparer.folders[step.spec], HANDLERS["prepare"])
    return store, graph


def recorded_content_ids(study: Study, site: Site) -> dict[str, str]:
    """The digests that the last run recorded for the external sources of a study, by `content_key`; nothing is read."""
    keys = dict.fromkeys(content_key(source) for source in find_specs(study, (External, Recaptioned)))
    paths = {key: _cache_path("identities", key, site) for key in keys}
    recorded = {key: read_cached_json(path, wanted=str) for key, path in paths.items()}
    return {key: digest for key, digest in recorded.items() if digest is not None}


def _cache_path(kind: str, key: str, site: Site) -> Path:
    return site.cache / kind / f"{sha256(key.encode()).hexdigest()[:20]}.json"


def _prepares_named_source(step: Step) -> bool:
    return isinstance(step.spec, Prepare) and isinstance(step.spec.source, External | Recaptioned)


@dataclass(kw_only=True, slots=True)
class _SourcePreparer:
    """Digests and prepared folders of a study's external sources."""

    site: Site
    out: Path
    display: ProgressDisplay
    folders: dict[Prepare, Path] = field(default_factory=dict)
    """Prepared folders, by source and tokenizer."""
    sizes: dict[str, SourceSize] = field(default_factory=dict)
    """The size of each prepared source, by name."""

    def prepare_all(self, graph: Graph) -> dict[str, str]:
        """Check, read and prepare the external sources of a graph, and record their digests, by `content_key`."""
        check_data_sufficient(graph)
        named = sources.external_sources(graph)
        sources.check_locations(named, self.site)
        self.site = sources.download_models(named, self.site)
        check_models(graph.steps, self.site)
        store, digests = Store(self.out), FileDigests(self.site.cache)
        models = [source for source in named if source.form not in sources.RECORD_FORMS]
        content_ids = {source.name: sources.content_digest(source, self.site, digests) for source in models}
        digests.save()
        for step in filter(_prepares_named_source, graph.steps):
            source, folder = step.spec.source, self._prepared(step, store)
            manifest = read_json(folder / "manifest.json", advice="Delete that folder and give the same command again.")
            self.folders[step.spec], content_ids[content_key(source)] = folder, manifest["source"]
            external = base_source(source)
            assert isinstance(external, External)  # as filtered above
            self.sizes[external.name] = SourceSize(manifest["counts"]["tokens"], manifest["counts"]["samples"])
        for key, digest in content_ids.items():
            write_atomic(_cache_path("identities", key, self.site), json.dumps(digest) + "\n")
        return content_ids

    def _prepared(self, step: Step, store: Store) -> Path:
        """The folder of a prepared source, which is prepared if necessary; RequestError if its files have changed."""
        spec: Prepare = step.spec
        external = base_source(spec.source)
        tokenizer = step.parent("tokenizer")
        assert isinstance(external, External) and tokenizer is not None  # every prepare step has a tokenizer
        if tokenizer.kind == EXTERNAL_KIND:
            path = sources.tokenizer_file(self.site.sources[tokenizer.spec.name], tokenizer.spec.name).parent
        else:  # the vocabulary of the built-in world
            path = run_step(tokenizer, store, site=self.site, display=self.display)
        folder = prepared_folder(spec.source, tokenizer_path=path, out=store.root, site=self.site)
        if (folder / "manifest.json").is_file():
            self._check_unchanged(folder, external.name)
            return folder
        with self.display.task(external.name) as on_progress:
            return prepare_source(spec, tokenizer_path=path, site=self.site, out=store.root, on_progress=on_progress)

    def _check_unchanged(self, folder: Path, name: str) -> None:
        """RequestError for a source with other bytes; files with unchanged size and time stamp are not read again."""
        from firstsight.data.index import Index
        from firstsight.data.readers.source_reader import check_source_unchanged

        index = Index.open(folder)
        try:
            check_source_unchanged(index, self.site.sources[name], cache=self.site.cache)
        except DataError as error:
            why = "results from before and after would not be about the same data"
            raise RequestError(f"{name} has changed since it was prepared: {why}. {error} Nothing was run.") from error
