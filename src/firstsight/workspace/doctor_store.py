"""`doctor --store`: check all results of a store by their digests; compute damaged ones again from their records."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any, get_args

from firstsight.errors import DamagedResult, RequestError, StoreError
from firstsight.files import is_temporary, link_or_copy, remove_if_unlocked, write_json
from firstsight.leases import owned_name, remove_if_ended
from firstsight.plan.graph import Graph, with_ancestors
from firstsight.plan.scheduler import EXTERNAL_KIND
from firstsight.plan.step import STEP_VERSIONS, SYNTHETIC_SUFFIX, Step
from firstsight.plan.store import Store
from firstsight.plan.verification import DIGEST_THREADS, EVALUATIONS_FOLDER, ResultCheck, check_stored_folder
from firstsight.recipe.mixture import External, ExternalForm
from firstsight.recipe.serialize import from_json
from firstsight.resume_folder import remove_path
from firstsight.site import Progress, Site
from firstsight.units import Tokens, format_bytes
from firstsight.workspace.execute import run_graph
from firstsight.workspace.progress import NO_DISPLAY, ProgressDisplay
from firstsight.workspace.sources import check_locations, external_sources

ADDRESS = re.compile(r".+-[0-9a-f]{12}")
DAMAGED_FOLDER = "damaged"
"""Below a store: the results that were replaced, as they were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultDamage:
    """A stored result that is not what was published."""

    address: str
    problems: tuple[str, ...]
    """A line for each file: its path and what is wrong with it."""
    dependents: tuple[str, ...]
    """The stored results that depend on it, directly or through others."""
    outdated: tuple[str, ...]
    """Those of the dependents that started after a file had changed, so that they may have read it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreCheck:
    """The state of a store."""

    root: Path
    results: int
    size: int
    """Bytes of all results."""
    seconds: float
    damaged: tuple[ResultDamage, ...]
    notes: tuple[str, ...]
    """What else is there: unfinished steps, records without a result, what was removed."""
    damaged_evaluations: tuple[str, ...] = ()
    """A line for each damaged result of `firstsight evaluate`, with the command that replaces it."""
    repairs: tuple[str, ...] = ()
    """What a repair did before this check."""

    @property
    def ok(self) -> bool:
        return not self.damaged and not self.damaged_evaluations

    def lines(self) -> Iterator[str]:
        """Text for the terminal: what a repair did, the counts, each damaged result, notes, and what to do."""
        yield from self.repairs
        yield f"{self.root}: {self.results} results, {format_bytes(self.size)}, read in {self.seconds:.1f} s"
        for damage in self.damaged:
            yield f"damaged: {damage.address}"
            yield from (f"  {line}" for line in damage.problems)
            yield f"  needed by: {', '.join(damage.dependents) or 'no stored result'}"
            if damage.outdated:
                yield f"  may have read the changed file: {', '.join(damage.outdated)}"
        yield from (f"damaged: {line}" for line in self.damaged_evaluations)
        yield from self.notes
        if self.damaged and not self.repairs:
            yield f"Compute them again: firstsight doctor --store {self.root} --repair"
        elif self.ok:
            yield "Every result is what was published."


def check_store(root: Path, *, display: ProgressDisplay = NO_DISPLAY, repairs: Sequence[str] = ()) -> StoreCheck:
    """Read every file of every result under `root`, and remove what dead processes left; StoreError for no store."""
    store, started = open_store(root), monotonic()
    records = read_provenances(store)
    addresses = [name for name in store.addresses() if not _is_stray(name, records)]
    sizes = {address: _size(store.path(address)) for address in addresses}
    problems: dict[str, tuple[str, ...]] = {}
    total = max(1, sum(sizes.values()))
    with display.task(f"check {root}") as on_progress, ThreadPoolExecutor(DIGEST_THREADS) as pool:
        for address, lines in zip(addresses, pool.map(store.verify, addresses), strict=True):
            problems[address] = lines
            done = sum(sizes[name] for name in problems)
            on_progress(Progress(done=done // 2**20, total=total // 2**20 + 1, unit="MiB"))
    aside = {path.name.rpartition(".")[0] for path in (root / DAMAGED_FOLDER).glob("*/")}
    pending = sorted(name for name in aside & records.keys() if not store.has(name))
    problems |= dict.fromkeys(pending, ("set aside by a repair, and not computed again yet",))
    return StoreCheck(
        root=root,
        results=len(addresses),
        size=sum(sizes.values()),
        seconds=monotonic() - started,
        damaged=tuple(_damage(address, lines, store, records) for address, lines in problems.items() if lines),
        notes=tuple(_notes(store, records)),
        damaged_evaluations=tuple(_damaged_evaluations(root)),
        repairs=tuple(repairs),
    )


def open_store(root: Path) -> Store:
    """The store under `root`; StoreError where there is none."""
    if root.is_file():
        raise StoreError(f"{root}: wanted a folder of results. Got a file. Name the --out of a run.")
    if not (root / "store.json").is_file():
        raise StoreError(f"{root}: wanted a folder of results. Got no store.json in it. Name the --out of a run.")
    return Store(root)


def read_provenances(store: Store) -> dict[str, dict[str, Any]]:
    """The readable provenance records of a store by address, also of steps without a result."""
    records: dict[str, dict[str, Any]] = {}
    for path in sorted((store.root / "provenance").glob("*.json")):
        try:
            records[path.stem] = store.provenance(path.stem)
        except DamagedResult:
            continue
    return records


def _is_stray(name: str, records: Collection[str]) -> bool:
    """Whether an entry of the folder of results is none: it has no record and not the name of a step."""
    return name not in records and not ADDRESS.fullmatch(name)


def _size(path: Path) -> int:
    """Bytes of the files below a folder; links are not followed."""
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir()) if path.is_dir() else 0


def _damage(
    address: str, problems: tuple[str, ...], store: Store, records: Mapping[str, Mapping[str, Any]]
) -> ResultDamage:
    stored = {name: record for name, record in records.items() if store.has(name)}
    readers: set[str] = set()
    if address in records:
        ended = datetime.fromisoformat(records[address]["ended"]).timestamp()
        files = [
            store.path(address) / line.removesuffix(": changed") for line in problems if line.endswith(": changed")
        ]
        times = [time for time in (file.lstat().st_ctime for file in files if file.exists()) if time > ended]
        children = (name for name, record in stored.items() if address in record["needs"].values())
        readers = {name for name in children if times and _started(stored[name]) > min(times)}
    return ResultDamage(
        address=address,
        problems=problems,
        dependents=dependents([address], stored),
        outdated=tuple(sorted({*readers, *dependents(readers, stored)})),
    )


def _damaged_evaluations(root: Path) -> Iterator[str]:
    for folder in sorted((root / EVALUATIONS_FOLDER).glob("*/")):
        try:
            check_stored_folder(folder)
        except DamagedResult as error:
            yield str(error)


def _started(record: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(record["started"]).timestamp()


def dependents(addresses: Iterable[str], records: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The addresses in `records` that need one of `addresses`, directly or through others; sorted."""
    reached, before = set(addresses), 0
    start = set(reached)
    while len(reached) != before:
        before = len(reached)
        reached |= {name for name, record in records.items() if reached & set(record["needs"].values())}
    return tuple(sorted(reached - start))


