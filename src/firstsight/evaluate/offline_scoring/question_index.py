"""The references' questions by id, image, text and true box, and the text matching between prompts and questions."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord
from firstsight.evaluate.task import Question, image_series, normalize_image_name

_BOX_TOLERANCE = 0.001
"""Largest difference, as a share of the image, between an edge of a true box and its repetition in rounded pixels."""
_ROUNDED_BOX_TOLERANCE = 0.006
"""The same for a true box in hundredths, as the paper's harness writes it."""
_IMAGE_MARKER = re.compile(r"(?i)<\|?/?(?:image|img|im_(?:start|end|patch)|grounding|vision_(?:start|end))[^<>]{0,12}>")
_ROLE_LABEL = re.compile(
    r"^(?:#+\s*)?(?:user|human|question|q|assistant)\s*:\s*|\s*(?:#+\s*)?(?:assistant|answer|short answer)\s*:$"
)
_STRIP_CHARS = " ?.!\t"
_LABELLED_QUESTION = re.compile(r"question\s*:\s*(.*?)\s*(?:(?:short )?answer\s*:|$)")
_QUOTED_TEXT = re.compile(r"[\"“](.+)[\"”]")
_PUNCTUATION = re.compile(r"[^\w\s]|_")

PositionsByText = Mapping[str, Sequence[int]]
"""Positions of questions by their folded text."""


class QuestionIndex:
    """Questions by id, by image and text, and by true box and text; a question is referred to by its position."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self.texts = [fold_text(question.text) for question in questions]
        self.is_uniform = len(set(self.texts)) == 1
        """All questions have one text: a request for captions, which harnesses word differently."""
        self.splits = {question.split for question in questions} - {""}
        self.image_key = _choose_image_key(questions)
        self.positions_by_id: dict[str, list[int]] = defaultdict(list)
        self.positions_by_box: dict[tuple[float, ...], dict[str, list[int]]] = defaultdict(dict)
        self.positions_by_image: dict[str, dict[str, list[int]]] = {}
        for position, question in enumerate(questions):
            text = self.texts[position]
            for question_id in _question_ids(question):
                self.positions_by_id[question_id].append(position)
            if question.image is not None:
                by_text = self.positions_by_image.setdefault(self.image_key(question.image), {})
                by_text.setdefault(text, []).append(position)
            if has_box_truth(question):
                self.positions_by_box[round_box(question.truth)].setdefault(text, []).append(position)

    def group_by_text(self, positions: Sequence[int] | None = None) -> dict[str, list[int]]:
        """Positions, by default all, by the question's folded text."""
        by_text: dict[str, list[int]] = {}
        for position in range(len(self.texts)) if positions is None else positions:
            by_text.setdefault(self.texts[position], []).append(position)
        return by_text

    def filter_by_split(self, positions: Sequence[int], split: str) -> list[int]:
        """The positions of a split; all positions if no split has that name."""
        return [p for p in positions if split not in self.splits or self.questions[p].split == split]

    def is_consistent(self, answer: AnswerRecord, position: int) -> bool:
        """Whether an answer's image and prompt, if it has them, are the question's."""
        image = self.questions[position].image
        if answer.image and image is not None and self.image_key(answer.image) != self.image_key(image):
            return False
        if not answer.prompt or self.is_uniform or contains_words(fold_text(answer.prompt), self.texts[position]):
            return True
        # Some tools write questions without options and punctuation.
        stem = fold_without_punctuation(self.questions[position].text.partition("\nA. ")[0])
        return bool(stem) and contains_words(fold_without_punctuation(answer.prompt), stem)

    def has_evidence(self, answer: AnswerRecord, position: int) -> bool:
        """Whether the answer has a field other than its id that could contradict the question."""
        has_image = answer.image and self.questions[position].image is not None
        return bool((answer.prompt and not self.is_uniform) or has_image)

    def is_same_question(self, positions: Sequence[int]) -> bool:
        """Whether all questions have the same text and image."""
        return len({(self.texts[position], self.questions[position].image) for position in positions}) == 1

    def has_single_truth(self, positions: Sequence[int]) -> bool:
        """Whether all questions have the same truth, so that an answer scores the same for each of them."""
        return len({self.questions[position].truth for position in positions}) == 1

    def equivalent_positions(self, position: int) -> list[int]:
        """The questions of all splits with this question's text and image, itself included."""
        image = self.questions[position].image
        return [position] if image is None else self.positions_by_image[self.image_key(image)][self.texts[position]]

    def equivalents_in_split(self, position: int) -> list[int]:
        """The equivalent questions of the same split."""
        return self.filter_by_split(self.equivalent_positions(position), self.questions[position].split)

    def find_by_box(self, box: Sequence[float]) -> list[int]:
        """The questions with the true box nearest to `box`; empty if it differs by more than _BOX_TOLERANCE."""
        keys = product(*({round(edge - _BOX_TOLERANCE, 2), round(edge + _BOX_TOLERANCE, 2)} for edge in box))
        groups = [group for key in keys for group in self.positions_by_box.get(key, {}).values()]
        distances = {position: self._box_distance(position, box) for group in groups for position in group}
        smallest = min(distances.values(), default=1.0)
        return sorted(p for p, distance in distances.items() if distance == smallest <= _BOX_TOLERANCE)

    def narrow_by_box(self, positions: Sequence[int], box: Sequence[float]) -> Sequence[int]:
        """Of questions with one text and image, those with the true box that an answer repeats; all without one."""
        if len(positions) < 2 or not box or not has_box_truth(self.questions[positions[0]]):
            return positions
        return [p for p in positions if self._box_distance(p, box) <= _ROUNDED_BOX_TOLERANCE] or positions

    def _box_distance(self, position: int, box: Sequence[float]) -> float:
        truth: Any = self.questions[position].truth
        return max(abs(edge - float(true_edge)) for edge, true_edge in zip(box, truth, strict=True))


