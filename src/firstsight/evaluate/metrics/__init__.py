"""Metrics, each implemented from its benchmark's definition and tested against its official scorer."""

from __future__ import annotations

from collections.abc import Mapping

from firstsight.evaluate.metrics.boxes import IOU25, IOU50
from firstsight.evaluate.metrics.captions import CIDER
from firstsight.evaluate.metrics.exact_match import CHOICE_MATCH, EXACT_MATCH, YES_NO_MATCH
from firstsight.evaluate.metrics.metric import Metric
from firstsight.evaluate.metrics.multiple_choice import LETTER_MATCH
from firstsight.evaluate.metrics.vqa import (
    PAPER_VQA_ACCURACY,
    STRICT_VQA_ACCURACY,
    TEXTVQA_ACCURACY,
    VIZWIZ_ACCURACY,
    VQA_ACCURACY,
)

_ALL_METRICS = (
    VQA_ACCURACY,
    STRICT_VQA_ACCURACY,
    PAPER_VQA_ACCURACY,
    TEXTVQA_ACCURACY,
    VIZWIZ_ACCURACY,
    EXACT_MATCH,
    YES_NO_MATCH,
    IOU50,
    IOU25,
    CHOICE_MATCH,
    LETTER_MATCH,
    CIDER,
)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL_METRICS}
"""Every metric by its name in a task file."""

__all__ = ["METRICS"]
