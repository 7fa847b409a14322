"""Numbers as text."""

from __future__ import annotations

import pytest

from firstsight.report.format import (
    axis_limit,
    format_duration,
    format_interval,
    format_p_value,
    format_percent,
    format_points,
    format_score,
    join_names,
    known_columns,
)


def test_percent_has_a_minus_sign_and_is_empty_for_none() -> None:
    assert [format_percent(0.5312), format_percent(-0.02), format_percent(None)] == ["53.1", "\N{MINUS SIGN}2.0", ""]
    assert format_percent(0.5312, 2) == "53.12"


def test_points_have_their_sign() -> None:
    assert [format_points(0.0213), format_points(-0.4)] == ["+2.1", "\N{MINUS SIGN}40.0"]
    assert [format_points(0.0), format_points(-0.0001)] == ["0.0", "0.0"]
    assert format_interval((-0.003, 0.041)) == "\N{MINUS SIGN}0.3 to +4.1"


def test_durations_have_a_unit_that_fits() -> None:
    assert [format_duration(42.0), format_duration(570.0), format_duration(111_600.0)] == ["42 s", "9.5 min", "31 h"]


def test_p_values_name_their_correction() -> None:
    assert format_p_value(0.0131) == "p = 0.013"
    assert format_p_value(1e-6, 5) == "p < 0.0001 after Holm for 5"
    assert format_p_value(None) == "p = 1"


def test_scores_have_no_trailing_zeros() -> None:
    assert [format_score(score) for score in (1.0, 0.5, 1 / 3)] == ["1", "0.5", "0.33"]


def test_names_are_joined_as_in_a_sentence() -> None:
    assert [join_names(["a"]), join_names(["a", "b"]), join_names(["a", "b", "c"])] == ["a", "a or b", "a, b or c"]


@pytest.mark.parametrize(
    ("differences", "limit"), [([], 0.05), ([0.05], 0.05), ([-0.051], 0.1), ([0.02, -0.3], 0.3), ([0.15], 0.15)]
)
def test_axis_limit_is_a_multiple_of_five_points_that_contains_all(differences: list[float], limit: float) -> None:
    assert axis_limit(differences) == pytest.approx(limit)


def test_columns_without_any_known_value_are_named_instead() -> None:
    table = [("task", "noise", "range"), ("gqa", "unknown", "1.0"), ("pope", "unknown", "unknown")]
    assert known_columns(table) == ([["task", "range"], ["gqa", "1.0"], ["pope", "unknown"]], ["noise"])
    assert known_columns(table[:1]) == ([list(table[0])], [])
