"""Limits: what is read below them is what the standard library reads, and the first byte or level above is refused."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import LimitExceeded, QuantityError
from firstsight.evaluate.task import read_text_file
from firstsight.limits import (
    BYTE_LIMITS,
    DEFAULT_LIMITS,
    RECORD_LIMITS,
    Limits,
    UnpackedStream,
    apply_limits,
    check_limit,
    check_model_sizes,
    check_tensor_header,
    current_limits,
    iter_lines,
    limit_exceeded,
    parse_json,
    read_all,
    read_file,
    read_settings,
)
from firstsight.site_file import read_site

NAMES = tuple(Limits.__slots__)
JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text("[]{}ab"),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text("[{", max_size=2), values, max_size=3),
)


def depth_of(value: Any) -> int:
    """Levels of lists and objects, by recursion."""
    if not isinstance(value, (list, dict)):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)


@given(JSON_VALUES, st.integers(1, 6), st.booleans())
def test_json_is_refused_exactly_above_its_depth(value: Any, limit: int, is_bytes: bool) -> None:
    apply_limits(Limits(depth=limit))
    text = json.dumps(value)
    if depth_of(value) <= limit:
        assert parse_json(text.encode() if is_bytes else text, "place") == value
    else:
        with pytest.raises(LimitExceeded, match=rf"place: wanted JSON of at most {limit} levels"):
            parse_json(text, "place")


@given(st.lists(st.binary(max_size=12)), st.integers(1, 12))
def test_lines_are_those_of_the_file_without_the_long_ones(lines: list[bytes], limit: int) -> None:
    apply_limits(Limits(record=limit))
    data = b"\n".join(lines)
    expected = [line if len(line.rstrip(b"\n")) <= limit else None for line in io.BytesIO(data)]
    assert list(iter_lines(io.BytesIO(data))) == expected


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 3 << 20])
@pytest.mark.parametrize("limit", [10, 3 << 20])
def test_files_are_read_up_to_the_limit_and_no_further(tmp_path: Path, size: int, limit: int) -> None:
    apply_limits(Limits(file=limit, settings=limit, unpacked=limit))
    data, plain, packed = bytes(size), tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(data)
    packed.write_bytes(gzip.compress(data))
    (tmp_path / "zstd-packed").write_bytes(zstandard.compress(data))
    readers = (
        lambda: read_file(plain, "settings"),
        *(lambda file=tmp_path / name: read_text_file(file).encode() for name in ("plain", "packed", "zstd-packed")),
        lambda: read_all(io.BytesIO(data), "stream", "file"),
        lambda: io.BufferedReader(UnpackedStream(io.BytesIO(data), "stream")).read(),
    )
    for read in readers:
        if size <= limit:
            assert read() == data
        else:
            with pytest.raises(LimitExceeded, match=r"(plain|packed|stream): wanted .*at most .* Got "):
                read()


@pytest.mark.parametrize("name", NAMES)
def test_the_advice_of_an_error_is_a_line_of_the_site_file_that_allows_the_value(tmp_path: Path, name: str) -> None:
    """The message is the oracle's input: its line, written into a site file, makes the same value legal."""
    actual = 2 * getattr(DEFAULT_LIMITS, name) + 1 if name != "depth" else 150
    with pytest.raises(LimitExceeded) as error_info:
        check_limit("place", name, actual)
    message = str(error_info.value)
    assert message.startswith("place: wanted") and "Got " in message
    line = message.partition("If that is right, set ")[2].partition(" under [limits] in the site file.")[0]
    (tmp_path / "site.toml").write_text(f"[limits]\n{line}\n")
    apply_limits(read_site(tmp_path / "site.toml").limits)
    assert list(current_limits().changed()) == [name]
    check_limit("place", name, actual)


def test_without_a_known_size_the_advice_is_twice_the_limit() -> None:
    assert 'set record = "32 MB" under' in str(limit_exceeded("place", "record"))


def test_only_limits_that_reject_records_belong_to_the_identity_of_an_index() -> None:
    changed = Limits(**dict.fromkeys(NAMES, 7))
    assert tuple(changed.changed()) == NAMES and set(changed.changed_for_records()) == set(RECORD_LIMITS)
    assert DEFAULT_LIMITS.changed() == DEFAULT_LIMITS.changed_for_records() == {}
    assert set(BYTE_LIMITS) < set(NAMES)


@pytest.mark.parametrize(("name", "value"), [("record", 0), ("layers", -1), ("depth", 501)])
def test_impossible_limits_are_refused(name: str, value: int) -> None:
    with pytest.raises(QuantityError, match=name):
        Limits(**{name: value})


REAL_CONFIGS = {
    "Llama 3 405B": {"num_hidden_layers": 126, "hidden_size": 16384, "vocab_size": 128256, "intermediate_size": 53248},
    "Swin": {"depths": [2, 2, 18, 2], "image_size": 384, "embed_dim": 128, "num_heads": [4, 8, 16, 32]},
    "Mllama": {
        "text_config": {"cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38] * 12, "num_hidden_layers": 100}
    },
    "XLM-V": {"vocab_size": 901629, "num_hidden_layers": 12, "max_position_embeddings": 514},
    "Llama 4": {"text_config": {"max_position_embeddings": 10485760, "no_rope_layers": [1, 1, 1, 0] * 12}},
    "no numbers": {"num_hidden_layers": None, "layer_norm_eps": 1e-6, "is_layer": True, "layers": "ten"},
}
"""Settings as published; sizes that are not there are not needed."""


@pytest.mark.parametrize("name", REAL_CONFIGS)
def test_published_configurations_are_legal(name: str) -> None:
    check_model_sizes(REAL_CONFIGS[name], name)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_hidden_layers": 2001}, "at most 2,000 layers. Got 2,001 in num_hidden_layers"),
        ({"a": {"n_layers": 1001}, "b": [{"num_layers": 1000}]}, "at most 2,000 layers. Got 2,001"),
        ({"depths": [500, 500, 500, 501]}, "at most 2,000 layers. Got 2,001 in depths"),
        ({"text_config": {"vocab_size": 10**9}}, "vocabulary of at most 2,000,000 tokens. Got 1,000,000,000"),
        ({"image_size": [64, 5000]}, "images of at most 4,096 pixels a side. Got 5,000 in image_size"),
        ({"hidden_size": 1e30}, "sizes of at most 1,000,000. Got more in hidden_size"),
        ({"hidden_size": float("inf")}, "Got more in hidden_size"),
        ({"num_attention_heads": 10**400}, "Got more in num_attention_heads"),
    ],
)
def test_sizes_above_a_limit_are_refused_with_their_name(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(LimitExceeded) as error_info:
        check_model_sizes(settings, "config.json")
    assert words in str(error_info.value)


def test_settings_are_an_object_within_the_limits(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"layers": 3}')
    assert read_settings(file) == {"layers": 3}
    for text in ("[]", "{", "\xff"):
        file.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError):
            read_settings(file)


def test_only_a_header_that_the_file_can_hold_is_measured(tmp_path: Path) -> None:
    """A longer one is a damaged file, about which the reader of safetensors says more."""
    apply_limits(Limits(settings=20))
    for size, file_size in ((20, 100), (21, 29), (10**9, 100)):
        (tmp_path / "a").write_bytes(size.to_bytes(8, "little") + bytes(file_size - 8))
        if size == 21:
            with pytest.raises(LimitExceeded, match="Got 21 B for its header"):
                check_tensor_header(tmp_path / "a")
        else:
            check_tensor_header(tmp_path / "a")
