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

from firstsight.evaluate.metrics.metric import Metric, Truth, elementwise, is_nonempty

_MIN_AGREEMENT = 3
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PUNCTUATION_PATTERN = re.compile(f"[{re.escape(_PUNCTUATION)}]")
_DIGIT_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_MAX_FULL_STOPS = 32
"""Full stops that are dropped at most: the challenge's script passes a flag, 32, where a count belongs."""

_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGIT_WORDS)}
_ARTICLES = frozenset(("a", "an", "the"))
_CONTRACTION_WORDS = (
    "ain't aren't can't couldn't couldn't've could've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's i'd've isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't "
    "must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've shouldn't shouldn't've should've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll "
    "why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)
_UNREACHABLE_KEYS = frozenset(("id've", "i'dve"))
"""The challenge's table has these with a capital letter, which no lower-cased answer meets."""


def _contraction_table() -> dict[str, str]:
    """Every contraction with one of its apostrophes lost, to the whole one."""
    contractions = {
        word[:index] + word[index + 1 :]: word
        for word in _CONTRACTION_WORDS.split()
        for index, letter in enumerate(word)
        if letter == "'"
    }
    return {short: full for short, full in contractions.items() if short not in _UNREACHABLE_KEYS} | {
        "somebody'd": "somebodyd"
    }


_CONTRACTIONS = _contraction_table()
_CURLY_APOSTROPHE = "\u2019"
_STRAIGHT_WORDS = frozenset(("aint", "arent", "cant", "couldnt", "couldve", "weve", "wheres", "whove"))
_STRAIGHT_KEYS = frozenset(("couldn'tve", "hadn'tve"))


def _vizwiz_table() -> dict[str, str]:
    """The same table as VizWiz's script has it: an editor has bent most of its apostrophes."""
    return {
        short if short in _STRAIGHT_KEYS else short.replace("'", _CURLY_APOSTROPHE): (
            full if short in _STRAIGHT_WORDS else full.replace("'", _CURLY_APOSTROPHE)
        )
        for short, full in _CONTRACTIONS.items()
    }


_VIZWIZ_CONTRACTIONS = _vizwiz_table()


@lru_cache(maxsize=1 << 18)
def normalise_vqa_answer(answer: str) -> str:
    """The form in which the VQA challenge compares answers where its annotators differ. Not idempotent.

    A mark next to a space vanishes, and so do all marks of a text with a comma between digits; other marks become
    spaces. Then full stops that no digit follows vanish, the first 32 of them; case and articles go, number words
    become digits, and lost apostrophes come back.
    """
    return _normalise_words(strip_punctuation(_join_lines(answer)), _CONTRACTIONS)


@lru_cache(maxsize=1 << 18)
def normalise_textvqa_answer(answer: str) -> str:
    """The form in which TextVQA's scorer compares answers: commas, question marks and the bond of "'s" go first."""
    stripped = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _normalise_words(strip_punctuation(_join_lines(stripped)), _CONTRACTIONS)


@lru_cache(maxsize=1 << 18)
def _normalise_vizwiz_answer(answer: str) -> str:
    return _normalise_words(strip_punctuation(_join_lines(answer)), _VIZWIZ_CONTRACTIONS)


@lru_cache(maxsize=1 << 18)
def strip_punctuation(text: str) -> str:
    """`text` without the challenge's punctuation marks; case, words and ends are left alone."""
    punctuation = set(_PUNCTUATION_PATTERN.findall(text))
    if punctuation:
        has_digit_comma = _DIGIT_COMMA.search(text) is not None
        removed = {
            character
            for character in punctuation
            if has_digit_comma or f"{character} " in text or f" {character}" in text
        }
        text = text.translate({ord(character): "" if character in removed else " " for character in punctuation})
    return _FULL_STOP.sub("", text, count=_MAX_FULL_STOPS) if "." in text else text


def _join_lines(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _normalise_words(text: str, contractions: Mapping[str, str]) -> str:
    words = (_NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, truth: Truth) -> float:
    """The VQA challenge's accuracy with both sides always in one form.

    It is `vqa_strict` wherever annotators differ; where all wrote the same, "Yes" meets ten times "yes" all the same.
    """
    annotations = _annotator_answers(truth)
    normalised = normalise_vqa_answer(answer)
    return _agreement(
        sum(normalise_vqa_answer(annotation) == normalised for annotation in annotations), len(annotations)
    )


def strict_vqa_accuracy(answer: str, truth: Truth) -> float:
    """The VQA challenge's accuracy to the letter, as its scorer of 2021 and since computes it.

    Where all annotators wrote the same, that scorer compares letter by letter, so that "Yes" misses ten times "yes";
    its authors call this wanted, and expect answers that were brought into one form before.
    """
    annotations = [_join_lines(annotation) for annotation in _annotator_answers(truth)]
    if len(annotations) > 1 and len(set(annotations)) == 1:
        return _agreement(len(annotations) * (annotations[0] == _join_lines(answer)), len(annotations))
    return vqa_accuracy(answer, tuple(annotations))


def paper_vqa_accuracy(answer: str, truth: Truth) -> float:
    """VQA accuracy as the paper's harness and the challenge's first scorer had it: answers always in one form.

    Of the annotators' answers only the punctuation is taken off, so an annotator who wrote "the dog" is never met.
    """
    annotations = _annotator_answers(truth)
    normalised = normalise_vqa_answer(answer)
    normaliser = strip_punctuation if len(annotations) > 1 else normalise_vqa_answer
    return _agreement(sum(normaliser(annotation) == normalised for annotation in annotations), len(annotations))


def textvqa_accuracy(answer: str, truth: Truth) -> float:
    """TextVQA's accuracy: both sides in its scorer's form."""
    annotations = _annotator_answers(truth)
    normalised = normalise_textvqa_answer(answer)
    return _agreement(
        sum(normalise_textvqa_answer(annotation) == normalised for annotation in annotations), len(annotations)
    )


def vizwiz_accuracy(answer: str, truth: Truth) -> float:
    """VizWiz's accuracy: the answer is brought into one form, the annotators' are taken as they stand.

    VizWiz publishes its annotators' answers in that form. Where none of a question's is in it, the file is another's,
    and both sides are brought into it.
    """
    annotations = _annotator_answers(truth)
    normalised = _normalise_vizwiz_answer(answer)
    normalised_annotations = [_normalise_vizwiz_answer(annotation) for annotation in annotations]
    is_unnormalised = all(
        annotation != normalised_annotation
        for annotation, normalised_annotation in zip(annotations, normalised_annotations, strict=True)
    )
    return _agreement(
        sum(annotation == normalised for annotation in (normalised_annotations if is_unnormalised else annotations)),
        len(annotations),
    )


def _annotator_answers(truth: Truth) -> Sequence[str]:
    assert isinstance(truth, tuple)
    return [str(annotation) for annotation in truth]


def _agreement(num_matches: int, num_annotators: int) -> float:
    """The mean, over leaving each of `given` annotators out, of how many of the rest agree, three being enough."""
    if num_annotators == 1:
        return float(num_matches)
    # Leaving out one of the `same` annotators who agree leaves one match fewer; leaving out another changes nothing.
    agreeing_matches, differing_matches = min(_MIN_AGREEMENT, max(num_matches - 1, 0)), min(_MIN_AGREEMENT, num_matches)
    return (num_matches * agreeing_matches + (num_annotators - num_matches) * differing_matches) / (
        _MIN_AGREEMENT * num_annotators
    )


VQA_ACCURACY = Metric(name="vqa", compute=elementwise(vqa_accuracy), is_readable=is_nonempty)
"""VQAv2, as the challenge scores answers that are in its form."""
STRICT_VQA_ACCURACY = Metric(name="vqa_strict", compute=elementwise(strict_vqa_accuracy), is_readable=is_nonempty)
"""VQAv2, as the challenge scores answers as they stand."""
PAPER_VQA_ACCURACY = Metric(name="vqa_paper", compute=elementwise(paper_vqa_accuracy), is_readable=is_nonempty)
"""VQAv2, as the paper's harness scores it."""
TEXTVQA_ACCURACY = Metric(name="textvqa", compute=elementwise(textvqa_accuracy), is_readable=is_nonempty)
"""TextVQA."""
VIZWIZ_ACCURACY = Metric(name="vizwiz", compute=elementwise(vizwiz_accuracy), is_readable=is_nonempty)
"""VizWiz."""
