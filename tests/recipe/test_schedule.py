"""Laws of the learning rate, and the authors' published start rates."""

from __future__ import annotations

import itertools
from math import cos, floor, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import QuantityError
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.schedule import Continue, CosineFrom, CurvePoint, Matched, Rewarm, SameCurve, schedule_text
from firstsight.units import Share, Tokens

budgets = st.integers(10, 10**13).map(Tokens)
peaks = st.floats(1e-5, 1e-1)
warmups = st.fractions(0, Share(9, 10), max_denominator=10_000).map(Share)
positions = st.floats(0, 1)


def rewarm(peak: float, warmup: Share = Share(0)) -> Rewarm:
    return Rewarm(peak_lr=peak, min_lr=peak * 0.003, warmup=warmup)


@given(budgets, warmups, peaks, st.lists(positions, min_size=2, max_size=20))
def test_after_the_warm_up_the_rate_only_falls_and_ends_exactly_at_the_floor(
    total: Tokens, warmup: Share, peak: float, points: list[float]
) -> None:
    schedule = rewarm(peak, warmup)
    start = schedule.warmup_tokens(total)
    seen = sorted(int(start + point * (total - start)) for point in points)
    rates = [schedule.lr(Tokens(tokens), total) for tokens in seen]
    assert all(a >= b for a, b in itertools.pairwise(rates))
    assert all(schedule.min_lr <= rate <= peak for rate in rates)
    assert schedule.lr(total, total) == schedule.min_lr
    assert schedule.lr(Tokens(total - 1), total) >= schedule.min_lr


@given(budgets, warmups, peaks, positions)
def test_a_warm_up_is_linear_from_zero_to_the_peak_and_no_update_has_rate_0(
    total: Tokens, warmup: Share, peak: float, position: float
) -> None:
    schedule = Rewarm(peak_lr=peak, min_lr=0.0, warmup=warmup)
    end = schedule.warmup_tokens(total)
    assert end == floor(total * warmup) < total
    assert schedule.lr(end, total) == peak
    seen = Tokens(int(end * position))
    if end:
        assert schedule.lr(Tokens(0), total) == 0
        assert schedule.lr(seen, total) == pytest.approx(peak * seen / end)
    if seen:
        assert schedule.lr(seen, total) > 0


