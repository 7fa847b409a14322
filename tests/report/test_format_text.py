"""Texts made readable: boxes, accepted answers, invisible characters."""

from __future__ import annotations

import pytest

from firstsight.report.format import (
    MAX_CHARACTERS,
    describe_box,
    escape_invisible,
    parse_truth_box,
    readable_answer,
    visible_html,
)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a  b", "a<i> </i><i> </i>b"),
        ("a\n\nb", "a<i class=n>↵</i>\n<i class=n>↵</i>\nb"),
        ("\u00a0", "<i class=u>U+00A0</i>"),
        ("<&>", "&lt;&amp;&gt;"),
    ],
)
def test_blanks_are_visible(text: str, html: str) -> None:
    assert visible_html(text) == html


@pytest.mark.parametrize(
    ("text", "readable"),
    [
        ("[0.25, 0.5, 0.75, 1.0]", ".25 .50 .75 1.00"),
        ('["cat", "cat", "a cat"]', "cat / a cat"),
        ("[1, 2]", "[1, 2]"),
        ("cat", "cat"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_answers_are_readable(text: str, readable: str) -> None:
    assert readable_answer(text) == readable


def test_invisible_characters_are_written_out() -> None:
    assert escape_invisible("a\u200b\n\x07") == "a[U+200B]\n[U+0007]"
    assert escape_invisible("a b\n", allowed=" ") == "a b[U+000A]"
    assert escape_invisible("x" * 3000) == "x" * MAX_CHARACTERS + " ... (3,000 characters)"


@pytest.mark.parametrize("truth", ["0.1 0.2 0.3 0.4", [0, 1, 2], [0.5, 0.5, 0.1, 0.1], [0, 0, 1, float("nan")], None])
def test_other_truths_are_no_box(truth: object) -> None:
    assert parse_truth_box(truth) is None


def test_boxes_are_described() -> None:
    assert parse_truth_box([0, 0.5, 0.75, 1]) == (0.0, 0.5, 0.75, 1.0)
    assert describe_box((0.0, 0.5, 0.75, 1.0)) == "left 0 %, top 50 %, right 75 %, bottom 100 %"