def _notes(store: Store, records: Collection[str]) -> Iterator[str]:
    """What is not a result: removed leftovers, unfinished steps, records of results that were deleted."""
    temporaries = sum(
        remove_if_unlocked(file)
        for folder in sorted(store.root.iterdir())
        if folder.is_dir() and folder.name not in ("steps", DAMAGED_FOLDER)
        for file in folder.rglob(".*.tmp")
        if is_temporary(file) and file.is_file()
    )
    work = sorted({owned_name(path) for path in (store.root / "work").iterdir()})
    running = [name for name in work if store.is_locked(name)]
    locks = sum(remove_if_ended(lock) for lock in (store.root / "locks").iterdir())
    if temporaries or locks:
        yield f"removed: {temporaries} temporary files and {locks} locks of processes that have ended"
    if running:
        yield f"running: {', '.join(running)}"
    if unfinished := [name for name in work if name not in running]:
        yield f"unfinished, which a run of their study continues or starts over: {', '.join(unfinished)}"
    for name in (name for name in store.addresses() if _is_stray(name, records)):
        yield f"no result: {store.path(name)}, which no run wrote. Move it elsewhere, or delete it."
    if deleted := sorted(name for name in records if not store.has(name) and name not in work):
        yield f"deleted, which a run of their study computes again where it needs them: {', '.join(deleted)}"


def repair_store(
    root: Path, *, site: Site, jobs: int | None = None, display: ProgressDisplay = NO_DISPLAY
) -> StoreCheck:
    """Check a store, set damaged results aside, run exactly these steps again, and check it once more.

    A lost or damaged provenance is restored from its copy. A step is run again from the spec in its provenance, and so
    are the results that may have read the damage. RequestError where another process runs one of these steps.
    """
    check, repairs = check_store(root, display=display), list[str]()
    store = Store(root)
    if restored := [damage for damage in check.damaged if _restore_record(store, damage.address)]:
        for damage in restored:
            repairs += [f"restored the provenance of {damage.address} from its copy", f"  {damage.problems[0]}"]
        check = check_store(root, display=display)
    records = read_provenances(store)
    problems = {damage.address: damage.problems for damage in check.damaged}
    addresses = dict.fromkeys(name for damage in check.damaged for name in (damage.address, *damage.outdated))
    rebuilder, steps, lost = _StepRebuilder(records), dict[str, Step](), dict[str, str]()
    for address in addresses:
        try:
            steps[address] = rebuilder.step(address)
        except RequestError as error:
            lost[address] = str(error)
    graph = _repair_graph(steps)
    check_locations(external_sources(graph), site)  # before anything is moved
    for address in addresses:
        if folder := _set_aside(store, address, keep_record=address in steps):
            reasons = problems.get(address, ("may have read a changed file",))
            repairs += [f"{address}: moved to {folder}", *(f"  {line}" for line in reasons)]
    repairs += [f"{message} A run of its study computes it where it needs it." for message in lost.values()]
    if steps:
        summary = run_graph(graph, store, site=site, jobs=jobs, display=display)
        repairs += [_comparison(step.address, store, records) for step in summary.published]
        repairs += summary.lines()[1:]
    return check_store(root, display=display, repairs=repairs) if repairs else check


