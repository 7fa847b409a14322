"""The study `ladder`: the arms of `when` at several sizes of decoder, which share their data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.errors import QuantityError
from firstsight.plan.graph import build_graph
from firstsight.recipe.analysis import Bars, DecisionAccuracy, Sweep
from firstsight.recipe.scales import REWARMED, get_scale, smaller_sizes
from firstsight.recipe.study import Arm, Study
from firstsight.studies.encoders import encoders
from firstsight.studies.ladder import at_sizes, ladder
from firstsight.studies.when import when
from firstsight.studies.when_controls import when_controls
from firstsight.units import Share

SMOKE = get_scale("smoke")
NARROW = {"narrow": smaller_sizes(SMOKE)["w64"]}


def of_width(arm: Arm, width: int) -> Arm:
    """An arm of `when` in the built-in world with another width of decoder, with the same name."""
    change = {"width": width, "heads": width // 32, "kv_heads": width // 32, "mlp_width": 4 * width}
    stages = (replace(s, model=replace(s.model, lm=replace(s.model.lm, **change))) for s in arm.stages)
    trunk = replace(arm.pretrain, model=replace(arm.pretrain.model, **change))  # type: ignore[arg-type]
    return replace(arm, pretrain=trunk, stages=tuple(stages))


@pytest.mark.parametrize("name", ["smoke", "cpu"])
def test_arms_of_the_built_in_world_differ_in_the_width_only(name: str) -> None:
    scale = get_scale(name)
    study, reference = ladder(scale), when(scale)
    assert len(study.arms) == 3 * len(reference.arms)
    for base in reference.arms:
        for suffix, width, size in (("-w32", 32, 99_360), ("-w64", 64, 329_792), ("", 128, 1_183_872)):
            arm = study.arm(f"{base.name}{suffix}.s{base.seed}")
            assert arm.at == {**base.at, "decoder_size": size}
            assert replace(arm, name=base.name, at=base.at) == of_width(base, width)
    assert study.claims == reference.claims


@pytest.mark.parametrize(("name", "seeds", "steps"), [("smoke", 2, 156), ("cpu", 1, 84)])
def test_sizes_share_the_data_and_the_encoder(name: str, seeds: int, steps: int) -> None:
    """Each of three sizes has per seed 5 segments of its trunk, 6 arms of 2 stages, and 7 evaluations: 24 steps."""
    scale, shared = replace(get_scale(name), seeds=seeds), 12
    graph = build_graph(ladder(scale))
    assert len(graph.steps) == steps == shared + 3 * 24 * seeds
    own = {step.address for step in build_graph(when(scale)).steps}
    assert own <= {step.address for step in graph.steps}, "a stored `when` is a part of its ladder"
    assert len(own) == shared + 24 * seeds


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("154m", ["79m"]), ("411m", ["79m", "154m"]), ("1b", ["79m", "154m", "411m"])],
)
def test_sizes_of_the_paper_have_their_own_budgets(name: str, sizes: list[str]) -> None:
    study = ladder(replace(get_scale(name), seeds=2))
    largest = {arm.label: replace(arm, at={}) for arm in study.arms if not arm.name.endswith("m")}
    assert largest == {arm.label: replace(arm, at={}) for arm in when(replace(get_scale(name), seeds=2)).arms}
    for size in sizes:
        for base in when(replace(get_scale(size), seeds=2)).arms:
            arm = study.arm(f"{base.name}-{size}.s{base.seed}")
            assert replace(arm, name=base.name, at=base.at) == base
    parameters = [arm.at["decoder_size"] for arm in study.arms if arm.name.startswith("trunk") and arm.seed == 1]
    assert len(parameters) == len(sizes) + 1 and parameters == sorted(parameters)  # type: ignore[type-var]
    # Per size and seed 24 steps as above; tokenizer, text, captions, dialogues with an index each, encoder, benchmarks.
    assert len(build_graph(study).steps) == 24 * 2 * (len(sizes) + 1) + 9


def test_at_the_full_horizon_arms_of_one_size_see_equally_many_tokens() -> None:
    study = ladder(get_scale("154m"), horizon="full")
    totals = {(arm.at["decoder_size"], arm.total_tokens()) for arm in study.arms if arm.stages}
    assert len(totals) == len({size for size, _ in totals}) == 2


def test_fewer_starts_have_the_claims_and_marks_that_are_left() -> None:
    study = ladder(SMOKE, starts="40%, 80%")
    assert {arm.at["start"] for arm in study.arms if arm.stages} == {Share(2, 5), Share(4, 5)}
    assert study.figures == (Sweep(x="start", lines="decoder_size"),)
    assert [claim.name for claim in study.claims] == ["text-kept"]
    full = ladder(SMOKE)
    assert full.figures == (Sweep(x="start", lines="decoder_size", hollow=REWARMED),)
    assert full.decision_accuracy == DecisionAccuracy(axis="decoder_size")


@pytest.mark.parametrize(
    ("starts", "message"), [("80%", "two or more different"), ("80%,80%", "two or"), ("80%,x", "--starts: .*x")]
)
def test_starts_that_cannot_be_compared(starts: str, message: str) -> None:
    with pytest.raises(QuantityError, match=message):
        ladder(SMOKE, starts=starts)


def test_the_smallest_size_has_no_ladder() -> None:
    with pytest.raises(
        QuantityError, match=r"smaller sizes\. Got 79m\. Name one of smoke, cpu, hour, 154m, 411m, 1b, 7b"
    ):
        ladder(get_scale("79m"))


def test_any_study_at_several_sizes() -> None:
    schedules = at_sizes(when_controls, smaller=NARROW, largest=SMOKE)
    assert {axis.name for axis in schedules.axes} == {"start", "schedule", "decoder_size"}
    assert schedules.drawn_figures == (Bars(),), "several arms of one size have one start"
    assert {arm.name for arm in schedules.arms} >= {"start-080-rewarm", "start-080-rewarm-narrow"}
    kinds = at_sizes(encoders, smaller=NARROW, largest=SMOKE)
    assert kinds.figures == (Sweep(x="decoder_size", lines="encoder"),)
    build_graph(kinds)


def test_counterparts_must_be_known() -> None:
    study = ladder(SMOKE)
    arms = [arm for arm in study.arms if arm.stages]
    one_size = [arm for arm in arms if arm.at["decoder_size"] == 99_360]
    made = {"name": "x", "scale": "smoke", "question": "?", "axes": study.axes}
    accuracy = DecisionAccuracy(axis="decoder_size")
    with pytest.raises(QuantityError, match=r"two sizes or more. Got 99.4k"):
        Study(**made, arms=tuple(one_size), decision_accuracy=accuracy)
    twice = (*arms, replace(arms[0], name="again"))
    with pytest.raises(QuantityError, match=r"counterparts .* Got start-000-w32 and again with the same"):
        Study(**made, arms=twice, figures=(Bars(),), decision_accuracy=accuracy)
    with pytest.raises(QuantityError, match="numeric axis"):
        replace(kinds := encoders(SMOKE), decision_accuracy=DecisionAccuracy(axis=kinds.axes[0].name))