@given(budgets, st.integers(1, 10**6), warmups, peaks, positions)
def test_a_share_of_the_stage_has_the_same_rate_at_any_length(
    total: Tokens, factor: int, warmup: Share, peak: float, position: float
) -> None:
    """A stage that is `factor` times as long has the same curve, stretched: no part of it stays at the floor."""
    schedule = rewarm(peak, Share(warmup.numerator, warmup.denominator))
    total = Tokens(total // warmup.denominator * warmup.denominator + warmup.denominator)
    seen = int(total * position)
    longer = schedule.lr(Tokens(seen * factor), Tokens(total * factor))
    assert longer == pytest.approx(schedule.lr(Tokens(seen), total), rel=1e-9)


@given(budgets, budgets, warmups, peaks, positions, positions)
def test_a_cosine_starts_exactly_at_the_point_it_continues_and_falls_to_its_minimum(
    trunk: Tokens, total: Tokens, warmup: Share, peak: float, branch: float, position: float
) -> None:
    schedule = rewarm(peak, warmup)
    point = CurvePoint(schedule=schedule, tokens=trunk, at=Tokens(int(trunk * branch)))
    start = schedule.lr(point.at, trunk)
    branched = CosineFrom(start=point, min_lr=start / 100)
    assert branched.lr(Tokens(0), total) == start
    seen = int(total * position)
    assert start >= branched.lr(Tokens(seen), total) >= branched.lr(Tokens(min(total, seen + 1)), total)
    assert branched.lr(total, total) == start / 100


@given(budgets, warmups, peaks, st.lists(positions, min_size=1, max_size=5), positions)
def test_the_parts_of_a_curve_have_its_rates(
    total: Tokens, warmup: Share, peak: float, cuts: list[float], position: float
) -> None:
    schedule = rewarm(peak, warmup)
    ends = sorted({0, *(int(total * cut) for cut in cuts), total})
    for begin, end in itertools.pairwise(ends):
        seen = Tokens(int((end - begin) * position))
        part = CurvePoint(schedule=schedule, tokens=total, at=Tokens(begin))
        assert part.lr(seen, Tokens(end - begin)) == schedule.lr(Tokens(begin + seen), total)


PUBLISHED = {0.1968: 9.080349589287376e-3, 0.4042: 6.499974971416897e-3, 0.6024: 3.4466737184832607e-3}


@pytest.mark.parametrize(("position", "rate"), [*PUBLISHED.items(), (0.8007, 9.788979e-4)])
def test_the_authors_start_rates_are_met_where_their_checkpoints_fell(position: float, rate: float) -> None:
    trunk = get_scale("1b").base.pretrain
    assert trunk.lr(Tokens(int(position * trunk.rounded_tokens))) == pytest.approx(rate, rel=0.004)


@pytest.mark.parametrize(("percent", "rate"), [(20, 9.0803e-3), (40, 6.49997e-3), (60, 3.44667e-3), (80, 9.78897e-4)])
def test_the_shipped_arms_start_within_a_few_per_cent_of_the_published_rates(percent: int, rate: float) -> None:
    stage = branch_at(get_scale("1b"), Share(percent, 100)).resolved_stages()[0]
    assert stage.lr(Tokens(0)) == pytest.approx(rate, rel=0.02)


def test_the_ends_of_the_trunk_rewarm_as_the_paper_does() -> None:
    """5000 of 109,848 steps of 256 x 1,024 tokens to 3e-3, then to 3e-5."""
    for percent in (0, 100):
        (stage, _) = branch_at(get_scale("1b"), Share(percent, 100)).resolved_stages()
        warmup, total = Tokens(5000 * 256 * 1024), Tokens(28_795_994_112)
        assert stage.rounded_tokens == total and isinstance(stage.schedule, Rewarm)
        assert stage.schedule.warmup_tokens(total) == warmup
        assert (stage.lr(Tokens(warmup // 5000)), stage.lr(warmup), stage.lr(total)) == (3e-3 / 5000, 3e-3, 3e-5)
        half = Tokens((warmup + total) // 2)
        assert stage.lr(half) == pytest.approx(3e-5 + 0.5 * (3e-3 - 3e-5) * (1 + cos(pi / 2)), rel=1e-6)


REFUSED = [
    (lambda: rewarm(1e-3, Share(1)), "a warm-up must end before its stage does. Got 100 % of the stage"),
    (lambda: Rewarm(peak_lr=0.0, min_lr=0.0, warmup=Share(0)), "wanted peak_lr above 0"),
    (lambda: Rewarm(peak_lr=1e-3, min_lr=2e-3, warmup=Share(0)), "Got peak_lr=0.001 and min_lr=0.002"),
    (lambda: Rewarm(peak_lr=float("nan"), min_lr=0.0, warmup=Share(0)), "wanted peak_lr above 0"),
    (lambda: Continue(min_lr=-1e-5), "min_lr: wanted 0 or above. Got -1e-05"),
    (lambda: Matched(trunk_share=Share(1, 2), min_lr=float("nan")), "min_lr: wanted 0 or above. Got nan"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_impossible_rates_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(QuantityError, match=message):
        make()


def test_each_schedule_is_called_what_it_is() -> None:
    """A continued stage is not a re-warmed one, also where it follows one."""
    total, trunk = Tokens(1000), rewarm(1e-2)
    warm = Rewarm(peak_lr=3e-3, min_lr=3e-5, warmup=Share(1, 20))
    assert schedule_text(warm, warm, total) == "warm-up over 5 % of the stage to 0.003, then to 3e-05"
    curve = CosineFrom(start=CurvePoint(schedule=trunk, tokens=total, at=Tokens(0)), min_lr=1e-4)
    assert schedule_text(Continue(min_lr=1e-4), curve, total) == "continued from 0.01 to 0.0001"
    matched = Matched(trunk_share=Share(0), min_lr=1e-4)
    assert schedule_text(matched, curve, total) == "from 0.01, the trunk's rate at 0 %, to 0.0001"
    half = CurvePoint(schedule=trunk, tokens=Tokens(2000), at=Tokens(1000))
    rates = trunk.lr(Tokens(1000), Tokens(2000)), trunk.min_lr
    assert schedule_text(SameCurve(), half, total) == (
        f"on the curve of the stage before from {rates[0]:.3g} to {rates[1]:.3g}"
    )
    assert schedule_text(trunk, trunk, total) == "from 0.01, then to 3e-05"
