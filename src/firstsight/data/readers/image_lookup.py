"""Images by the names that records give them: members of tars, loose files, urls that img2dataset recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import PurePosixPath

from firstsight.data.images import perceptual_hash
from firstsight.data.readers.filesystem import ReadDigest, SourceFolder, open_folder
from firstsight.data.readers.json_files import parse_optional_object
from firstsight.data.readers.tars import IMAGE_EXTENSIONS, TarMember, check_member, read_tar_members
from firstsight.data.records import ImageLocation, RecordError
from firstsight.limits import current_limits, describe_excess
from firstsight.site import Location


class ImageLookup:
    """All images of a location by name; the headers of its tars are read once, at the first lookup.

    Searched: `location.pictures` if given, else the folder of the source. A name is first looked up among the members
    of tars, then as a file, then as a file in images/; with `match_urls` also among the urls in the tars' json members.
    """

    def __init__(self, location: Location, *, match_urls: bool) -> None:
        self._location, self._match_urls = location, match_urls
        self._members = dict[str, tuple[str, TarMember] | None]()
        """Tar and member of a name; None if several members have it."""
        self._results = dict[str, tuple[ImageLocation | RecordError, str]]()
        """Image or error of a name, and sha256 of its bytes; cached because many records may name the same image."""

    def finder(self, digest: ReadDigest) -> Callable[[str], ImageLocation]:
        """A function from a name to its checked location; it raises RecordError and joins what it reads to `digest`."""
        joined = set[str]()

        def find_image(name: str) -> ImageLocation:
            if name not in self._results:
                self._results[name] = self._look_up(name)
            image, sha256 = self._results[name]
            if name not in joined:
                joined.add(name)
                digest.join(sha256)
            if isinstance(image, RecordError):
                raise RecordError(image.reason, image.detail)
            return image

        return find_image

    def _look_up(self, name: str) -> tuple[ImageLocation | RecordError, str]:
        data = b""
        image: ImageLocation | RecordError
        try:
            shard, offset, data = self._read_image(self._folder, name)
            prefix = "pictures:" if self._location.pictures else ""
            image = ImageLocation(shard=prefix + shard, offset=offset, size=len(data), hash=perceptual_hash(data))
        except RecordError as error:
            detail = error.detail if name in error.detail else f"{name}: {error.detail}"
            image = RecordError(error.reason, detail)  # a new one: the traceback of `error` refers to the bytes
        return image, hashlib.sha256(data).hexdigest()

    @cached_property
    def _folder(self) -> SourceFolder:
        folder = open_folder(self._location.pictures or self._location.path)
        folder = folder if self._location.pictures else replace(folder, selected_names=None)
        for tar in folder.names(".tar"):
            self._index_tar(folder, tar)
        return folder

    def _index_tar(self, folder: SourceFolder, tar: str) -> None:
        images, urls = dict[str, TarMember](), dict[str, str]()
        with folder.open(tar) as data:
            for member, content in read_tar_members(data, folder.path(tar), needs_content=self._may_have_url):
                self._add_member(str(PurePosixPath(member.name)), tar, member)
                if member.extension in IMAGE_EXTENSIONS:
                    images[member.key] = member
                elif content and isinstance(url := parse_optional_object(content).get("url"), str) and url:
                    urls[member.key] = url
        for key, url in urls.items():
            if key in images:
                self._add_member(url, tar, images[key])

    def _may_have_url(self, member: TarMember) -> bool:
        return self._match_urls and member.is_regular and member.extension == "json" and member.size <= 1 << 20

    def _add_member(self, name: str, tar: str, member: TarMember) -> None:
        self._members[name] = None if name in self._members else (tar, member)

    def _read_image(self, folder: SourceFolder, name: str) -> tuple[str, int, bytes]:
        key = name if "://" in name else str(PurePosixPath(name))
        if key in self._members:
            entry = self._members[key]
            if entry is None:
                raise RecordError("duplicate key", f"{name} occurs twice among the tars' members")
            tar, member = entry
            check_member(member)
            return tar, member.offset_data, folder.read_range(tar, member.offset_data, member.size)
        if "://" in name:
            raise RecordError("no image", f"no json member of a tar names {name} as its url")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise RecordError("unsafe path", name)
        file_name = next((candidate for candidate in (key, f"images/{key}") if folder.has_file(candidate)), None)
        if file_name is None:
            raise RecordError("no image", f"{name} is in no tar, no file of its own, nor in images/")
        size = folder.file_info(file_name).size
        if size > current_limits().picture:
            raise RecordError("too many bytes", f"{name}: {describe_excess('picture', size)}")
        return file_name, 0, folder.read(file_name, "picture")