def has_box_truth(question: Question) -> bool:
    """Whether the answer to the question is a box."""
    truth = question.truth
    return isinstance(truth, tuple) and bool(truth) and isinstance(truth[0], float)


def round_box(box: Any) -> tuple[float, ...]:
    """A box in hundredths, as the authors' harness writes true boxes."""
    return tuple(round(float(edge), 2) for edge in box)


def _choose_image_key(questions: Sequence[Question]) -> Callable[[str], str]:
    """How images are compared: by normalised name, or by full name if two names of the benchmark would become equal.

    Numbers of another series (VizWiz_test_00000007 for VizWiz_val) are other images, so their names stay as they are.
    """
    names = {question.image for question in questions if question.image is not None}
    series = {image_series(name) for name in names} - {""}
    if len({normalize_image_name(name) for name in names}) < len(names):
        return str
    return lambda name: normalize_image_name(name) if not series or image_series(name) in ("", *series) else name


def _question_ids(question: Question) -> list[str]:
    """A question's id, also without its split, and for boxes also the object's id without the line number."""
    without_split = question.id.removeprefix(f"{question.split}-") if question.split else ""
    object_id = question.id.rpartition("-")[0] if has_box_truth(question) else ""
    return [question_id for question_id in dict.fromkeys((question.id, without_split, object_id)) if question_id]


@lru_cache(maxsize=1 << 16)
def fold_text(text: str) -> str:
    """Text in one case with single spaces, without image markers and without punctuation at both ends."""
    normalized = text if text.isascii() else unicodedata.normalize("NFKC", text)
    without_markers = _IMAGE_MARKER.sub(" ", normalized) if "<" in normalized else normalized
    return " ".join(without_markers.casefold().split()).strip(_STRIP_CHARS)


@lru_cache(maxsize=1 << 16)
def fold_without_punctuation(text: str) -> str:
    """Folded text without any punctuation, as some tools write questions."""
    return " ".join(_PUNCTUATION.sub("", fold_text(text)).split())


def contains_words(prompt: str, words: str) -> bool:
    """Whether the folded `words` occur in the folded `prompt` as whole words."""
    start = prompt.find(words)
    while start >= 0:
        end = start + len(words)
        if not (prompt[start - 1 : start].isalnum() or prompt[end : end + 1].isalnum()):
            return True
        start = prompt.find(words, start + 1)
    return False


def match_prompt(prompt: str, positions_by_text: PositionsByText) -> Sequence[int]:
    """The positions of the question in a prompt: one of its lines, or else words inside it.

    Empty if it contains no question, or several and none of these contains all others.
    """
    if positions := match_prompt_line(prompt, positions_by_text):
        return positions
    folded = fold_text(prompt)
    if texts := [text for text in positions_by_text if text and contains_words(folded, text)]:
        longest = max(texts, key=len)
        return positions_by_text[longest] if all(contains_words(longest, text) for text in texts) else ()
    stripped = fold_without_punctuation(prompt)
    pairs = ((text, fold_without_punctuation(text)) for text in positions_by_text)
    texts = [text for text, words in pairs if words and contains_words(stripped, words)]
    return positions_by_text[texts[0]] if len(texts) == 1 else ()


def match_prompt_line(prompt: str, positions_by_text: PositionsByText) -> Sequence[int]:
    """The positions of the question on a line of the prompt, in quotes, or after "Question:"; empty if none is."""
    return next((positions_by_text[text] for text in _candidate_questions(prompt) if text in positions_by_text), ())


def _candidate_questions(prompt: str) -> Iterator[str]:
    """Folded texts that may be the question, the likeliest first."""
    folded = fold_text(prompt)
    yield folded
    for line in prompt.split("\n"):
        folded_line = fold_text(line)
        yield folded_line
        yield _ROLE_LABEL.sub("", folded_line).strip(_STRIP_CHARS)
    for pattern in (_QUOTED_TEXT, _LABELLED_QUESTION):
        if match := pattern.search(folded):
            yield match[1].strip(_STRIP_CHARS)
