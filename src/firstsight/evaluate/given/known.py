"""The references' questions by everything that an answer may say of itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from firstsight.evaluate.given.answers import Given
from firstsight.evaluate.given.wording import fold, holds, picture
from firstsight.evaluate.question import Question


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
        self.boxes: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        self.pictures: dict[str, dict[str, list[int]]] = {}
        for at, question in enumerate(questions):
            for name in _ids(question):
                self.ids[name].append(at)
            if question.image is not None:
                about = self.pictures.setdefault(self.name(question.image), {})
                about.setdefault(self.words[at], []).append(at)
            if is_box(question):
                self.boxes[self.words[at], near(question.truth)].append(at)

    def within(self, found: Sequence[int], split: str) -> list[int]:
        """Those of a split, where there is a split of that name."""
        return [at for at in found if self.questions[at].split == split] if split in self.splits else list(found)

    def agrees(self, one: Given, at: int) -> bool:
        """Whether an answer's picture and prompt, where it says them, are the question's."""
        image = self.questions[at].image
        if one.image and image is not None and self.name(one.image) != self.name(image):
            return False
        if not one.prompt or self.uniform:
            return True
        prompt = fold(one.prompt)
        return prompt == self.words[at] or holds(prompt, self.words[at])

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
    """How pictures are called: in short, unless two of the benchmark's pictures would get one name."""
    images = {question.image for question in questions if question.image is not None}
    return picture if len({picture(name) for name in images}) == len(images) else str


def _ids(question: Question) -> list[str]:
    """What a question is called: its id, the id without its split, and of a box the object without the line."""
    names = [question.id]
    if question.split:
        names.append(question.id.removeprefix(f"{question.split}-"))
    if is_box(question):
        names.append(question.id.rpartition("-")[0])
    return [name for name in dict.fromkeys(names) if name]
