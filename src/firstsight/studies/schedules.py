"""Which learning rates does each start follow? The paper's Figure 3, drawn from the plan before anything runs.

Hypothesis: the rates at which the authors' runs start, which are part of their names, are those of the trunk's cosine
at 20, 40, 60 and 80 %; at 0 and 100 % training warms up again to 3e-3.
Arms: those of `when`, with the same steps: continued inside the trunk, re-warmed at its two ends.
Metric: the learning rate at each start. `firstsight plan schedules --scale 1b --figure schedules.svg` draws the
curves, with the published rates as diamonds, and prints them in a table with the difference of ours; that needs no
run. The rates are published for the size 1b alone.
Refuted if: a start rate differs from the published one by more than the 2 % that checkpoints a little off the nominal
shares explain.
A run adds scores and losses, which are those of `when`. There is no claim that scores could decide.
"""

from __future__ import annotations

from dataclasses import replace

from firstsight.recipe.scales import Scale
from firstsight.recipe.study import Horizon, Study
from firstsight.studies.when import when


def schedules(scale: Scale, horizon: Horizon = "branch") -> Study:
    """The arms of `when`, for their learning rates."""
    question = "Which learning rates does each start follow?"
    return replace(when(scale, horizon), name="schedules", question=question, claims=())
