"""The arrays of an index while they are written: they grow at the end, and their bytes are counted as they go."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from firstsight.data.index import ARRAYS, IMAGE, SAMPLE, SHOWN


class Growing:
    """A one-dimensional .npy file that is appended to; its header is written again when the length is known."""

    def __init__(self, file: Path, dtype: np.dtype) -> None:
        self.dtype, self.count = dtype, 0
        self._file, self._whole = file, hashlib.sha256()
        file.unlink(missing_ok=True)  # who has mapped or linked the old one keeps it as it was
        self._stream = file.open("wb")
        self._head()

    @property
    def digest(self) -> str:
        """sha256 over the type and everything that was appended."""
        whole = self._whole.copy()
        whole.update(f"{self.dtype.descr} {self.count}".encode())
        return whole.hexdigest()

    def _head(self) -> None:
        shape = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._stream, shape)

    def append(self, values: np.ndarray) -> None:
        """Write `values` behind what is there."""
        data = np.ascontiguousarray(values, dtype=self.dtype).view(np.uint8).data
        self._stream.write(data)
        self._whole.update(data)
        self.count += len(values)

    def close(self) -> None:
        """Write the length and wait until all is on disk; a full disk says so here at the latest."""
        with self._stream:
            self._stream.seek(0)
            self._head()
            self._stream.flush()
            os.fsync(self._stream.fileno())


class Pages:
    """All arrays of an index under `folder`, `.arrays` by name; tokens take two bytes where the vocabulary allows."""

    def __init__(self, folder: Path, vocabulary: int) -> None:
        size = np.dtype("<u2" if vocabulary <= 2**16 else "<u4")
        kinds = {"samples": SAMPLE, "shown": SHOWN, "tokens": size, "loss": np.dtype("u1"), "images": IMAGE}
        self._stack = ExitStack()
        self.arrays = {name: Growing(folder / f"{name}.npy", kinds[name]) for name in ARRAYS}
        for array in self.arrays.values():
            self._stack.callback(array.close)

    def __enter__(self) -> Pages:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def write_whole(file: Path, text: str) -> None:
    """A small file that is there whole or not at all, and on disk when this returns."""
    new = file.with_name(f"{file.name}.new")
    with new.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(file)
