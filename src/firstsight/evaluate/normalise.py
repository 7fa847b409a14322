"""Answers as the VQA challenge compares them.

Written from the rules on visualqa.org/evaluation: lower case, number words as digits, no articles, the apostrophe put
back into contractions, punctuation replaced by a space, except apostrophes and colons, full stops inside a number and
commas between digits (which vanish). Both sides of a comparison go through it.
"""

from __future__ import annotations

import re
from functools import lru_cache

_NUMBERS = dict(zip("none zero one two three four five six seven eight nine ten".split(), "001234567", strict=False))
_NUMBERS |= {"none": "0", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = frozenset(("a", "an", "the"))
_CONTRACTIONS = {
    word.replace("'", ""): word
    for word in (
        "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't shan't "
        "shouldn't wasn't weren't won't wouldn't could've might've must've should've would've i'm i've he'd he's it'd "
        "it'll she's that'd that's there'd there's they'd they'll they're they've we've what'll what's where's who'd "
        "who'll who's y'all you'd you'll you're you've o'clock somebody's someone's let's how's when's why's ma'am"
    ).split()
}
_STOP = re.compile(r"(?<!\d)\.|\.(?!\d)")
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_MARKS = re.compile(r"[^\w\s':.]|_")


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """The form of `answer` that two people who mean the same would share; idempotent."""
    text = _COMMA.sub("", answer.lower())
    text = _STOP.sub(" ", _MARKS.sub(" ", text))
    words = (_CONTRACTIONS.get(word, word) for word in text.split())
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)
