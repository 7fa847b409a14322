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

from firstsight.data.readers import captions, dialogues, interleaved, tables, text
from firstsight.data.readers.filesystem import ReadContext, ReadDigest, Shard, SourceFolder, open_folder
from firstsight.data.readers.image_lookup import ImageLookup
from firstsight.data.readers.tables import TABLE_EXTENSIONS
from firstsight.data.readers.tars import IMAGE_EXTENSIONS, TarMember, list_tar_members
from firstsight.data.readers.text import JSONL_EXTENSIONS
from firstsight.data.records import Record, RejectedRecord
from firstsight.errors import DataError, RequestError, UnknownName
from firstsight.recipe.mixture import DataSource, External, ExternalForm, Recaptioned
from firstsight.site import Location, Site
from firstsight.units import Tokens

__all__ = [
    "IMAGE_EXTENSIONS",
    "RecordReader",
    "Shard",
    "ShardRecords",
    "TarMember",
    "list_shards",
    "list_tar_members",
    "locate_source",
    "read_source",
]

FormatReader = Callable[[ReadContext], Iterator[Record | RejectedRecord]]
FORMAT_READERS: Mapping[ExternalForm, Mapping[tuple[str, ...], FormatReader]] = {
    "text": {
        JSONL_EXTENSIONS: text.read_documents_jsonl,
        TABLE_EXTENSIONS: tables.read_documents_table,
        (".tar",): text.read_documents_tar,
    },
    "captions": {(".tar",): captions.read_captions_tar, TABLE_EXTENSIONS: tables.read_captions_table},
    "interleaved": {
        JSONL_EXTENSIONS: interleaved.read_interleaved_jsonl,
        TABLE_EXTENSIONS: interleaved.read_interleaved_table,
    },
    "dialogues": {
        (".json",): dialogues.read_dialogues_json,
        JSONL_EXTENSIONS: dialogues.read_dialogues_jsonl,
        TABLE_EXTENSIONS: tables.read_dialogues_table,
    },
}
"""For each form, which endings of names which reader takes."""
SHARD_MANIFEST = "manifest.jsonl"
"""Shards and how many samples each holds, a line each: {"shard", "num_sequences"} (open_lm, vla_foundry)."""
_METADATA_FILES = ("dataset_info.json", "state.json", "dataset_dict.json")
"""What `datasets` writes beside its tables."""
_SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def locate_source(source: DataSource, folder: Path | None, site: Site) -> Location:
    """Where a recipe's source lies: a named one where the site file says, one of the built-in world in `folder`.

    Raises RequestError that names the source when the site file does not know it, or when no folder was given.
    """
    base_source = source.external if isinstance(source, Recaptioned) else source
    if isinstance(base_source, External):
        if base_source.name not in site.sources:
            raise UnknownName("source", base_source.name, site.sources)
        return site.sources[base_source.name]
    if folder is None:
        raise RequestError(
            f"{type(source).__name__}: wanted the folder of a step that made it. Got none. Run it first."
        )
    return Location(path=str(folder))


def list_shards(location: Location, form: ExternalForm) -> tuple[Shard, ...]:
    """The shards of a source in order of name, JSON lists cut into stretches; DataError when there is none.

    Where names tell several splits, only those of the location's split.
    """
    _check_form(location, form)
    source_folder = open_folder(location.path)
    names = (
        _manifest_shards(source_folder)
        if source_folder.selected_names == (SHARD_MANIFEST,)
        else _record_files(location, source_folder, form)
    )
    if not names:
        extensions = ", ".join(_form_extensions(form))
        raise DataError(f"{location.path}: wanted {form} as {extensions}. Got no such file. Check the source's folder.")
    result: list[Shard] = []
    for name in _select_split(location, names):
        file_info, split = source_folder.file_info(name), _split_of_name(name)
        byte_ranges = (
            dialogues.json_list_ranges(source_folder, name, file_info.size)
            if name.lower().endswith(".json")
            else [(0, file_info.size)]
        )
        make_shard = partial(Shard, name=name, split=split, size=file_info.size, stamp=file_info.stamp)
        result += [make_shard(start=start, stop=stop) for start, stop in byte_ranges]
    return tuple(result)


