"""The shipped study, counted by hand: what is one node, what reads what, what comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.graph import Graph, build_graph, render_tree, trunk_cuts
from firstsight.plan.step import Step
from firstsight.recipe.mixture import Mixture, WeightedSource
from firstsight.recipe.scales import Scale, branch_at, get_scale
from firstsight.recipe.stages import TRUNK_GRID, Finetune, Midtrain, Pretrain
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.studies.encoders import encoders
from firstsight.studies.frozen import frozen
from firstsight.studies.ladder import ladder
from firstsight.studies.when import trunk_arm, when
from firstsight.studies.when_controls import when_controls
from firstsight.units import Share, Tokens

SMOKE = build_graph(when(get_scale("smoke")))
BIG = build_graph(when(get_scale("1b")))


def of_kind(graph: Graph, kind: str) -> list[Step]:
    return [step for step in graph.steps if step.kind == kind]


def starts(*percents: int, scale: str = "smoke", seeds: int = 1) -> Graph:
    arms = [branch_at(get_scale(scale), Share(percent, 100)) for percent in percents]
    return build_graph(Study(name="some", scale=scale, question="?", arms=over_seeds(arms, range(1, seeds + 1))))


def test_the_when_study_is_as_many_steps_as_by_hand() -> None:
    counts = {kind: len(of_kind(SMOKE, kind)) for kind in dict.fromkeys(step.kind for step in SMOKE.steps)}
    assert counts == {
        "texts": 1, "vocabulary": 1, "captions": 2, "dialogues": 1, "benchmarks": 1, "prepare": 3, "contrast": 1,
        "encode": 2, "pretrain": 5, "midtrain": 6, "finetune": 6, "evaluate": 7,
    }  # fmt: skip


def test_named_weights_have_no_encode_step_and_are_leaves() -> None:
    assert not of_kind(BIG, "encode") and not of_kind(BIG, "contrast")
    assert sorted(step.spec.form for step in of_kind(BIG, "named")) == [
        "benchmarks", "captions", "dialogues", "encoder", "text", "tokenizer",
    ]  # fmt: skip


def test_roles_are_those_of_the_contract() -> None:
    roles = {step.kind: [role for role, _ in step.needs] for step in SMOKE.arms["start-080.s1"]}
    sees = ["image0", "image0.source", "image0.features", "encoder0"]
    assert roles == {
        "texts": [], "vocabulary": [], "captions": [], "dialogues": [], "benchmarks": [],
        "prepare": ["source", "tokenizer"],
        "contrast": ["captions"],
        "encode": ["source", "index", "encoder0"],
        "pretrain": ["previous", "tokenizer", "text0"],
        "midtrain": ["trunk", "tokenizer", "text0", *sees],
        "finetune": ["previous", "tokenizer", "text0", *sees],
        "evaluate": ["checkpoint", "benchmarks"],
    }  # fmt: skip
    (first, *_) = [step for step in SMOKE.arms["start-080.s1"] if step.kind == "pretrain"]
    assert [role for role, _ in first.needs] == ["tokenizer", "text0"]


def test_an_arm_from_nothing_has_no_trunk() -> None:
    (midtrain,) = [step for step in SMOKE.arms["start-000.s1"] if step.kind == "midtrain"]
    assert midtrain.parent("trunk") is None and midtrain.parent("previous") is None
    assert not [step for step in SMOKE.arms["start-000.s1"] if step.kind == "pretrain"]


def test_arms_share_the_segments_up_to_where_they_leave() -> None:
    users = SMOKE.arms_by_step()
    shared = {step.slug: len(users[step]) for step in of_kind(SMOKE, "pretrain")}
    assert shared == {
        "pretrain-000-020": 6, "pretrain-020-040": 5, "pretrain-040-060": 4, "pretrain-060-080": 3,
        "pretrain-080-100": 2,
    }  # fmt: skip


def test_segments_chain_and_do_not_depend_on_later_ones() -> None:
    short, long = (
        [step.address for step in of_kind(starts(*cuts), "pretrain")] for cuts in ((20, 40), (20, 40, 60, 100))
    )
    assert short == long[:2]
    spans = [(step.spec.start, step.spec.end) for step in of_kind(starts(100, 20, 60), "pretrain")]
    assert spans == list(pairwise((Share(0), *TRUNK_GRID)))


def test_starts_between_the_cuts_of_all_studies_branch_off_their_trunk() -> None:
    plan = starts(80, 50, 55, scale="1b")
    slugs = [step.slug for step in of_kind(plan, "pretrain")]
    assert sorted(slugs) == [
        "pretrain-000-020", "pretrain-020-040", "pretrain-040-050", "pretrain-040-055", "pretrain-040-060",
        "pretrain-060-080",
    ]  # fmt: skip


@given(steps=st.integers(1, 60), start=st.integers(1, 1000).map(lambda permille: Share(permille, 1000)))
def test_cuts_of_any_trunk(steps: int, start: Share) -> None:
    """Every segment has a step, and a chain ends at its start after those of the grid before it."""
    pretrain = get_scale("smoke").base.pretrain
    assert isinstance(pretrain, Pretrain)
    pretrain = replace(pretrain, tokens=Tokens(steps * pretrain.row_shape.tokens_per_step))
    cuts = trunk_cuts(pretrain, start)
    ends = [pretrain.tokens_at(cut) for cut in cuts]
    assert all(first < last for first, last in pairwise([0, *ends])) and cuts[-1] == start
    assert set(cuts[:-1]) <= set(TRUNK_GRID)
    reached = {pretrain.tokens_at(cut) for cut in TRUNK_GRID if cut <= start}
    assert set(ends) == reached | {pretrain.tokens_at(start)}
    assert trunk_cuts(pretrain, Share(0)) == ()


@pytest.mark.parametrize("function", [when_controls, encoders, frozen, ladder])
@pytest.mark.parametrize("scale", ["smoke", "1b"])
def test_studies_share_the_trunk_of_when(function: Callable[[Scale], Study], scale: str) -> None:
    """Every study has the text model at the end of the trunk, so all trunk segments of `when`."""
    trunks = [of_kind(build_graph(study(get_scale(scale))), "pretrain") for study in (when, function)]
    assert {step.address for step in trunks[0]} <= {step.address for step in trunks[1]}
    assert function is ladder or len(trunks[0]) == len(trunks[1]) == len(TRUNK_GRID) * get_scale(scale).seeds


def various_arms() -> list[Arm]:
    """Arms that differ in start, image share, budget, epochs and schedule; some read more than the scale's sources."""
    arms: list[Arm] = []
    for percent in (0, 30, 50, 80, 100):
        base = branch_at(get_scale("smoke"), Share(percent, 100))
        midtrain, finetune = base.stages
        assert isinstance(midtrain, Midtrain) and isinstance(finetune, Finetune)
        no_images = replace(midtrain, mix=replace(midtrain.mix, image_share=Share(0)))
        longer = replace(midtrain, tokens=Tokens(3 * midtrain.tokens))
        variants = {
            "plain": base.stages,
            "text": (no_images, finetune),
            "longer": (longer, finetune),
            "tuned": (midtrain, replace(finetune, epochs=3)),
            "twice": (midtrain, longer, finetune),
        }
        arms += [replace(base, name=f"{name}-{percent}", stages=stages) for name, stages in variants.items()]
    return [*arms, replace(trunk_arm(get_scale("smoke")), name="trunk")]


