"""Stored features of published encoders: which steps share them, how large they are, and what a small site changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.model.tiny_encoders import DINOV2, SIGLIP

from firstsight.errors import QuantityError
from firstsight.plan.features import FeatureRoom, encoded_bytes
from firstsight.plan.graph import Graph, build_graph
from firstsight.plan.step import Step, step_digest
from firstsight.recipe.mixture import External
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.serialize import to_json
from firstsight.recipe.stages import Encode
from firstsight.recipe.study import Arm, Study, over_seeds
from firstsight.recipe.vision import FusedEncoders, Siglip
from firstsight.units import Share, Tokens

SCALE = get_scale("smoke")
PUBLISHED = External(name="siglip", form="encoder", tokens=Tokens(0))


def published(start: Share, *, stores_features: bool = True) -> Arm:
    """A branch of smoke whose encoder has published weights."""
    arm = branch_at(SCALE, start)
    vision = arm.stages[0].model.vision
    assert isinstance(vision, Siglip)
    vision = replace(vision, weights=PUBLISHED)
    model = replace(arm.stages[0].model, vision=vision, stores_features=stores_features)
    return replace(arm, stages=tuple(replace(stage, model=model) for stage in arm.stages))


def graph_of(*arms: Arm, seeds: int = 1, room: FeatureRoom | None = None) -> Graph:
    study = Study(name="some", scale="smoke", question="?", arms=over_seeds(arms, range(1, seeds + 1)))
    return build_graph(study, room=room)


def of_kind(graph: Graph, kind: str) -> list[Step]:
    return [step for step in graph.steps if step.kind == kind]


ARMS = published(Share(4, 5)), published(Share(0))


def test_arms_stages_and_seeds_share_the_features_of_a_source() -> None:
    graph = graph_of(*ARMS, seeds=3)
    encodes, trained = of_kind(graph, "encode"), [*of_kind(graph, "midtrain"), *of_kind(graph, "finetune")]
    assert len(encodes) == 2 and len(trained) == 12
    assert {step.parent("image0.features") for step in trained} == set(encodes)


def test_features_are_in_no_address_and_their_switch_is() -> None:
    """Where a site has no room the graph lacks the encode steps, and every other step has its address."""
    stored, afresh = graph_of(*ARMS), graph_of(*ARMS, room=FeatureRoom(0))
    assert not of_kind(afresh, "encode") and len(of_kind(stored, "encode")) == 2
    assert [step for step in stored.steps if step.kind != "encode"] == list(afresh.steps)
    switched_off = graph_of(*(published(start, stores_features=False) for start in (Share(4, 5), Share(0))))
    assert not of_kind(switched_off, "encode")
    assert not {*of_kind(switched_off, "midtrain")} & {*of_kind(stored, "midtrain")}


def test_a_record_with_features_has_the_digest_of_its_step() -> None:
    """As the store checks it: from the JSON of the spec and the addresses of all inputs."""
    (step, *_) = of_kind(graph_of(*ARMS), "midtrain")
    needs = {role: parent.address for role, parent in step.needs}
    assert "image0.features" in needs
    digest = step_digest(step.kind, to_json(step.spec), needs, version=step.version, content_ids={})
    assert step.address.endswith(digest)


@given(st.integers(0, 3))
def test_what_has_room_never_exceeds_it(stages: int) -> None:
    """With room for so many of the four encodings, stage by stage, in order."""
    doubled = replace(ARMS[0], name="doubled")
    vision = ARMS[0].stages[0].model.vision
    assert isinstance(vision, Siglip)
    larger = replace(vision, vit=replace(vision.vit, width=vision.vit.width * 2))
    model = replace(ARMS[0].stages[0].model, vision=larger)
    doubled = replace(doubled, stages=tuple(replace(stage, model=model) for stage in doubled.stages))
    sizes = [encoded_bytes(step.spec) for step in of_kind(graph_of(ARMS[0], doubled), "encode")]
    graph = graph_of(ARMS[0], doubled, room=FeatureRoom(sum(sizes[:stages])))
    assert [encoded_bytes(step.spec) for step in of_kind(graph, "encode")][:stages] == sizes[:stages]
    assert sum(encoded_bytes(step.spec) for step in of_kind(graph, "encode")) <= sum(sizes[:stages])


def test_stored_features_take_no_room() -> None:
    encodes = of_kind(graph_of(*ARMS), "encode")
    stored = {step.address: encoded_bytes(step.spec) for step in encodes}
    assert of_kind(graph_of(*ARMS, room=FeatureRoom(0, stored)), "encode") == encodes


def test_bytes_are_those_of_float16_numbers() -> None:
    source = External(name="pairs", form="captions", tokens=Tokens(0), records=1000)
    vision = FusedEncoders(first=SIGLIP, second=DINOV2)
    assert encoded_bytes(Encode(source=source, vision=vision)) == 1000 * 16 * (16 + 24) * 2
    assert encoded_bytes(Encode(source=replace(source, records=0), vision=vision)) == 0


def test_features_of_a_trained_encoder_are_not_stored() -> None:
    model: VLMSpec = ARMS[0].stages[0].model
    with pytest.raises(QuantityError, match=r"cannot be stored\. Leave stores_features out"):
        replace(model, encoder="included")
