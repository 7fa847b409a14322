"""Rows, segments and the settings of an encoder that trains."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import QuantityError
from firstsight.recipe.scales import get_scale
from firstsight.recipe.stages import AdamWSpec, Midtrain, RowShape, TrunkSegment
from firstsight.units import Share, Tokens


@given(st.integers(1, 10**14), st.integers(1, 4096), st.integers(1, 8192))
def test_steps_and_rows_cover_a_budget(tokens: int, batch_size: int, length: int) -> None:
    shape = RowShape(batch_size=batch_size, length=length)
    steps = shape.steps(Tokens(tokens))
    assert (steps - 1) * batch_size * length < tokens <= steps * batch_size * length == shape.round_up(Tokens(tokens))
    assert shape.rows(Tokens(tokens)) == steps * batch_size


@given(st.integers(0, 100), st.integers(1, 10**12))
def test_shares_of_a_trunk_fall_on_whole_steps(percent: int, tokens: int) -> None:
    pretrain = replace(get_scale("smoke").base.pretrain, tokens=Tokens(tokens))
    position, step = pretrain.tokens_at(Share(percent, 100)), pretrain.row_shape.tokens_per_step
    assert position % step == 0 and position - step < tokens * percent / 100 <= position


def test_segments_join_without_gap_or_overlap() -> None:
    pretrain = get_scale("1b").base.pretrain
    cuts = [Share(p, 100) for p in range(0, 101, 20)]
    parts = [TrunkSegment(pretrain=pretrain, start=a, end=b) for a, b in itertools.pairwise(cuts)]
    assert (
        sum(part.tokens for part in parts)
        == pretrain.tokens_at(Share(1))
        == pretrain.row_shape.round_up(pretrain.tokens)
    )


def test_a_segment_must_not_be_empty() -> None:
    pretrain = get_scale("1b").base.pretrain
    with pytest.raises(QuantityError, match="Got 20 % to 20 %"):
        TrunkSegment(pretrain=pretrain, start=Share(1, 5), end=Share(1, 5))


def optim(**encoder: float) -> AdamWSpec:
    return replace(get_scale("1b").base.stages[0].optim, **encoder)


def test_encoder_settings_need_an_encoder_that_trains() -> None:
    arm = get_scale("1b").base
    midtrain = arm.stages[0]
    assert isinstance(midtrain, Midtrain)
    with pytest.raises(
        QuantityError, match=r"its encoder is frozen\. Got encoder_lr_scale=0\.1 .* set encoder=.trained"
    ):
        replace(midtrain, optim=optim(encoder_lr_scale=0.1))
    with pytest.raises(QuantityError, match=r"encoder_weight_decay=0\.05"):
        replace(arm.stages[1], optim=optim(encoder_weight_decay=0.05))
    with pytest.raises(QuantityError, match="it has no encoder"):
        replace(get_scale("1b").base.pretrain, optim=optim(encoder_lr_scale=0.1))
    with pytest.raises(QuantityError, match=r"0 or above\. Got encoder_lr_scale=-0.1"):
        optim(encoder_lr_scale=-0.1)
    with pytest.raises(QuantityError, match="encoder_weight_decay=-1"):
        optim(encoder_weight_decay=-1.0)
    trained = replace(midtrain.model, encoder="trained")
    assert (
        replace(
            midtrain, model=trained, optim=optim(encoder_lr_scale=0.1, encoder_weight_decay=0.05)
        ).optim.encoder_lr_scale
        == 0.1
    )
