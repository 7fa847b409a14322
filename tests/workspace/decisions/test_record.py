"""The record of a study that is decided step by step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.errors import DataError, UnknownName
from firstsight.workspace.decisions.record import Look, SequentialRecord, read_sequential_record, record_path
from tests.workspace.decision_store import small_study

LOOK = Look(time="2026-11-30T12:00:00+00:00", seeds={"start-080": 3, "start-100": 2}, verdicts={"two-points": "holds"})


def test_a_record_is_read_as_it_was_written_for_any_number_of_seeds(tmp_path: Path) -> None:
    record = SequentialRecord(labels=("start-080.s4",)).with_look(LOOK)
    assert record.with_look(LOOK) == record, "the same seeds once more are no other look"
    record.write(record_path(small_study(2), tmp_path))
    assert (
        read_sequential_record(small_study(2), tmp_path) == read_sequential_record(small_study(5), tmp_path) == record
    )
    assert str(LOOK) == "2026-11-30T12:00:00+00:00, 2 to 3 seeds: two-points holds"


def test_another_study_of_the_same_name_has_no_record(tmp_path: Path) -> None:
    study = small_study()
    SequentialRecord().write(record_path(study, tmp_path))
    other = replace(study, arms=tuple(replace(arm, horizon="full") for arm in study.arms))
    assert (
        read_sequential_record(study, tmp_path) == SequentialRecord()
        and read_sequential_record(other, tmp_path) is None
    )
    assert read_sequential_record(replace(study, claims=()), tmp_path) == SequentialRecord(), "claims may be rewritten"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2, "labels": [], "looks": []}',
        '{"format": 1, "labels": 7, "looks": []}',
        '{"format": 1, "labels": ["start-080.sx"], "looks": []}',
        '{"format": 1, "labels": [], "looks": [{"time": "now"}]}',
    ],
)
def test_a_damaged_record_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    path = record_path(small_study(), tmp_path)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_sequential_record(small_study(), tmp_path)
    assert str(path) in str(error.value)


def test_arms_with_further_seeds_are_the_arms_of_a_study_with_more_seeds() -> None:
    study = small_study(2)
    assert study.with_arms(["start-080.s3", "start-100.s3", "start-080.s1"]).arms == small_study(3).arms
    with pytest.raises(UnknownName, match="start-090"):
        study.with_arms(["start-090.s3"])
