"""VQA accuracy: agreement with several annotators, after each benchmark's own normalisation of answers.

All metrics here leave out one annotator in turn, by position. Leaving them out by value, as the challenge's script
does, is the same where annotations have ids and wrong where they have none (constant "unanswerable" on VizWiz would
score .4294 instead of .5212). With a single annotator, which no official scorer supports, an answer scores 0 or 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from firstsight.evaluate.metrics.metric import Metric, Truth, elementwise, is_nonempty

_MIN_AGREEMENT = 3
_PUNCTUATION_PATTERN = re.compile(r'[;/\[\]"{}()=+\\_\-><@`,?!]')
_FULL_STOP = re.compile(r"\.(?!\d)")
_MAX_FULL_STOPS = 32
"""Maximum number of full stops removed: the challenge's script passes a flag, 32, as the count."""

_DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGIT_WORDS)}
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
"""Capitalised in the challenge's table, so that no lower-cased answer matches them."""

_CONTRACTIONS = {
    word[:index] + word[index + 1 :]: word
    for word in _CONTRACTION_WORDS.split()
    for index, letter in enumerate(word)
    if letter == "'" and word[:index] + word[index + 1 :] not in _UNREACHABLE_KEYS
} | {"somebody'd": "somebodyd"}
"""Contractions with one apostrophe missing, and their correct spelling."""

_STRAIGHT_WORDS = frozenset(("aint", "arent", "cant", "couldnt", "couldve", "weve", "wheres", "whove"))
_STRAIGHT_KEYS = frozenset(("couldn'tve", "hadn'tve"))
_VIZWIZ_CONTRACTIONS = {
    short if short in _STRAIGHT_KEYS else short.replace("'", "\u2019"): (
        full if short in _STRAIGHT_WORDS else full.replace("'", "\u2019")
    )
    for short, full in _CONTRACTIONS.items()
}
"""The table in VizWiz's script: all apostrophes are typographic but those in the two sets above."""


@lru_cache(maxsize=1 << 18)
def normalise_vqa_answer(answer: str) -> str:
    """The normalisation of the VQA challenge, which it applies where annotators differ. Not idempotent.

    Punctuation next to a space is removed, and all of it in a text with a comma between digits; elsewhere it becomes a
    space. Then the first 32 full stops not before a digit are removed, then case and articles; number words become
    digits, and missing apostrophes are restored.
    """
    return _normalise_words(strip_punctuation(_join_lines(answer)), _CONTRACTIONS)


@lru_cache(maxsize=1 << 18)
def normalise_textvqa_answer(answer: str) -> str:
    """The normalisation of TextVQA's scorer: commas and question marks are removed and "'s" is split off first."""
    stripped = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return _normalise_words(strip_punctuation(_join_lines(stripped)), _CONTRACTIONS)


@lru_cache(maxsize=1 << 18)
def _normalise_vizwiz_answer(answer: str) -> str:
    return _normalise_words(strip_punctuation(_join_lines(answer)), _VIZWIZ_CONTRACTIONS)


@lru_cache(maxsize=1 << 18)
def strip_punctuation(text: str) -> str:
    """`text` without the challenge's punctuation; case, words and white space at the ends are unchanged."""
    if marks := set(_PUNCTUATION_PATTERN.findall(text)):
        has_digit_comma = re.search(r"\d,\d", text) is not None
        removed = {mark for mark in marks if has_digit_comma or f"{mark} " in text or f" {mark}" in text}
        text = text.translate({ord(mark): "" if mark in removed else " " for mark in marks})
    return _FULL_STOP.sub("", text, count=_MAX_FULL_STOPS) if "." in text else text


