"""Resolved schedules: every stage's rates follow from the stages and the trunk before it, at any length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import cos, pi

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import QuantityError
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.schedule import Continue, CosineFrom, CurvePoint, LRSchedule, Matched, Rewarm, SameCurve
from firstsight.recipe.stages import Finetune, Midtrain
from firstsight.recipe.study import Arm
from firstsight.units import Share, Tokens

SCALE = get_scale("smoke")
TRUNK = SCALE.base.pretrain
STEP = TRUNK.row_shape.tokens_per_step
REWARM = Rewarm(peak_lr=1e-3, min_lr=1e-5, warmup=Share(1, 10))
lengths = st.integers(1, 50 * STEP).map(Tokens)
starts = st.fractions(Share(1, 20), Share(9, 10), max_denominator=100).map(Share)


def arm(*stages: Midtrain | Finetune, start: Share = Share(4, 5)) -> Arm:
    return replace(SCALE.base, name="arm", start=start, stages=stages)


def midtrain(schedule: LRSchedule, tokens: int = 20 * STEP) -> Midtrain:
    stage = SCALE.base.stages[0]
    assert isinstance(stage, Midtrain)
    return replace(stage, schedule=schedule, tokens=Tokens(tokens))


def finetune(schedule: LRSchedule, epoch_tokens: int = 20 * STEP, epochs: int = 1) -> Finetune:
    stage = SCALE.base.stages[1]
    assert isinstance(stage, Finetune)
    return replace(stage, schedule=schedule, epoch_tokens=Tokens(epoch_tokens), epochs=epochs)


def rates(stage: Midtrain | Finetune) -> list[float]:
    """The rate of every update of a resolved stage."""
    steps = stage.row_shape.steps(stage.tokens)
    return [stage.lr(Tokens(STEP * number)) for number in range(1, steps + 1)]


@given(lengths, st.integers(1, 6))
def test_a_replaced_length_is_the_schedules_length(tokens: Tokens, epochs: int) -> None:
    """Doubled tokens or other epochs: the warm-up keeps its share, only the last update has the minimum."""
    stages = arm(midtrain(REWARM, 2 * tokens), finetune(replace(REWARM, min_lr=0.0), tokens, epochs)).resolved_stages()
    for stage, minimum in zip(stages, (1e-5, 0.0), strict=True):
        curve = rates(stage)
        warmup = len(curve) // 10
        assert curve[-1] == minimum and all(rate > minimum for rate in curve[max(0, warmup) : -1])
        assert curve[:warmup] == sorted(curve[:warmup]) and all(a > b for a, b in pairwise(curve[warmup:]))
        assert 0 not in curve[:-1]


@given(starts, lengths)
def test_a_branch_continues_the_trunks_rate_at_that_very_token(start: Share, tokens: Tokens) -> None:
    (stage,) = arm(midtrain(Continue(min_lr=0.0), tokens), start=start).resolved_stages()
    assert stage.lr(Tokens(0)) == TRUNK.lr(TRUNK.tokens_at(start))
    assert rates(stage)[-1] == 0 and 0 not in rates(stage)[:-1]


@given(starts, lengths, lengths)
def test_any_stage_continues_the_rate_that_the_stage_before_ends_with(
    start: Share, tokens: Tokens, epoch_tokens: Tokens
) -> None:
    stages = arm(
        midtrain(Continue(min_lr=1e-5), tokens),
        finetune(Continue(min_lr=5e-6), epoch_tokens, 2),
        midtrain(Continue(min_lr=0.0), tokens),
        start=start,
    ).resolved_stages()
    for before, after in pairwise(stages):
        assert after.lr(Tokens(0)) == before.lr(before.rounded_tokens)
    assert [rates(stage)[-1] for stage in stages] == [1e-5, 5e-6, 0.0]
    curve = [rate for stage in stages for rate in rates(stage)]
    assert all(a > b for a, b in pairwise(curve))


@given(starts, starts, lengths)
def test_matched_has_the_rates_of_the_arm_that_continues_there(share: Share, start: Share, tokens: Tokens) -> None:
    (control,) = arm(midtrain(Matched(trunk_share=share, min_lr=1e-6), tokens), start=start).resolved_stages()
    (reference,) = arm(midtrain(Continue(min_lr=1e-6), tokens), start=share).resolved_stages()
    assert rates(control) == rates(reference)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.sampled_from([REWARM, Continue(min_lr=1e-6)]))
def test_stages_on_one_curve_have_the_rates_of_one_long_stage(steps: list[int], schedule: LRSchedule) -> None:
    """PaliGemma: the image-text phase and fine-tuning decay along one curve."""
    first, *later = [number * STEP for number in steps]
    parts = [
        midtrain(SameCurve(), tokens) if number else finetune(SameCurve(), tokens)
        for number, tokens in enumerate(later)
    ]
    stages = arm(midtrain(schedule, first), *parts).resolved_stages()
    (whole,) = arm(midtrain(schedule, sum(steps) * STEP)).resolved_stages()
    assert [rate for stage in stages for rate in rates(stage)] == rates(whole)


def test_a_stage_continues_the_end_of_a_curve_that_spans_two() -> None:
    *_, last = arm(midtrain(REWARM), finetune(SameCurve()), finetune(Continue(min_lr=0.0))).resolved_stages()
    assert last.lr(Tokens(0)) == REWARM.min_lr


def test_resolved_numbers_are_those_of_the_recipe_and_never_a_cosine() -> None:
    """The rates of a curve enter no address: other machines may compute another last bit."""
    stages = arm(midtrain(Continue(min_lr=1e-5)), finetune(SameCurve())).resolved_stages()
    point = CurvePoint(schedule=TRUNK.schedule, tokens=Tokens(40 * STEP), at=Tokens(32 * STEP))
    curve = CosineFrom(start=point, min_lr=1e-5)
    assert [stage.schedule for stage in stages] == [
        CurvePoint(schedule=curve, tokens=Tokens(40 * STEP), at=Tokens(0)),
        CurvePoint(schedule=curve, tokens=Tokens(40 * STEP), at=Tokens(20 * STEP)),
    ]


@pytest.mark.parametrize("name", ["smoke", "cpu"])
def test_the_built_in_scales_have_these_rates(name: str) -> None:
    """Their formulas as plain arithmetic, to the last bit: stored results keep their meaning."""
    trunk_steps, steps, tune_steps = (40, 20, 20) if name == "smoke" else (2400, 720, 1080)
    step_tokens = 16 * 64 if name == "smoke" else 8 * 64
    trunk, total, tune = (number * step_tokens for number in (trunk_steps, steps, tune_steps))
    (branch, tuned) = branch_at(get_scale(name), Share(4, 5)).resolved_stages()
    at = trunk * 4 // 5 - trunk // 20
    start = 12e-6 + 0.5 * (1 + cos(pi * at / (trunk - trunk // 20))) * (4e-3 - 12e-6)
    (warm, _) = branch_at(get_scale(name), Share(1)).resolved_stages()
    warmup, tune_warmup = total * 5000 // 109_848, tune * 3 // 100
    for number in range(1, steps):
        seen = number * step_tokens
        assert branch.lr(Tokens(seen)) == 3e-5 + 0.5 * (1 + cos(pi * seen / total)) * (start - 3e-5)
        part = 0.5 * (1 + cos(pi * (seen - warmup) / (total - warmup)))
        assert warm.lr(Tokens(seen)) == (3e-3 * seen / warmup if seen < warmup else 3e-5 + part * (3e-3 - 3e-5))
    for seen in range(step_tokens, tune, step_tokens):
        part = 0.5 * (1 + cos(pi * (seen - tune_warmup) / (tune - tune_warmup)))
        assert tuned.lr(Tokens(seen)) == (4e-3 * seen / tune_warmup if seen < tune_warmup else part * 4e-3)


REFUSED: list[tuple[Sequence[Midtrain | Finetune], Share, str]] = [
    (
        [midtrain(SameCurve())],
        Share(1, 2),
        r"arm\.s0: stages\[0\]: midtrain\.schedule: SameCurve .* Got the first",
    ),
    (
        [midtrain(Continue(min_lr=0.0))],
        Share(0),
        r"arm\.s0: stages\[0\]: midtrain\.schedule: Continue needs a trained model",
    ),
    (
        [midtrain(Continue(min_lr=3e-5))],
        Share(1),
        r"Continue starts at a rate of 1\.2e-05; wanted one above 0 and not below min_lr=3e-05",
    ),
    (
        [midtrain(replace(REWARM, min_lr=0.0)), finetune(Continue(min_lr=0.0))],
        Share(1),
        r"arm\.s0: stages\[1\]: finetune\.schedule: Continue starts at a rate of 0; .* Write a lower min_lr, or Rewarm",
    ),
    (
        [midtrain(Matched(trunk_share=Share(0), min_lr=0.0))],
        Share(1),
        r"midtrain\.schedule: Matched starts at a rate of 0",
    ),
    (
        arm(midtrain(Continue(min_lr=0.0))).resolved_stages(),
        Share(1),
        r"wanted a schedule of a recipe\. Got CosineFrom, which Arm\.resolved_stages derives",
    ),
]


@pytest.mark.parametrize(("stages", "start", "message"), REFUSED)
def test_schedules_with_nothing_to_continue_are_refused(
    stages: Sequence[Midtrain | Finetune], start: Share, message: str
) -> None:
    with pytest.raises(QuantityError, match=message):
        arm(*stages, start=start).resolved_stages()


def test_an_unresolved_schedule_has_no_rates() -> None:
    with pytest.raises(QuantityError, match=r"Got Continue, whose rates .* Take the stage from Arm\.resolved_stages"):
        midtrain(Continue(min_lr=0.0)).lr(Tokens(0))