def _check_form(location: Location, form: ExternalForm) -> None:
    if form not in FORMAT_READERS:
        raise DataError(
            f"{location.path}: no reader for a source of form {form!r}. Known: {', '.join(FORMAT_READERS)}."
        )


def _form_extensions(form: ExternalForm) -> tuple[str, ...]:
    return tuple(chain(*FORMAT_READERS[form]))


def _record_files(location: Location, source_folder: SourceFolder, form: ExternalForm) -> list[str]:
    """Names of files that hold records; what other tools leave beside them (manifests, statistics) does not."""
    extensions = _form_extensions(form)
    file_names = source_folder.names(*extensions, ".tar")
    tar_stems = {name[: -len(".tar")] for name in file_names if name.lower().endswith(".tar")}
    excluded_prefixes = tuple(
        base_path[len(source_folder.base_path) + 1 :] + "/"
        for base_path in (open_folder(path).base_path for path in (location.pictures, location.captions) if path)
        if base_path.startswith(source_folder.base_path.rstrip("/") + "/")
    )
    return [
        name
        for name in file_names
        if name.lower().endswith(extensions)
        and PurePosixPath(name).name not in (SHARD_MANIFEST, *_METADATA_FILES)
        and not name.endswith("_stats.json")
        # img2dataset leaves a table about each of its tars.
        and not (name.endswith(".parquet") and name[: -len(".parquet")] in tar_stems)
        and not (excluded_prefixes and name.startswith(excluded_prefixes))
    ]


def _split_of_name(name: str) -> str:
    """The split that a name tells: how the file's name starts, or else a folder that is called so."""
    *folders, file_name = name.lower().split("/")
    prefix = re.match(r"[a-z]+", file_name)
    for label in (prefix[0] if prefix else "", *reversed(folders)):
        if label in _SPLIT_ALIASES:
            return _SPLIT_ALIASES[label]
    return ""


def _select_split(location: Location, names: list[str]) -> list[str]:
    """The names of the location's split; DataError when it must be chosen, or is not there."""
    available_splits = sorted({_split_of_name(name) for name in names} - {""})
    requested_split = _SPLIT_ALIASES.get(location.split.lower(), location.split)
    if not requested_split and len(available_splits) > 1:
        raise DataError(
            f"{location.path}: wanted one split. Got {', '.join(available_splits)}. "
            f"Choose one in the site file: split = {available_splits[0]!r}, or narrow the path."
        )
    if requested_split and requested_split not in available_splits:
        raise DataError(
            f"{location.path}: wanted the split {requested_split!r}. Got {', '.join(available_splits) or 'names that tell none'}. "
            "Change or empty split in the site file."
        )
    return [name for name in names if not requested_split or _split_of_name(name) == requested_split]


def _manifest_shards(source_folder: SourceFolder) -> list[str]:
    """Names of the shards in the manifest that the path names; DataError when one is not there."""
    names = [f"{name}.tar" for name in _manifest_counts(source_folder, SHARD_MANIFEST)]
    if missing := [name for name in names if not source_folder.has_file(name)]:
        raise DataError(
            f"{source_folder.original_path}: names {len(names)} shards. Got none of {', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''} ({len(missing)} missing). Copy them, or name their folder instead."
        )
    return sorted(names)


