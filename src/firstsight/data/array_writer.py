"""Writing one-dimensional .npy files whose length is not known in advance, and the five arrays of an index."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from firstsight.data.index import IMAGE_DTYPE, IMAGE_REF_DTYPE, INDEX_ARRAYS, SAMPLE_DTYPE


def write_npy_header(stream: BinaryIO, dtype: np.dtype, count: int) -> None:
    """Write a .npy header of version 1.0 for `count` entries; its length does not depend on the count."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(stream, header)


class ArrayFile:
    """A one-dimensional .npy file that is appended to; `close` writes the final length into its header.

    `hashed`: `digest` is available. `sync`: `close` waits until the bytes are on disk, with OSError if it is full.
    """

    def __init__(self, path: Path, dtype: np.dtype, *, hashed: bool = False, sync: bool = False) -> None:
        self.dtype, self.count = dtype, 0
        self._sync, self._hash = sync, hashlib.sha256() if hashed else None
        path.unlink(missing_ok=True)  # a process that has mapped or linked the old file keeps it unchanged
        self._stream = path.open("wb")
        write_npy_header(self._stream, dtype, 0)

    @property
    def digest(self) -> str:
        """sha256 over the entries, the type and the count so far."""
        assert self._hash is not None
        total = self._hash.copy()
        total.update(f"{self.dtype.descr} {self.count}".encode())
        return total.hexdigest()

    def append(self, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, dtype=self.dtype).view(np.uint8).data
        self._stream.write(data)
        if self._hash is not None:
            self._hash.update(data)
        self.count += len(values)

    def close(self) -> None:
        with self._stream:
            self._stream.seek(0)
            write_npy_header(self._stream, self.dtype, self.count)
            if self._sync:
                self._stream.flush()
                os.fsync(self._stream.fileno())


class IndexWriter:
    """The arrays of an index in `folder`, by name in `.arrays`; tokens take two bytes if the vocabulary allows it."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        token_dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        dtypes = {
            "samples": SAMPLE_DTYPE,
            "shown": IMAGE_REF_DTYPE,
            "tokens": token_dtype,
            "loss": np.dtype("u1"),
            "images": IMAGE_DTYPE,
        }
        self.arrays = {
            name: ArrayFile(folder / f"{name}.npy", dtypes[name], hashed=True, sync=True) for name in INDEX_ARRAYS
        }

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            for array in self.arrays.values():
                stack.callback(array.close)