def _join_lines(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _normalise_words(text: str, contractions: Mapping[str, str]) -> str:
    words = (_NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(contractions.get(word, word) for word in words if word not in ("a", "an", "the"))


def vqa_accuracy(answer: str, truth: Truth) -> float:
    """The VQA challenge's accuracy with answers and annotations always normalised.

    Equal to `strict_vqa_accuracy` where annotators differ; where all agree on "yes", "Yes" matches too.
    """
    return _agreement(normalise_vqa_answer(answer), map(normalise_vqa_answer, _annotator_answers(truth)))


def strict_vqa_accuracy(answer: str, truth: Truth) -> float:
    """The VQA challenge's accuracy exactly as its scorer computes it since 2021.

    Where all annotators agree, that scorer compares without normalisation, so that "Yes" does not match if all
    say "yes". Its authors intend this, and expect normalised answers.
    """
    annotations = [_join_lines(annotation) for annotation in _annotator_answers(truth)]
    if len(annotations) > 1 and len(set(annotations)) == 1:
        return _agreement(_join_lines(answer), annotations)
    return vqa_accuracy(answer, tuple(annotations))


def paper_vqa_accuracy(answer: str, truth: Truth) -> float:
    """VQA accuracy as in the paper's harness and the challenge's first scorer: the answer is always normalised.

    Annotations only lose their punctuation, so that the annotation "the dog" is never matched.
    """
    annotations = _annotator_answers(truth)
    normalise = strip_punctuation if len(annotations) > 1 else normalise_vqa_answer
    return _agreement(normalise_vqa_answer(answer), map(normalise, annotations))


def textvqa_accuracy(answer: str, truth: Truth) -> float:
    """TextVQA's accuracy: answer and annotations in its scorer's normalisation."""
    return _agreement(normalise_textvqa_answer(answer), map(normalise_textvqa_answer, _annotator_answers(truth)))


def vizwiz_accuracy(answer: str, truth: Truth) -> float:
    """VizWiz's accuracy: the answer is normalised, the annotations are not, since VizWiz publishes normalised ones."""
    return _agreement(_normalise_vizwiz_answer(answer), _annotator_answers(truth))


def normalise_vizwiz_annotations(truths: Sequence[Truth]) -> list[tuple[str, ...]]:
    """All annotations of a file: unchanged, or normalised if most are not, since the file is then of another origin.

    Of VizWiz's validation file 99.5 % are normalised already.
    """
    annotations = [tuple(_annotator_answers(truth)) for truth in truths]
    return (
        [tuple(map(_normalise_vizwiz_answer, a)) for a in annotations] if foreign_vizwiz_note(truths) else annotations
    )


def foreign_vizwiz_note(truths: Sequence[Truth]) -> str:
    """A line for a file most of whose annotations are not normalised, so that all of them are; empty for VizWiz's."""
    annotations = [answer for truth in truths for answer in _annotator_answers(truth)]
    num_changed = sum(_normalise_vizwiz_answer(answer) != answer for answer in annotations)
    share = f"{num_changed:,} of {len(annotations):,}"
    reading = (
        f"{share} annotations are not in VizWiz's normal form: the file is of another origin, and all are normalised"
    )
    return reading if 2 * num_changed > len(annotations) else ""


def _annotator_answers(truth: Truth) -> Sequence[str]:
    assert isinstance(truth, tuple)
    return [str(annotation) for annotation in truth]


def _agreement(answer: str, annotations: Iterable[str]) -> float:
    """The mean of min(matches / 3, 1) over all subsets that leave out one annotator."""
    matches = [annotation == answer for annotation in annotations]
    total, num_matches = len(matches), sum(matches)
    if total == 1:
        return float(num_matches)
    # Leaving out an annotator who matches leaves one match fewer.
    fewer, equal = min(_MIN_AGREEMENT, max(num_matches - 1, 0)), min(_MIN_AGREEMENT, num_matches)
    return (num_matches * fewer + (total - num_matches) * equal) / (_MIN_AGREEMENT * total)


VQA_ACCURACY = Metric(name="vqa", compute=elementwise(vqa_accuracy), is_readable=is_nonempty)
"""VQAv2, as the challenge scores normalised answers."""
STRICT_VQA_ACCURACY = Metric(name="vqa_strict", compute=elementwise(strict_vqa_accuracy), is_readable=is_nonempty)
"""VQAv2, as the challenge scores any answers."""
PAPER_VQA_ACCURACY = Metric(name="vqa_paper", compute=elementwise(paper_vqa_accuracy), is_readable=is_nonempty)
"""VQAv2, as the paper's harness scores it."""
TEXTVQA_ACCURACY = Metric(name="textvqa", compute=elementwise(textvqa_accuracy), is_readable=is_nonempty)
"""TextVQA."""
VIZWIZ_ACCURACY = Metric(name="vizwiz", compute=elementwise(vizwiz_accuracy), is_readable=is_nonempty)
"""VizWiz."""
