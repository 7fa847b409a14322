"""Rows, segments, and what trains in a stage."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import FieldError, QuantityError
from firstsight.recipe.scales import get_scale
from firstsight.recipe.stages import Finetune, LastCheckpoints, ModuleTraining, RowShape, Trains, TrunkSegment
from firstsight.recipe.vision import PatchProjectionSpec
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


def test_lengths_and_sizes_are_above_0() -> None:
    base = get_scale("smoke").base
    midtrain, finetune = base.stages
    changes = [(base.pretrain, "tokens"), (midtrain, "tokens"), (finetune, "epoch_tokens"), (finetune, "epochs")]
    changes += [(midtrain.row_shape, "batch_size"), (midtrain.row_shape, "length")]
    for spec, field in changes:
        for value in (0, -1):
            message = rf"^{type(spec).__name__}\.{field}: wanted at least 1\. Got {value}\."
            with pytest.raises(FieldError, match=message):
                replace(spec, **{field: value})


TRAINED = ModuleTraining(lr_scale=0.1, weight_decay=0.05)


def test_an_encoder_trains_only_where_the_checkpoint_has_it() -> None:
    arm = get_scale("1b").base
    for stage in arm.stages:
        trains = replace(stage.trains, encoder=TRAINED)
        with pytest.raises(
            QuantityError, match=r"no encoder to train\. .* encoder=.included. in the model of this stage"
        ):
            replace(stage, trains=trains)
        included = replace(stage.model, encoder="included")
        assert replace(stage, model=included, trains=trains).trains.encoder == TRAINED
        assert replace(stage, model=included).trains.encoder is None
    patches = PatchProjectionSpec(image_size=384, patch_size=14, width=1152, fit="resize")
    patch_model = replace(arm.stages[0].model, vision=patches)
    with pytest.raises(QuantityError, match=r"no encoder to train\. Write encoder=None\.$"):
        replace(arm.stages[0], model=patch_model, trains=replace(arm.stages[0].trains, encoder=TRAINED))


def test_a_stage_trains_something_and_a_trunk_only_its_decoder() -> None:
    arm = get_scale("1b").base
    nothing = Trains(decoder=None, projector=None, encoder=None)
    for stage in (arm.pretrain, *arm.stages):
        with pytest.raises(QuantityError, match="every module is frozen"):
            replace(stage, trains=nothing)
    for field in ("projector", "encoder"):
        with pytest.raises(QuantityError, match="a text model has a decoder only"):
            replace(arm.pretrain, trains=replace(nothing, decoder=TRAINED, **{field: TRAINED}))


@pytest.mark.parametrize(("lr_scale", "weight_decay"), [(0.0, 0.1), (-0.1, 0.1), (math.nan, 0.1), (1.0, -1.0)])
def test_a_trained_module_has_a_rate_and_a_decay(lr_scale: float, weight_decay: float) -> None:
    with pytest.raises(QuantityError, match=rf"Got lr_scale={lr_scale} and weight_decay={weight_decay}\. Write None"):
        ModuleTraining(lr_scale=lr_scale, weight_decay=weight_decay)


@given(steps=st.integers(1, 400), count=st.integers(2, 6), every=st.fractions(Share(1, 60), Share(1, 3)))
def test_last_checkpoints_are_whole_steps_apart_by_at_least_the_share(steps: int, count: int, every: Share) -> None:
    stage = get_scale("smoke").base.stages[-1]
    step = stage.row_shape.tokens_per_step
    assert isinstance(stage, Finetune)
    stage = replace(stage, epoch_tokens=Tokens(steps * step))
    assert stage.checkpoint_tokens == (steps * step,)
    last = LastCheckpoints(count=count, every=Share(every))
    places = replace(stage, last_checkpoints=last).checkpoint_tokens
    [spacing] = {first - second for first, second in itertools.pairwise(places)}
    assert len(places) == count and places[0] == steps * step
    assert spacing % step == 0 and 0 <= spacing - every * steps * step < step


@pytest.mark.parametrize("fields", [{"count": 1}, {"every": Share(0)}, {"every": Share(1)}])
def test_last_checkpoints_are_several_within_the_stage(fields: dict[str, Any]) -> None:
    with pytest.raises(QuantityError, match="last_checkpoints=None"):
        LastCheckpoints(**{"count": 4, "every": Share(1, 20), **fields})


@pytest.mark.parametrize("fields", [{"average": 2}, {"each_of_last": 2}, {"checkpoint": -1}])
def test_an_earlier_checkpoint_is_evaluated_alone(fields: dict[str, int]) -> None:
    with pytest.raises(QuantityError, match="averages none"):
        replace(get_scale("smoke").base.evaluate, **{"checkpoint": 1, **fields})


@pytest.mark.parametrize("fields", [{"average": 0}, {"each_of_last": 1}, {"each_of_last": -1}])
def test_an_evaluation_reads_at_least_one_checkpoint(fields: dict[str, int]) -> None:
    with pytest.raises(QuantityError, match="averages at least 1"):
        replace(get_scale("smoke").base.evaluate, **fields)
