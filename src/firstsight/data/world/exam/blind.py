"""The best answer of a guesser that sees the picture but not the question: what a score has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from firstsight.data.world.draw import Box
from firstsight.data.world.questions import Weighed
from firstsight.data.world.scene import Scene
from firstsight.data.world.words import EDGES


def blind_word(options: Sequence[Weighed]) -> str:
    """The answer that is right most often over all questions of a scene; the first in the alphabet among equals."""
    hopes: dict[str, float] = {}
    for weight, question in options:
        hopes[question.answer] = hopes.get(question.answer, 0.0) + weight
    return min(hopes, key=lambda answer: (-round(hopes[answer], 9), answer))


def blind_box(scene: Scene, boxes: Sequence[Box], overlap: float) -> str:
    """The box that overlaps most things enough, over all boxes that can be said; the tightest sum among equals."""
    corners = _all_boxes()
    side = scene.world.picture / (len(EDGES) - 1)
    overlaps = np.stack([_iou(corners * side, np.array(box, float)) for box in boxes])
    hits = (overlaps >= overlap).sum(0) + overlaps.sum(0) / 100
    return " ".join(EDGES[n] for n in corners[int(hits.argmax())].astype(int))


@lru_cache(maxsize=1)
def _all_boxes() -> Float[np.ndarray, "n 4"]:
    spans = [(a, b) for a in range(len(EDGES)) for b in range(a + 1, len(EDGES))]
    return np.array([(left, top, right, bottom) for left, right in spans for top, bottom in spans], float)


def _iou(many: Float[np.ndarray, "n 4"], one: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " n"]:
    shared = np.clip(np.minimum(many[:, 2:], one[2:]) - np.maximum(many[:, :2], one[:2]), 0, None).prod(1)
    return shared / ((many[:, 2:] - many[:, :2]).prod(1) + (one[2:] - one[:2]).prod() - shared)
