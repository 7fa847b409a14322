"""Questions in query form become records of which lm-eval's own templates make the same question again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks.hellaswag.utils import preprocess
from lm_eval.tasks.mathqa.utils import doc_to_choice
from lm_eval.tasks.pubmedqa.preprocess_pubmedqa import doc_to_text as abstract
from lm_eval.tasks.super_glue.copa import utils as copa

from firstsight.errors import DataError
from firstsight.evaluate.lm_eval.doc_adapters import ChoiceQuery, _protect_from_cleaning, definition_row, parse_queries


def asked(query: str, *choices: str, gold: int = 0) -> ChoiceQuery:
    return ChoiceQuery(query=query, choices=choices, gold=gold, extra_fields={})


@given(st.text(st.sampled_from("ab  .\n"), max_size=12))
def test_hellaswags_cleaning_gives_the_text_back(text: str) -> None:
    assert preprocess(_protect_from_cleaning(text)) == text


def test_records_make_the_question_again() -> None:
    both = definition_row("copa", asked("The tap ran, therefore", "the cup filled.", "it broke.", gold=1))
    assert both is not None
    assert copa.doc_to_text(both) == "The tap ran therefore"
    assert copa.doc_to_choice(both)[both["label"]] == copa.doc_to_target(both) == " it broke."
    five = ("38", "27.675 cm", "1,000", "e", "none of these")
    sums = definition_row("mathqa", asked("Question: 19 * 2 ?", *five, gold=4))
    assert sums is not None
    assert tuple(doc_to_choice(sums)) == five
    assert (sums["Problem"], sums["correct"]) == ("19 * 2 ?", "e")
    told = definition_row(
        "pubmedqa", asked("Abstract: A.\nB.\nQuestion: Is it?\nAnswer:", "yes", "no", "maybe", gold=2)
    )
    assert told is not None
    assert abstract(told) == "Abstract: A.\nB.\nQuestion: Is it?\nAnswer:"
    assert told["final_decision"] == "maybe"
    said = definition_row("boolq", asked("Passage: It is.\nQuestion: is it?", "yes", "no"))
    assert said == {"passage": "It is.", "question": "is it", "label": 1}


@pytest.mark.parametrize(
    ("name", "one"),
    [
        ("copa", asked("The tap ran so", "a", "b")),
        ("mathqa", asked("Question: ?", "1", "2")),
        ("boolq", asked("Question: is it?", "yes", "no")),
        ("piqa", asked("Question: how", "a", "b", "c")),
        ("hellaswag", asked("no label", "a", "b")),
        ("agieval_sat_en", asked("Passage: x", "A", "B")),
    ],
)
def test_what_a_definition_cannot_tell_is_none(name: str, one: ChoiceQuery) -> None:
    assert definition_row(name, one) is None


def test_requests_are_questions_once() -> None:
    doc = {"query": "q", "choices": ["a", "b"], "gold": 1}
    rows = [
        {"request": {}, "doc": doc, "doc_id": number, "native_id": f"n{number % 2}"}
        for number in (0, 0, 1, 1, 1_000_000, 1_000_001)
    ]
    found = parse_queries(rows, "here")
    assert found is not None
    assert [one.extra_fields["question_id"] for one in found] == ["n0", "n1"]


def test_rows_that_are_no_questions_are_told_apart_or_refused() -> None:
    good = {"query": "q", "choices": ["a", "b"], "gold": 1}
    assert parse_queries([{"question": "q"}], "here") is None
    assert parse_queries([{**good, "gold": [1]}], "here") is None
    for bad in ({"query": "q"}, {**good, "gold": 2}, {**good, "choices": ["a", ""]}, {**good, "query": None}):
        with pytest.raises(DataError, match="here, record 1"):
            parse_queries([good, bad], "here")
