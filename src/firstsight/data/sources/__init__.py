"""Readers of the formats that people have: records out, with the place of every picture; local, or through fsspec.

    text         *.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .arrow; *.tar of token lists or texts (open_lm, DCLM)
    captions     *.tar (WebDataset: DataComp, DataComp-DR, CC12M); .parquet, .arrow
    interleaved  *.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .arrow (OBELICS, MMC4)
    dialogues    *.json (LLaVA lists), .jsonl, .jsonl.gz, .jsonl.zst, .parquet, .arrow

Shards come in the order of their names, so a folder has one record order on every machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath

from firstsight.data.records import Bad, Record
from firstsight.data.sources import captions, dialogues, interleaved, tables, text
from firstsight.data.sources.finding import Pictures
from firstsight.data.sources.places import Digest, Folder, Pass, Shard, folder
from firstsight.data.sources.tables import TABLES
from firstsight.data.sources.tars import PICTURES, Member, plain_members
from firstsight.data.sources.text import LINES
from firstsight.errors import DataError, RequestError, UnknownName
from firstsight.recipe.mix import Form, Named, Recaptioned, Source
from firstsight.site import Location, Site
from firstsight.units import Tokens

__all__ = ["PICTURES", "Member", "Reader", "Reading", "Shard", "locate", "plain_members", "read", "shards"]

Reads = Callable[[Pass], Iterator[Record | Bad]]
READERS: Mapping[Form, Mapping[tuple[str, ...], Reads]] = {
    "text": {LINES: text.documents, TABLES: tables.documents, (".tar",): text.packed},
    "captions": {(".tar",): captions.captions, TABLES: tables.captions},
    "interleaved": {LINES: interleaved.lines, TABLES: interleaved.rows},
    "dialogues": {(".json",): dialogues.listed, LINES: dialogues.lines, TABLES: tables.dialogues},
}
"""For each form, which endings of names which reader takes."""
MANIFEST = "manifest.jsonl"
"""Shards and how many samples each holds, a line each: {"shard", "num_sequences"} (open_lm, vla_foundry)."""
_NOTES = ("dataset_info.json", "state.json", "dataset_dict.json")
"""What `datasets` writes beside its tables."""
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def locate(source: Source, folder: Path | None, site: Site) -> Location:
    """Where a recipe's source lies: a named one where the site file says, one of the built-in world in `folder`.

    Raises RequestError that names the source when the site file does not know it, or when no folder was given.
    """
    named = source.named if isinstance(source, Recaptioned) else source
    if isinstance(named, Named):
        if named.name not in site.sources:
            raise UnknownName("source", named.name, site.sources)
        return site.sources[named.name]
    if folder is None:
        raise RequestError(
            f"{type(source).__name__}: wanted the folder of a step that made it. Got none. Run it first."
        )
    return Location(path=str(folder))


def shards(location: Location, form: Form) -> tuple[Shard, ...]:
    """The shards of a source in order of name, JSON lists cut into stretches; DataError when there is none.

    Where names tell several splits, only those of the location's split.
    """
    _known(location, form)
    found = folder(location.path)
    names = _manifested(found) if found.only == (MANIFEST,) else _names(location, found, form)
    if not names:
        endings = ", ".join(_endings(form))
        raise DataError(f"{location.path}: wanted {form} as {endings}. Got no such file. Check the source's folder.")
    result: list[Shard] = []
    for name in _of_split(location, names):
        file, split = found.file(name), _split(name)
        cuts = dialogues.stretches(found, name, file.size) if name.lower().endswith(".json") else [(0, file.size)]
        make = partial(Shard, name=name, split=split, size=file.size, stamp=file.stamp)
        result += [make(start=start, stop=stop) for start, stop in cuts]
    return tuple(result)


def _known(location: Location, form: Form) -> None:
    if form not in READERS:
        raise DataError(f"{location.path}: no reader for a source of form {form!r}. Known: {', '.join(READERS)}.")


def _endings(form: Form) -> tuple[str, ...]:
    return tuple(chain(*READERS[form]))


def _names(location: Location, found: Folder, form: Form) -> list[str]:
    """Names of files that hold records; what other tools leave beside them (manifests, statistics) does not."""
    endings = _endings(form)
    listed = found.names(*endings, ".tar")
    tars = {name[: -len(".tar")] for name in listed if name.lower().endswith(".tar")}
    apart = tuple(
        place[len(found.base) + 1 :] + "/"
        for place in (folder(path).base for path in (location.pictures, location.captions) if path)
        if place.startswith(found.base.rstrip("/") + "/")
    )
    return [
        name
        for name in listed
        if name.lower().endswith(endings)
        and PurePosixPath(name).name not in (MANIFEST, *_NOTES)
        and not name.endswith("_stats.json")
        # img2dataset leaves a table about each of its tars.
        and not (name.endswith(".parquet") and name[: -len(".parquet")] in tars)
        and not (apart and name.startswith(apart))
    ]


def _split(name: str) -> str:
    """The split that a name tells: how the file's name starts, or else a folder that is called so."""
    *folders, last = name.lower().split("/")
    start = re.match(r"[a-z]+", last)
    for told in (start[0] if start else "", *reversed(folders)):
        if told in _SPLITS:
            return _SPLITS[told]
    return ""


