"""The arrays of an index while they are written: they grow at the end, and their bytes are counted as they go."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, INDEX_ARRAYS, SAMPLE_DTYPE


class ArrayFile:
    """A one-dimensional .npy file that is appended to; its header is written again when the length is known."""

    def __init__(self, file: Path, dtype: np.dtype) -> None:
        self.dtype, self.count = dtype, 0
        self._file, self._hash = file, hashlib.sha256()
        file.unlink(missing_ok=True)  # who has mapped or linked the old one keeps it as it was
        self._stream = file.open("wb")
        self._write_header()

    @property
    def digest(self) -> str:
        """sha256 over the type and everything that was appended."""
        digest_hash = self._hash.copy()
        digest_hash.update(f"{self.dtype.descr} {self.count}".encode())
        return digest_hash.hexdigest()

    def _write_header(self) -> None:
        shape = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._stream, shape)

    def append(self, values: np.ndarray) -> None:
        """Write `values` behind what is there."""
        data = np.ascontiguousarray(values, dtype=self.dtype).view(np.uint8).data
        self._stream.write(data)
        self._hash.update(data)
        self.count += len(values)

    def close(self) -> None:
        """Write the length and wait until all is on disk; a full disk says so here at the latest."""
        with self._stream:
            self._stream.seek(0)
            self._write_header()
            self._stream.flush()
            os.fsync(self._stream.fileno())


class IndexWriter:
    """All arrays of an index under `folder`, `.arrays` by name; tokens take two bytes where the vocabulary allows."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        token_dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        dtypes = {
            "samples": SAMPLE_DTYPE,
            "shown": IMAGE_REF_DTYPE,
            "tokens": token_dtype,
            "loss": np.dtype("u1"),
            "images": IMAGE_DTYPE,
        }
        self._stack = ExitStack()
        self.arrays = {name: ArrayFile(folder / f"{name}.npy", dtypes[name]) for name in INDEX_ARRAYS}
        for array in self.arrays.values():
            self._stack.callback(array.close)

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def write_text_atomic(file: Path, text: str) -> None:
    """A small file that is there whole or not at all, and on disk when this returns."""
    temporary_path = file.with_name(f"{file.name}.new")
    with temporary_path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary_path.replace(file)