ARMS = various_arms()
ALONE = {arm.name: build_graph(Study(name="one", scale="smoke", question="?", arms=(arm,))) for arm in ARMS}


@settings(max_examples=25)
@given(st.lists(st.sampled_from(ARMS), min_size=2, max_size=6, unique_by=lambda arm: arm.name))
def test_an_arm_has_the_same_steps_in_every_study(arms: list[Arm]) -> None:
    """So two studies in one store never train the same thing twice, in whatever order they run."""
    graph = build_graph(Study(name="some", scale="smoke", question="?", arms=tuple(arms)))
    for arm in arms:
        assert set(graph.arms[arm.label]) == set(ALONE[arm.name].steps)
    assert set(graph.steps) == {step for arm in arms for step in ALONE[arm.name].steps}


def test_seeds_share_data_and_the_encoder_but_no_training() -> None:
    one, two = starts(0, 80), starts(0, 80, seeds=2)
    trained = ("pretrain", "midtrain", "finetune", "evaluate")
    for kind in {step.kind for step in one.steps}:
        assert len(of_kind(two, kind)) == len(of_kind(one, kind)) * (2 if kind in trained else 1)


def test_parents_come_first_and_the_first_seed_before_the_second() -> None:
    plan = starts(0, 40, 80, seeds=2)
    for position, step in enumerate(plan.steps):
        assert {parent for _, parent in step.needs} <= set(plan.steps[:position])
    seeds = [step.spec.seed for step in plan.steps if step.kind in ("midtrain", "finetune")]
    assert seeds == sorted(seeds)
    kinds = [step.kind for step in plan.steps]
    assert kinds.index("midtrain") > [n for n, kind in enumerate(kinds) if kind == "pretrain"][1]


