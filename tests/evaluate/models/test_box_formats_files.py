"""Boxes of answer files: in sentences with other numbers, in any unit, beyond the image by rounding; and the notes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import DataError
from firstsight.evaluate.metrics.boxes import parse_box
from firstsight.evaluate.models.box_formats import FileBoxes, normalize_file_boxes

SIZE = (400.0, 200.0)
SHARES = (0.1, 0.25, 0.5, 0.75)


def read(answers: Sequence[str], **options: Sequence[str]) -> FileBoxes:
    return normalize_file_boxes(answers, ["a.jpg"] * len(answers), get_image_sizes=lambda: {"a": SIZE}, **options)


UNIT_NOTES = {
    "hundredths": "are written in hundredths",
    "thousandths": "are written in thousandths",
    "1,024ths": "are written in 1,024ths",
    "pixels": "all of them together are pixels",
    "shares": "",
}
WRITTEN = {
    "thousandths": [
        "<|object_ref_start|>player 3 in red<|object_ref_end|><|box_start|>(100,250),(500,750)<|box_end|>",
        "<ref>the 2 dogs of 4</ref><box>(100,250),(500,750)</box>",
        "Number 7: <box>100,250,500,750</box>",
        "<ref>x 1</ref><box>[[100, 250, 500, 750]]</box>",
        "<|ref|>bus 42<|/ref|><|det|>[[100, 250, 500, 750]]<|/det|>",
        "The 3rd cat[[100,250,500,750]]",
        "player 3<loc_100><loc_250><loc_500><loc_750>",
        "[[100,250,500,750],[1,2,3,4]]",
    ],
    "hundredths": [
        *("[10%, 25%, 50%, 75%]", "10% 25% 50% 75%", "Player 3 is at 10 %; 25 %; 50 %; 75 %.", "(10.0%,25%,50%,75%)"),
        "{<10><25><50><75>}",
        "player 3 {<10><25><50><75>} of 9",
        "{<10><25><50><75>} {<1><2><3><4>}",
    ],
    "1,024ths": ["<loc0256><loc0102><loc0768><loc0512> cat 2", "1 <loc0256><loc0102><loc0768><loc0512>"],
    "pixels": [
        '```json\n[\n\t{"bbox_2d": [40, 50, 200, 150], "label": "player 3"}\n]\n```',
        "Number 4 is at [40, 50, 200, 150].",
        "the 2 cats: (40, 50, 200, 150)",
        "From (40, 50) to (200, 150), I count 1.",
        "(40,50),(200,150)",
        '{"x1": 40, "y1": 50, "x2": 200, "y2": 150, "label": "player 3"}',
        "[40.0, 50.0, 200.0, 150.0]",
        "40, 50, 200, 150",
        "[40, 50], [200, 150]",
        *("40 50 200 150", "[40 50 200 150]", "40; 50; 200; 150", "[40;50;200;150] player 3", "40.0 50.0  200.0 150.0"),
    ],
    "shares": [
        "Player 3 is at [0.1, 0.25, 0.5, 0.75]",
        "[[0.1, 0.25, 0.5, 0.75]]",
        '{"bbox": [0.1, 0.25, 0.5, 0.75], "label": "2"}',
        "<box>(0.1, 0.25), (0.5, 0.75)</box>",
        "(0.1,0.25),(0.5,0.75)",
        "Player 3: xmin=0.1, ymin=0.25, xmax=0.5, ymax=0.75",
        "[0.1, 0.25, 0.5, 0.75]",
        *("0.1; 0.25; 0.5; 0.75", "[0.1 0.25 0.5 0.75]"),
    ],
}


@pytest.mark.parametrize(
    ("unit", "answer"), [(unit, answer) for unit, answers in WRITTEN.items() for answer in answers]
)
def test_the_box_of_a_sentence_with_other_numbers(unit: str, answer: str) -> None:
    boxes = read([answer] * 20)
    assert parse_box(boxes.texts[0]) == pytest.approx(SHARES, abs=0.001)
    assert UNIT_NOTES[unit] in " ".join(boxes.notes)


def test_several_boxes_and_sentences_are_said() -> None:
    notes = " ".join(read(["On it [0.1, 0.2, 0.3, 0.4] and [0.5, 0.5, 0.6, 0.6]", "[0.1, 0.2, 0.3, 0.4]"]).notes)
    assert "1 answers have several boxes, of which the first counts" in notes
    assert "1 boxes are read from sentences or JSON" in notes


@pytest.mark.parametrize(
    "answer", ["no box", "7 dogs", "[1, 2, 3]", "at 4 of 5, 6 and 7", "<box></box>", "[0.5, 0.2, 0.1, 0.9]"]
)
def test_answers_without_a_box_are_said(answer: str) -> None:
    boxes = read([answer, "[0.1, 0.2, 0.3, 0.4]"])
    assert parse_box(boxes.texts[0]) is None
    assert any(note.startswith("1 answers have no box inside the image") for note in boxes.notes)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[-0.001, 0.062, 0.312, 1.001]", (0.0, 0.062, 0.312, 1.0)),
        ("[0.5, 0.5, 1.004, 0.9]", (0.5, 0.5, 1.0, 0.9)),
        ("at [0.5, 0.5, 1.001, 0.9]", (0.5, 0.5, 1.0, 0.9)),
        ("[0.5, 0.5, 1.05, 0.9]", None),
        ("[-0.1, 0.5, 0.6, 0.9]", None),
    ],
)
@pytest.mark.parametrize("count", [1, 24])
def test_shares_that_overshoot_by_rounding_are_cut(answer: str, expected: tuple[float, ...] | None, count: int) -> None:
    """They are never read as hundredths, however many there are."""
    boxes = read([answer] * count)
    assert [parse_box(text) for text in boxes.texts] == [expected] * count
    assert any("exceed their images by no more than rounding" in note for note in boxes.notes) is (expected is not None)
    assert not any("hundredths" in note for note in boxes.notes)


@given(st.floats(0, 0.999), st.floats(0, 0.999))
def test_pixels_that_stick_out_by_a_fraction_are_cut(left_excess: float, right_excess: float) -> None:
    answers = ["[40, 50, 200, 150]"] * 20 + [f"[{-left_excess:.3f}, 0, {400 + right_excess:.3f}, 200]"]
    boxes = read(answers)
    assert parse_box(boxes.texts[-1]) == (0, 0, 1, 1)


def test_pixels_far_outside_are_no_box() -> None:
    answers = ["[100, 300, 900, 950]"] * 20
    assert parse_box(read(answers).texts[0]) == pytest.approx((0.1, 0.3, 0.9, 0.95)), "thousandths, not pixels"
    with pytest.raises(DataError, match="their unit is unclear"):
        read(["[100, 300, 1900, 950]"] * 20)


def test_a_unit_of_the_files_form_needs_no_other_boxes() -> None:
    assert parse_box(read(["[40, 50, 200, 150]"], units=["pixels"]).texts[0]) == SHARES
    with pytest.raises(DataError, match="no sizes of images"):
        normalize_file_boxes(["[40, 50, 200, 150]"], ["b"], get_image_sizes=dict, units=["pixels"])


def test_left_top_width_and_height_are_said() -> None:
    """Half of these boxes end before they begin; all are inside the image as widths and heights."""
    notes = read(["[200, 50, 150, 100]", "[40, 50, 200, 120]"] * 12).notes
    assert any("12 boxes end before they begin" in note and "width and height" in note for note in notes)
    assert not any("end before they begin" in note for note in read(["[40, 50, 200, 120]"] * 24).notes)


@given(st.lists(st.one_of(st.text(max_size=20), st.text("0123456789.,-[]()<>box ", max_size=30)), max_size=4))
def test_any_text_is_read_or_refused_with_a_reason(answers: list[str]) -> None:
    try:
        boxes = read(answers)
    except DataError as error:
        assert "unit is unclear" in str(error)
    else:
        assert len(boxes.texts) == len(answers)


def test_pixels_with_their_unit_need_no_other_boxes() -> None:
    boxes = read(["[40px, 50px, 200px, 150px]", "40 pixels 50 pixels 200 pixels 150 pixels", "no"])
    assert [parse_box(text) for text in boxes.texts[:2]] == [pytest.approx(SHARES)] * 2
    assert "have no units" not in " ".join(boxes.notes)


@pytest.mark.parametrize(
    ("answers", "sizes"),
    [
        (["40 50 200 150"] * 3, {"a": SIZE}),  # too few to infer a unit
        (["40 50 200 150"] * 20, {}),  # no sizes of images
        (["40 50 2000 150"] * 20, {"a": SIZE}),  # beyond the image in pixels and in thousandths
    ],
)
def test_numbers_between_blanks_of_no_clear_unit_are_counted(
    answers: list[str], sizes: dict[str, tuple[float, float]]
) -> None:
    boxes = normalize_file_boxes(answers, ["a.jpg"] * len(answers), get_image_sizes=lambda: sizes)
    assert boxes.texts == tuple(answers)
    assert boxes.notes == (f"{len(answers)} answers have no box inside the image, such as {answers[0]!r}",)
