"""One form for pictures' names and questions' words, and the question that a prompt asks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

_NUMBERED = re.compile(r"[A-Za-z]+_[A-Za-z]+\d*_(\d{8,12})(?:_\d+)?")
"""COCO_val2014_000000310196 and, as RefCOCO writes it, with an annotation's number; VizWiz_val_00000012."""
_SERIES = re.compile(r"(?!COCO_)([A-Za-z]+_[A-Za-z]+\d*)_\d{8,12}")
"""Only COCO numbers its pictures through over all splits."""
_ENDING = re.compile(r"\.(?:jpe?g|png|webp|bmp|gif)$", re.IGNORECASE)
_MARKER = re.compile(
    r"<\|?/?(?:image|img|im_start|im_end|im_patch|grounding|vision_start|vision_end)[^<>]{0,12}>", re.IGNORECASE
)
_ROLE = re.compile(
    r"^(?:#+\s*)?(?:user|human|question|q|assistant)\s*:\s*|\s*(?:#+\s*)?(?:assistant|answer|short answer)\s*:$"
)
_EDGE = " ?.!\t"
_ASKED = re.compile(r"question\s*:\s*(.*?)\s*(?:(?:short )?answer\s*:|$)")
_QUOTED = re.compile(r"[\"“](.+)[\"”]")
_MARKS = re.compile(r"[^\w\s]|_")


def _stem(name: str) -> str:
    return _ENDING.sub("", name.strip().replace("\\", "/").rpartition("/")[2])


def series(name: str) -> str:
    """What a picture's number is counted in, as VizWiz_val; empty where there is no number or it is of all splits."""
    found = _SERIES.fullmatch(_stem(name))
    return found[1] if found else ""


def picture(name: str) -> str:
    """A picture's name without folder and ending; its number where the name is COCO's, VizWiz' or a number."""
    stem = _stem(name)
    numbered = _NUMBERED.fullmatch(stem)
    number = numbered[1] if numbered else stem
    return number.lstrip("0") or "0" if number.isdecimal() else number


@lru_cache(maxsize=1 << 16)
def fold(text: str) -> str:
    """Words in one case with single blanks, without picture markers and without the marks at both ends."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    clean = _MARKER.sub(" ", plain) if "<" in plain else plain
    return " ".join(clean.casefold().split()).strip(_EDGE)


@lru_cache(maxsize=1 << 16)
def bare(text: str) -> str:
    """Folded words without any marks, as some tools repeat them."""
    return " ".join(_MARKS.sub("", fold(text)).split())


def holds(prompt: str, words: str) -> bool:
    """Whether the folded `words` stand in the folded `prompt` as whole words."""
    start = prompt.find(words)
    while start >= 0:
        end = start + len(words)
        if not (prompt[start - 1 : start].isalnum() or prompt[end : end + 1].isalnum()):
            return True
        start = prompt.find(words, start + 1)
    return False


def asked(prompt: str, known: Mapping[str, Sequence[int]]) -> Sequence[int]:
    """Of a picture's questions by their folded words, those that a prompt asks: one of its lines, else words inside it.

    Empty where it asks none of them, or where it holds several of which none holds the others.
    """
    if found := said(prompt, known):
        return found
    whole = fold(prompt)
    if inside := [words for words in known if words and holds(whole, words)]:
        longest = max(inside, key=len)
        return known[longest] if all(holds(longest, words) for words in inside) else ()
    plain = bare(prompt)
    unmarked = [words for words in known if bare(words) and holds(plain, bare(words))]
    return known[unmarked[0]] if len(unmarked) == 1 else ()


def said(prompt: str, known: Mapping[str, Sequence[int]]) -> Sequence[int]:
    """Those that stand in a prompt as a line, in quotes or after "Question:"; empty where none does."""
    return next((known[words] for words in _readings(prompt) if words in known), ())


def _readings(prompt: str) -> Iterator[str]:
    """Folded words that may be the question, the likeliest first."""
    whole = fold(prompt)
    yield whole
    for line in prompt.split("\n"):
        words = fold(line)
        yield words
        yield _ROLE.sub("", words).strip(_EDGE)
    if quoted := _QUOTED.search(whole):
        yield quoted[1].strip(_EDGE)
    if question := _ASKED.search(whole):
        yield question[1].strip(_EDGE)
