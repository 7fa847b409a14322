"""Pictures that records name: in tars, as loose files, or by the URL that img2dataset fetched them from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from firstsight.data.pictures import MOST_BYTES, checked
from firstsight.data.records import Place, Reason, Refused
from firstsight.data.sources.places import Digest, Folder, folder
from firstsight.data.sources.tars import PICTURES, Member, members, trusted
from firstsight.site import Location

_MOST_JSON = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class _Packed:
    """A picture's place in a tar."""

    tar: str
    member: Member


@dataclass(frozen=True, kw_only=True, slots=True)
class _Seen:
    """What looking for a name gave, kept because many records may show one picture."""

    place: Place | None
    sha256: str
    reason: Reason
    detail: str


class Pictures:
    """All pictures of a location by name; the tars' headers are read once, when the first picture is asked for.

    Looked up: `location.pictures` where it is given, otherwise the folder that the source lies in. A name is first
    that of a tar's member, then of a loose file, then of one in images/; with `urls` also what a json member calls url.
    """

    def __init__(self, location: Location, *, urls: bool) -> None:
        self._location, self._urls = location, urls
        self._folder: Folder | None = None
        self._packed = dict[str, _Packed | None]()
        self._seen = dict[str, _Seen]()

    def finder(self, digest: Digest) -> Callable[[str], Place]:
        """A function from a name to its checked place that raises Refused, and joins what it reads to `digest`."""
        counted = set[str]()

        def find(name: str) -> Place:
            seen = self._seen.get(name) or self._look(name)
            if name not in counted:
                counted.add(name)
                digest.join(seen.sha256)
            if seen.place is None:
                raise Refused(seen.reason, seen.detail)
            return seen.place

        return find

    def _look(self, name: str) -> _Seen:
        found = self._open()
        data = b""
        try:
            shard, offset, data = self._bytes(found, name)
            seen = Place(shard=self._prefix + shard, offset=offset, size=len(data), hash=checked(data))
            kept = _Seen(place=seen, sha256=hashlib.sha256(data).hexdigest(), reason="no picture", detail="")
        except Refused as refused:
            detail = refused.detail if name in refused.detail else f"{name}: {refused.detail}"
            kept = _Seen(place=None, sha256=hashlib.sha256(data).hexdigest(), reason=refused.reason, detail=detail)
        self._seen[name] = kept
        return kept

    @property
    def _prefix(self) -> str:
        return "pictures:" if self._location.pictures else ""

    def _open(self) -> Folder:
        """Where the pictures lie, with the tars there listed."""
        if self._folder is None:
            if self._location.pictures:
                self._folder = folder(self._location.pictures)
            else:
                beside = folder(self._location.path)
                self._folder = Folder(said=beside.said, system=beside.system, base=beside.base, only=None)
            for tar in self._folder.names(".tar"):
                self._scan(self._folder, tar)
        return self._folder

    def _scan(self, found: Folder, tar: str) -> None:
        shown, told = dict[str, Member](), dict[str, str]()
        with found.open(tar) as data:
            for member, content in members(data, found.path(tar), wanted=self._tells_url):
                self._add(str(PurePosixPath(member.name)), _Packed(tar=tar, member=member))
                if member.ending in PICTURES:
                    shown[member.key] = member
                elif content and (url := _url(content)):
                    told[member.key] = url
        for key, url in told.items():
            if key in shown:
                self._add(url, _Packed(tar=tar, member=shown[key]))

    def _tells_url(self, member: Member) -> bool:
        return self._urls and member.plain and member.ending == "json" and member.size <= _MOST_JSON

    def _add(self, name: str, packed: _Packed) -> None:
        self._packed[name] = None if name in self._packed else packed

    def _bytes(self, found: Folder, name: str) -> tuple[str, int, bytes]:
        """Shard, offset and bytes of a picture."""
        key = name if "://" in name else str(PurePosixPath(name))
        if key in self._packed:
            packed = self._packed[key]
            if packed is None:
                raise Refused("duplicate key", f"{name} stands twice among the tars' members")
            trusted(packed.member)
            offset = packed.member.offset_data
            return packed.tar, offset, found.part(packed.tar, offset, packed.member.size)
        if "://" in name:
            raise Refused("no picture", f"no json member of a tar names {name} as its url")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise Refused("unsafe path", name)
        loose = next((one for one in (key, f"images/{key}") if found.holds(one)), None)
        if loose is None:
            raise Refused("no picture", f"{name} is in no tar, no file of its own, nor in images/")
        size = found.file(loose).size
        if size > MOST_BYTES:
            raise Refused("too many bytes", f"{name} has {size:,} bytes, at most {MOST_BYTES:,}")
        return loose, 0, found.read(loose)


def _url(content: bytes) -> str:
    """The url that img2dataset noted in a json member; empty where it noted none."""
    try:
        row = json.loads(content)
    except ValueError:
        return ""
    url = row.get("url") if isinstance(row, dict) else None
    return url if isinstance(url, str) else ""
