"""VQA accuracy: agreement with several annotators, after each benchmark's own way of bringing answers into one form.

All rules here leave one annotator out in turn and tell annotators apart by position. Telling them apart by value, as
the challenge's script does, is the same where answers carry ids and wrong where they do not (constant "unanswerable" on
VizWiz would score .4294 in place of .5212). A question with one annotator alone, which no official scorer can score,
is right or wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from firstsight.evaluate.metrics.metric import Metric, Truth, each, said

_NEEDED = 3
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_ANY_MARK = re.compile(f"[{re.escape(_MARKS)}]")
_COMMA = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")
_STOPS = 32
"""Full stops that are dropped at most: the challenge's script passes a flag, 32, where a count belongs."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGITS)}
_ARTICLES = frozenset(("a", "an", "the"))
_WRITTEN = (
    "ain't aren't can't couldn't couldn't've could've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's i'd've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't "
    "must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've shouldn't shouldn't've should've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll "
    "why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)
_UNHEARD = frozenset(("id've", "i'dve"))
"""The challenge's table has these with a capital letter, which no lower-cased answer meets."""


def _table() -> dict[str, str]:
    """Every contraction with one of its apostrophes lost, to the whole one."""
    lost = {
        word[:place] + word[place + 1 :]: word
        for word in _WRITTEN.split()
        for place, letter in enumerate(word)
        if letter == "'"
    }
    return {short: whole for short, whole in lost.items() if short not in _UNHEARD} | {"somebody'd": "somebodyd"}


_CONTRACTIONS = _table()
_CURLY = "\u2019"
_STRAIGHT = frozenset(("aint", "arent", "cant", "couldnt", "couldve", "weve", "wheres", "whove"))
_STRAIGHT_KEYS = frozenset(("couldn'tve", "hadn'tve"))


def _vizwiz_table() -> dict[str, str]:
    """The same table as VizWiz's script has it: an editor has bent most of its apostrophes."""
    return {
        short if short in _STRAIGHT_KEYS else short.replace("'", _CURLY): (
            whole if short in _STRAIGHT else whole.replace("'", _CURLY)
        )
        for short, whole in _CONTRACTIONS.items()
    }


_VIZWIZ_CONTRACTIONS = _vizwiz_table()


@lru_cache(maxsize=1 << 18)
def normalise(answer: str) -> str:
    """The form in which the VQA challenge compares answers where its annotators differ. Not idempotent.

    A mark next to a space vanishes, and so do all marks of a text with a comma between digits; other marks become
    spaces. Then full stops that no digit follows vanish, the first 32 of them; case and articles go, number words
    become digits, and lost apostrophes come back.
    """
    return _worded(unmarked(_flat(answer)), _CONTRACTIONS)


@lru_cache(maxsize=1 << 18)
def normalise_textvqa(answer: str) -> str:
    """The form in which TextVQA's scorer compares answers: commas, question marks and the bond of "'s" go first."""
    bare = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _worded(unmarked(_flat(bare)), _CONTRACTIONS)


@lru_cache(maxsize=1 << 18)
def _normalise_vizwiz(answer: str) -> str:
    return _worded(unmarked(_flat(answer)), _VIZWIZ_CONTRACTIONS)


@lru_cache(maxsize=1 << 18)
def unmarked(text: str) -> str:
    """`text` without the challenge's punctuation marks; case, words and ends are left alone."""
    found = set(_ANY_MARK.findall(text))
    if found:
        everywhere = _COMMA.search(text) is not None
        gone = {mark for mark in found if everywhere or f"{mark} " in text or f" {mark}" in text}
        text = text.translate({ord(mark): "" if mark in gone else " " for mark in found})
    return _STOP.sub("", text, count=_STOPS) if "." in text else text


def _flat(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _worded(text: str, contractions: Mapping[str, str]) -> str:
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


def vqa(answer: str, truth: Truth) -> float:
    """The VQA challenge's accuracy with both sides always in one form.

    It is `vqa_strict` wherever annotators differ; where all wrote the same, "Yes" meets ten times "yes" all the same.
    """
    given = _annotators(truth)
    said = normalise(answer)
    return _agreement(sum(normalise(other) == said for other in given), len(given))


def vqa_strict(answer: str, truth: Truth) -> float:
    """The VQA challenge's accuracy to the letter, as its scorer of 2021 and since computes it.

    Where all annotators wrote the same, that scorer compares letter by letter, so that "Yes" misses ten times "yes";
    its authors call this wanted, and expect answers that were brought into one form before.
    """
    flat = [_flat(other) for other in _annotators(truth)]
    if len(flat) > 1 and len(set(flat)) == 1:
        return _agreement(len(flat) * (flat[0] == _flat(answer)), len(flat))
    return vqa(answer, tuple(flat))


def vqa_paper(answer: str, truth: Truth) -> float:
    """VQA accuracy as the paper's harness and the challenge's first scorer had it: answers always in one form.

    Of the annotators' answers only the punctuation is taken off, so an annotator who wrote "the dog" is never met.
    """
    given = _annotators(truth)
    said = normalise(answer)
    form = unmarked if len(given) > 1 else normalise
    return _agreement(sum(form(other) == said for other in given), len(given))


def textvqa(answer: str, truth: Truth) -> float:
    """TextVQA's accuracy: both sides in its scorer's form."""
    given = _annotators(truth)
    said = normalise_textvqa(answer)
    return _agreement(sum(normalise_textvqa(other) == said for other in given), len(given))


def vizwiz(answer: str, truth: Truth) -> float:
    """VizWiz's accuracy: the answer is brought into one form, the annotators' are taken as they stand.

    VizWiz publishes its annotators' answers in that form. Where none of a question's is in it, the file is another's,
    and both sides are brought into it.
    """
    given = _annotators(truth)
    said = _normalise_vizwiz(answer)
    formed = [_normalise_vizwiz(other) for other in given]
    foreign = all(other != form for other, form in zip(given, formed, strict=True))
    return _agreement(sum(other == said for other in (formed if foreign else given)), len(given))


def _annotators(truth: Truth) -> Sequence[str]:
    assert isinstance(truth, tuple)
    return [str(other) for other in truth]


def _agreement(same: int, given: int) -> float:
    """The mean, over leaving each of `given` annotators out, of how many of the rest agree, three being enough."""
    if given == 1:
        return float(same)
    # Leaving out one of the `same` annotators who agree leaves one match fewer; leaving out another changes nothing.
    agree, differ = min(_NEEDED, max(same - 1, 0)), min(_NEEDED, same)
    return (same * agree + (given - same) * differ) / (_NEEDED * given)


VQA = Metric(name="vqa", marks=each(vqa), readable=said)
"""VQAv2, as the challenge scores answers that are in its form."""
VQA_STRICT = Metric(name="vqa_strict", marks=each(vqa_strict), readable=said)
"""VQAv2, as the challenge scores answers as they stand."""
VQA_PAPER = Metric(name="vqa_paper", marks=each(vqa_paper), readable=said)
"""VQAv2, as the paper's harness scores it."""
TEXTVQA = Metric(name="textvqa", marks=each(textvqa), readable=said)
"""TextVQA."""
VIZWIZ = Metric(name="vizwiz", marks=each(vizwiz), readable=said)
"""VizWiz."""
