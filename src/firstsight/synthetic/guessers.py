"""The best answer of a guesser that sees the picture but not the question: what a score has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from firstsight.synthetic.questions import WeightedQuestion
from firstsight.synthetic.rendering import PixelBox
from firstsight.synthetic.scenes import Scene
from firstsight.synthetic.vocabulary import EDGE_WORDS


def most_likely_answer(options: Sequence[WeightedQuestion]) -> str:
    """The answer that is right most often over all questions of a scene; the first in the alphabet among equals."""
    answer_weights: dict[str, float] = {}
    for weight, question in options:
        answer_weights[question.answer] = answer_weights.get(question.answer, 0.0) + weight
    return min(answer_weights, key=lambda answer: (-round(answer_weights[answer], 9), answer))


def most_overlapping_box(scene: Scene, boxes: Sequence[PixelBox], min_iou: float) -> str:
    """The box that overlaps most things enough, over all boxes that can be said; the tightest sum among equals."""
    candidates = _candidate_boxes()
    edge_spacing = scene.world.image_size / (len(EDGE_WORDS) - 1)
    ious = np.stack([_iou(candidates * edge_spacing, np.array(box, float)) for box in boxes])
    scores = (ious >= min_iou).sum(0) + ious.sum(0) / 100
    return " ".join(EDGE_WORDS[edge_index] for edge_index in candidates[int(scores.argmax())].astype(int))


@lru_cache(maxsize=1)
def _candidate_boxes() -> Float[np.ndarray, "n 4"]:
    spans = [(start, end) for start in range(len(EDGE_WORDS)) for end in range(start + 1, len(EDGE_WORDS))]
    return np.array([(left, top, right, bottom) for left, right in spans for top, bottom in spans], float)


def _iou(boxes: Float[np.ndarray, "n 4"], box: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " n"]:
    intersection = np.clip(np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2]), 0, None).prod(1)
    return intersection / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - intersection)
