"""From names to content: before a study is planned in earnest, the user's own data and weights are looked at.

A tokenizer, an encoder and benchmarks are known by their bytes; data by what preparing read of it, so it is prepared
first, into the store's folder of sources, and published from there, by links, under the address of its prepare step.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from json import dumps, loads
from pathlib import Path

from firstsight.cli import terminal
from firstsight.cli.prepare_progress import Following
from firstsight.errors import DataError, ModelError, RequestError
from firstsight.files import FileDigests, write_atomic
from firstsight.plan.graph import Graph, build_graph
from firstsight.plan.step import Step, content_key
from firstsight.plan.store import Store
from firstsight.recipe.mixture import External, Recaptioned
from firstsight.recipe.serialize import to_json
from firstsight.recipe.stages import Prepare
from firstsight.recipe.study import Study
from firstsight.site import Location, Site
from firstsight.site_file import source_entries_template
from firstsight.workspace.content_digests import digest, tokenizer_file

DATA = ("text", "captions", "interleaved", "dialogues")
"""Forms that are prepared."""

PUBLISHED = ("tokenizer", "encoder", "checkpoint")
"""Forms that may lie in a repository of the Hugging Face hub: `path = "hf://owner/name"`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """With what sources are looked at."""

    site: Site
    store: Store
    shown: Following
    made: Callable[[Step], Path]
    """Makes a step that a source needs before it can be prepared (the built-in vocabulary), and says where it lies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """What is known of the named sources of a study."""

    identities: Mapping[str, str]
    """Digest by `known_as`."""
    prepared: Mapping[tuple[str, str], Path]
    """Prepared folders by `known_as` of the source and its prepare step's tokenizer, as canonical JSON."""

    def adopt(self, steps: Iterable[Step], store: Store) -> None:
        """Publish what was prepared as the results of these steps."""
        for step in steps:
            if isinstance(step.spec, Prepare) and _key(step.spec) in self.prepared and not store.has(step.address):
                store.adopt(step, self.prepared[_key(step.spec)])

    def counted(self) -> dict[str, int]:
        """Tokens of each text source, as preparing counted them."""
        found: dict[str, int] = {}
        for (name, _), folder in self.prepared.items():
            manifest = loads((folder / "manifest.json").read_text())
            if manifest["form"] == "text":
                found[name] = manifest["counts"]["tokens"]
        return found


def _key(spec: Prepare) -> tuple[str, str]:
    return dumps(to_json(spec.source), sort_keys=True), dumps(to_json(spec.tokenizer), sort_keys=True)


def sources_of(steps: Graph) -> tuple[External, ...]:
    """Everything named that a study reads, each once, in the order of the plan."""
    return tuple(dict.fromkeys(step.spec for step in steps.steps if step.kind == "named"))


def check_places(sources: Iterable[External], site: Site) -> None:
    """Raise RequestError with every name that the site file lacks, and for places where nothing lies."""
    named = {source.name: source.form for source in sources}
    nowhere = {name: form for name, form in named.items() if name not in site.sources}
    if nowhere:
        raise RequestError(
            f"{', '.join(nowhere)}: wanted a place on this machine for each of these names, got none. "
            f"Nothing was run. Say in the site file where they lie:\n\n{source_entries_template(nowhere)}\n\n"
            "or take a scale with built-in data (smoke, cpu)."
        )
    empty = [f"{name}: nothing lies at {place}." for name in named for place in absent(site.sources[name])]
    if empty:
        raise RequestError("\n".join([*empty, "Nothing was run. Mend the site file, or mount the disk."]))


def on_hub(location: Location) -> bool:
    """Whether a location is a model's repository on the Hugging Face hub; hf://datasets/... is data, read as it is."""
    head, _, rest = location.path.partition("://")
    return head == "hf" and rest.partition("/")[0] not in ("datasets", "spaces", "buckets")


def brought(sources: Iterable[External], site: Site) -> Site:
    """The site with every tokenizer, encoder and checkpoint among `sources` in a local folder, fetched if need be.

    Addresses hang on the bytes there, never on the hub's name. Raises RequestError where the hub cannot be reached or a
    download is not complete, with what to do, and where a model's repository is named as data.
    """
    found = dict(site.sources)
    for one in sources:
        if one.name not in found:
            continue
        place = found[one.name]
        if one.form in PUBLISHED:
            found[one.name] = replace(place, path=str(_folder(place.path, weights=one.form != "tokenizer")))
        elif on_hub(place):
            raise RequestError(
                f"{one.name}: wanted {one.form} at {place.path}. Got a repository of models. "
                "Data sets lie at hf://datasets/OWNER/NAME; or download it and name its folder."
            )
    return replace(site, sources=found)


def _folder(place: str, *, weights: bool) -> Path:
    from firstsight.hub.download import resolve_hub_path

    try:
        return resolve_hub_path(place, needs_weights=weights)
    except ModelError as error:
        raise RequestError(str(error)) from error


