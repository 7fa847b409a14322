"""Metrics, each implemented from its benchmark's definition and tested against its official scorer."""

from __future__ import annotations

from collections.abc import Mapping

from firstsight.evaluate.metrics import boxes, captions, exact_match, vqa
from firstsight.evaluate.metrics.metric import Metric

_DEFINITIONS = (value for module in (vqa, exact_match, boxes, captions) for value in vars(module).values())
METRICS: Mapping[str, Metric] = {value.name: value for value in _DEFINITIONS if isinstance(value, Metric)}
"""Every metric by its name in a task file."""

__all__ = ["METRICS"]
