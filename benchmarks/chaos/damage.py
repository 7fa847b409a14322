"""Damaged files: of the store, where a later step uses them, and of the working folder of an interrupted step."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.command import Bench, needs, published, with_descendants
from benchmarks.chaos.kills import Write
from benchmarks.chaos.outcome import Ending, Outcome, settle
from benchmarks.chaos.writes import OWNER, WriteFault

BATCH = 6
"""Damaged files of one store at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A way of damaging a path relative to the store."""

    form: str
    path: str
    seed: int

    def apply(self, store: Path) -> None:
        """Damage the path; a folder can only be deleted or replaced by a link."""
        path = store / self.path
        if self.form == "a link":
            _link(path, outside=store.with_name("linked"))
        else:
            FORMS[self.form](path, random.Random(self.seed))

    @property
    def is_of_result(self) -> bool:
        """Whether the path belongs to a published result."""
        return self.path.split("/")[0] in ("steps", "provenance")

    @property
    def address(self) -> str:
        """The address that is part of the path, or an empty text."""
        match = re.search(r"[a-z][\w.-]*-[0-9a-f]{12}", self.path)
        return match[0] if match else ""


def _flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(1, max(2, path.stat().st_size))])


def _zero_end(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    start = rng.randrange(len(content))
    path.write_bytes(content[:start] + bytes(len(content) - start))


def _empty(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def _delete(path: Path, rng: random.Random) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _link(path: Path, *, outside: Path) -> None:
    """Move the path out of the store, where it may change at any time, and link to it."""
    outside.mkdir(exist_ok=True)
    target = outside / path.name
    shutil.rmtree(target, ignore_errors=True)
    target.unlink(missing_ok=True)
    path.rename(target)
    path.symlink_to(target)


def _folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


FORMS: dict[str, Callable[[Path, random.Random], None]] = {
    "flipped": _flip,
    "cut": _cut,
    "zeros at the end": _zero_end,
    "emptied": _empty,
    "deleted": _delete,
    "a folder": _folder,
}
FILE_FORMS, FOLDER_FORMS = (*FORMS, "a link"), ("deleted", "a link")


def damages(store: Path, folders: Sequence[str], rng: random.Random, count: int) -> list[Damage]:
    """Damages spread evenly over the kinds of file below some folders of a store, and over the forms."""
    kinds: dict[str, list[str]] = {}
    for path in sorted(path for folder in folders for path in (store / folder).rglob("*")):
        name = path.relative_to(store).as_posix()
        is_result = path.is_dir() and path.parent.name == "steps"
        if is_result or (path.is_file() and path.stat().st_size and not path.is_symlink()):
            kinds.setdefault(re.sub(rf"{OWNER.pattern}|[0-9a-f]{{12}}|\d+", "#", name), []).append(name)
    names, chosen = sorted(kinds), list[Damage]()
    rng.shuffle(names)
    while names and len(chosen) < count:
        for n, kind in enumerate(names[: count - len(chosen)]):
            path = rng.choice(kinds[kind])
            forms = FOLDER_FORMS if (store / path).is_dir() else FILE_FORMS
            form = forms[(n + len(chosen) // max(1, len(names))) % len(forms)]
            chosen.append(Damage(form=form, path=path, seed=rng.randrange(2**32)))
    return chosen


def run_stored(bench: Bench, chosen: Sequence[Damage]) -> Iterator[Outcome]:
    """Damage published results that missing steps need: run, report, repair, and run again."""
    graph = needs(bench.reference)
    for batch in batches(chosen, graph):
        yield from _judge_stored(bench, batch, graph)


def batches(chosen: Sequence[Damage], graph: Mapping[str, Sequence[str]]) -> Iterator[list[Damage]]:
    """At most BATCH damages, none of a step that another of them needs.

    Otherwise steps between the two would be removed, and nothing would need them again.
    """
    waiting = list(chosen)
    while waiting:
        batch = list[Damage]()
        for damage in waiting:
            if len(batch) < BATCH and not any(_are_related(damage, included, graph) for included in batch):
                batch.append(damage)
        waiting = [damage for damage in waiting if damage not in batch]
        yield batch


def _are_related(first: Damage, second: Damage, graph: Mapping[str, Sequence[str]]) -> bool:
    """Whether two damages are of one path or step, or one is of a step that the other's needs."""
    lines = (with_descendants([damage.address], graph) for damage in (first, second) if damage.address)
    return first.path == second.path or any({first.address, second.address} <= set(line) for line in lines)


