"""The references' questions by everything that an answer may say of itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from firstsight.evaluate.given.answers import Given
from firstsight.evaluate.given.wording import bare, fold, holds, picture, series
from firstsight.evaluate.question import Question

_STRAY = 0.001
"""Most by which an edge of a true box that an answer repeats may differ, as a share of the picture: rounded pixels."""
_OPTIONS = "\nA. "


class Known:
    """Questions by id, by picture and words, and by true box and words; places stand for questions throughout."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self.words = [fold(question.text) for question in questions]
        self.uniform = len(set(self.words)) == 1
        """Captions: one request for all pictures, which every model words in its own way."""
        self.splits = {question.split for question in questions} - {""}
        self.name = _naming(questions)
        self.ids: dict[str, list[int]] = defaultdict(list)
        self.boxes: dict[tuple[float, ...], dict[str, list[int]]] = defaultdict(dict)
        self.pictures: dict[str, dict[str, list[int]]] = {}
        for at, question in enumerate(questions):
            for name in _ids(question):
                self.ids[name].append(at)
            if question.image is not None:
                about = self.pictures.setdefault(self.name(question.image), {})
                about.setdefault(self.words[at], []).append(at)
            if is_box(question):
                self.boxes[near(question.truth)].setdefault(self.words[at], []).append(at)

    def within(self, found: Sequence[int], split: str) -> list[int]:
        """Those of a split, where there is a split of that name."""
        return [at for at in found if self.questions[at].split == split] if split in self.splits else list(found)

    def agrees(self, one: Given, at: int) -> bool:
        """Whether an answer's picture and prompt, where it says them, are the question's."""
        image = self.questions[at].image
        if one.image and image is not None and self.name(one.image) != self.name(image):
            return False
        return not one.prompt or self.uniform or self._asks(one.prompt, at)

    def _asks(self, prompt: str, at: int) -> bool:
        """Whether a prompt holds a question's words, be it without its options or marks, as some tools repeat it."""
        said, words = fold(prompt), self.words[at]
        if said == words or holds(said, words):
            return True
        stem = self.questions[at].text.partition(_OPTIONS)[0]
        return bool(bare(stem)) and holds(bare(prompt), bare(stem))

    def speaks(self, one: Given, at: int) -> bool:
        """Whether the answer says anything, but for its id, that the question could contradict."""
        return bool((one.prompt and not self.uniform) or (one.image and self.questions[at].image is not None))

    def same(self, found: Sequence[int]) -> bool:
        """Whether questions have one identity: the same words about the same picture."""
        return len({(self.words[at], self.questions[at].image) for at in found}) == 1

    def one_truth(self, found: Sequence[int]) -> bool:
        """Whether it makes no difference to the score which of the questions an answer is given to."""
        return len({self.questions[at].truth for at in found}) == 1

    def alike(self, at: int) -> list[int]:
        """A question and those of any split that ask the same words about the same picture."""
        image = self.questions[at].image
        return [at] if image is None else self.pictures[self.name(image)][self.words[at]]

    def twins(self, at: int) -> list[int]:
        """Those of them that are of its split."""
        return self.within(self.alike(at), self.questions[at].split)

    def boxed(self, box: Sequence[float]) -> list[int]:
        """The questions whose true box is `box`, up to rounding to pixels; empty where none is."""
        keys = product(*({round(edge - _STRAY, 2), round(edge + _STRAY, 2)} for edge in box))
        found = [at for key in keys if key in self.boxes for held in self.boxes[key].values() for at in held]
        apart = {at: max(abs(a - b) for a, b in zip(box, self._box(at), strict=True)) for at in found}
        least = min(apart.values(), default=1.0)
        return sorted(at for at in found if apart[at] == least) if least <= _STRAY else []

    def _box(self, at: int) -> tuple[float, ...]:
        truth = self.questions[at].truth
        assert isinstance(truth, tuple)
        return tuple(float(edge) for edge in truth)

    def by_words(self) -> dict[str, list[int]]:
        """Questions by their words alone."""
        about: dict[str, list[int]] = defaultdict(list)
        for at, words in enumerate(self.words):
            about[words].append(at)
        return about


def is_box(question: Question) -> bool:
    """Whether a box answers the question."""
    truth = question.truth
    return isinstance(truth, tuple) and len(truth) > 0 and isinstance(truth[0], float)


def near(box: Any) -> tuple[float, ...]:
    """A box in hundredths, as the authors' harness writes true ones."""
    return tuple(round(float(edge), 2) for edge in box)


def _naming(questions: Sequence[Question]) -> Callable[[str], str]:
    """How pictures are called: in short, unless two of the benchmark's pictures would get one name.

    Numbers of another series (VizWiz_test_00000007 for VizWiz_val) are other pictures.
    """
    images = {question.image for question in questions if question.image is not None}
    own = {series(name) for name in images} - {""}
    if len({picture(name) for name in images}) < len(images):
        return str
    return lambda name: picture(name) if series(name) in ("", *own) or not own else name


def _ids(question: Question) -> list[str]:
    """What a question is called: its id, the id without its split, and of a box the object without the line."""
    names = [question.id]
    if question.split:
        names.append(question.id.removeprefix(f"{question.split}-"))
    if is_box(question):
        names.append(question.id.rpartition("-")[0])
    return [name for name in dict.fromkeys(names) if name]
