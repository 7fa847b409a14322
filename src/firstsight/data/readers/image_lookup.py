"""Images by the names that records give them: members of tars, loose files, urls that img2dataset recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import PurePosixPath

from firstsight.data.file_types import (
    ARCHIVE_ENDINGS,
    IMAGE_EXTENSIONS,
    file_type,
    is_image_name,
    no_data_reason,
)
from firstsight.data.images import looks_like_base64, perceptual_hash
from firstsight.data.readers.filesystem import ReadDigest, SourceFolder, open_folder
from firstsight.data.readers.json_files import parse_optional_object
from firstsight.data.readers.tars import TarMember, check_member, read_tar_members
from firstsight.data.records import ImageLocation, Notices, RecordError
from firstsight.limits import current_limits, describe_excess
from firstsight.site import Location


class ImageLookup:
    """All images of a location by name; the headers of its tars are read once, at the first lookup.

    Searched: `location.pictures` if given, else the folder of the source. A name is first looked up among the members
    of tars, then as a file, then as a file in images/, then with another image's ending in the same places (OCR-VQA's
    GIFs are called .jpg); with `match_urls` also among the urls in the tars' json members.
    """

    def __init__(self, location: Location, *, match_urls: bool) -> None:
        self._location, self._match_urls = location, match_urls
        self._members = dict[str, tuple[str, TarMember] | None]()
        """Tar and member of a name; None if several members have it."""
        self._results = dict[str, tuple[ImageLocation | RecordError, str]]()
        """Image or error of a name, and sha256 of its bytes; cached because many records may name the same image."""
        self._folder_stems = dict[str, dict[str, list[str]]]()
        """By folder: the image files of a name without ending."""
        self._archives = list[str]()
        self._renamed = dict[str, str]()
        """The file of a name that was found with another ending."""

    def finder(self, digest: ReadDigest, notices: Notices) -> Callable[[str], ImageLocation]:
        """A function from a name to its checked location; it raises RecordError and joins what it reads to `digest`."""
        joined = set[str]()

        def find_image(name: str) -> ImageLocation:
            if looks_like_base64(name):
                advice = "write them to files, to a tar or to a column of bytes"
                raise RecordError("not an image", f"images in base64 are not read ({name[:16]}...): {advice}")
            if name not in self._results:
                self._results[name] = self._look_up(name)
            image, sha256 = self._results[name]
            if name not in joined:
                joined.add(name)
                digest.join(sha256)
                if name in self._renamed:
                    notices.add("image found with another ending", f"{name}: {self._renamed[name]}")
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
        for name in folder.names():
            if not no_data_reason(name):
                if file_type(name) == "tar":
                    self._index_tar(folder, name)
                elif name.lower().endswith(ARCHIVE_ENDINGS):
                    self._archives.append(name)
        return folder

    @cached_property
    def _member_stems(self) -> dict[str, list[str]]:
        """The members that are images by their paths without ending."""
        stems = dict[str, list[str]]()
        for name in self._members:
            if "://" not in name and is_image_name(name):
                stems.setdefault(name.rpartition(".")[0], []).append(name)
        return stems

    def _index_tar(self, folder: SourceFolder, tar: str) -> None:
        images, urls = dict[str, TarMember | None](), dict[str, str]()
        with folder.open(tar) as data:
            for member, content in read_tar_members(data, folder.path(tar), needs_content=self._may_have_url):
                self._add_member(str(PurePosixPath(member.name)), tar, member)
                if member.extension in IMAGE_EXTENSIONS:
                    images[member.key] = None if member.key in images else member
                elif content and isinstance(url := parse_optional_object(content).get("url"), str) and url:
                    urls[member.key] = url
        for key, url in urls.items():
            if key in images:
                self._members[url] = None if url in self._members or (image := images[key]) is None else (tar, image)

    def _may_have_url(self, member: TarMember) -> bool:
        return self._match_urls and member.is_regular and member.extension == "json" and member.size <= 1 << 20

    def _add_member(self, name: str, tar: str, member: TarMember) -> None:
        self._members[name] = None if name in self._members else (tar, member)

    def _read_image(self, folder: SourceFolder, name: str) -> tuple[str, int, bytes]:
        key = name if "://" in name else str(PurePosixPath(name))
        if "://" in name and key not in self._members:
            raise RecordError("no image", f"no json member of a tar names {name} as its url; images are not downloaded")
        path = PurePosixPath(name)
        if key not in self._members and (path.is_absolute() or ".." in path.parts):
            raise RecordError("unsafe path", name)
        candidates = (key, f"images/{key}")
        match = key if key in self._members else next(filter(folder.has_file, candidates), None)
        if match is None:
            match = self._renamed_image(folder, candidates)
            self._renamed[name] = match
        if match in self._members:
            entry = self._members[match]
            if entry is None:
                raise RecordError("duplicate key", f"{name} occurs twice among the tars' members")
            tar, member = entry
            check_member(member)
            return tar, member.offset_data, folder.read_range(tar, member.offset_data, member.size)
        size = folder.file_info(match).size
        if size > current_limits().picture:
            raise RecordError("too many bytes", f"{name}: {describe_excess('picture', size)}")
        return match, 0, folder.read(match, "picture")

    def _renamed_image(self, folder: SourceFolder, candidates: tuple[str, str]) -> str:
        """The only image that differs from a name in its ending; RecordError for none or several."""
        stems = [key.rpartition(".")[0] if is_image_name(key) else key for key in candidates]
        matches = self._member_stems.get(stems[0], [])
        matches = matches or [name for stem in stems for name in self._stems_of_folder(folder, stem).get(stem, [])]
        if len(matches) > 1:
            raise RecordError("duplicate key", f"{candidates[0]} may be any of {', '.join(matches[:3])}")
        if not matches:
            hint = f" ({self._archives[0]} is an archive, which is not read: unpack it)" if self._archives else ""
            raise RecordError("no image", f"{candidates[0]} is in no tar, no file of its own, nor in images/{hint}")
        return matches[0]

    def _stems_of_folder(self, folder: SourceFolder, stem: str) -> dict[str, list[str]]:
        parent = stem.rpartition("/")[0]
        if parent not in self._folder_stems:
            stems = self._folder_stems.setdefault(parent, {})
            for name in filter(is_image_name, folder.files_in(parent)):
                if not no_data_reason(name):
                    stems.setdefault(name.rpartition(".")[0], []).append(name)
        return self._folder_stems[parent]
