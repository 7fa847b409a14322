"""Answer checks, each written from its benchmark's definition. Every one gives 0 for wrong and 1 for right.

| metric | definition |
|---|---|
| vqa    | visualqa.org/evaluation: mean over the annotators left out of min(1, matches among the others / 3) |
| exact  | GQA: the same word or phrase |
| yes_no | POPE: yes or no |
| iou50, iou25 | RefCOCO, OCID-Ref: the box overlaps the true one by at least that much |
| choice | lm-eval `acc`: the likeliest continuation is the right one |
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from firstsight.evaluate.question import Truth

Box = tuple[float, float, float, float]

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_DIGITS)}
_ARTICLES = frozenset(("a", "an", "the"))
_WRITTEN = (
    "ain't aren't can't couldn't didn't doesn't don't hadn't hasn't haven't isn't mightn't mustn't needn't shan't "
    "shouldn't wasn't weren't won't wouldn't could've might've must've should've would've i'm i've he'd he's it'd "
    "it'll she's that'd that's there'd there's they'd they'll they're they've we've what'll what's where's who'd "
    "who'll who's y'all you'd you'll you're you've o'clock somebody's someone's let's how's when's why's ma'am"
)
_CONTRACTIONS = {word.replace("'", ""): word for word in _WRITTEN.split()}
_STOP = re.compile(r"(?<!\d)\.|\.(?!\d)")
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_MARKS = re.compile(r"[^\w\s':.]|_")
_NEEDED = 3
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?")
_BOX = re.compile(r"[\[(]?\s*(\S+?)\s*[,\s]\s*(\S+?)\s*[,\s]\s*(\S+?)\s*[,\s]\s*(\S+?)\s*[\])]?")
_NEGATIVE = frozenset(("no", "not"))


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """The form in which the VQA challenge compares answers; both sides of a comparison go through it. Idempotent.

    Written from the rules on visualqa.org/evaluation: lower case, number words as digits, no articles, apostrophes put
    back into contractions, punctuation to spaces, except apostrophes, colons and full stops inside a number; commas
    between digits vanish.
    """
    text = _COMMA.sub("", answer.lower())
    text = _STOP.sub(" ", _MARKS.sub(" ", text))
    words = (_CONTRACTIONS.get(word, word) for word in text.split())
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def vqa(answer: str, truth: Truth) -> float:
    """Agreement with the annotators, each left out in turn; annotators are told apart by position, not by id.

    VizWiz answers carry no id: telling them apart by value would drop equal answers (constant "unanswerable" would
    score .4294 in place of .5212).
    """
    assert isinstance(truth, tuple)
    said = normalise(answer)
    same = sum(normalise(str(other)) == said for other in truth)
    if len(truth) == 1:
        return float(same)
    # Leaving out one of the `same` annotators who agree leaves one match fewer; leaving out another changes nothing.
    agree, differ = min(_NEEDED, max(same - 1, 0)), min(_NEEDED, same)
    return (same * agree + (len(truth) - same) * differ) / (_NEEDED * len(truth))


def exact(answer: str, truth: Truth) -> float:
    """The same words, whatever their case and a full stop at the end."""
    return float(_plain(answer) == _plain(str(truth)))


def yes_no(answer: str, truth: Truth) -> float:
    """The same side."""
    return float(says_yes(answer) == (_plain(str(truth)) == "yes"))


def says_yes(answer: str) -> bool:
    """POPE's reading of free text: no where the first sentence holds "no" or "not", yes for everything else."""
    first = answer.partition(".")[0].lower()
    return not _NEGATIVE & set(re.findall(r"\w+", first))


def overlap(answer: str, truth: Truth, *, least: float) -> float:
    """The answered box overlaps the true one by at least `least`; an answer that is no box is wrong."""
    box = parse_box(answer)
    assert isinstance(truth, tuple)
    left, top, right, bottom = (float(edge) for edge in truth)
    return float(box is not None and iou(box, (left, top, right, bottom)) >= least)


iou50 = partial(overlap, least=0.5)
iou25 = partial(overlap, least=0.25)


def parse_box(answer: str) -> Box | None:
    """Four numbers in [0, 1], left < right and top < bottom, with or without brackets; None for anything else."""
    match = _BOX.fullmatch(answer.strip())
    if match is None or not all(_NUMBER.fullmatch(number) for number in match.groups()):
        return None
    left, top, right, bottom = (float(number) for number in match.groups())
    inside = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    return (left, top, right, bottom) if inside else None


def iou(a: Box, b: Box) -> float:
    """Area shared over area covered."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    covered = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / covered if covered > 0 else 0.0


def choice(answer: str, truth: Truth) -> float:
    """The right number was chosen."""
    return float(answer == str(truth))


@dataclass(frozen=True, kw_only=True, slots=True)
class Presence:
    """POPE's report of one split: yes counts as positive."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes: float
    """Share of yes among the answers; .5 of the questions are true."""


def presence(answers: Sequence[str], labels: Iterable[str]) -> Presence:
    """POPE's numbers over questions in any one order; a ratio with nothing under it is 0."""
    pairs = Counter((says_yes(answer), _plain(label) == "yes") for answer, label in zip(answers, labels, strict=True))
    hits, total = pairs[True, True], max(len(answers), 1)
    said, true = hits + pairs[True, False], hits + pairs[False, True]
    return Presence(
        accuracy=(hits + pairs[False, False]) / total,
        precision=hits / max(said, 1),
        recall=hits / max(true, 1),
        f1=2 * hits / max(said + true, 1),
        yes=said / total,
    )


def _plain(answer: str) -> str:
    return answer.strip().rstrip(".").strip().lower()
