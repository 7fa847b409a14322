"""The whole paper: all its figures and tables as one graph.

Hypothesis, metric and what would refute it are those of each study; this one trains and evaluates what several of them
need once, and writes a page that links to their reports.
Arms: those of every shipped study but `ladder`, whose question is not the paper's, called by study and arm
(when.start-080), with the default options of each. Studies whose arms differ in their tokens by design have no horizon
`full`; they are the same at both.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature

from firstsight.recipe.scales import Scale
from firstsight.recipe.study import Horizon, Study, combine
from firstsight.studies import shipped_function, shipped_studies

OTHERS = ("ladder", "paper")
"""Shipped studies that are no part of the paper."""


def paper(scale: Scale, horizon: Horizon = "branch") -> Study:
    """All studies of the paper; their arms share trunks, branches, encoders, fine-tunings and evaluations."""
    functions = [shipped_function(name) for name in shipped_studies() if name not in OTHERS]
    parts = [function(scale, **{"horizon": horizon} if has_horizon(function) else {}) for function in functions]
    return combine("paper", question="Should a vision-language model be pre-trained with image data?", parts=parts)


def has_horizon(function: Callable[..., Study]) -> bool:
    """Whether a study has the option `horizon`: all but those whose arms differ in their tokens."""
    return "horizon" in signature(function).parameters
