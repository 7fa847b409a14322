"""Boxes in text against the paper's harness, which reads them as Python lists; overlaps against values by hand."""

from __future__ import annotations

import ast
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firstsight.evaluate.metrics import METRICS, boxes


def harness_box(text: str) -> tuple[float, ...] | None:
    """TRI-ML/vlm-evaluation's reading in its RefCOCO and OCID-Ref scorers."""
    try:
        box = ast.literal_eval(text)
        assert isinstance(box, list) and len(box) == 4
        assert all(0 <= edge <= 1 for edge in box)
        assert box[0] < box[2] and box[1] < box[3]
    except (AssertionError, ValueError, SyntaxError, TypeError):
        return None
    return tuple(float(edge) for edge in box)


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        ("[0.1, 0.2, 0.3, 0.4]", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1, 0.2, 0.3, 0.4,]", (0.1, 0.2, 0.3, 0.4)),
        ("0.1 0.2 0.3 0.4", (0.1, 0.2, 0.3, 0.4)),
        ("0.1, 0.2, 0.3, 0.4\n", (0.1, 0.2, 0.3, 0.4)),
        ("(.1,.2,.3,1)", (0.1, 0.2, 0.3, 1.0)),
        ("[0.1 , 2E-1 , +0.3 , 4e-01]", (0.1, 0.2, 0.3, 0.4)),
        ("", None),
        ("[]", None),
        ("[0.1, 0.2, 0.3]", None),
        ("[0.1, 0.2, 0.3, 0.4, 0.5]", None),
        ("[0.1, 0.2, 0.3, 0.4)", None),
        ("[[0.1, 0.2, 0.3, 0.4]]", None),
        ("[0.3, 0.2, 0.1, 0.4]", None),
        ("[0.1, 0.4, 0.3, 0.2]", None),
        ("[0.1, 0.2, 0.1, 0.4]", None),
        ("[0.1, 0.2, 0.3, 1.4]", None),
        ("[-0.1, 0.2, 0.3, 0.4]", None),
        ("[10, 20, 30, 40]", None),
        ("[nan, 0.2, 0.3, 0.4]", None),
        ("[0, 0, inf, 1]", None),
        ("[0, 0, 1e309, 1]", None),
        ("[0, 0, 1, 1] and more", None),
        ("box: 0.1 0.2 0.3 0.4", None),
        ("[0.1, 0.2, 0.3, \u0664]", None),
        ("[\uff10, \uff10, \uff11, \uff11]", None),
        ("the dog on the left \U0001f436", None),
        ("[" * 4000, None),
        ("[" + "0.1, " * 4000, None),
        ("0" * 5000, None),
    ],
)
def test_boxes_are_four_ordered_shares_or_nothing(answer: str, box: boxes.BoundingBox | None) -> None:
    assert boxes.parse_box(answer) == box
    assert METRICS["iou50"].is_readable(answer) is (box is not None)
    assert METRICS["iou50"].compute([answer], [(0.1, 0.2, 0.3, 0.4)])[0] in ((0, 1) if box else (0,))


NUMBERS = st.one_of(
    st.floats(0, 1).map(str),
    st.floats(0, 1).map(lambda number: f"{number:.2f}"),
    st.sampled_from(["0", "1", "-0.1", ".5", "1.", "5", "1e-1", "+0.3", "nan", "True", "x"]),
)
LISTS = st.builds(
    lambda join, numbers, ends: ends[0] + join.join(numbers) + ends[1],
    st.sampled_from([",", ", ", " , ", " "]),
    st.one_of(st.lists(NUMBERS, min_size=4, max_size=4), st.lists(NUMBERS, max_size=6)),
    st.sampled_from([("[", "]"), (" [", "]\n"), ("[[", "]]"), ("(", ")"), ("", "")]),
)


@given(st.one_of(LISTS, st.text(max_size=30), st.text("0123456789.,eE+-[]() ", max_size=25)))
@example("[0.1, 0.2, 0.3, 0.4] # a remark")
def test_boxes_of_the_papers_harness_are_parsed_to_the_same_box(text: str) -> None:
    reference, box = harness_box(text), boxes.parse_box(text)
    if reference is not None and not set(text) & set("_#T"):
        assert box == reference
    if box is not None and text.strip().startswith("[") and "," in text:
        assert reference is None or box == reference
        assert all(0 <= edge <= 1 for edge in box) and box[0] < box[2] and box[1] < box[3]


