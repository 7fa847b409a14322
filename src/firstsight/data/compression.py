"""Compressed files, plain ones among them: unpacked in bounded memory, gzip or zstd by name or by first bytes."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from firstsight.data.file_types import codec_of
from firstsight.errors import DataError
from firstsight.limits import UnpackedStream

_READ_SIZE = 1 << 20
_CODEC_MARKS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of compressed files."""
_ZSTD_WINDOW = "Frame requires too much memory"


@contextmanager
def open_unpacked(path: Path) -> Iterator[Any]:
    """The bytes of a local file, unpacked as they begin, since benchmarks' files are renamed; errors of `unpacked`."""
    with path.open("rb") as file:
        head = file.peek(4)
        yield unpacked(
            file, str(path), codec=next((c for magic, c in _CODEC_MARKS.items() if head.startswith(magic)), "")
        )


def unpacked(stream: Any, path: str, *, codec: str | None = None) -> Any:
    """A stream unpacked by `codec`, or as its name says; DataError if it is truncated, LimitExceeded if too large.

    pyarrow reports truncated zstandard frames, which zstandard's reader does not; Python's gzip accepts zero bytes
    after the last member (tape padding), which pyarrow does not.
    """
    codec = codec_of(path) if codec is None else codec
    if not codec:
        return stream
    if codec == "gzip":
        content: Any = gzip.GzipFile(fileobj=stream)
    else:
        unclosed = SimpleNamespace(read=stream.read, close=lambda: None, closed=False)  # pyarrow closes what it reads
        content = pa.CompressedInputStream(pa.PythonFile(unclosed, "r"), "zstd")
    return io.BufferedReader(_CheckedStream(content, path, codec), _READ_SIZE)


class _CheckedStream(io.RawIOBase):
    """Unpacked bytes within the limit; DataError instead of a codec's own errors."""

    def __init__(self, content: Any, path: str, codec: str) -> None:
        self._content, self._path, self._codec = UnpackedStream(content, path), path, codec

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return self._content.readinto(buffer)
        except (EOFError, OSError, zlib.error) as error:
            if _ZSTD_WINDOW in str(error):
                raise DataError(
                    f"{self._path}: wanted zstandard frames with a window of at most 128 MB. Got a longer one (zstd "
                    "--long=28 or more). Pack it again: zstd -dc --long=31 FILE | zstd -o NEW.jsonl.zst"
                ) from None
            advice = "Fetch it again from its origin."
            raise DataError(f"{self._path}: not a complete {self._codec} file ({error}). {advice}") from None
