"""A public run in place of a trunk: starts and learning rates of branches, shared steps, errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import cos, pi
from typing import Any

import pytest

from firstsight.errors import QuantityError
from firstsight.plan.estimate import DeviceSpec, estimate_cost, estimate_step
from firstsight.plan.graph import Graph, build_graph, render_tree
from firstsight.plan.schedules import stage_table, training_lines
from firstsight.plan.step import field_differences
from firstsight.recipe import serialize
from firstsight.recipe.mixture import External
from firstsight.recipe.scales import Scale, branch_at, get_scale
from firstsight.recipe.scales.models import openlm_1b, tinyllama_1b
from firstsight.recipe.schedule import Rewarm
from firstsight.recipe.stages import Donor, RowShape
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.units import Share, Tokens

ROWS = RowShape(batch_size=1024, length=2048)
WHOLE = Tokens(1_430_512 * ROWS.tokens_per_step)
"""TinyLlama's declared run: 1,430,512 steps of about two million tokens."""


def named(name: str, form: Any = "checkpoint") -> External:
    return External(name=name, form=form, tokens=Tokens(0))


DONOR = Donor(
    model=tinyllama_1b(),
    tokenizer=named("llama-words", "tokenizer"),
    row_shape=ROWS,
    tokens=WHOLE,
    schedule=Rewarm(peak_lr=4e-4, min_lr=4e-5, warmup=Share(2_000, 1_430_512)),
    checkpoints=((Share(2, 5), named("tiny-40")), (Share(4, 5), named("tiny-80")), (Share(1), named("tiny-100"))),
)
LARGER_VOCAB = 32_064
"""The donor's 32,000 tokens and those that mark dialogues."""


def scale(donor: Donor = DONOR, **model: Any) -> Scale:
    """The paper's 1b scale on another trunk."""
    base = get_scale("1b").base
    lm = replace(donor.model, vocab_size=LARGER_VOCAB, **model)
    stages = tuple(
        replace(stage, model=replace(stage.model, lm=lm), tokenizer=named("chat-words", "tokenizer"))
        for stage in base.stages
    )
    return replace(get_scale("1b"), base=replace(base, pretrain=donor, stages=stages))


def planned(*arms: Arm, seeds: int = 1, content_ids: dict[str, str] | None = None) -> Graph:
    study = Study(name="donated", scale="1b", question="?", arms=over_seeds(arms, range(1, seeds + 1)))
    return build_graph(study, content_ids or {})


def arms(*percents: int) -> list[Arm]:
    return [branch_at(scale(), Share(percent, 100)) for percent in percents]


def test_a_branch_starts_at_the_donor_s_checkpoint_and_nothing_of_its_run_is_trained() -> None:
    plan = planned(*arms(40, 80))
    assert not [step for step in plan.steps if step.kind == "pretrain"]
    for label, name in (("start-040.s1", "tiny-40"), ("start-080.s1", "tiny-80")):
        (branch,) = [step for step in plan.arms[label] if step.kind == "midtrain"]
        trunk = branch.parent("trunk")
        assert trunk is not None and trunk.kind == "named" and trunk.spec == named(name)
        assert [role for role, _ in branch.needs][:3] == ["trunk", "tokenizer", "text0"]


