"""Budgets, counts and canonical forms against published numbers and round trips."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from firstsight.errors import QuantityError
from firstsight.recipe.lm import openlm_spec
from firstsight.recipe.scales import branch_at, scale_named
from firstsight.recipe.stages import Midtrain, TrunkSegment
from firstsight.studies.when import when
from firstsight.units import Share, Tokens, steps_for


@pytest.mark.parametrize(
    ("layers", "width", "heads", "published"),
    [(24, 2048, 16, 1_439_795_200), (32, 4096, 32, 6_889_410_560)],
)
def test_parameter_counts_are_the_published_ones_without_qk_gains(
    layers: int, width: int, heads: int, published: int
) -> None:
    spec = openlm_spec(layers=layers, width=width, heads=heads, vocab_size=50_432)
    assert spec.parameters() - layers * 2 * width == published


@pytest.mark.parametrize("name", ["79m", "154m", "411m", "1b"])
def test_trunks_are_150_times_20_tokens_a_parameter_and_branches_20(name: str) -> None:
    """Paper Table 2, M = 150: parameters without the gains of QK-norm, budgets rounded as the scale states them."""
    arm = scale_named(name).base
    lm = arm.pretrain.model
    count = lm.parameters() - lm.layers * 2 * lm.width
    assert arm.pretrain.tokens == pytest.approx(3_000 * count, rel=2e-3)
    assert arm.stages[0].tokens == pytest.approx(20 * count, rel=2e-3)


def test_the_paper_budget_rounds_up_to_its_step_count() -> None:
    assert steps_for(Tokens(28_795_904_000), batch_size=256, row_length=1024) == 109_848
    stage = branch_at(scale_named("1b"), Share(80, 100)).stages[0]
    assert isinstance(stage, Midtrain)
    assert stage.row_shape.steps(stage.tokens) == 109_848
    assert stage.tokens == 28_795_904_000


def test_arms_differ_in_where_they_enter_and_in_their_rate_alone() -> None:
    """Where text goes on is the checkpoint's to say: no later stage of an arm knows where images entered."""
    scale = scale_named("cpu")
    base = branch_at(scale, Share(4, 5))
    for percent in range(0, 101, 20):
        arm = branch_at(scale, Share(percent, 100))
        first, *later = arm.stages
        assert arm.pretrain == base.pretrain and tuple(later) == base.stages[1:]
        assert replace(first, schedule=base.stages[0].schedule) == base.stages[0]


def test_segments_join_without_gap_or_overlap() -> None:
    pretrain = scale_named("1b").base.pretrain
    cuts = [Share(p, 100) for p in range(0, 101, 20)]
    parts = [TrunkSegment(pretrain=pretrain, start=a, end=b) for a, b in itertools.pairwise(cuts)]
    assert (
        sum(part.tokens for part in parts)
        == pretrain.tokens_at(Share(1))
        == pretrain.row_shape.round_up(pretrain.tokens)
    )


def test_arms_with_one_name_twice_are_refused() -> None:
    study = when(scale_named("smoke"))
    with pytest.raises(QuantityError, match="different names"):
        replace(study, arms=study.arms + study.arms[:1])
