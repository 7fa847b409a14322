"""Differences name every field once, in a step and in its inputs."""

from __future__ import annotations

from dataclasses import replace

from firstsight.plan.graph import build_graph
from firstsight.plan.step import Step, differences_of_pairs, field_differences
from firstsight.recipe.mixture import External, Mixture, ShareSpan, WeightedSource
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.study import Arm, Study
from firstsight.studies.when import when
from firstsight.units import Share, Tokens


def arm(start: int = 80) -> Arm:
    return branch_at(get_scale("smoke"), Share(start, 100))


def final(arm: Arm) -> Step:
    return build_graph(Study(name="one", scale="smoke", question="?", arms=(arm,))).final_step(arm.label)


def test_difference_follows_into_parents_and_reports_a_trunk_once() -> None:
    other = replace(arm(), pretrain=replace(arm().pretrain, seed=7))
    paths = [difference.path for difference in field_differences(final(arm()), final(other))]
    assert paths == ["needs.checkpoint.needs.previous.needs.trunk.spec.pretrain.seed"]


def test_difference_between_starts_ends_where_one_side_has_nothing() -> None:
    differences = field_differences(final(arm(0)), final(arm(80)))
    last = next(item for item in differences if item.path.endswith("needs.trunk"))
    assert last.first == "(absent)" and last.second.startswith("pretrain-060-080-")


def test_difference_of_a_trunk_segment_names_the_field_once_over_the_whole_chain() -> None:
    scale = get_scale("smoke")
    study = when(scale)
    slower = replace(scale.base.pretrain.schedule, peak_lr=1e-3)
    moved = replace(study, arms=tuple(replace(a, pretrain=replace(a.pretrain, schedule=slower)) for a in study.arms))
    differences = field_differences(
        build_graph(study).final_step("start-060.s1"), build_graph(moved).final_step("start-060.s1")
    )
    paths = [item.path.rpartition("spec.")[2] for item in differences]
    assert paths == ["schedule.start.schedule.peak_lr", "pretrain.schedule.peak_lr"]


def test_difference_between_arms_names_their_fields() -> None:
    differences = {
        difference.path: (difference.first, difference.second) for difference in field_differences(arm(20), arm(80))
    }
    assert differences["name"] == ("start-020", "start-080")
    assert set(differences) == {"name", "start", "at.start"}
    assert field_differences(arm(), arm()) == ()


def test_a_difference_prints_both_sides() -> None:
    shares = field_differences(arm(20).start, arm(80).start)
    assert [str(item) for item in shares] == [": 1/5 | 4/5"]


def test_a_staged_share_and_a_new_part_print_as_they_are_written() -> None:
    stage = arm().stages[0]
    growing = (ShareSpan(end=Share(1, 2), share=Share(1, 4)), ShareSpan(end=Share(1), share=Share(3, 4)))
    (share,) = field_differences(stage.mix, replace(stage.mix, image_share=growing))
    assert str(share) == "image_share: 4/5 | [share_span(end=1/2, share=1/4), share_span(end=1/1, share=3/4)]"
    (only,) = stage.mix.text.components
    half = replace(only, share=Share(1, 2))
    notes = WeightedSource(
        source=External(name="notes", form="text", tokens=Tokens(0)), share=Share(1, 2), max_epochs=2
    )
    differences = field_differences(stage.mix.text, Mixture(components=(half, notes), share_unit="rows"))
    assert [item.path for item in differences] == ["components.0.share", "components.1"]
    assert str(differences[1]).startswith(
        "components.1: (absent) | weighted_source(source=external(name=notes, form=text, tok"
    )


def test_differences_of_pairs_are_those_of_each_two() -> None:
    arms = {str(start): arm(start) for start in (0, 20, 80)}
    pairs = differences_of_pairs(arms)
    assert list(pairs) == [("0", "20"), ("0", "80"), ("20", "80")]
    assert all(pairs[a, b] == field_differences(arms[a], arms[b]) for a, b in pairs)
    assert pairs["20", "80"][0].texts == ("start-020", "start-080")
