"""Arms: names, seeds, and decoders that fit each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from firstsight.errors import FieldError, QuantityError, UnknownName
from firstsight.plan.graph import Graph, build_graph
from firstsight.recipe.scales import SCALES, branch_at, get_scale
from firstsight.recipe.stages import Finetune, LastCheckpoints, Midtrain, Trains
from firstsight.recipe.study import Arm, Study, combine, over_seeds
from firstsight.studies.encoders import encoders
from firstsight.studies.frozen import frozen
from firstsight.studies.when import trunk_arm, when
from firstsight.studies.when_controls import when_controls
from firstsight.units import Share

StudyMaker = Callable[..., Study]


def planned(arm: Arm) -> Graph:
    return build_graph(Study(name="one", scale="smoke", question="?", arms=over_seeds([arm], [1])))


def test_arms_with_one_name_twice_are_refused() -> None:
    study = when(get_scale("smoke"))
    with pytest.raises(QuantityError, match="different names"):
        replace(study, arms=study.arms + study.arms[:1])


def test_arms_are_found_by_label_or_name() -> None:
    study = replace(when(get_scale("smoke")), arms=over_seeds(when(get_scale("smoke")).arms[:2], [3, 5]))
    assert [arm.label for arm in study.arms] == ["trunk.s3", "start-000.s3", "trunk.s5", "start-000.s5"]
    assert study.arm("start-000.s5").seed == 5 and study.arm("start-000").seed == 3
    with pytest.raises(UnknownName, match=r"start-000\.s3"):
        study.arm("start-000.s4")


def test_a_seed_is_set_in_every_stage_and_changes_nothing_else() -> None:
    arm = get_scale("cpu").base
    other = arm.with_seed(7)
    assert {other.seed, other.pretrain.seed, *(stage.seed for stage in other.stages)} == {7}
    assert other.with_seed(0) == arm


def test_a_seed_of_one_stage_stays_as_far_from_the_arms() -> None:
    midtrain, finetune = get_scale("cpu").base.stages
    arm = replace(get_scale("cpu").base, stages=(midtrain, replace(finetune, seed=358)))
    assert [stage.seed for stage in arm.with_seed(7).stages] == [7, 365], "the seeds of the paper's Table 7"
    assert arm.with_seed(7).with_seed(0) == arm


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("study", [when, when_controls, encoders, frozen])
def test_at_the_full_horizon_all_arms_are_trained_on_equally_many_tokens(study: StudyMaker, name: str) -> None:
    scale = get_scale(name)
    for arm in study(scale, horizon="branch").arms:
        assert [stage.tokens for stage in arm.resolved_stages()] == [stage.tokens for stage in arm.stages]
    arms = [arm for arm in study(scale, horizon="full").arms if arm.stages]
    totals = {
        arm.pretrain.tokens_at(arm.start) + sum(stage.rounded_tokens for stage in arm.resolved_stages()) for arm in arms
    }
    stages = (scale.base.stages[0], arms[0].stages[1])
    assert totals == {scale.base.pretrain.rounded_tokens + sum(stage.rounded_tokens for stage in stages)}
    assert {arm.resolved_stages()[1].tokens for arm in arms} == {stages[1].tokens}


def test_a_branch_at_the_end_of_the_trunk_is_the_same_step_at_both_horizons() -> None:
    graphs = [build_graph(when(get_scale("79m"), horizon)) for horizon in ("branch", "full")]
    shared, changed = ("start-100.s1", "trunk.s1"), ("start-000.s1", "start-080.s1")
    assert all(graphs[0].final_step(label) == graphs[1].final_step(label) for label in shared)
    assert not any(graphs[0].final_step(label) == graphs[1].final_step(label) for label in changed)


def test_one_study_has_one_horizon() -> None:
    scale = get_scale("smoke")
    branch, full = (branch_at(each, Share(4, 5)) for each in (scale, scale.with_horizon("full")))
    arms = (branch, replace(full, name="longer"))
    message = r"mixed: arms .* one horizon\. Got two: start-080\.s0 has branch and longer\.s0 has full"
    with pytest.raises(QuantityError, match=message):
        Study(name="mixed", scale="smoke", question="?", arms=arms)
    assert Study(name="one", scale="smoke", question="?", arms=(full,)).horizon == "full"


def test_only_the_first_of_equal_stages_is_lengthened() -> None:
    arm = branch_at(get_scale("smoke").with_horizon("full"), Share(4, 5))
    first, second = replace(arm, stages=arm.stages[:1] * 2).resolved_stages()
    assert (first.tokens, second.tokens) == (28 * 1024, 20 * 1024)


def projector_only(stage: Midtrain | Finetune) -> Trains:
    return replace(stage.trains, decoder=None)


def test_a_warm_up_of_the_projector_is_not_lengthened() -> None:
    arm = branch_at(get_scale("smoke").with_horizon("full"), Share(4, 5))
    midtrain, finetune = arm.stages
    warm_up = replace(midtrain, trains=projector_only(midtrain))
    stages = replace(arm, stages=(warm_up, midtrain, finetune)).resolved_stages()
    assert [stage.tokens for stage in stages] == [20 * 1024, 28 * 1024, finetune.tokens]


def test_the_full_horizon_needs_a_stage_to_lengthen() -> None:
    arm = branch_at(get_scale("smoke").with_horizon("full"), Share(4, 5))
    midtrain, finetune = arm.stages
    warm_up = replace(midtrain, trains=projector_only(midtrain))
    for stages in ((finetune,), (warm_up, finetune)):
        with pytest.raises(QuantityError, match=r'start-080\.s0: horizon "full" lengthens a mid-training stage in'):
            replace(arm, stages=stages).resolved_stages()


def test_arms_that_see_different_numbers_of_tokens_are_refused_at_the_full_horizon() -> None:
    """The trunk of smoke has 40 steps of 1,024 tokens, mid-training 20 and fine-tuning 20."""
    scale = get_scale("smoke")
    for horizon in ("branch", "full"):
        first, second = (branch_at(scale.with_horizon(horizon), Share(part, 5)) for part in (1, 4))
        midtrain, finetune = second.stages
        twice = replace(second, name="twice", stages=(midtrain, midtrain, finetune))
        arms = (trunk_arm(scale.with_horizon(horizon)), first, second)
        assert Study(name="equal", scale="smoke", question="?", arms=arms).horizon == horizon
        if horizon == "branch":
            assert Study(name="longer", scale="smoke", question="?", arms=(*arms, twice)).arms[-1] == twice
            continue
        message = r"start-020 sees 81,920 and twice sees 102,400\. Make the sums .* equal"
        with pytest.raises(QuantityError, match=message):
            Study(name="longer", scale="smoke", question="?", arms=(*arms, twice))


@pytest.mark.parametrize("name", ["", "a/b", "..", "a..b", "-a", "a b", "ä", "a\n"])
def test_a_name_can_be_part_of_a_file_name_and_of_a_command(name: str) -> None:
    arm = get_scale("smoke").base
    with pytest.raises(FieldError, match=r"^Arm\.name: wanted a name for files and commands"):
        replace(arm, name=name)
    for field in ("name", "scale"):
        values = {"name": "one", "scale": "smoke"} | {field: name}
        with pytest.raises(FieldError, match=rf"^Study\.{field}: wanted a name for files and commands"):
            Study(**values, question="?", arms=(arm,))


def test_a_study_has_arms() -> None:
    with pytest.raises(QuantityError, match="one: wanted at least one arm"):
        Study(name="one", scale="smoke", question="?", arms=())


def test_last_checkpoints_are_those_of_the_last_stage_of_every_arm_that_has_one() -> None:
    study = when(get_scale("smoke"))
    changed = study.with_last_checkpoints(average=3, each=5, every=Share(1, 10))
    assert study.with_last_checkpoints() == study
    for before, after in zip(study.arms, changed.arms, strict=True):
        *earlier, last = after.stages or [None]
        if last is None:
            assert after == before and before.name == "trunk"
        else:
            assert tuple(earlier) == before.stages[:-1]
            assert last.last_checkpoints == LastCheckpoints(count=5, every=Share(1, 10))
            assert (after.evaluate.average, after.evaluate.each_of_last) == (3, 5)


def test_a_combined_study_has_the_arms_of_its_parts_under_longer_names() -> None:
    """Parts may have different horizons and compare their arms at totals of their own."""
    smoke = get_scale("smoke")
    parts = [when(smoke), when_controls(smoke, horizon="full")]
    study = combine("both", question="?", parts=parts)
    assert [arm.label for arm in study.arms] == [f"{part.name}.{arm.label}" for part in parts for arm in part.arms]
    for part in parts:
        for arm in part.arms:
            assert replace(study.arm(f"{part.name}.{arm.label}"), name=arm.name) == arm
    averaged = study.with_last_checkpoints(average=2)
    assert averaged == combine("both", question="?", parts=[part.with_last_checkpoints(average=2) for part in parts])
    with pytest.raises(QuantityError, match="different names"):
        combine("twice", question="?", parts=[parts[0], parts[0]])
