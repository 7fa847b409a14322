"""The rules of the paper's harness, where ours differ on purpose: `firstsight score --as paper` gives its own numbers.

The harness scores raw answers. On GQA it removes all punctuation, also inside words, and compares exactly. It accepts a
box only as a Python list in shares, and compares it with true boxes that are rounded to hundredths. On VQAv2 it removes
only the punctuation of annotations. Source: vlm-evaluation, tasks/harnesses and util/evaluation.
"""

from __future__ import annotations

import ast
import string
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial

from firstsight.evaluate.metrics.boxes import BoundingBox, iou
from firstsight.evaluate.metrics.metric import Metric, Truth, elementwise, is_nonempty
from firstsight.evaluate.metrics.vqa import PAPER_VQA_ACCURACY
from firstsight.evaluate.task import Task

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_MAX_ANSWER_CHARS = 1000


def paper_exact_match(answer: str, truth: Truth) -> float:
    """GQA: 1 if the answer without ASCII punctuation, in lower case, equals the truth; white space counts."""
    return float(answer.translate(_WITHOUT_PUNCTUATION).lower() == str(truth))


@lru_cache(maxsize=1 << 16)
def parse_paper_box(answer: str) -> BoundingBox | None:
    """A box that is a Python list of four numbers from 0 to 1, left before right and top before bottom; else None."""
    try:
        with warnings.catch_warnings():  # Python's warnings about the spelling of an answer
            warnings.simplefilter("ignore")
            box = ast.literal_eval(answer) if len(answer) <= _MAX_ANSWER_CHARS else None
        if not isinstance(box, list) or len(box) != 4 or not all(0 <= edge <= 1 for edge in box):
            return None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    left, top, right, bottom = map(float, box)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _paper_iou_match(answer: str, truth: Truth, *, min_iou: float) -> float:
    box = parse_paper_box(answer)
    assert isinstance(truth, tuple)
    left, top, right, bottom = (round(float(edge), 2) for edge in truth)
    return float(box is not None and iou(box, (left, top, right, bottom)) >= min_iou)


def _is_paper_box(answer: str) -> bool:
    return parse_paper_box(answer) is not None


PAPER_EXACT_MATCH = Metric(name="exact_paper", compute=elementwise(paper_exact_match), is_readable=is_nonempty)
PAPER_IOU50 = Metric(
    name="iou50_paper", compute=elementwise(partial(_paper_iou_match, min_iou=0.5)), is_readable=_is_paper_box
)
PAPER_IOU25 = Metric(
    name="iou25_paper", compute=elementwise(partial(_paper_iou_match, min_iou=0.25)), is_readable=_is_paper_box
)
_PAPER_METRICS: Mapping[str, Metric] = {
    "vqa": PAPER_VQA_ACCURACY,
    "exact": PAPER_EXACT_MATCH,
    "iou50": PAPER_IOU50,
    "iou25": PAPER_IOU25,
}
"""The harness's rule by our metric; the other metrics are the same."""


def as_paper(task: Task) -> Task:
    """The task with the metric of the paper's harness; the same task where the rules are the same."""
    return replace(task, metric=_PAPER_METRICS.get(task.metric.name, task.metric))
