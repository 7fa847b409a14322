"""One form for pictures' names and questions' words, and the question that a prompt asks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

_NUMBERED_NAME = re.compile(r"[A-Za-z]+_[A-Za-z]+\d*_(\d{8,12})(?:_\d+)?")
"""COCO_val2014_000000310196 and, as RefCOCO writes it, with an annotation's number; VizWiz_val_00000012."""
_SERIES_NAME = re.compile(r"(?!COCO_)([A-Za-z]+_[A-Za-z]+\d*)_\d{8,12}")
"""Only COCO numbers its pictures through over all splits."""
_ENDING = re.compile(r"\.(?:jpe?g|png|webp|bmp|gif)$", re.IGNORECASE)
_IMAGE_MARKER = re.compile(
    r"<\|?/?(?:image|img|im_start|im_end|im_patch|grounding|vision_start|vision_end)[^<>]{0,12}>", re.IGNORECASE
)
_ROLE_LABEL = re.compile(
    r"^(?:#+\s*)?(?:user|human|question|q|assistant)\s*:\s*|\s*(?:#+\s*)?(?:assistant|answer|short answer)\s*:$"
)
_STRIP_CHARS = " ?.!\t"
_LABELLED_QUESTION = re.compile(r"question\s*:\s*(.*?)\s*(?:(?:short )?answer\s*:|$)")
_QUOTED_TEXT = re.compile(r"[\"“](.+)[\"”]")
_PUNCTUATION = re.compile(r"[^\w\s]|_")


def _stem(name: str) -> str:
    return _ENDING.sub("", name.strip().replace("\\", "/").rpartition("/")[2])


def image_series(name: str) -> str:
    """What a picture's number is counted in, as VizWiz_val; empty where there is no number or it is of all splits."""
    series_match = _SERIES_NAME.fullmatch(_stem(name))
    return series_match[1] if series_match else ""


def normalize_image_name(name: str) -> str:
    """A picture's name without folder and ending; its number where the name is COCO's, VizWiz' or a number."""
    stem = _stem(name)
    number_match = _NUMBERED_NAME.fullmatch(stem)
    number = number_match[1] if number_match else stem
    return number.lstrip("0") or "0" if number.isdecimal() else number


@lru_cache(maxsize=1 << 16)
def fold_text(text: str) -> str:
    """Words in one case with single blanks, without picture markers and without the marks at both ends."""
    normalized = text if text.isascii() else unicodedata.normalize("NFKC", text)
    without_markers = _IMAGE_MARKER.sub(" ", normalized) if "<" in normalized else normalized
    return " ".join(without_markers.casefold().split()).strip(_STRIP_CHARS)


@lru_cache(maxsize=1 << 16)
def fold_without_punctuation(text: str) -> str:
    """Folded words without any marks, as some tools repeat them."""
    return " ".join(_PUNCTUATION.sub("", fold_text(text)).split())


def contains_words(prompt: str, words: str) -> bool:
    """Whether the folded `words` stand in the folded `prompt` as whole words."""
    start = prompt.find(words)
    while start >= 0:
        end = start + len(words)
        if not (prompt[start - 1 : start].isalnum() or prompt[end : end + 1].isalnum()):
            return True
        start = prompt.find(words, start + 1)
    return False


def match_prompt(prompt: str, positions_by_text: Mapping[str, Sequence[int]]) -> Sequence[int]:
    """Of a picture's questions by their folded words, those that a prompt asks: one of its lines, else words inside it.

    Empty where it asks none of them, or where it holds several of which none holds the others.
    """
    if positions := match_prompt_line(prompt, positions_by_text):
        return positions
    folded_prompt = fold_text(prompt)
    if contained_texts := [text for text in positions_by_text if text and contains_words(folded_prompt, text)]:
        longest = max(contained_texts, key=len)
        return positions_by_text[longest] if all(contains_words(longest, text) for text in contained_texts) else ()
    stripped_prompt = fold_without_punctuation(prompt)
    stripped_matches = [
        text
        for text in positions_by_text
        if fold_without_punctuation(text) and contains_words(stripped_prompt, fold_without_punctuation(text))
    ]
    return positions_by_text[stripped_matches[0]] if len(stripped_matches) == 1 else ()


def match_prompt_line(prompt: str, positions_by_text: Mapping[str, Sequence[int]]) -> Sequence[int]:
    """Those that stand in a prompt as a line, in quotes or after "Question:"; empty where none does."""
    return next((positions_by_text[text] for text in _candidate_questions(prompt) if text in positions_by_text), ())


def _candidate_questions(prompt: str) -> Iterator[str]:
    """Folded words that may be the question, the likeliest first."""
    folded_prompt = fold_text(prompt)
    yield folded_prompt
    for line in prompt.split("\n"):
        folded_line = fold_text(line)
        yield folded_line
        yield _ROLE_LABEL.sub("", folded_line).strip(_STRIP_CHARS)
    if quote_match := _QUOTED_TEXT.search(folded_prompt):
        yield quote_match[1].strip(_STRIP_CHARS)
    if label_match := _LABELLED_QUESTION.search(folded_prompt):
        yield label_match[1].strip(_STRIP_CHARS)
