"""The study `seeds`: pairs of arms that differ in the seed of their fine-tuning alone, over shares and epochs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.plan.graph import build_graph
from firstsight.recipe.analysis import Grid
from firstsight.recipe.scales import SCALES, get_scale
from firstsight.recipe.scales.published import SEED_NOISE
from firstsight.recipe.stages import Finetune
from firstsight.studies.seeds import seeds
from firstsight.studies.when import when
from firstsight.units import Share

TABLE_7 = {
    7: [73.83, 75.39, 75.36, 76.39, 75.39, 76.5],
    365: [74.46, 75.9, 75.39, 76.47, 75.55, 76.58],
}
"""VQAv2 of the paper: 1, 5 and 10 % of images, each with one and two epochs of fine-tuning, by seed."""


@pytest.mark.parametrize("name", SCALES)
def test_pairs_differ_in_the_seed_of_fine_tuning_alone(name: str) -> None:
    scale = replace(get_scale(name), seeds=2)
    study = seeds(scale)
    own = when(scale).arm("start-020").stages[0].mix.image_share
    cells = {(arm.at["image_share"], arm.at["tuning"]) for arm in study.arms}
    shares = {Share(1, 100), Share(1, 20), own}
    texts = {f"{text}, {which} seed" for text in ("1 epoch", "2 epochs") for which in ("first", "second")}
    assert cells == {(share, text) for share in shares for text in texts}
    assert len(study.arms) == 2 * len(cells) == 24
    for first in study.arms:
        if not first.name.endswith("-b"):
            second = study.arm(f"{first.name}-b.s{first.seed}")
            *before, finetune = second.stages
            assert (*before, replace(finetune, seed=first.seed)) == first.stages
            assert finetune.seed - first.seed == 365 - 7 and {stage.seed for stage in first.stages} == {first.seed}
    assert study.figures == (Grid(x="image_share", y="tuning"),)


@pytest.mark.parametrize("name", ["cpu", "1b"])
def test_arms_of_the_own_share_and_epochs_are_steps_of_when(name: str) -> None:
    scale = replace(get_scale(name), seeds=1)
    graph, reference = build_graph(seeds(scale)), when(scale)
    stages = reference.arm("start-020").stages
    count, own = (stages[-1], stages[0].mix.image_share)
    assert isinstance(count, Finetune) and isinstance(own, Share)
    label = f"share-{int(100 * own):03d}-epochs-{count.epochs}.s1"
    assert graph.final_step(label) == build_graph(reference).final_step("start-020.s1")


def test_the_claim_tests_each_pair_in_both_directions_with_the_published_margin() -> None:
    (claim,) = seeds(get_scale("1b")).claims
    differences = [abs(a - b) for a, b in zip(*TABLE_7.values(), strict=True)]
    assert max(differences) == pytest.approx(0.63) and max(differences) < 100 * SEED_NOISE
    assert ".63 points in six pairs" in claim.published
    ends = {(part.arms, part.others, part.expect, part.margin) for part in claim.compare}
    names = [f"share-{share}-epochs-{count}" for share in ("001", "005", "010") for count in (1, 2)]
    assert ends == {
        ((name,), (f"{name}-b",), expect, margin)
        for name in names
        for expect, margin in (("more", -SEED_NOISE), ("less", SEED_NOISE))
    }
