"""What the files of a source and the members of a tar are, by their names: one table of endings, and what is no data.

Endings count in any case. Compression is of JSON only: images are read in place, so tars of them are not compressed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Literal

FileType = Literal["json", "table", "tar"]
IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff")
CODECS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_FILE_TYPES: dict[str, FileType] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "json"),
    **dict.fromkeys((".parquet", ".arrow", ".feather"), "table"),
    ".tar": "tar",
}
ARCHIVE_ENDINGS = (".zip", ".7z", ".rar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.zstd")
DATASETS_METADATA = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
"""Written by `datasets` in the folder of its tables."""
_NO_DATA = re.compile(
    r"(?:^|/)(?:"
    r"(?P<macOS>__MACOSX(?:/|$)|\._[^/]*$|\.DS_Store$|Icon\r$)|"
    r"(?P<Windows>(?i:thumbs\.db|desktop\.ini)$)|"
    r"(?P<hidden>\.(?!\.?(?:/|$)))|"
    r"(?P<metadata>__[^/]*__(?:\.[^/]*)?(?:/|$)))"
)
"""webdataset.tariterators passes over the same members: names that begin with a dot, and __name__."""
_DOCUMENTATION = re.compile(
    r"(?i)(?:readme|licen[cs]e|notice|copying|changelog|changes|contributing|citation|authors|contributors|"
    r"(?:md5|sha(?:1|256|512))sums?|checksums?)(?:[._-][^/]*)?"
)


def _split_ending(name: str) -> tuple[str, str]:
    """A path in lower case without its last ending, and the ending; a file's name that begins with a dot has none."""
    lower = name.lower()
    dot = lower.rfind(".")
    return (lower[:dot], lower[dot:]) if dot > lower.rfind("/") + 1 else (lower, "")


def compression_ending(name: str) -> str:
    """.gz, .zst or .zstd; empty for a file that is not compressed."""
    ending = _split_ending(name)[1]
    return ending if ending in CODECS else ""


def codec_of(name: str) -> str:
    """gzip, zstd, or empty for a file that is not compressed."""
    return CODECS.get(compression_ending(name), "")


def uncompressed_ending(name: str) -> str:
    """The ending in lower case, of a compressed file the one before: .csv for A.CSV.gz."""
    stem, ending = _split_ending(name)
    return _split_ending(stem)[1] if ending in CODECS else ending


def file_type(name: str) -> FileType | None:
    """The reader's kind of a file; None for an ending that is not read."""
    kind = _FILE_TYPES.get(uncompressed_ending(name))
    return kind if kind == "json" or not codec_of(name) else None


def is_plain_json(name: str) -> bool:
    """Whether a file's ending leaves open if it is a list or lines: .json, also compressed."""
    return uncompressed_ending(name) == ".json"


def known_endings(types: Collection[FileType]) -> str:
    """The endings of some types, for messages."""
    endings = [ending for ending, kind in _FILE_TYPES.items() if kind in types]
    return ", ".join(endings) + (" (.json ones also as .gz, .zst, .zstd)" if "json" in types else "")


def is_image_name(name: str) -> bool:
    """Whether a name ends like an image."""
    return _split_ending(name)[1][1:] in IMAGE_EXTENSIONS


def no_data_reason(name: str) -> str:
    """Why a file or a member of a tar is no data, by its path; empty if it may be some."""
    match = _NO_DATA.search(name)
    return f"{match.lastgroup} file" if match else ""


def is_documentation(name: str) -> bool:
    """Whether a path is a README, a licence or the like."""
    return _DOCUMENTATION.fullmatch(PurePosixPath(name).name) is not None and not is_image_name(name)


def unread_reason(name: str) -> str:
    """Why a file that may be data is not read, by its ending."""
    lower = name.lower()
    if ending := next(filter(lower.endswith, ARCHIVE_ENDINGS), ""):
        return f"archive {ending}: unpack it"
    if is_documentation(name):
        return "documentation"
    ending = _split_ending(name)[1]
    inner = uncompressed_ending(name) if ending in CODECS else ""
    return f"ending {inner}{ending}" if ending else "no ending"
