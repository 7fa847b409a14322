"""The table of endings in any case and compression; names that are no data, as webdataset sees them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from firstsight.data.file_types import (
    codec_of,
    file_type,
    is_documentation,
    is_image_name,
    is_plain_json,
    no_data_reason,
    unread_reason,
)

ENDINGS = {
    **dict.fromkeys(("jsonl", "ndjson", "json"), "json"),
    **dict.fromkeys(("parquet", "arrow", "feather"), "table"),
    "tar": "tar",
}
CODECS = {"": "", ".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
any_case = st.text(st.characters(codec="ascii", categories=["Lu", "Ll", "Nd"]), min_size=1)


@given(stem=any_case, folder=st.sampled_from(["", "a.b/", "x.tar/"]), data=st.data())
def test_endings_count_in_any_case(stem: str, folder: str, data: st.DataObject) -> None:
    ending, codec = data.draw(st.sampled_from(sorted(ENDINGS))), data.draw(st.sampled_from(sorted(CODECS)))
    letters = [data.draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in f".{ending}{codec}"]
    name = f"{folder}{stem}{''.join(letters)}"
    assert codec_of(name) == CODECS[codec]
    assert file_type(name) == (ENDINGS[ending] if not codec or ENDINGS[ending] == "json" else None)
    assert is_plain_json(name) == (ending == "json")


@given(st.text(st.sampled_from("._/aZ0\\ -"), min_size=1, max_size=12))
def test_webdataset_passes_over_what_is_hidden(name: str) -> None:
    """Its pattern gives no key to a file whose name begins with a dot; here hidden folders have no samples either."""
    file_name = name.rpartition("/")[2]
    if file_name.startswith(".") and set(file_name) != {"."}:
        assert base_plus_ext(file_name) == (None, None)
        assert no_data_reason(name)
    parts = [part for part in name.split("/") if part not in (".", "..")]
    if not any(part.startswith(".") or re.fullmatch(r"__.*__(\..*)?", part) for part in parts):
        assert no_data_reason(name) == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("./._0.jpg", "macOS file"), ("a/.DS_Store", "macOS file"), ("__MACOSX/a/0.jpg", "macOS file"),
        (".cache/x.jsonl", "hidden file"), ("a/.x.tar", "hidden file"), (".git/", "hidden file"),
        ("__readme__.txt", "metadata file"), ("a/Thumbs.db", "Windows file"), ("./0.jpg", ""), ("../0.jpg", ""),
        ("a.b/0.jpg", ""), ("_x_/y_.jpg", ""), ("__a.jpg", ""),
    ],
)  # fmt: skip
def test_names_that_are_no_data(name: str, reason: str) -> None:
    assert no_data_reason(name) == reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.ZIP", "archive .zip: unpack it"), ("a.tar.gz", "archive .tar.gz: unpack it"), ("b/README", "documentation"),
        ("LICENSE-CODE.txt", "documentation"), ("a.csv", "ending .csv"), ("a.csv.gz", "ending .csv.gz"),
        ("a.jsonl.bz2", "ending .bz2"), ("data", "no ending"),
    ],
)  # fmt: skip
def test_reasons_of_files_that_are_not_read(name: str, reason: str) -> None:
    assert unread_reason(name) == reason


def test_an_image_is_no_documentation() -> None:
    assert is_image_name("a/license.JPG")
    assert not is_documentation("license.jpg")
    assert not is_documentation("reading.txt")