def _restore_record(store: Store, address: str) -> bool:
    """Write a provenance that is missing, is no file or differs from its copy; False where there is no valid copy."""
    check = ResultCheck(store.root, address)
    record = check.remembered_record()
    try:
        if record is None or record == check.record():
            return False
    except DamagedResult:
        pass
    if check.record_path.is_dir():
        remove_path(check.record_path)
    write_json(check.record_path, record, sync=True)
    return True


@dataclass(frozen=True, slots=True)
class _StepRebuilder:
    """Steps with all of their inputs, from provenance records."""

    records: Mapping[str, Mapping[str, Any]]

    def step(self, address: str) -> Step:
        """RequestError where the record of the step or of an input is lost, or is of another version of firstsight."""
        record = self.records.get(address)
        if record is None:
            raise RequestError(f"{address} cannot be computed again: its provenance is lost.")
        kind, version = record["kind"], record["version"]
        if STEP_VERSIONS.get(kind) != version:
            current = f"this firstsight has {STEP_VERSIONS.get(kind, 'none')}"
            raise RequestError(f"{address} cannot be computed again: version {version} of {kind} made it, {current}.")
        spec, content_ids = from_json(record["spec"]), record["identities"]
        leaves = {leaf.address: leaf for leaf in _external_leaves(content_ids)}
        needs = [(role, leaves.get(parent) or self.step(parent)) for role, parent in record["needs"].items()]
        return Step(kind=kind, spec=spec, needs=tuple(needs), version=version, content_ids=content_ids)


def _external_leaves(content_ids: Mapping[str, str]) -> Iterator[Step]:
    """A step for each external source in each form that it may have; its address depends on form and digest alone."""
    for key, digest in content_ids.items():
        name = key.removesuffix(SYNTHETIC_SUFFIX)
        for form in get_args(ExternalForm):
            spec = External(name=name, form=form, tokens=Tokens(0))
            version = STEP_VERSIONS[EXTERNAL_KIND]
            yield Step(kind=EXTERNAL_KIND, spec=spec, version=version, content_ids={name: digest})


def _repair_graph(steps: Mapping[str, Step]) -> Graph:
    chains = {address: tuple(with_ancestors(step)) for address, step in steps.items()}
    ordered = tuple(dict.fromkeys(step for chain in chains.values() for step in chain))
    return Graph(title="repair", steps=ordered, arms=chains, seeds=dict.fromkeys(chains, 0))


def _set_aside(store: Store, address: str, *, keep_record: bool) -> Path | None:
    """Move a result to a new folder below `damaged`, with a copy of its record, or with the record itself.

    A prepared source with the same files, which was published by hard links, goes there too. None for no result.
    """
    check, result = ResultCheck(store.root, address), store.path(address)
    numbered = (store.root / DAMAGED_FOLDER / f"{address}.{number}" for number in range(1, 1000))
    target = next(path for path in numbered if not path.exists())
    with store.lock(address) as lease:
        if lease is None:
            raise RequestError(f"{address}: another process works on this step. Wait for it, then repair again.")
        if not os.path.lexists(result):
            return None
        inodes = {file.lstat().st_ino for file in result.rglob("*") if file.is_file()} if result.is_dir() else set()
        target.mkdir(parents=True)
        if check.record_path.is_file():
            link_or_copy(check.record_path, target / check.record_path.name)
        result.rename(target / "result")
        if not keep_record:
            remove_path(check.record_path)
        check.forget()
    for folder in (store.root / "sources").glob("*/"):
        if any(file.lstat().st_ino in inodes for file in folder.rglob("*") if file.is_file()):
            folder.rename(target / f"source-{folder.name}")
    return target


def _comparison(address: str, store: Store, records: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether a result that was computed again has the bytes that it had before."""
    before, after = records[address]["files"], store.provenance(address)["files"]
    if before == after:
        return f"{address}: computed again, the same bytes as when it was published"
    changed = ", ".join(sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)))
    rest = ", ".join(dependents([address], records)) or "no result"
    return f"{address}: computed again, with other bytes than before in {changed}; from the earlier ones: {rest}"
