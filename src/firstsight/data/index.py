"""`Index`: the memory-mapped result of preparing a source, without the images; `open_index_arrays` writes its arrays.

samples.npy        tokens_from, tokens_count, shown_from, shown_count: the tokens and images of each record
shown.npy          picture, at: the images of each record, and the number of the record's tokens before each of them
tokens.npy         the tokens of all records; loss.npy: their loss flags (0 never, 1 always, 2 only before fine-tuning)
images.npy         offset, size, hash, shard of every image's encoded bytes in the source; shards.json names the shards
read.json          what was read: files, their sizes and digests; nothing about this machine, and not in the digest
manifest.json      counts, form, tokenizer, special ids, digest of the source, digest of all of the above
quarantine.jsonl   the rejected records: reason, shard, where, detail
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Integer, UInt8

from firstsight.data.records import SpecialTokenIds
from firstsight.errors import DataError
from firstsight.files import open_atomic, read_json
from firstsight.recipe import serialize
from firstsight.recipe.mixture import DataSource, ExternalForm

SAMPLE_DTYPE = np.dtype(
    [("tokens_from", "<i8"), ("tokens_count", "<i4"), ("shown_count", "<i4"), ("shown_from", "<i8")]
)
IMAGE_REF_DTYPE = np.dtype([("picture", "<i4"), ("at", "<i4")])
IMAGE_DTYPE = np.dtype([("offset", "<i8"), ("size", "<i8"), ("hash", "<u8"), ("shard", "<i4")])
_DIGEST_ENTRIES = 1 << 20
INDEX_ARRAYS = ("samples", "shown", "tokens", "loss", "images")
INDEX_FORMAT = 3
"""Raised if an older firstsight could not read what this one writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """A shard as it was when it was read."""

    name: str
    split: str
    size: int
    start: int
    stop: int
    sha256: str
    """Of all bytes that were read for it: the shard, captions that were joined, loose images."""
    records: int

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ShardInfo:
        """From an entry of read.json; those of earlier versions also have the file's time."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A prepared source. Its arrays are memory-mapped: opening an index reads none of them."""

    path: Path
    form: ExternalForm
    samples: np.ndarray
    image_refs: np.ndarray
    """The file shown.npy."""
    tokens: Integer[np.ndarray, "tokens"]
    loss: UInt8[np.ndarray, "tokens"]
    images: np.ndarray
    image_shards: tuple[str, ...]
    """Files with images; `images["shard"]` is an index into them. See `records.ImageLocation.shard`."""
    source_shards: tuple[ShardInfo, ...]
    source: DataSource
    special_ids: SpecialTokenIds
    tokenizer_digest: str
    source_digest: str
    """Identifies the data whatever the tokenizer."""
    digest: str

    @classmethod
    def open(cls, path: Path) -> Index:
        """The index in a folder; raises DataError if there is none or its arrays contradict its manifest."""
        manifest = read_manifest(path)
        try:
            return cls._open(path, manifest)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: wanted a prepared source. Got {error!r} in its files. {_ADVICE}") from error

    @classmethod
    def _open(cls, path: Path, manifest: dict[str, Any]) -> Index:
        arrays = {name: _load_array(path / f"{name}.npy", manifest["counts"]) for name in INDEX_ARRAYS}
        for name in ("tokens", "shown"):  # the last record ends where the arrays end
            ends = arrays["samples"][f"{name}_from"][-1:] + arrays["samples"][f"{name}_count"][-1:]
            expected, end = len(arrays[name]), int(ends.sum())
            if end != expected:
                got = f"Got {end}. Prepare it again."
                raise DataError(f"{path}: wanted the last record to end at {expected} {name}. {got}")
        read = read_json(path / "read.json", advice=_ADVICE)
        return cls(
            path=path,
            form=manifest["form"],
            image_shards=tuple(read_json(path / "shards.json", wanted=list, advice=_ADVICE)),
            source_shards=tuple(map(ShardInfo.from_json, read["shards"])),
            source=serialize.from_json(read["source"]),
            special_ids=SpecialTokenIds(**manifest["special"]),
            tokenizer_digest=manifest["tokenizer"],
            source_digest=manifest["source"],
            digest=manifest["digest"],
            image_refs=arrays.pop("shown"),
            **arrays,
        )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a prepared source; raises DataError if there is none or it has another format."""
    file = path / "manifest.json"
    if not file.is_file():
        raise DataError(f"{path}: wanted the folder of a prepared source. Got no manifest.json. Prepare it first.")
    manifest = read_json(file, advice=_ADVICE)
    if manifest.get("format") != INDEX_FORMAT:
        raise DataError(f"{file}: wanted format {INDEX_FORMAT}. Got {manifest.get('format')}. {_ADVICE}")
    return manifest


def _load_array(file: Path, counts: Mapping[str, int]) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r").view(np.ndarray)
    except (OSError, ValueError, EOFError) as error:  # numpy advises to trust a file that is no array
        reason = error.strerror if isinstance(error, OSError) else "another or a damaged file"
        raise DataError(f"{file}: wanted an array of a prepared source. Got {reason}. {_ADVICE}") from None
    expected = counts["tokens" if file.stem == "loss" else file.stem]
    if len(array) != expected:
        raise DataError(f"{file}: wanted {expected} entries as in its manifest. Got {len(array)}. Prepare it again.")
    return array


def ragged_ranges(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All numbers of the ranges [start, start + count), the range of each number, and its offset in that range."""
    ids = np.repeat(np.arange(len(counts)), counts)
    offsets = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
    return starts[ids] + offsets, ids, offsets


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file of version 1.0; its length does not depend on the number of entries."""
    stream = BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


_ADVICE = "Delete that folder and prepare the source again."


class ArrayFile:
    """A one-dimensional .npy file that is appended to, in the `with` block of `open_array_file`."""

    def __init__(self, stream: BinaryIO, dtype: np.dtype, *, hashed: bool) -> None:
        self.dtype, self.count = dtype, 0
        self._stream, self._hash = stream, hashlib.sha256() if hashed else None

    @property
    def digest(self) -> str:
        """sha256 over the entries, the type and the count so far; only of a `hashed` file."""
        assert self._hash is not None
        return _finish_digest(self._hash.copy(), self.dtype, self.count)

    def append(self, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, dtype=self.dtype).view(np.uint8).data
        self._stream.write(data)
        if self._hash is not None:
            self._hash.update(data)
        self.count += len(values)


def _finish_digest(digest: Any, dtype: np.dtype, count: int) -> str:
    digest.update(f"{dtype.descr} {count}".encode())
    return digest.hexdigest()


def stored_array_digest(path: Path) -> str:
    """The `ArrayFile.digest` of a .npy file; OSError, ValueError or EOFError if it is not an array."""
    array, digest = np.load(path, mmap_mode="r").view(np.ndarray), hashlib.sha256()
    for start in range(0, len(array), _DIGEST_ENTRIES):
        digest.update(np.ascontiguousarray(array[start : start + _DIGEST_ENTRIES]).view(np.uint8).data)
    return _finish_digest(digest, array.dtype, len(array))


@contextmanager
def open_array_file(
    path: Path, dtype: np.dtype, *, hashed: bool = False, sync: bool = False
) -> Generator[ArrayFile, None, None]:
    """An `ArrayFile` that replaces `path` at the end of the block; who has mapped or linked the old one keeps it.

    `hashed`: `digest` is available. `sync`: the bytes are on the disk at the end; OSError if it is full.
    """
    with open_atomic(path, sync=sync) as stream:
        stream.write(npy_header(dtype, (0,)))
        array = ArrayFile(stream, dtype, hashed=hashed)
        yield array
        stream.seek(0)
        stream.write(npy_header(dtype, (array.count,)))


@contextmanager
def open_index_arrays(folder: Path, vocab_size: int) -> Generator[Mapping[str, ArrayFile], None, None]:
    """The arrays of an index in `folder`, by name; tokens take two bytes if the vocabulary allows it."""
    token_dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    dtypes = (SAMPLE_DTYPE, IMAGE_REF_DTYPE, token_dtype, np.dtype("u1"), IMAGE_DTYPE)
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(open_array_file(folder / f"{name}.npy", dtype, hashed=True, sync=True))
            for name, dtype in zip(INDEX_ARRAYS, dtypes, strict=True)
        }
