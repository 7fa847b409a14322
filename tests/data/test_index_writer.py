"""Arrays that are appended to: numpy is the second reader, hashlib the second digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.data.index import (
    IMAGE_DTYPE,
    INDEX_ARRAYS,
    SAMPLE_DTYPE,
    npy_header,
    open_array_file,
    open_index_arrays,
)


@given(chunks=st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=5), max_size=5), sync=st.booleans())
def test_appended_chunks_are_one_array(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[list[int]], sync: bool
) -> None:
    path = tmp_path_factory.mktemp("arrays") / "a.npy"
    with open_array_file(path, np.dtype("<u2"), hashed=True, sync=sync) as array:
        for chunk in chunks:
            array.append(np.array(chunk, dtype=np.int64))
    expected = np.array([value for chunk in chunks for value in chunk], dtype="<u2")
    loaded = np.load(path, mmap_mode="r" if len(expected) else None)
    assert loaded.dtype == expected.dtype and loaded.tolist() == expected.tolist() and array.count == len(expected)
    description = f"{expected.dtype.descr} {len(expected)}".encode()
    assert array.digest == hashlib.sha256(expected.tobytes() + description).hexdigest()


def test_header_length_does_not_depend_on_the_count() -> None:
    sizes = [len(npy_header(SAMPLE_DTYPE, (count,))) for count in (0, 2**40)]
    assert sizes[0] == sizes[1] and sizes[0] % 64 == 0


def test_old_file_is_replaced_and_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(3))
    mapped = np.load(path, mmap_mode="r")
    with pytest.raises(OSError, match="full"), open_array_file(path, IMAGE_DTYPE) as array:
        array.append(np.zeros(1, dtype=IMAGE_DTYPE))
        raise OSError("full")
    assert np.load(path).tolist() == [0, 1, 2] and list(tmp_path.iterdir()) == [path]
    with open_array_file(path, IMAGE_DTYPE) as array:
        array.append(np.zeros(2, dtype=IMAGE_DTYPE))
    assert mapped.tolist() == [0, 1, 2]
    assert np.load(path).dtype == IMAGE_DTYPE


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**16, "<u2"), (2**16 + 1, "<u4")])
def test_index_writer_writes_all_arrays(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    with open_index_arrays(tmp_path, vocab_size) as writers:
        writers["tokens"].append(np.array([vocab_size - 1]))
    arrays = {name: np.load(tmp_path / f"{name}.npy") for name in INDEX_ARRAYS}
    assert arrays["tokens"].dtype == np.dtype(dtype) and arrays["tokens"].tolist() == [vocab_size - 1]
    assert [len(array) for array in arrays.values()] == [int(name == "tokens") for name in INDEX_ARRAYS]