@given(st.text(max_size=60))
def test_any_text_is_parsed_without_an_error(text: str) -> None:
    box = boxes.parse_box(text)
    assert box is None or all(math.isfinite(edge) for edge in box)
    scaled = boxes.rescale_box(text, right_edge=100.0)
    assert scaled is None or len(ast.literal_eval(scaled.replace("inf", "1e400").replace("nan", "0"))) == 4


@pytest.mark.parametrize(
    ("answer", "right_edge", "bottom_edge", "box"),
    [
        ("{<12><30><55><70>}", 100.0, None, (0.12, 0.3, 0.55, 0.7)),
        ("<box>(120,300),(550,700)</box>", 1000.0, None, (0.12, 0.3, 0.55, 0.7)),
        ("<ref>the 2 dogs</ref><box>(120,300),(550,700)</box>", 1000.0, None, (0.12, 0.3, 0.55, 0.7)),
        ("[[120, 300, 550, 700]]", 1000.0, None, (0.12, 0.3, 0.55, 0.7)),
        ("It is at [64, 48, 320, 240].", 640.0, 480.0, (0.1, 0.1, 0.5, 0.5)),
        ("[64, 48, 320]", 640.0, 480.0, None),
        ("boxes [1, 2, 3, 4] and [5, 6, 7, 8]", 10.0, None, None),
        ("no box", 10.0, None, None),
    ],
)
def test_boxes_in_other_units_become_shares(
    answer: str, right_edge: float, bottom_edge: float | None, box: boxes.BoundingBox | None
) -> None:
    rescaled = boxes.rescale_box(answer, right_edge=right_edge, bottom_edge=bottom_edge)
    assert (rescaled and boxes.parse_box(rescaled)) == (box and pytest.approx(box))


SIDE = st.tuples(st.floats(0.0, 0.5), st.floats(0.6, 1.0))


@given(SIDE, SIDE, SIDE, SIDE)
def test_iou_is_symmetric_between_0_and_1_and_1_with_itself(
    ax: tuple[float, float], ay: tuple[float, float], bx: tuple[float, float], by: tuple[float, float]
) -> None:
    a, b = (ax[0], ay[0], ax[1], ay[1]), (bx[0], by[0], bx[1], by[1])
    assert boxes.iou(a, b) == pytest.approx(boxes.iou(b, a))
    assert 0 < boxes.iou(a, b) <= 1 + 1e-9
    assert boxes.iou(a, a) == pytest.approx(1)


def test_iou_and_thresholds_by_hand() -> None:
    # Two unit squares that share half: 0.5 / 1.5.
    assert boxes.iou((0.0, 0.0, 1.0, 1.0), (0.5, 0.0, 1.5, 1.0)) == pytest.approx(1 / 3)
    assert boxes.iou((0.0, 0.0, 0.2, 0.2), (0.5, 0.5, 1.0, 1.0)) == 0
    truth = (0.0, 0.0, 1.0, 1.0)
    assert boxes.iou50("0 0 1 0.5", truth) == 1
    assert boxes.iou50("0 0 1 0.49", truth) == 0
    assert boxes.iou25("0 0 1 0.49", truth) == 1
    assert boxes.iou50("somewhere", truth) == 0


@given(SIDE, SIDE, st.sampled_from([2, 4, 8]))
def test_iou_is_the_share_of_grid_cells_in_both(x: tuple[float, float], y: tuple[float, float], cells: int) -> None:
    # Boxes on a grid, counted cell by cell.
    def snap(low: float, bottom_edge: float) -> tuple[int, int]:
        return int(low * cells), max(int(bottom_edge * cells), int(low * cells) + 1)

    (left, right), (top, low) = snap(*x), snap(*y)
    cells_a = {(i, j) for i in range(left, right) for j in range(top, low)}
    cells_b = {(i, j) for i in range(cells // 2) for j in range(cells)}
    iou = boxes.iou((left / cells, top / cells, right / cells, low / cells), (0.0, 0.0, 0.5, 1.0))
    assert iou == pytest.approx(len(cells_a & cells_b) / len(cells_a | cells_b))