def _judge_stored(bench: Bench, batch: Sequence[Damage], graph: Mapping[str, Sequence[str]]) -> Iterator[Outcome]:
    damaged = {damage.address for damage in batch if damage.is_of_result}
    users = {name for name, parents in graph.items() if damaged & set(parents)}
    bench.reset(without=with_descendants(sorted(users), graph))
    for damage in batch:
        damage.apply(bench.store)
    used = bench.run()
    wrong = _wrong_results(bench, batch)
    attempts = [used, bench.report(), bench.doctor(repair=True)]
    ending, detail = settle(bench, attempts, tries=2)
    if ending == "stuck":  # with a file that the message names: it is deleted by hand
        for path in (bench.store / damage.path for damage in batch if damage.path in detail):
            _delete(path, random.Random(0))
        ending, detail = settle(bench, attempts)
    texts = " ".join(attempt.output for attempt in attempts)
    for damage in batch:
        yield Outcome(
            study=bench.project.name,
            kind=f"{damage.path.split('/')[0]}: {damage.form}",
            fault=str(damage),
            ending=_stored_ending(damage, ending, texts, wrong=wrong),
            detail=wrong or detail,
        )


def _wrong_results(bench: Bench, batch: Sequence[Damage]) -> str:
    """Published files that differ from the undisturbed run and were not damaged here: made from a damaged parent."""
    expected, actual = published(bench.reference), published(bench.store)
    damaged = {damage.address for damage in batch}
    changed = (name for name in expected.keys() & actual.keys() if expected[name] != actual[name])
    return ", ".join(name for name in sorted(changed) if name.split("/")[0] not in damaged)


def _stored_ending(damage: Damage, ending: Ending, texts: str, *, wrong: str) -> Ending:
    if wrong:
        return "silent"
    if ending != "same bytes":
        return ending
    name = damage.path.rsplit("/", 1)[-1]
    is_named = name in texts and (not damage.address or damage.address in texts)
    is_absent_step = damage.form == "deleted" and name == damage.address
    if damage.is_of_result and not is_named and not is_absent_step:
        return "silent"
    return "named" if is_named else "same bytes"


def run_interrupted(
    bench: Bench, writes: Sequence[tuple[str, str, str]], rng: random.Random, count: int
) -> Iterator[Outcome]:
    """Kill each kind of step at a write in its middle, damage what it left in its working folder, and run again."""
    snapshots = list(_snapshots(bench, writes))
    share = -(-count // max(1, len(snapshots)))
    for snapshot in snapshots:
        for damage in damages(snapshot, ["work"], rng, min(share, count)):
            count -= 1
            shutil.rmtree(bench.store)
            shutil.copytree(snapshot, bench.store, symlinks=True)
            damage.apply(bench.store)
            ending, detail = _settle_interrupted(bench, damage)
            kind = f"work: {damage.form}"
            yield Outcome(study=bench.project.name, kind=kind, fault=str(damage), ending=ending, detail=detail)


def _settle_interrupted(bench: Bench, damage: Damage) -> tuple[Ending, str]:
    """One more run must be enough; else its message must name the file, and deleting that file must be enough."""
    ending, detail = settle(bench, ())
    if ending != "stuck" or damage.path not in detail:
        return ending, detail
    path = bench.store / damage.path
    _delete(path, random.Random(0))
    again, detail = settle(bench, ())
    return ("named" if again == "same bytes" else again), detail


def _snapshots(bench: Bench, writes: Sequence[Write]) -> Iterator[Path]:
    """For each kind of step a store in which its steps were killed at three quarters of their writes."""
    graph, kinds = needs(bench.reference), dict[str, list[str]]()
    for address in graph:
        kinds.setdefault(address.split("-")[0], []).append(address)
    for kind, addresses in kinds.items():
        paths = {address: f"work/{address}.owner/" for address in addresses}
        counts = {address: sum(write[2].startswith(path) for write in writes) for address, path in paths.items()}
        faults = [
            WriteFault(role="worker", event="any", path=f"{paths[address]}*", number=number * 3 // 4)
            for address, number in counts.items()
            if number > 2
        ]
        if not faults:
            continue
        bench.reset(without=with_descendants(addresses, graph))
        bench.run(faults=faults)
        snapshot = bench.project.root / "interrupted" / kind
        shutil.rmtree(snapshot, ignore_errors=True)
        shutil.copytree(bench.store, snapshot, symlinks=True)
        yield snapshot
