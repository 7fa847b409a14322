"""The references' questions by everything that an answer may say of itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from firstsight.evaluate.offline_scoring.answer_files import AnswerRecord
from firstsight.evaluate.offline_scoring.text_matching import (
    contains_words,
    fold_text,
    fold_without_punctuation,
    image_series,
    normalize_image_name,
)
from firstsight.evaluate.task import Question

_BOX_TOLERANCE = 0.001
"""Most by which an edge of a true box that an answer repeats may differ, as a share of the picture: rounded pixels."""
_OPTIONS_MARKER = "\nA. "


class QuestionIndex:
    """Questions by id, by picture and words, and by true box and words; places stand for questions throughout."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self.texts = [fold_text(question.text) for question in questions]
        self.is_uniform = len(set(self.texts)) == 1
        """Captions: one request for all pictures, which every model words in its own way."""
        self.splits = {question.split for question in questions} - {""}
        self.image_key = _choose_image_key(questions)
        self.positions_by_id: dict[str, list[int]] = defaultdict(list)
        self.positions_by_box: dict[tuple[float, ...], dict[str, list[int]]] = defaultdict(dict)
        self.positions_by_image: dict[str, dict[str, list[int]]] = {}
        for position, question in enumerate(questions):
            for question_id in _question_ids(question):
                self.positions_by_id[question_id].append(position)
            if question.image is not None:
                positions_by_text = self.positions_by_image.setdefault(self.image_key(question.image), {})
                positions_by_text.setdefault(self.texts[position], []).append(position)
            if has_box_truth(question):
                self.positions_by_box[round_box(question.truth)].setdefault(self.texts[position], []).append(position)

    def filter_by_split(self, positions: Sequence[int], split: str) -> list[int]:
        """Those of a split, where there is a split of that name."""
        return (
            [position for position in positions if self.questions[position].split == split]
            if split in self.splits
            else list(positions)
        )

    def is_consistent(self, answer: AnswerRecord, position: int) -> bool:
        """Whether an answer's picture and prompt, where it says them, are the question's."""
        image = self.questions[position].image
        if answer.image and image is not None and self.image_key(answer.image) != self.image_key(image):
            return False
        return not answer.prompt or self.is_uniform or self._prompt_contains_question(answer.prompt, position)

    def _prompt_contains_question(self, prompt: str, position: int) -> bool:
        """Whether a prompt holds a question's words, be it without its options or marks, as some tools repeat it."""
        folded_prompt, text = fold_text(prompt), self.texts[position]
        if folded_prompt == text or contains_words(folded_prompt, text):
            return True
        stem = self.questions[position].text.partition(_OPTIONS_MARKER)[0]
        return bool(fold_without_punctuation(stem)) and contains_words(
            fold_without_punctuation(prompt), fold_without_punctuation(stem)
        )

    def has_evidence(self, answer: AnswerRecord, position: int) -> bool:
        """Whether the answer says anything, but for its id, that the question could contradict."""
        return bool(
            (answer.prompt and not self.is_uniform) or (answer.image and self.questions[position].image is not None)
        )

    def is_same_question(self, positions: Sequence[int]) -> bool:
        """Whether questions have one identity: the same words about the same picture."""
        return len({(self.texts[position], self.questions[position].image) for position in positions}) == 1

    def has_single_truth(self, positions: Sequence[int]) -> bool:
        """Whether it makes no difference to the score which of the questions an answer is given to."""
        return len({self.questions[position].truth for position in positions}) == 1

    def equivalent_positions(self, position: int) -> list[int]:
        """A question and those of any split that ask the same words about the same picture."""
        image = self.questions[position].image
        return [position] if image is None else self.positions_by_image[self.image_key(image)][self.texts[position]]

    def equivalents_in_split(self, position: int) -> list[int]:
        """Those of them that are of its split."""
        return self.filter_by_split(self.equivalent_positions(position), self.questions[position].split)

    def find_by_box(self, box: Sequence[float]) -> list[int]:
        """The questions whose true box is `box`, up to rounding to pixels; empty where none is."""
        keys = product(*({round(edge - _BOX_TOLERANCE, 2), round(edge + _BOX_TOLERANCE, 2)} for edge in box))
        positions = [
            position
            for key in keys
            if key in self.positions_by_box
            for text_positions in self.positions_by_box[key].values()
            for position in text_positions
        ]
        distances = {
            position: max(abs(a - b) for a, b in zip(box, self._true_box(position), strict=True))
            for position in positions
        }
        min_distance = min(distances.values(), default=1.0)
        return (
            sorted(position for position in positions if distances[position] == min_distance)
            if min_distance <= _BOX_TOLERANCE
            else []
        )

    def _true_box(self, position: int) -> tuple[float, ...]:
        truth = self.questions[position].truth
        assert isinstance(truth, tuple)
        return tuple(float(edge) for edge in truth)

    def positions_by_text(self) -> dict[str, list[int]]:
        """Questions by their words alone."""
        positions_by_text: dict[str, list[int]] = defaultdict(list)
        for position, text in enumerate(self.texts):
            positions_by_text[text].append(position)
        return positions_by_text


def has_box_truth(question: Question) -> bool:
    """Whether a box answers the question."""
    truth = question.truth
    return isinstance(truth, tuple) and len(truth) > 0 and isinstance(truth[0], float)


def round_box(box: Any) -> tuple[float, ...]:
    """A box in hundredths, as the authors' harness writes true ones."""
    return tuple(round(float(edge), 2) for edge in box)


def _choose_image_key(questions: Sequence[Question]) -> Callable[[str], str]:
    """How pictures are called: in short, unless two of the benchmark's pictures would get one name.

    Numbers of another series (VizWiz_test_00000007 for VizWiz_val) are other pictures.
    """
    image_names = {question.image for question in questions if question.image is not None}
    series_names = {image_series(name) for name in image_names} - {""}
    if len({normalize_image_name(name) for name in image_names}) < len(image_names):
        return str
    return lambda name: (
        normalize_image_name(name) if image_series(name) in ("", *series_names) or not series_names else name
    )


def _question_ids(question: Question) -> list[str]:
    """What a question is called: its id, the id without its split, and of a box the object without the line."""
    ids = [question.id]
    if question.split:
        ids.append(question.id.removeprefix(f"{question.split}-"))
    if has_box_truth(question):
        ids.append(question.id.rpartition("-")[0])
    return [question_id for question_id in dict.fromkeys(ids) if question_id]
