"""The one way from a source to an index: shards to parts, parts to one folder, its manifest last.

parts/<name>/       finished shards of an unfinished index; gone when it is done
merged.json         the manifest while parts are cleared away: all else is there
refused.json        what was counted of a source that is too bad to use; quarantine.jsonl beside it
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from firstsight.data import sources
from firstsight.data.index import FORMAT
from firstsight.data.prepare.crew import FULL, make_all
from firstsight.data.prepare.merge import merge, quarantine
from firstsight.data.prepare.meter import Meter
from firstsight.data.prepare.pages import write_whole
from firstsight.data.prepare.part import Part, finished
from firstsight.data.prepare.tally import Tally, lines, refuse_rot, tally
from firstsight.data.prepare.task import Task, task_of
from firstsight.errors import StepFailed
from firstsight.recipe import canon
from firstsight.recipe.stages import Prepare
from firstsight.site import Site, Tell


def prepare(spec: Prepare, *, inputs: Mapping[str, Path], out: Path, site: Site, tell: Tell) -> None:
    """Handler: check, tokenize and index a source, in `site.readers` processes; goes on after a kill, equal bytes.

    Raises DataError when more records are bad than the source's location allows or a shard is torn, StepFailed when
    the disk is full; finished shards stay for the next try.
    """
    task = task_of(spec, inputs=inputs, out=out, site=site)
    shards = sources.shards(task.location, task.form)
    with _enough_room(out):
        if _published(out, task, shards):
            return
        (out / "refused.json").unlink(missing_ok=True)
        parts = _parts(task, shards, jobs=site.readers, tell=tell)
        found = tally(parts)
        quarantine(parts, out)
        write_whole(out / "refused.json", lines(found))
        refuse_rot(found, task.location)
        (out / "refused.json").unlink()
        _publish(out, task, parts, found)


def _parts(task: Task, shards: Sequence[sources.Shard], *, jobs: int, tell: Tell) -> list[Part]:
    """The parts of all shards, made where they are not there yet."""
    there = {shard: finished(task, shard) for shard in shards}
    missing = [shard for shard, part in there.items() if part is None]
    meter = Meter(shards, tell)
    for shard, part in there.items():
        if part is not None:
            meter.had(shard, part.counts["samples"] + part.counts["bad"])
    for shard, reach in make_all(task, missing, jobs=jobs):
        meter(shard, reach)
    meter.done()
    made = {shard: part or finished(task, shard) for shard, part in there.items()}
    lost = [shard.name for shard, part in made.items() if part is None]
    if lost:
        raise StepFailed(f"{task.parts}: wanted a part of {lost[0]}. Got none: something deletes them. Try again.")
    return [part for part in made.values() if part is not None]


def _published(out: Path, task: Task, shards: Sequence[sources.Shard]) -> bool:
    """Whether an earlier try has put everything together; what it did not clear away is cleared away now."""
    found = [file for name in ("merged.json", "manifest.json") if (file := out / name).is_file()]
    if not found:
        return False
    read = json.loads((out / "read.json").read_text())
    if read["key"] == task.key and [_shard(one) for one in read["shards"]] == list(shards):
        _clear(out)
        return True
    for file in found:
        file.unlink()
    return False


def _shard(told: Mapping[str, Any]) -> sources.Shard:
    """The shard that an entry of read.json speaks of."""
    return sources.Shard(**{field.name: told[field.name] for field in fields(sources.Shard)})


def _publish(out: Path, task: Task, parts: Sequence[Part], found: Tally) -> None:
    merged = merge(parts, out, vocabulary=task.vocabulary)
    read = [
        {**asdict(part.shard), "sha256": part.digest, "records": part.counts["samples"] + part.counts["bad"]}
        for part in parts
    ]
    told = {"key": task.key, "source": canon.encode(task.source), "shards": read}
    write_whole(out / "read.json", json.dumps(told, ensure_ascii=False, indent=0) + "\n")
    manifest = {
        "format": FORMAT,
        "form": task.form,
        **found.told(),
        "tokenizer": task.words,
        "special": asdict(task.special),
        "source": _digest([part.digest for part in parts]),
    }
    manifest["counts"] |= {"images": merged.pictures}
    manifest["digest"] = _digest([json.dumps(manifest, sort_keys=True), *merged.digests])
    write_whole(out / "merged.json", json.dumps(manifest, sort_keys=True, indent=1) + "\n")
    _clear(out)


def _clear(out: Path) -> None:
    """Parts go, then the manifest gets its name: who finds a manifest finds nothing unfinished."""
    shutil.rmtree(out / "parts", ignore_errors=True)
    if (out / "merged.json").is_file():
        (out / "merged.json").replace(out / "manifest.json")


def _digest(told: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


@contextmanager
def _enough_room(out: Path) -> Iterator[None]:
    """A full disk as an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StepFailed(
            f"{out}: wanted room for the index of a source. Got: {error.strerror}. "
            "Make room and give the same command again: it goes on from the shards that are finished."
        ) from error