def test_patches_need_pixels_and_nothing_else() -> None:
    arm = branch_at(get_scale("smoke"), Share(4, 5))
    patches = PatchProjectionSpec(image_size=48, patch_size=12, width=128, fit="resize")
    stages = tuple(replace(stage, model=replace(stage.model, vision=patches)) for stage in arm.stages)
    plan = build_graph(Study(name="patches", scale="smoke", question="?", arms=(replace(arm, stages=stages),)))
    (midtrain,) = of_kind(plan, "midtrain")
    assert [role for role, _ in midtrain.needs] == ["trunk", "tokenizer", "text0", "image0", "image0.source"]
    assert not of_kind(plan, "contrast") and not of_kind(plan, "encode")


def test_two_image_sources_and_two_stages_in_a_row() -> None:
    arm = branch_at(get_scale("smoke"), Share(4, 5))
    first, tune = arm.stages
    both = Mixture(
        components=(
            WeightedSource(source=first.mix.images.sources[0], share=Share(4, 5), max_epochs=1),
            WeightedSource(source=tune.mix.images.sources[0], share=Share(1, 5), max_epochs=1),
        ),
        share_unit="rows",
    )
    second = replace(first, mix=replace(first.mix, images=both))
    plan = build_graph(
        Study(name="two", scale="smoke", question="?", arms=(replace(arm, stages=(first, second, tune)),))
    )
    early, late = of_kind(plan, "midtrain")
    assert late.parent("previous") == early and late.parent("trunk") is None
    assert [role for role, _ in late.needs if role.startswith("image1")] == [
        "image1",
        "image1.source",
        "image1.features",
    ]


def test_an_arm_that_trains_nothing_is_refused() -> None:
    arm = replace(branch_at(get_scale("smoke"), Share(0)), stages=())
    with pytest.raises(QuantityError, match="nothing is trained"):
        build_graph(Study(name="none", scale="smoke", question="?", arms=(arm,)))


def test_finding_steps_and_arms() -> None:
    step = of_kind(SMOKE, "contrast")[0]
    assert SMOKE.find_step("contrast") == SMOKE.find_step(step.address[-12:]) == step
    assert SMOKE.final_step("start-020.s1").kind == "evaluate"
    with pytest.raises(UnknownName):
        SMOKE.final_step("start-030.s1")


@pytest.mark.parametrize("plan", [SMOKE, BIG, starts(0, 20, 40, 60, 80, 100, seeds=2)], ids=["smoke", "1b", "12 arms"])
def test_the_tree_prints_every_step_once_and_marks_sharing(plan: Graph) -> None:
    lines = render_tree(plan, stored_addresses=[plan.steps[0].address])
    text = "\n".join(lines)
    assert all(text.count(step.address) == 1 for step in plan.steps)
    assert all(label in text for label in plan.arms)
    assert "shared by 5 arms" in text and text.count("[stored]") == 1
    assert len(lines) <= len(plan.steps)


def test_twelve_arms_fit_on_a_screen() -> None:
    assert len(render_tree(starts(0, 20, 40, 60, 80, 100, seeds=2))) <= 40
