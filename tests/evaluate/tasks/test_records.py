"""Fields, boxes and ids of benchmark records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import DataError
from firstsight.evaluate.tasks import records
from tests.evaluate.tasks.task_files import lines, write

ROWS = [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize(
    ("content", "keys"), [(ROWS, [None, None]), (lines(ROWS), [None, None]), ({"a": ROWS[0], "b": ROWS[1]}, ["a", "b"])]
)
def test_lists_lines_and_objects_have_the_same_records(content: Any, keys: list[str | None], tmp_path: Path) -> None:
    path = write(tmp_path, "q.jsonl", content)
    parsed = records.read_records(path)
    assert [record.fields for record in parsed] == ROWS
    assert [record.key for record in parsed] == keys
    assert [record.index for record in parsed] == [0, 1]
    assert [record.location for record in parsed] == [f"{path}: record {key or n}" for n, key in enumerate(keys, 1)]


def test_records_that_are_no_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 2 is not an object: 7"):
        records.read_records(write(tmp_path, "q.json", [{}, 7]))


@pytest.mark.parametrize(("value", "text"), [("a", "a"), (7, "7"), (0.5, "0.5")])
def test_numbers_are_texts(value: Any, text: str) -> None:
    assert records.text_field({"k": value}, "k", "here") == text
    record = records.BenchmarkRecord(key=None, index=0, location="here", fields={"k": value})
    assert record.text("j", "k") == text


@pytest.mark.parametrize("value", [None, True, float("nan"), float("inf"), ["a"], {}])
def test_other_values_are_no_texts(value: Any) -> None:
    with pytest.raises(DataError, match="here: k is text"):
        records.text_field({"k": value}, "k", "here")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_repeated_ids_are_counted(ids: list[int]) -> None:
    repeated = sorted({str(i) for i in ids if ids.count(i) > 1})
    if not repeated:
        records.check_unique_ids(map(str, ids), "here")
        return
    with pytest.raises(DataError, match="here: question ids appear twice") as error:
        records.check_unique_ids(map(str, ids), "here")
    assert any(question_id in str(error.value) for question_id in repeated)
    assert ("in all" in str(error.value)) == (len(repeated) > 3)


@given(
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
)
def test_boxes_in_pixels_become_the_shares_that_they_are(
    corners: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    width, height = size
    pixels = (left * width, top * height, right * width, bottom * height)
    if not (pixels[0] < pixels[2] and pixels[1] < pixels[3]):
        with pytest.raises(DataError, match="is empty"):
            records.normalize_box(pixels, size, "here")
        return
    assert records.normalize_box(pixels, size, "here") == pytest.approx((left, top, right, bottom))