def _manifest_counts(source_folder: SourceFolder, manifest_name: str) -> dict[str, int]:
    """Samples of every shard, as a manifest says."""
    counts: dict[str, int] = {}
    for number, line in enumerate(source_folder.read(manifest_name).splitlines(), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            row = ()
        if row is not None:
            name, count = (row.get("shard"), row.get("num_sequences")) if isinstance(row, dict) else (None, None)
            if not isinstance(name, str) or type(count) is not int:
                raise DataError(
                    f"{source_folder.path(manifest_name)}, line {number}: wanted shard and num_sequences. Got {line[:80]!r}. "
                    "Repair the manifest or take it out."
                )
            counts[name] = count
    return counts


class RecordReader:
    """Reads the shards of one source; may be sent to other processes."""

    def __init__(self, location: Location, form: ExternalForm, *, source: DataSource) -> None:
        _check_form(location, form)
        self._location, self._source = location, source
        self._form: ExternalForm = form
        self._images = ImageLookup(location, match_urls=form == "interleaved")
        self._manifests: dict[str, dict[str, int]] = {}
        self._folder: SourceFolder | None = None

    def read(self, shard: Shard) -> ShardRecords:
        """One pass over a shard."""
        # Once for all shards: a remote pattern is a listing of its own.
        self._folder = source_folder = self._folder or open_folder(self._location.path)
        digest = ReadDigest()
        context = ReadContext(
            shard=shard,
            folder=source_folder,
            location=self._location,
            digest=digest,
            find_image=self._images.finder(digest),
            choose_caption=partial(choose_caption, self._source) if isinstance(self._source, Recaptioned) else None,
        )
        name = shard.name.lower()
        read_records = next(
            (
                format_reader
                for extensions, format_reader in FORMAT_READERS[self._form].items()
                if name.endswith(extensions)
            ),
            None,
        )
        if read_records is None:
            raise DataError(f"{context.path}: wanted {self._form}. Got a name with another ending. Rename the file.")
        expected_count = self._manifest_count(source_folder, shard.name) if name.endswith(".tar") else None
        return ShardRecords(_check_count(read_records(context), context.path, expected_count), digest)

    def _manifest_count(self, source_folder: SourceFolder, name: str) -> int | None:
        """Samples of a shard where a manifest beside it says so."""
        manifest_name = (PurePosixPath(name).parent / SHARD_MANIFEST).as_posix()
        if manifest_name not in self._manifests:
            self._manifests[manifest_name] = (
                _manifest_counts(source_folder, manifest_name) if source_folder.has_file(manifest_name) else {}
            )
        return self._manifests[manifest_name].get(PurePosixPath(name).stem)


def choose_caption(source: Recaptioned, key: str) -> tuple[bool, int]:
    """Whether a synthetic caption tells the record `key`, and a number that picks one of several: by seed and key."""
    key_digest = hashlib.sha256(f"{source.seed}\0{key}".encode("utf-8", "surrogateescape")).digest()
    uniform, choice = int.from_bytes(key_digest[:8], "big"), int.from_bytes(key_digest[8:16], "big")
    return uniform * source.synthetic_share.denominator < source.synthetic_share.numerator << 64, choice


def _check_count(
    records: Iterator[Record | RejectedRecord], path: str, expected_count: int | None
) -> Iterator[Record | RejectedRecord]:
    """`records`, which must be as many as the manifest says."""
    count = 0
    for record in records:
        count += 1
        yield record
    if expected_count is not None and count != expected_count:
        raise DataError(
            f"{path}: wanted {expected_count} samples, says {SHARD_MANIFEST}. Got {count}. Copy the shard or its manifest again."
        )


class ShardRecords:
    """One pass over a shard: its records in order, a Bad in the place of each that is refused."""

    def __init__(self, records: Iterator[Record | RejectedRecord], digest: ReadDigest) -> None:
        self._records, self._digest, self._is_exhausted = records, digest, False

    def __iter__(self) -> Iterator[Record | RejectedRecord]:
        yield from self._records
        self._is_exhausted = True

    @property
    def digest(self) -> str:
        """sha256 of the shard's bytes; where captions or pictures from elsewhere were joined, of all their digests.

        Raises DataError before the pass has come to its end.
        """
        if not self._is_exhausted:
            raise DataError("the digest of a pass: wanted it read to its end. Got it before. Read all records first.")
        return self._digest.hexdigest()


def read_source(folder: Path, form: ExternalForm) -> Iterator[Record | RejectedRecord]:
    """Every record of a local source folder in order, and a Bad in the place of each that is refused."""
    location = Location(path=str(folder))
    reader = RecordReader(location, form, source=External(name=folder.name, form=form, tokens=Tokens(0)))
    for shard in list_shards(location, form):
        yield from reader.read(shard)
