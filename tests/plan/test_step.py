"""Addresses: equal for equal work, different for every field; differences name the fields."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from firstsight.errors import RequestError, UnknownName
from firstsight.plan.graph import MODEL_KINDS, build_graph
from firstsight.plan.step import STEP_VERSIONS, Step, field_differences, find_address
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.serialize import from_json, to_json
from firstsight.recipe.stages import ModuleTraining
from firstsight.recipe.study import Arm, Study
from firstsight.studies.when import when
from firstsight.units import Share

OTHER_WORDS = {
    "rich": "noisy",
    "training": "all",
    "determined": "all",
    "all": "training",
    "best_fit": "one_image_per_row",
    "mlp2": "mlp3",
    "carried": "fresh",
    "layer": "rms",
    "resize": "letterbox",
    "external": "included",
    "causal": "prefix",
    None: to_json(ModuleTraining(lr_scale=1.0, weight_decay=0.0)),
}
"""Another legal value for every word in the specs, and for a frozen encoder."""


def arm(start: int = 80) -> Arm:
    return branch_at(get_scale("smoke"), Share(start, 100))


def final(arm: Arm) -> Step:
    return build_graph(Study(name="one", scale="smoke", question="?", arms=(arm,))).final_step(arm.label)


def leaf_paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every leaf of a canonical JSON value except tags."""
    if isinstance(value, dict):
        return [leaf for key in value if key != "type" for leaf in leaf_paths(value[key], (*path, key))]
    if isinstance(value, list):
        return [leaf for index, item in enumerate(value) for leaf in leaf_paths(item, (*path, index))]
    return [path]


def with_other_leaf(value: Any, path: tuple[Any, ...]) -> Any:
    """The value with another one of its type at `path`."""
    if not path:
        match value:
            case bool():
                return not value
            case int():
                return 2 * value if value > 1 else 2  # even heads stay even, and divisible
            case float():
                return value / 2  # a minimum stays below its peak
            case _:
                return OTHER_WORDS[value]
    head, *rest = path
    body = list(value) if isinstance(value, list) else dict(value)
    body[head] = 1 if head == "kv_heads" else with_other_leaf(value[head], tuple(rest))
    return body


MIDTRAIN = next(parent for role, parent in final(arm()).needs if role == "checkpoint").parent("previous")
INCLUDED = replace(MIDTRAIN, spec=replace(MIDTRAIN.spec, model=replace(MIDTRAIN.spec.model, encoder="included")))
"""With an encoder that may be trained."""
LEAVES = [path for path in leaf_paths(to_json(MIDTRAIN.spec)) if path[-1] not in ("value", "share_unit")]


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(map(str, path)))
def test_every_field_of_a_spec_moves_the_address(path: tuple[Any, ...]) -> None:
    step = INCLUDED if path == ("trains", "encoder") else MIDTRAIN
    changed = replace(step, spec=from_json(with_other_leaf(to_json(step.spec), path)))
    assert changed.address != step.address
    assert [difference.path for difference in field_differences(step, changed)] == [".".join(map(str, ("spec", *path)))]


def test_shares_kind_version_and_parents_move_the_address() -> None:
    moved = replace(MIDTRAIN.spec, mix=replace(MIDTRAIN.spec.mix, image_share=Share(1, 3)))
    others = [
        replace(MIDTRAIN, spec=moved),
        replace(MIDTRAIN, kind="finetune"),
        replace(MIDTRAIN, version=MIDTRAIN.version + 1),
        replace(MIDTRAIN, needs=MIDTRAIN.needs[1:]),
        replace(MIDTRAIN, needs=(("previous", MIDTRAIN.needs[0][1]), *MIDTRAIN.needs[1:])),
        replace(
            MIDTRAIN,
            needs=(
                ("trunk", replace(MIDTRAIN.needs[0][1], version=MIDTRAIN.needs[0][1].version + 1)),
                *MIDTRAIN.needs[1:],
            ),
        ),
    ]
    assert len({MIDTRAIN.address, *(other.address for other in others)}) == 7


def test_the_order_of_needs_is_not_part_of_the_identity() -> None:
    reordered = replace(MIDTRAIN, needs=tuple(reversed(MIDTRAIN.needs)))
    assert reordered == MIDTRAIN and hash(reordered) == hash(MIDTRAIN)


def test_a_whole_study_has_the_same_addresses_when_built_again() -> None:
    first, second = (build_graph(when(get_scale("smoke"))) for _ in range(2))
    assert [step.address for step in first.steps] == [step.address for step in second.steps]


def test_an_address_reads_as_kind_hint_and_digest() -> None:
    assert MIDTRAIN.slug == "midtrain-080-images"
    digest = MIDTRAIN.address.removeprefix("midtrain-080-images-")
    assert len(digest) == 12 and set(digest) <= set("0123456789abcdef")


def test_every_kind_has_a_version() -> None:
    kinds = {step.kind for scale in ("smoke", "1b") for step in build_graph(when(get_scale(scale))).steps}
    assert kinds <= set(STEP_VERSIONS)


def test_find_takes_addresses_and_digests_but_no_doubt() -> None:
    known = ["texts-aaaabbbbcccc", "texts-aaaaddddeeee", "captions-rich-ffffbbbbcccc"]
    assert find_address("captions", known) == find_address("ffff", known) == known[2]
    assert find_address("aaaad", known) == known[1]
    with pytest.raises(RequestError, match="matches 2 steps"):
        find_address("texts", known)
    with pytest.raises(UnknownName):
        find_address("zzz", known)


def test_every_spec_in_the_plan_is_a_frozen_value() -> None:
    for step in build_graph(when(get_scale("smoke"))).steps:
        assert is_dataclass(step.spec) and fields(step.spec)
        assert from_json(to_json(step.spec)) == step.spec


def test_addresses_move_with_the_number_and_the_spacing_of_last_checkpoints() -> None:
    """Those of the last stage and of the evaluation; what comes before them is shared."""

    def steps(**options: Any) -> dict[str, str]:
        study = Study(name="one", scale="smoke", question="?", arms=(arm(),)).with_last_checkpoints(**options)
        return {step.kind: step.address for step in build_graph(study).steps if step.kind in MODEL_KINDS}

    options: list[dict[str, Any]] = [{}, {"average": 2}, {"average": 3}, {"each": 3}, {"average": 2, "each": 3}]
    options += [{"average": 2, "every": Share(1, 10)}]
    graphs = [steps(**chosen) for chosen in options]
    assert len({graph["evaluate"] for graph in graphs}) == len(options)
    assert len({graph["finetune"] for graph in graphs}) == 4, "none, 2, 3 and 2 at another spacing"
    assert len({(graph["pretrain"], graph["midtrain"]) for graph in graphs}) == 1
