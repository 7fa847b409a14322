"""The check of a loss before its update."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import Diverged, LossSpike
from firstsight.train.spikes import SPIKE_WINDOW, LossCheck

LOSSES = st.lists(st.floats(0.1, 20), min_size=SPIKE_WINDOW, max_size=SPIKE_WINDOW + 40)


@pytest.mark.parametrize(("loss", "grad_norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.nan), (1.0, math.inf)])
@pytest.mark.parametrize("deviations", [0.0, 7.0])
def test_what_is_not_finite_is_refused_with_and_without_a_rule(
    deviations: float, loss: float, grad_norm: float
) -> None:
    check = LossCheck(deviations)
    assert type(check.error(loss, grad_norm, "loss")) is Diverged
    assert check.state_dict() == []


@given(losses=LOSSES, deviations=st.floats(0.5, 10), excess=st.floats(-5, 5))
def test_a_spike_is_counted_in_deviations_of_the_last_window(
    losses: list[float], deviations: float, excess: float
) -> None:
    check = LossCheck(deviations, losses)
    window = np.array(losses[-SPIKE_WINDOW:])
    limit = window.mean() + deviations * window.std(ddof=1)
    if abs(excess) < 1e-6:
        return
    error = check.error(limit + excess, 1.0, "the update")
    assert (type(error) is LossSpike) == (excess > 0)
    assert check.state_dict() == list(window) if error else [*window[1:], limit + excess]


@given(losses=LOSSES)
def test_there_is_no_rule_by_default_and_before_a_window(losses: list[float]) -> None:
    assert LossCheck(0.0, losses).error(1e9, 1.0, "") is None
    assert LossCheck(7.0, losses[: SPIKE_WINDOW - 1]).error(1e9, 1.0, "") is None