def absent(location: Location) -> list[str]:
    """The local places of a location where nothing lies; of a pattern, the part before it is looked at."""
    places = [place for place in (location.path, location.pictures, location.captions) if place and "://" not in place]
    return [place for place in places if not _before_pattern(place).exists()]


def _before_pattern(place: str) -> Path:
    found = Path(place)
    while re.search(r"[*?\[{]", str(found)):
        found = found.parent
    return found


def looked_at(
    steps: Graph, store: Store, *, site: Site, jobs: int | None, made: Callable[[Step, Store], Path]
) -> Content:
    """`identify`, told on the terminal, in as many processes as asked or as there are cores."""
    look = Look(
        site=replace(site, readers=max(site.readers, jobs or len(os.sched_getaffinity(0)))),
        store=store,
        shown=Following(terminal.console()),
        made=lambda step: made(step, store),
    )
    return identify(steps, look)


def identify(steps: Graph, look: Look) -> Content:
    """Look at every named source of a provisional plan, preparing what is not prepared yet.

    Raises RequestError for a place that holds something else and for a source that changed since it was prepared,
    DataError for data that cannot be prepared.
    """
    site, digests = look.site, FileDigests(look.site.cache)
    identities = {
        one.name: digest(one.name, one.form, location=site.sources[one.name], digests=digests)
        for one in sources_of(steps)
        if one.form not in DATA
    }
    digests.save()
    prepared: dict[tuple[str, str], Path] = {}
    words = {step: _tokenizer(step, look) for step in steps.steps if _of_user(step)}  # a run of its own, if it is made
    with look.shown.around():
        for step, tokenizer in words.items():
            folder = _prepared(step.spec, tokenizer, look)
            prepared[_key(step.spec)] = folder
            identities[content_key(step.spec.source)] = loads((folder / "manifest.json").read_text())["source"]
    for name, found in identities.items():
        write_atomic(_note(name, site), dumps(found, sort_keys=True) + "\n")
    return Content(identities=identities, prepared=prepared)


def noted(steps: Graph, site: Site) -> dict[str, str]:
    """What the last look at these sources found, without looking again; nothing for those never looked at."""
    prepared = {content_key(step.spec.source) for step in steps.steps if _of_user(step)}
    names = prepared | {one.name for one in sources_of(steps) if one.form not in DATA}
    return {name: loads(_note(name, site).read_text()) for name in names if _note(name, site).is_file()}


def _of_user(step: Step) -> bool:
    return isinstance(step.spec, Prepare) and isinstance(step.spec.source, External | Recaptioned)


def known_graph(study: Study, site: Site) -> Graph:
    """The plan with addresses as far as they are known; `Graph.unknown` names what makes them provisional."""
    steps = build_graph(study)
    return build_graph(study, noted(steps, site)) if steps.undigested_names() else steps


def _note(name: str, site: Site) -> Path:
    return site.cache / "identities" / f"{sha256(name.encode()).hexdigest()[:20]}.json"


def _tokenizer(step: Step, look: Look) -> Path:
    """Where the tokenizer of a prepare step lies."""
    wanted = step.parent("tokenizer")
    assert wanted is not None  # every prepare step has one
    if wanted.kind == "named":
        return tokenizer_file(look.site.sources[wanted.spec.name], wanted.spec.name).parent
    return look.made(wanted)


def _prepared(spec: Prepare, words: Path, look: Look) -> Path:
    """The folder of a prepared source: made if it is not there, RequestError if its files are no longer those."""
    from firstsight.workspace.preparing import place_of, prepared

    source = spec.source
    assert isinstance(source, External | Recaptioned)
    name = source.external.name if isinstance(source, Recaptioned) else source.name
    folder = place_of(source, words=words, out=look.store.root)
    if not (folder / "manifest.json").is_file():
        look.shown.begin(name)
        return prepared(source, spec.tokenizer, words=words, site=look.site, out=look.store.root, tell=look.shown)
    try:
        _refuse_changed(folder, look.site.sources[name], look.site)
    except DataError as error:
        raise RequestError(
            f"{name} has changed since it was prepared: results from before and after would not be about the same "
            f"data. {error} Nothing was run."
        ) from error
    return folder


def _refuse_changed(folder: Path, location: Location, site: Site) -> None:
    """Raise DataError for a source with other bytes; files with the stamps of the last look are not read again."""
    from firstsight.data.index import Index
    from firstsight.data.readers import list_shards
    from firstsight.data.source_check import check_source_unchanged

    index = Index.open(folder)
    stamps = [[one.name, one.start, one.stop, one.size, one.stamp] for one in list_shards(location, index.form)]
    note = site.cache / "looked" / f"{sha256(str(folder.absolute()).encode()).hexdigest()[:20]}.json"
    seen = [index.digest, location.path, stamps]
    if not note.is_file() or loads(note.read_text()) != seen:
        check_source_unchanged(index, location)
        write_atomic(note, dumps(seen, sort_keys=True) + "\n")
