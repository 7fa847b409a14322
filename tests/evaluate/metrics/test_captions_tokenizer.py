"""Penn Treebank tokens of captions against the output of Stanford's tokenizer, and properties of any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.evaluate.metrics.captions import ptb_tokenize


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        # Output of Stanford's tokenizer without the scorer's list of punctuation.
        ("A man's dog isn't \"big\" (really).", "a man 's dog is n't big -lrb- really -rrb-"),
        ("It's a t-shirt, red-and-white; 3:30 p.m.", "it 's a t-shirt red-and-white 3:30 p.m."),
        ("at 5th St. -- U.S. flag's 10,000 $5.50 50%", "at 5th st. u.s. flag 's 10,000 $ 5.50 50 %"),
        ("Two dogs... and/or cats? Yes!!! cannot", "two dogs and/or cats yes !!! can not"),
        ("gonna gimme wanna 'tis can't o'clock y'all", "gon na gim me wan na 't is ca n't o'clock y' all"),
        ("the '90s 1½ café 😀 *star* [x] {y} a_b", "the '90s 1 1/2 café * star * -lsb- x -rsb- -lcb- y -rcb- a_b"),
        ("“quoted” it’s — yes… £5", "quoted it 's yes # 5"),
        ("Plan B. The end. Plan B. the end. No. 5, no. dog", "plan b the end plan b. the end no. 5 no dog"),
        ("", ""),
    ],
)
def test_tokens_are_those_of_stanfords_tokenizer(caption: str, expected: str) -> None:
    assert " ".join(ptb_tokenize(caption)) == expected


@given(st.text(max_size=40))
def test_tokens_contain_no_white_space(text: str) -> None:
    assert all(word and word.split() == [word] for word in ptb_tokenize(text))
