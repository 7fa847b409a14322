"""The study `paper`: every shipped study of the paper as one graph, which holds no step twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.plan.estimate import DeviceSpec, estimate_cost
from firstsight.plan.graph import build_graph
from firstsight.recipe.scales import SCALES, get_scale
from firstsight.studies import shipped_function, shipped_studies
from firstsight.studies.paper import paper

PARTS = [name for name in shipped_studies() if name not in ("ladder", "paper")]


@pytest.mark.parametrize("scale", [name for name in SCALES if name != "evening"])
def test_the_parts_are_all_shipped_studies_of_the_paper(scale: str) -> None:
    study = paper(get_scale(scale))
    assert study.parts == tuple(shipped_function(name)(get_scale(scale)) for name in PARTS)
    names = [f"{part.name}.{arm.label}" for part in study.parts for arm in part.arms]
    assert [arm.label for arm in study.arms] == names


@pytest.mark.parametrize("scale", ["smoke", "cpu", "1b"])
def test_one_graph_has_the_steps_of_every_study_once(scale: str) -> None:
    study = paper(replace(get_scale(scale), seeds=1))
    graph = build_graph(study)
    parts = [build_graph(part) for part in study.parts]
    assert set(graph.steps) == {step for part in parts for step in part.steps}
    assert len({step.address for step in graph.steps}) == len(graph.steps)
    cost = estimate_cost(graph, DeviceSpec("cpu", utilisation=0.4))
    assert cost.total.flops <= 0.4 * cost.unshared_total.flops, "what sharing must save at least"


@pytest.mark.parametrize("scale", ["smoke", "79m", "1b", "7b"])
def test_every_claim_is_complete_and_about_arms_of_its_study(scale: str) -> None:
    for part in paper(get_scale(scale)).parts:
        names = {arm.name for arm in part.arms}
        for claim in part.claims:
            assert claim.source and claim.published and claim.caution, claim.name
            assert all({*comparison.arms, *comparison.others} <= names for comparison in claim.compare), claim.name
