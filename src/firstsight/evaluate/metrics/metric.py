"""What a metric is: answers and truths in, one score a question out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Truth = str | int | tuple[str, ...] | tuple[float, ...]
"""A word, the number of the right choice, all annotators' answers, or a box (left, top, right, bottom) in [0, 1]."""
AnswerScorer = Callable[[str, Truth], float]
"""One answer's score, where it hangs on nothing else."""
CorpusScorer = Callable[[Sequence[str], Sequence[Truth]], Sequence[float]]
"""All answers' scores, in order; a metric over a corpus needs to see every question at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """How a task's answers are checked. Scores are shares of 1, save CIDEr, which has no upper end."""

    name: str
    compute: CorpusScorer
    is_readable: Callable[[str], bool]
    """Whether an answer has the wanted form at all; one that has not is counted, and scores what `marks` gives."""


def elementwise(scorer: AnswerScorer) -> CorpusScorer:
    """`check`, question by question."""
    return lambda answers, truths: [scorer(answer, truth) for answer, truth in zip(answers, truths, strict=True)]


def is_nonempty(answer: str) -> bool:
    """Anything but white space."""
    return bool(answer.strip())
