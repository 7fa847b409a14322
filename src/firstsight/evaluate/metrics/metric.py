"""The type of a metric: answers and truths in, one score per question out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Truth = str | int | tuple[str, ...] | tuple[float, ...]
"""A text, the index of the right choice, all annotators' answers, or a box (left, top, right, bottom) in [0, 1]."""
AnswerScorer = Callable[[str, Truth], float]
"""The score of one answer, independent of the others."""
CorpusScorer = Callable[[Sequence[str], Sequence[Truth]], Sequence[float]]
"""The scores of all answers, in order; a corpus metric needs them all at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """How a task's answers are scored. Scores are between 0 and 1, except CIDEr, which is between 0 and 10."""

    name: str
    compute: CorpusScorer
    is_readable: Callable[[str], bool]
    """Whether an answer has the expected form; only counted: `compute` scores every answer."""


def elementwise(scorer: AnswerScorer) -> CorpusScorer:
    """A corpus scorer that scores answers one by one."""
    return lambda answers, truths: [scorer(answer, truth) for answer, truth in zip(answers, truths, strict=True)]


def is_nonempty(answer: str) -> bool:
    """Whether the answer contains more than white space."""
    return bool(answer.strip())
