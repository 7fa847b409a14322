"""The shards of a source, listed in the order of their names, and the reader of each shard's format."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from firstsight.data.file_types import (
    ARCHIVE_ENDINGS,
    DATASETS_METADATA,
    FileType,
    codec_of,
    compression_ending,
    file_type,
    is_image_name,
    is_plain_json,
    known_endings,
    no_data_reason,
    unread_reason,
)
from firstsight.data.index import Index, ShardInfo
from firstsight.data.readers.captions import read_captions_table, read_captions_tar
from firstsight.data.readers.dialogues import read_dialogues_json, read_dialogues_table
from firstsight.data.readers.filesystem import ReadContext, ReadDigest, Shard, SourceFolder, open_folder
from firstsight.data.readers.image_lookup import ImageLookup
from firstsight.data.readers.interleaved import read_interleaved_json, read_interleaved_table
from firstsight.data.readers.json_files import json_layout, json_list_ranges, without_byte_order_mark
from firstsight.data.readers.text import read_documents_json, read_documents_table, read_documents_tar
from firstsight.data.records import Notices, Record, RejectedRecord
from firstsight.errors import DataError, LimitExceeded, RequestError, UnknownName
from firstsight.files import FileDigests
from firstsight.limits import parse_json
from firstsight.recipe import serialize
from firstsight.recipe.mixture import DataSource, External, ExternalForm, Recaptioned, base_source
from firstsight.site import Location, Site

FormatReader = Callable[[ReadContext], Iterator[Record | RejectedRecord]]
FORMAT_READERS: Mapping[ExternalForm, Mapping[FileType, FormatReader]] = {
    "text": {"json": read_documents_json, "table": read_documents_table, "tar": read_documents_tar},
    "captions": {"tar": read_captions_tar, "table": read_captions_table},
    "interleaved": {"json": read_interleaved_json, "table": read_interleaved_table},
    "dialogues": {"json": read_dialogues_json, "table": read_dialogues_table},
}
"""By form and type of file."""
SHARD_MANIFEST = "manifest.jsonl"
"""Shards and their numbers of samples, one per line: {"shard", "num_sequences"} (open_lm, vla_foundry)."""
_SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def locate_source(source: DataSource, folder: Path | None, site: Site) -> Location:
    """The location of a recipe's source: from the site file if it is external, else the `folder` of a step's output.

    Raises RequestError that names the source when the site file does not have it, or when no folder was given.
    """
    external = base_source(source)
    if isinstance(external, External):
        if external.name not in site.sources:
            raise UnknownName("source", external.name, site.sources)
        return site.sources[external.name]
    if folder is None:
        raise RequestError(f"{type(source).__name__}: wanted the folder of the step that makes it. Got none. Run it.")
    return Location(path=str(folder))


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceListing:
    """The shards of a source in the order of their names, large JSON lists as several, and its other files."""

    shards: tuple[Shard, ...]
    notices: Notices
    """Files that are not read, by reason."""


def list_shards(location: Location, form: ExternalForm) -> tuple[Shard, ...]:
    """The shards of `list_source`."""
    return list_source(location, form).shards


def list_source(location: Location, form: ExternalForm) -> SourceListing:
    """The shards of a source, if their names belong to several splits only those of the location's split.

    DataError when there is none, or when its images are in an archive.
    """
    _check_form(location, form)
    folder, notices = open_folder(location.path), Notices()
    _check_no_archive(location.pictures)
    if folder.selected_names == (SHARD_MANIFEST,):
        names = _manifest_shards(folder)
    else:
        names = _record_files(location, folder, form, notices)
    if not names:
        got = notices.describe()
        raise DataError(
            f"{location.path}: wanted {form} as {known_endings(FORMAT_READERS[form])}. Got no such file"
            f"{f', but {got}' if got else ''}. Check the source's folder."
        )
    shards: list[Shard] = []
    names = _select_split(location, names, notices)
    _check_packed_once(folder, names)
    for name in names:
        size, stamp = folder.file_info(name)
        is_list = is_plain_json(name) and not codec_of(name) and json_layout(folder, name) != "lines"
        ranges = json_list_ranges(folder, name, size) if is_list else [(0, size)]
        shard = partial(Shard, name=name, split=_split_of_name(name), size=size, stamp=stamp)
        shards += [shard(start=start, stop=stop) for start, stop in ranges]
    return SourceListing(shards=tuple(shards), notices=notices)


def _check_no_archive(pictures: str) -> None:
    if ending := next(filter(pictures.lower().endswith, ARCHIVE_ENDINGS), ""):
        got = f"Got a {ending} archive, which is not read. Unpack it"
        raise DataError(f"{pictures}: wanted a folder of images or a .tar. {got}.")


def _check_form(location: Location, form: ExternalForm) -> None:
    if form not in FORMAT_READERS:
        raise DataError(f"{location.path}: no reader for sources of form {form!r}. Known: {', '.join(FORMAT_READERS)}.")


def _record_files(location: Location, folder: SourceFolder, form: ExternalForm, notices: Notices) -> list[str]:
    """Names of files that contain records; all others are counted in `notices`, by the reason why they are not read."""
    names = folder.names()
    tar_stems = {name[: -len(".tar")].lower() for name in names if file_type(name) == "tar"}
    base = folder.base_path.rstrip("/") + "/"
    images_path = open_folder(location.pictures or location.path).base_path
    captions_path = open_folder(location.captions).base_path if location.captions else ""
    elsewhere = tuple(f"{path.removeprefix(base)}/" for path in (images_path, captions_path) if path.startswith(base))
    has_images = form in ("dialogues", "interleaved") and images_path == folder.base_path
    """Tars and image files in the source's folder are then what the records name."""
    records: list[str] = []
    for name in names:
        is_image = has_images and (is_image_name(name) or file_type(name) == "tar")
        if reason := _reason_not_read(folder, name, form, tar_stems):
            if not (name.startswith(elsewhere) or (is_image and not no_data_reason(name))):
                notices.add(reason, name)
        elif not name.startswith(elsewhere):
            records.append(name)
    return records


