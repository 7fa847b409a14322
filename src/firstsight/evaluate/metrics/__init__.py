"""Answer checks, each written from its benchmark's definition and held against its official scorer."""

from __future__ import annotations

from collections.abc import Mapping

from firstsight.evaluate.metrics.boxes import IOU25, IOU50
from firstsight.evaluate.metrics.captions import CIDER
from firstsight.evaluate.metrics.letters import LETTER
from firstsight.evaluate.metrics.metric import Metric
from firstsight.evaluate.metrics.vqa import TEXTVQA, VIZWIZ, VQA, VQA_PAPER, VQA_STRICT
from firstsight.evaluate.metrics.words import CHOICE, EXACT, YES_NO

_ALL = (VQA, VQA_STRICT, VQA_PAPER, TEXTVQA, VIZWIZ, EXACT, YES_NO, IOU50, IOU25, CHOICE, LETTER, CIDER)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}
"""Every check by the name that a task file gives it."""

__all__ = ["METRICS"]
