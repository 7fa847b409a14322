"""Laws of the learning rate, and the authors' published start rates."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import cos, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import QuantityError
from firstsight.recipe.scales import branch_at, scale_named
from firstsight.recipe.stages import Continue, Matched, Midtrain, Rewarm
from firstsight.units import Share, Tokens

budgets = st.integers(10, 10**13)
shares = st.floats(0.0, 0.9)


def trunk(tokens: int, warm: float, peak: float) -> Rewarm:
    return Rewarm(peak_lr=peak, min_lr=peak * 0.003, warmup_tokens=Tokens(int(tokens * warm)), tokens=Tokens(tokens))


@given(budgets, shares, shares, st.floats(1e-5, 1e-1))
def test_a_branch_continues_the_trunks_rate_at_that_very_token(
    tokens: int, warm: float, at: float, peak: float
) -> None:
    main = trunk(tokens, warm, peak)
    branch = Continue(trunk=main, branch_tokens=Tokens(int(tokens * at)), min_lr=main.min_lr, tokens=Tokens(1000))
    assert branch.lr(Tokens(0)) == main.lr(branch.branch_tokens)


@given(budgets, shares, st.floats(1e-5, 1e-1), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_after_the_warm_up_the_rate_only_falls_and_ends_exactly_at_the_floor(
    tokens: int, warm: float, peak: float, points: list[float]
) -> None:
    rate = trunk(tokens, warm, peak)
    seen = sorted(int(rate.warmup_tokens + p * (tokens - rate.warmup_tokens)) for p in points)
    rates = [rate.lr(Tokens(s)) for s in seen]
    assert all(a >= b for a, b in itertools.pairwise(rates))
    assert all(rate.min_lr <= r <= peak for r in rates)
    assert rate.lr(Tokens(tokens)) == rate.min_lr
    assert rate.lr(Tokens(tokens - 1)) >= rate.min_lr


@given(st.integers(2, 10**12), st.floats(1e-5, 1e-1))
def test_a_warm_up_is_linear_from_zero_to_the_peak(warmup: int, peak: float) -> None:
    rate = Rewarm(peak_lr=peak, min_lr=0.0, warmup_tokens=Tokens(warmup), tokens=Tokens(2 * warmup))
    assert rate.lr(Tokens(0)) == 0
    assert rate.lr(Tokens(warmup)) == peak
    assert rate.lr(Tokens(warmup // 2)) == pytest.approx(peak * (warmup // 2) / warmup)


def test_matched_starts_where_the_other_arm_starts() -> None:
    to = Continue(trunk=trunk(1000, 0.1, 1e-2), branch_tokens=Tokens(800), min_lr=3e-5, tokens=Tokens(50))
    control = Matched(reference=to, min_lr=3e-5, tokens=Tokens(50))
    assert [control.lr(Tokens(n)) for n in range(51)] == [to.lr(Tokens(n)) for n in range(51)]


PUBLISHED = {0.1968: 9.080349589287376e-3, 0.4042: 6.499974971416897e-3, 0.6024: 3.4466737184832607e-3}


@pytest.mark.parametrize(("position", "rate"), [*PUBLISHED.items(), (0.8007, 9.788979e-4)])
def test_the_authors_start_rates_are_met_where_their_checkpoints_fell(position: float, rate: float) -> None:
    main = scale_named("1b").base.pretrain.schedule
    ours = Continue(
        trunk=main, branch_tokens=Tokens(int(position * main.tokens)), min_lr=3e-5, tokens=Tokens(28_795_904_000)
    )
    assert ours.lr(Tokens(0)) == pytest.approx(rate, rel=0.004)


@pytest.mark.parametrize(("percent", "rate"), [(20, 9.0803e-3), (40, 6.49997e-3), (60, 3.44667e-3), (80, 9.78897e-4)])
def test_the_shipped_arms_start_within_a_few_per_cent_of_the_published_rates(percent: int, rate: float) -> None:
    stage = branch_at(scale_named("1b"), Share(percent, 100)).stages[0]
    assert isinstance(stage, Midtrain)
    assert stage.schedule.lr(Tokens(0)) == pytest.approx(rate, rel=0.02)


def test_the_ends_of_the_trunk_rewarm_as_the_paper_does() -> None:
    for percent in (0, 100):
        stage = branch_at(scale_named("1b"), Share(percent, 100)).stages[0]
        assert isinstance(stage, Midtrain)
        rate = stage.schedule
        assert rate == Rewarm(
            peak_lr=3e-3, min_lr=3e-5, warmup_tokens=Tokens(5000 * 256 * 1024), tokens=Tokens(28_795_994_112)
        )
        half = (rate.warmup_tokens + rate.tokens) // 2
        assert rate.lr(Tokens(half)) == pytest.approx(3e-5 + 0.5 * (3e-3 - 3e-5) * (1 + cos(pi / 2)), rel=1e-6)


def test_a_warm_up_that_outlasts_its_phase_is_refused() -> None:
    with pytest.raises(QuantityError, match="warm-up must end"):
        replace(trunk(1000, 0.1, 1e-2), warmup_tokens=Tokens(1000))