def _reason_not_read(folder: SourceFolder, name: str, form: ExternalForm, tar_stems: Container[str]) -> str:
    """Why a file has no records of a form; empty if it has."""
    if reason := no_data_reason(name):
        return reason
    file_name, kind = PurePosixPath(name).name.lower(), file_type(name)
    if file_name in (SHARD_MANIFEST, *DATASETS_METADATA):
        return f"metadata {file_name}"
    if kind not in FORMAT_READERS[form]:
        return unread_reason(name)
    if file_name.endswith("_stats.json"):
        return "metadata _stats.json of img2dataset"
    if name.lower().endswith(".parquet") and name[: -len(".parquet")].lower() in tar_stems:
        return "metadata of a tar, by img2dataset"
    is_settings = form != "dialogues" and is_plain_json(name) and not codec_of(name)
    return "one JSON object, no list or lines" if is_settings and json_layout(folder, name) == "other" else ""


def _split_of_name(name: str) -> str:
    """The split in a path: the beginning of the file's name, else the nearest folder named after a split."""
    *folders, file_name = name.lower().split("/")
    prefix = re.match(r"[a-z]+", file_name)
    labels = (prefix[0] if prefix else "", *reversed(folders))
    return next((_SPLIT_ALIASES[label] for label in labels if label in _SPLIT_ALIASES), "")


def _select_split(location: Location, names: list[str], notices: Notices) -> list[str]:
    """The names of the location's split, others are counted; DataError when it has to be chosen, or does not exist."""
    splits = sorted({_split_of_name(name) for name in names} - {""})
    split = _SPLIT_ALIASES.get(location.split.lower(), location.split)
    if not split and len(splits) > 1:
        raise DataError(
            f"{location.path}: wanted one split. Got {', '.join(splits)}. "
            f"Choose one in the site file: split = {splits[0]!r}, or narrow the path."
        )
    if split and split not in splits:
        raise DataError(
            f"{location.path}: wanted the split {split!r}. Got {', '.join(splits) or 'names without a split'}. "
            "Change or remove split in the site file."
        )
    selected = [name for name in names if not split or _split_of_name(name) == split]
    for name in names:
        if split and (other := _split_of_name(name)) != split:
            notices.add(f"split {other or 'without a name'}", name)
    return selected