def declared_lr(percent: int) -> float:
    """The donor's rate there: warm-up to 4e-4 over 2,000 steps, then a cosine to 4e-5 over the rest."""
    part = (-(-1_430_512 * percent // 100) - 2_000) / (1_430_512 - 2_000)
    return 4e-5 + 0.5 * (4e-4 - 4e-5) * (1 + cos(pi * part))


def test_a_branch_continues_the_rate_that_the_donor_had_there() -> None:
    for percent in (40, 80):
        stage = branch_at(scale(), Share(percent, 100)).resolved_stages()[0]
        assert stage.lr(Tokens(0)) == pytest.approx(declared_lr(percent), rel=1e-12)
    assert isinstance(branch_at(scale(), Share(1)).stages[0].schedule, Rewarm)


def test_seeds_share_the_checkpoint_and_start_0_needs_none() -> None:
    plan = planned(*arms(0, 40), seeds=2)
    assert len([step for step in plan.steps if step.donor_model]) == 1
    assert len([step for step in plan.steps if step.kind == "midtrain"]) == 4
    for seed in (1, 2):
        (first,) = [step for step in plan.arms[f"start-000.s{seed}"] if step.kind == "midtrain"]
        assert first.parent("trunk") is None and first.spec.seed == seed
    assert {arm.pretrain for arm in over_seeds(arms(40), [1, 2])} == {DONOR}


def test_an_arm_without_stages_evaluates_the_checkpoint_itself() -> None:
    arm = arms(80)[0]
    evaluated = replace(
        arm, name="evaluated", stages=(), evaluate=replace(arm.evaluate, vision_tasks=(), text_tasks=("boolq", "piqa"))
    )
    evaluation = planned(evaluated).final_step("evaluated.s1")
    checkpoint = evaluation.parent("checkpoint")
    assert checkpoint is not None and checkpoint.spec == named("tiny-80")
    assert estimate_step(evaluation).flops == 2 * 5_000 * 64 * tinyllama_1b().flops(64)


def test_the_content_of_the_checkpoint_moves_the_address_and_its_name_does_not() -> None:
    donor = replace(DONOR, checkpoints=((Share(2, 5), named("mine")),))
    graph, renamed = planned(*arms(40), content_ids={"tiny-40": "a" * 64}), branch_at(scale(donor), Share(2, 5))
    assert planned(renamed, content_ids={"mine": "a" * 64}).steps == graph.steps
    other = planned(*arms(40), content_ids={"tiny-40": "b" * 64})
    moved = [new.kind for old, new in zip(graph.steps, other.steps, strict=True) if old != new]
    assert moved == ["named", "midtrain", "finetune", "evaluate"]
    (difference,) = field_differences(graph.final_step("start-040.s1"), other.final_step("start-040.s1"))
    assert (difference.first, difference.second) == ("a" * 64, "b" * 64) and difference.path.endswith(
        "needs.trunk.spec.digest"
    )
    assert "tiny-40" in planned(*arms(40)).undigested_names()


def test_the_tree_the_branches_and_the_bill_show_the_donor() -> None:
    plan = planned(*arms(40, 80), seeds=2)
    lines = render_tree(plan)
    text = "\n".join(lines)
    assert all(text.count(step.address) == 1 for step in plan.steps)
    data, models = text.split("models")
    assert "named-tiny-40" not in data and "named-tiny-40" in models and "shared by 2 arms" in models
    study = Study(name="donated", scale="1b", question="?", arms=tuple(arms(40, 80)))
    output = " ".join([*training_lines(study), *(cell for row in stage_table(study) for cell in row)])
    assert f"donor: {WHOLE:,} tokens, learning rate 0 to 0.0004 to 4e-05, 0.1398 % warm-up; checkpoints: " in output
    assert "checkpoints: tiny-40 at 40 %, tiny-80 at 80 %" in output
    assert (
        "the text of a branch starts at its first row" in output
        and f"Continue {declared_lr(40):.4g} to 3e-05" in output
    )
    rows = {
        row.step.spec.name: row.cost
        for row in estimate_cost(plan, DeviceSpec("h100", utilisation=0.4)).step_costs
        if row.step.donor_model
    }
    assert set(rows) == {"tiny-40", "tiny-80"}
    for price in rows.values():
        assert (price.flops, price.tokens, price.stored_bytes) == (
            0,
            0,
            4 * 1_100_048_384,
        )  # TinyLlama's published count


def test_arms_of_a_donor_differ_field_by_field_and_survive_the_canonical_form() -> None:
    first, second = arms(40, 80)
    paths = {difference.path for difference in field_differences(first, second)}
    assert paths == {"name", "start", "at.start"}
    assert serialize.from_json(serialize.to_json(DONOR)) == DONOR


REFUSED: list[tuple[Callable[[], object], str]] = [
    (lambda: planned(*arms(20)), "wanted a checkpoint of the donor at 20 % of its run. Got 40 %, 80 %, 100 %"),
    (
        lambda: planned(branch_at(scale(heads=16), Share(2, 5))),
        "midtrain.model.lm.heads: wanted 32, as in the model before. Got 16",
    ),
    (
        lambda: planned(branch_at(scale(eps=1e-6), Share(2, 5))),
        "midtrain.model.lm.eps: wanted 1e-05, as in the model before. Got 1e-06",
    ),
    (
        lambda: planned(branch_at(scale(replace(DONOR, model=openlm_1b())), Share(2, 5))),
        "midtrain.model.lm.vocab_size: wanted at least 50432, the model before's. Got 32064",
    ),
    (lambda: replace(DONOR, checkpoints=((Share(1, 2), named("x", "encoder")),)), "x: wanted an External of form che"),
    (lambda: replace(DONOR, checkpoints=((Share(0), named("x")),)), "above 0"),
    (lambda: replace(DONOR, checkpoints=()), "Got none"),
    (lambda: replace(DONOR, checkpoints=((Share(1), named("x")), (Share(1), named("y")))), "Got two at 100 %"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED, ids=[words[:40] for _, words in REFUSED])
def test_contradictions_with_the_donor_are_errors(make: Callable[[], object], words: str) -> None:
    with pytest.raises(QuantityError) as refused:
        make()
    assert words in str(refused.value)


def test_another_tokenizer_needs_a_larger_vocabulary() -> None:
    arm = branch_at(scale(), Share(2, 5))
    lm = DONOR.model
    stages = tuple(replace(stage, model=replace(stage.model, lm=lm)) for stage in arm.stages)
    with pytest.raises(QuantityError, match=r"wanted that of the model before, External\(name='llama-words'"):
        planned(replace(arm, stages=stages))
    own = tuple(replace(stage, tokenizer=DONOR.tokenizer) for stage in stages)
    assert planned(replace(arm, stages=own)).final_step("start-040.s1")
