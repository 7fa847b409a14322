"""Pictures that records name: in tars, as loose files, or by the URL that img2dataset fetched them from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from firstsight.data.images import MAX_IMAGE_BYTES, perceptual_hash
from firstsight.data.readers.filesystem import ReadDigest, SourceFolder, open_folder
from firstsight.data.readers.tars import IMAGE_EXTENSIONS, TarMember, check_member, read_tar_members
from firstsight.data.records import ImageLocation, RecordError, RejectionReason
from firstsight.site import Location

_MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _TarEntry:
    """A picture's place in a tar."""

    tar: str
    member: TarMember


@dataclass(frozen=True, kw_only=True, slots=True)
class _LookupResult:
    """What looking for a name gave, kept because many records may show one picture."""

    image_location: ImageLocation | None
    sha256: str
    reason: RejectionReason
    detail: str


class ImageLookup:
    """All pictures of a location by name; the tars' headers are read once, when the first picture is asked for.

    Looked up: `location.pictures` where it is given, otherwise the folder that the source lies in. A name is first
    that of a tar's member, then of a loose file, then of one in images/; with `urls` also what a json member calls url.
    """

    def __init__(self, location: Location, *, match_urls: bool) -> None:
        self._location, self._match_urls = location, match_urls
        self._image_folder: SourceFolder | None = None
        self._tar_entries = dict[str, _TarEntry | None]()
        self._results = dict[str, _LookupResult]()

    def finder(self, digest: ReadDigest) -> Callable[[str], ImageLocation]:
        """A function from a name to its checked place that raises Refused, and joins what it reads to `digest`."""
        joined_names = set[str]()

        def find_image(name: str) -> ImageLocation:
            result = self._results.get(name) or self._look_up(name)
            if name not in joined_names:
                joined_names.add(name)
                digest.join(result.sha256)
            if result.image_location is None:
                raise RecordError(result.reason, result.detail)
            return result.image_location

        return find_image

    def _look_up(self, name: str) -> _LookupResult:
        image_folder = self._open_folder()
        data = b""
        try:
            shard, offset, data = self._read_image(image_folder, name)
            image_location = ImageLocation(
                shard=self._shard_prefix + shard, offset=offset, size=len(data), hash=perceptual_hash(data)
            )
            result = _LookupResult(
                image_location=image_location, sha256=hashlib.sha256(data).hexdigest(), reason="no picture", detail=""
            )
        except RecordError as refused:
            detail = refused.detail if name in refused.detail else f"{name}: {refused.detail}"
            result = _LookupResult(
                image_location=None, sha256=hashlib.sha256(data).hexdigest(), reason=refused.reason, detail=detail
            )
        self._results[name] = result
        return result

    @property
    def _shard_prefix(self) -> str:
        return "pictures:" if self._location.pictures else ""

    def _open_folder(self) -> SourceFolder:
        """Where the pictures lie, with the tars there listed."""
        if self._image_folder is None:
            if self._location.pictures:
                self._image_folder = open_folder(self._location.pictures)
            else:
                source_folder = open_folder(self._location.path)
                self._image_folder = SourceFolder(
                    original_path=source_folder.original_path,
                    filesystem=source_folder.filesystem,
                    base_path=source_folder.base_path,
                    selected_names=None,
                )
            for tar in self._image_folder.names(".tar"):
                self._index_tar(self._image_folder, tar)
        return self._image_folder

    def _index_tar(self, image_folder: SourceFolder, tar: str) -> None:
        image_members, urls = dict[str, TarMember](), dict[str, str]()
        with image_folder.open(tar) as data:
            for member, content in read_tar_members(data, image_folder.path(tar), needs_content=self._may_hold_url):
                self._add_entry(str(PurePosixPath(member.name)), _TarEntry(tar=tar, member=member))
                if member.extension in IMAGE_EXTENSIONS:
                    image_members[member.key] = member
                elif content and (url := _image_url(content)):
                    urls[member.key] = url
        for key, url in urls.items():
            if key in image_members:
                self._add_entry(url, _TarEntry(tar=tar, member=image_members[key]))

    def _may_hold_url(self, member: TarMember) -> bool:
        return self._match_urls and member.is_regular and member.extension == "json" and member.size <= _MAX_JSON_BYTES

    def _add_entry(self, name: str, entry: _TarEntry) -> None:
        self._tar_entries[name] = None if name in self._tar_entries else entry

    def _read_image(self, image_folder: SourceFolder, name: str) -> tuple[str, int, bytes]:
        """Shard, offset and bytes of a picture."""
        key = name if "://" in name else str(PurePosixPath(name))
        if key in self._tar_entries:
            entry = self._tar_entries[key]
            if entry is None:
                raise RecordError("duplicate key", f"{name} stands twice among the tars' members")
            check_member(entry.member)
            offset = entry.member.offset_data
            return entry.tar, offset, image_folder.read_range(entry.tar, offset, entry.member.size)
        if "://" in name:
            raise RecordError("no picture", f"no json member of a tar names {name} as its url")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise RecordError("unsafe path", name)
        file_name = next((candidate for candidate in (key, f"images/{key}") if image_folder.has_file(candidate)), None)
        if file_name is None:
            raise RecordError("no picture", f"{name} is in no tar, no file of its own, nor in images/")
        size = image_folder.file_info(file_name).size
        if size > MAX_IMAGE_BYTES:
            raise RecordError("too many bytes", f"{name} has {size:,} bytes, at most {MAX_IMAGE_BYTES:,}")
        return file_name, 0, image_folder.read(file_name)


def _image_url(content: bytes) -> str:
    """The url that img2dataset noted in a json member; empty where it noted none."""
    try:
        row = json.loads(content)
    except ValueError:
        return ""
    url = row.get("url") if isinstance(row, dict) else None
    return url if isinstance(url, str) else ""