def _check_packed_once(folder: SourceFolder, names: Iterable[str]) -> None:
    """DataError for a file that is there both packed and unpacked, whose records would be read twice."""
    seen: dict[str, str] = {}
    for name in names:
        unpacked_name = name.lower().removesuffix(compression_ending(name))
        first = seen.setdefault(unpacked_name, name)
        if first != name and (codec_of(first) or codec_of(name)):
            raise DataError(
                f"{folder.base_path}: wanted each file once. Got {first} and {name}, by their names one file packed "
                "and unpacked, whose records would be read twice. Remove one of them, or rename it if it is another."
            )


def _manifest_shards(folder: SourceFolder) -> list[str]:
    names = [f"{name}.tar" for name in _manifest_counts(folder, SHARD_MANIFEST)]
    if missing := [name for name in names if not folder.has_file(name)]:
        raise DataError(
            f"{folder.original_path}: names {len(names)} shards. Got none of {', '.join(missing[:3])}"
            f"{' ...' if len(missing) > 3 else ''} ({len(missing)} missing). Copy them, or name their folder instead."
        )
    return sorted(names)


def _manifest_counts(folder: SourceFolder, manifest: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for number, line in enumerate(folder.read(manifest, "file").splitlines(), start=1):
        try:
            row = parse_json(without_byte_order_mark(line), manifest) if line.strip() else None
        except (ValueError, LimitExceeded):
            row = ()
        if row is None:
            continue
        name, count = (row.get("shard"), row.get("num_sequences")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or type(count) is not int:
            raise DataError(
                f"{folder.path(manifest)}, line {number}: wanted shard and num_sequences. Got {line[:80]!r}. "
                "Repair or remove the manifest."
            )
        counts[name] = count
    return counts


class RecordReader:
    """Reads the shards of one source; can be pickled."""

    def __init__(self, location: Location, form: ExternalForm, *, source: DataSource) -> None:
        _check_form(location, form)
        self.location, self._source = location, source
        self._form: ExternalForm = form
        self._images = ImageLookup(location, match_urls=form == "interleaved")
        self._manifests: dict[str, dict[str, int]] = {}

    @cached_property
    def _folder(self) -> SourceFolder:
        """Opened once for all shards: a remote pattern is listed each time."""
        return open_folder(self.location.path)

    def read(self, shard: Shard) -> ShardRecords:
        """One pass over a shard."""
        digest, notices, source = ReadDigest(), Notices(), self._source
        context = ReadContext(
            shard=shard,
            folder=self._folder,
            location=self.location,
            digest=digest,
            notices=notices,
            find_image=self._images.finder(digest, notices),
            choose_caption=partial(choose_caption, source) if isinstance(source, Recaptioned) else None,
        )
        kind = file_type(shard.name)
        read_records = None if kind is None else FORMAT_READERS[self._form].get(kind)
        if read_records is None:
            raise DataError(f"{context.path}: wanted {self._form}. Got a name with another ending. Rename the file.")
        expected_count = self._manifest_count(shard.name) if kind == "tar" else None
        return ShardRecords(read_records(context), context, expected_count=expected_count)

    def _manifest_count(self, name: str) -> int | None:
        manifest = (PurePosixPath(name).parent / SHARD_MANIFEST).as_posix()
        if manifest not in self._manifests:
            exists = self._folder.has_file(manifest)
            self._manifests[manifest] = _manifest_counts(self._folder, manifest) if exists else {}
        return self._manifests[manifest].get(PurePosixPath(name).stem)


def choose_caption(source: Recaptioned, key: str) -> tuple[bool, int]:
    """Whether the record `key` gets a synthetic caption, and a number that selects one of several: by seed and key."""
    key_digest = hashlib.sha256(f"{source.seed}\0{key}".encode("utf-8", "surrogateescape")).digest()
    uniform, choice = int.from_bytes(key_digest[:8], "big"), int.from_bytes(key_digest[8:16], "big")
    return uniform * source.synthetic_share.denominator < source.synthetic_share.numerator << 64, choice


class ShardRecords:
    """One pass over a shard: its records in order, a RejectedRecord in place of each invalid one."""

    def __init__(
        self, records: Iterator[Record | RejectedRecord], context: ReadContext, *, expected_count: int | None
    ) -> None:
        self._records, self._context, self._expected_count = records, context, expected_count
        self._is_exhausted = False

    @property
    def notices(self) -> Notices:
        """What of the shard has not been read so far."""
        return self._context.notices

    def __iter__(self) -> Iterator[Record | RejectedRecord]:
        """DataError at the end when the number of records differs from the manifest."""
        count = 0
        for record in self._records:
            count += 1
            yield record
        if self._expected_count not in (None, count):
            raise DataError(
                f"{self._context.path}: wanted {self._expected_count} samples, as in {SHARD_MANIFEST}. Got {count}. "
                "Copy the shard or its manifest again."
            )
        self._is_exhausted = True

    @property
    def digest(self) -> str:
        """sha256 of the shard's bytes; if captions or images from other files were joined, of all their digests.

        Raises DataError before the pass is complete.
        """
        if not self._is_exhausted:
            raise DataError("wanted a complete pass for a shard's digest. Got an unfinished one. Read all records.")
        return self._context.digest.hexdigest()


def check_source_unchanged(index: Index, location: Location, *, cache: Path) -> None:
    """Raise DataError if a shard of the source is missing or has other bytes than when it was prepared.

    A shard that this machine has read before (`cached_shard_digests`) is read again only if its stamp differs (a copy,
    a touch) or if it has none.
    """
    advice = f"Put the old one back, or prepare the source again (then {index.path} is another index)."
    shards, reader = list_shards(location, index.form), RecordReader(location, index.form, source=index.source)
    digests = cached_shard_digests(index.source, location, cache)
    try:
        check_shards_unchanged(index.source_shards, shards, reader=reader, digests=digests, advice=advice)
    finally:
        digests.save()


def check_shards_unchanged(
    prepared_shards: Iterable[ShardInfo],
    shards: Iterable[Shard],
    *,
    reader: RecordReader,
    digests: FileDigests,
    advice: str,
) -> None:
    """Raise DataError, with advice, for the first prepared shard that is not among `shards` with the same bytes."""
    by_range = {(shard.name, shard.start, shard.stop): shard for shard in shards}
    names = {name for name, _, _ in by_range}
    for prepared in prepared_shards:
        label = f"{reader.location.path}: shard {prepared.name}"
        shard = by_range.get((prepared.name, prepared.start, prepared.stop))
        if prepared.name not in names:
            raise DataError(f"{label}: wanted the file that was prepared. Got none of that name. {advice}")
        if shard is None or shard.size != prepared.size:
            size = f"{prepared.size:,} bytes"
            raise DataError(f"{label}: wanted the {size} that were prepared. Got other items. {advice}")
        digest = digests.recorded(shard.label, shard.size, shard.stamp) if shard.stamp else None
        if digest is None:
            digest = _read_digest(reader, shard)
            digests.record(shard.label, shard.size, shard.stamp, digest=digest)
        if digest != prepared.sha256:
            expected, digest = prepared.sha256[:12], digest[:12]
            raise DataError(f"{label}: wanted bytes of digest {expected}. Got {digest}. {advice}")


def _read_digest(reader: RecordReader, shard: Shard) -> str:
    records = reader.read(shard)
    for _ in records:
        pass
    return records.digest


def cached_shard_digests(source: DataSource, location: Location, cache: Path) -> FileDigests:
    """The digests of a source's shards as this machine read them last, by `Shard.label`, size and stamp."""
    fields = [location.path, location.pictures, location.captions, dict(location.columns), location.split]
    key = hashlib.sha256(json.dumps([without_declared_size(source), fields], sort_keys=True).encode()).hexdigest()
    return FileDigests(cache / "shards" / key[:32])


def without_declared_size(source: DataSource) -> dict[str, Any]:
    """The canonical JSON of a source without the tokens and records that it is declared to have."""
    body = serialize.to_json(source)
    for external in (body, body.get("external", {})):
        external.pop("tokens", None)
        external.pop("records", None)
    return body
