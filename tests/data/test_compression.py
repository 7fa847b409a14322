"""Files are unpacked as they begin, whatever their names; what is cut short is an error."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstsight.data.compression import open_unpacked
from firstsight.errors import DataError, LimitExceeded
from firstsight.limits import Limits, apply_limits

PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstandard.compress, "plain": bytes}


def read(path: Path) -> bytes:
    with open_unpacked(path) as stream:
        return stream.read()


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["a.json", "a.gz", "a.zst", "a"])
@given(data=st.binary(max_size=64).map(lambda data: b"{" + data))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_are_those_before_packing(tmp_path: Path, packer: str, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(PACKERS[packer](data))
    assert read(tmp_path / name) == data


@pytest.mark.parametrize("packer", ["gzip", "zstd"])
def test_a_truncated_file_and_one_that_unpacks_beyond_the_limit_are_errors(tmp_path: Path, packer: str) -> None:
    packed = PACKERS[packer](bytes(range(256)) * 64)
    (tmp_path / "whole").write_bytes(packed)
    (tmp_path / "cut").write_bytes(packed[:-9])
    with pytest.raises(DataError, match=f"cut: not a complete {packer} file"):
        read(tmp_path / "cut")
    apply_limits(Limits(unpacked=1000))
    with pytest.raises(LimitExceeded, match="whole"):
        read(tmp_path / "whole")