def _of_split(location: Location, names: list[str]) -> list[str]:
    """The names of the location's split; DataError when it must be chosen, or is not there."""
    there = sorted({_split(name) for name in names} - {""})
    wanted = _SPLITS.get(location.split.lower(), location.split)
    if not wanted and len(there) > 1:
        raise DataError(
            f"{location.path}: wanted one split. Got {', '.join(there)}. "
            f"Choose one in the site file: split = {there[0]!r}, or narrow the path."
        )
    if wanted and wanted not in there:
        raise DataError(
            f"{location.path}: wanted the split {wanted!r}. Got {', '.join(there) or 'names that tell none'}. "
            "Change or empty split in the site file."
        )
    return [name for name in names if not wanted or _split(name) == wanted]


def _manifested(found: Folder) -> list[str]:
    """Names of the shards in the manifest that the path names; DataError when one is not there."""
    names = [f"{name}.tar" for name in _counts(found, MANIFEST)]
    if missing := [name for name in names if not found.holds(name)]:
        raise DataError(
            f"{found.said}: names {len(names)} shards. Got none of {', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''} ({len(missing)} missing). Copy them, or name their folder instead."
        )
    return sorted(names)


def _counts(found: Folder, manifest: str) -> dict[str, int]:
    """Samples of every shard, as a manifest says."""
    counts: dict[str, int] = {}
    for number, line in enumerate(found.read(manifest).splitlines(), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            row = ()
        if row is not None:
            name, count = (row.get("shard"), row.get("num_sequences")) if isinstance(row, dict) else (None, None)
            if not isinstance(name, str) or type(count) is not int:
                raise DataError(
                    f"{found.path(manifest)}, line {number}: wanted shard and num_sequences. Got {line[:80]!r}. "
                    "Repair the manifest or take it out."
                )
            counts[name] = count
    return counts


class Reader:
    """Reads the shards of one source; may be sent to other processes."""

    def __init__(self, location: Location, form: Form, *, source: Source) -> None:
        _known(location, form)
        self._location, self._source = location, source
        self._form: Form = form
        self._pictures = Pictures(location, urls=form == "interleaved")
        self._manifests: dict[str, dict[str, int]] = {}
        self._folder: Folder | None = None

    def read(self, shard: Shard) -> Reading:
        """One pass over a shard."""
        # Once for all shards: a remote pattern is a listing of its own.
        self._folder = found = self._folder or folder(self._location.path)
        digest = Digest()
        run = Pass(
            shard=shard,
            folder=found,
            location=self._location,
            digest=digest,
            find=self._pictures.finder(digest),
            share=partial(told, self._source) if isinstance(self._source, Recaptioned) else None,
        )
        name = shard.name.lower()
        reads = next((one for endings, one in READERS[self._form].items() if name.endswith(endings)), None)
        if reads is None:
            raise DataError(f"{run.where}: wanted {self._form}. Got a name with another ending. Rename the file.")
        count = self._counted(found, shard.name) if name.endswith(".tar") else None
        return Reading(_checked(reads(run), run.where, count), digest)

    def _counted(self, found: Folder, name: str) -> int | None:
        """Samples of a shard where a manifest beside it says so."""
        beside = (PurePosixPath(name).parent / MANIFEST).as_posix()
        if beside not in self._manifests:
            self._manifests[beside] = _counts(found, beside) if found.holds(beside) else {}
        return self._manifests[beside].get(PurePosixPath(name).stem)


def told(source: Recaptioned, key: str) -> tuple[bool, int]:
    """Whether a synthetic caption tells the record `key`, and a number that picks one of several: by seed and key."""
    mixed = hashlib.sha256(f"{source.seed}\0{key}".encode("utf-8", "surrogateescape")).digest()
    number, pick = int.from_bytes(mixed[:8], "big"), int.from_bytes(mixed[8:16], "big")
    return number * source.synthetic.denominator < source.synthetic.numerator << 64, pick


def _checked(records: Iterator[Record | Bad], where: str, wanted: int | None) -> Iterator[Record | Bad]:
    """`records`, which must be as many as the manifest says."""
    count = 0
    for record in records:
        count += 1
        yield record
    if wanted is not None and count != wanted:
        raise DataError(
            f"{where}: wanted {wanted} samples, says {MANIFEST}. Got {count}. Copy the shard or its manifest again."
        )


class Reading:
    """One pass over a shard: its records in order, a Bad in the place of each that is refused."""

    def __init__(self, records: Iterator[Record | Bad], digest: Digest) -> None:
        self._records, self._digest, self._done = records, digest, False

    def __iter__(self) -> Iterator[Record | Bad]:
        yield from self._records
        self._done = True

    @property
    def digest(self) -> str:
        """sha256 of the shard's bytes; where captions or pictures from elsewhere were joined, of all their digests.

        Raises DataError before the pass has come to its end.
        """
        if not self._done:
            raise DataError("the digest of a pass: wanted it read to its end. Got it before. Read all records first.")
        return self._digest.hexdigest()


def read(folder: Path, form: Form) -> Iterator[Record | Bad]:
    """Every record of a local source folder in order, and a Bad in the place of each that is refused."""
    location = Location(path=str(folder))
    reader = Reader(location, form, source=Named(name=folder.name, form=form, tokens=Tokens(0)))
    for shard in shards(location, form):
        yield from reader.read(shard)
