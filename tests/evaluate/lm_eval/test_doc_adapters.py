"""From converted records lm-eval's own templates generate the original questions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks.hellaswag.utils import preprocess
from lm_eval.tasks.mathqa.utils import doc_to_choice
from lm_eval.tasks.pubmedqa.preprocess_pubmedqa import doc_to_text as pubmedqa_text
from lm_eval.tasks.super_glue.copa import utils as copa

from firstsight.errors import DataError
from firstsight.evaluate.lm_eval.doc_adapters import ChoiceQuery, _protect_from_cleaning, definition_row, parse_queries


def make_query(query: str, *choices: str, gold: int = 0) -> ChoiceQuery:
    return ChoiceQuery(query=query, choices=choices, gold=gold, extra_fields={})


@given(st.text(st.sampled_from("ab  .\n"), max_size=12))
def test_hellaswags_cleaning_restores_the_text(text: str) -> None:
    assert preprocess(_protect_from_cleaning(text)) == text


def test_templates_restore_the_question() -> None:
    row = definition_row("copa", make_query("The tap ran, therefore", "the cup filled.", "it broke.", gold=1))
    assert row is not None
    assert copa.doc_to_text(row) == "The tap ran therefore"
    assert copa.doc_to_choice(row)[row["label"]] == copa.doc_to_target(row) == " it broke."
    choices = ("38", "27.675 cm", "1,000", "e", "none of these")
    row = definition_row("mathqa", make_query("Question: 19 * 2 ?", *choices, gold=4))
    assert row is not None
    assert tuple(doc_to_choice(row)) == choices
    assert (row["Problem"], row["correct"]) == ("19 * 2 ?", "e")
    row = definition_row(
        "pubmedqa", make_query("Abstract: A.\nB.\nQuestion: Is it?\nAnswer:", "yes", "no", "maybe", gold=2)
    )
    assert row is not None
    assert pubmedqa_text(row) == "Abstract: A.\nB.\nQuestion: Is it?\nAnswer:"
    assert row["final_decision"] == "maybe"
    row = definition_row("boolq", make_query("Passage: It is.\nQuestion: is it?", "yes", "no"))
    assert row == {"passage": "It is.", "question": "is it", "label": 1}


@pytest.mark.parametrize(
    ("name", "choice_query"),
    [
        ("copa", make_query("The tap ran so", "a", "b")),
        ("mathqa", make_query("Question: ?", "1", "2")),
        ("boolq", make_query("Question: is it?", "yes", "no")),
        ("piqa", make_query("Question: how", "a", "b", "c")),
        ("hellaswag", make_query("no label", "a", "b")),
        ("agieval_sat_en", make_query("Passage: x", "A", "B")),
    ],
)
def test_inexpressible_questions_are_none(name: str, choice_query: ChoiceQuery) -> None:
    assert definition_row(name, choice_query) is None


def test_olmes_requests_become_unique_questions() -> None:
    doc = {"query": "q", "choices": ["a", "b"], "gold": 1}
    rows = [
        {"request": {}, "doc": doc, "doc_id": number, "native_id": f"n{number % 2}"}
        for number in (0, 0, 1, 1, 1_000_000, 1_000_001)
    ]
    queries = parse_queries(rows, "here")
    assert queries is not None
    assert [choice_query.extra_fields["question_id"] for choice_query in queries] == ["n0", "n1"]


def test_rows_in_other_forms_are_none_or_refused() -> None:
    valid = {"query": "q", "choices": ["a", "b"], "gold": 1}
    assert parse_queries([{"question": "q"}], "here") is None
    assert parse_queries([{**valid, "gold": [1]}], "here") is None
    for invalid in ({"query": "q"}, {**valid, "gold": 2}, {**valid, "choices": ["a", ""]}, {**valid, "query": None}):
        with pytest.raises(DataError, match="here, record 1"):
            parse_queries([valid, invalid], "here")
