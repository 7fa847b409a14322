"""Addresses of the user's own data depend on its content, not on its name or path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import StoreError
from firstsight.plan.graph import Graph, build_graph, render_tree
from firstsight.plan.step import content_key, field_differences
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.store import Store
from firstsight.recipe.mixture import External, Recaptioned, single_source
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.serialize import to_json
from firstsight.recipe.stages import Prepare
from firstsight.recipe.study import Arm, Study
from firstsight.units import Share, Tokens

ARM = branch_at(get_scale("1b"), Share(4, 5))
ANY_FILES = StepHandler(function="", outputs=("**",))
CONTENT_IDS = {
    "dclm-mix": "d" * 64,
    "datacomp-dr-1b with synthetic captions": "c" * 64,
    "llava-v1.5-multimodal": "a" * 64,
    "gpt-neox-20b": "7" * 64,
    "siglip-so400m-patch14-384": "5" * 64,
    "paper-benchmarks": "b" * 64,
}


def planned(arm: Arm, content_ids: dict[str, str]) -> Graph:
    return build_graph(Study(name="one", scale="1b", question="?", arms=(arm,)), content_ids)


def renamed(value: Any, names: dict[str, str]) -> Any:
    """The same spec with other names for its sources."""
    from firstsight.recipe.serialize import from_json

    def walk(part: Any) -> Any:
        if isinstance(part, list):
            return [walk(item) for item in part]
        if isinstance(part, dict):
            return {key: names.get(item, item) if key == "name" else walk(item) for key, item in part.items()}
        return part

    return from_json(walk(to_json(value)))


def addresses(steps: Graph) -> list[str]:
    return [step.address for step in steps.steps]


def test_names_do_not_matter_where_content_is_known() -> None:
    names = {"dclm-mix": "mine", "gpt-neox-20b": "words", "llava-v1.5-multimodal": "turns"}
    other = replace(
        ARM,
        pretrain=renamed(ARM.pretrain, names),
        stages=tuple(renamed(stage, names) for stage in ARM.stages),
    )
    content_ids = {names.get(name, name): digest for name, digest in CONTENT_IDS.items()}
    assert addresses(planned(other, content_ids)) == addresses(planned(ARM, CONTENT_IDS))
    unmoved = set(addresses(planned(other, {}))) & set(addresses(planned(ARM, {})))
    assert {address.split("-")[0] for address in unmoved} == {"named"} and len(
        unmoved
    ) == 3  # the names that did not change
    assert not any(name in address for name in CONTENT_IDS for address in addresses(planned(ARM, CONTENT_IDS)))


def test_a_declared_size_does_not_matter() -> None:
    def sized(tokens: int) -> Arm:
        text = single_source(External(name="dclm-mix", form="text", tokens=Tokens(tokens)))
        return replace(ARM, pretrain=replace(ARM.pretrain, text=text))

    assert addresses(planned(sized(0), CONTENT_IDS)) == addresses(planned(sized(10**15), CONTENT_IDS))


@pytest.mark.parametrize("name", list(CONTENT_IDS))
def test_every_content_moves_what_reads_it_and_nothing_else(name: str) -> None:
    before, after = planned(ARM, CONTENT_IDS), planned(ARM, {**CONTENT_IDS, name: "e" * 64})
    reads = {
        "dclm-mix": {"named", "prepare", "pretrain", "midtrain", "finetune", "evaluate"},
        "datacomp-dr-1b with synthetic captions": {"named", "prepare", "midtrain", "finetune", "evaluate"},
        "llava-v1.5-multimodal": {"named", "prepare", "finetune", "evaluate"},
        "gpt-neox-20b": {"named", "prepare", "pretrain", "midtrain", "finetune", "evaluate"},
        "siglip-so400m-patch14-384": {"named", "midtrain", "finetune", "evaluate"},
        "paper-benchmarks": {"named", "evaluate"},
    }[name]
    moved = [new.kind for old, new in zip(before.steps, after.steps, strict=True) if old != new]
    assert set(moved) == reads and moved.count("named") == 1
    assert moved.count("prepare") == {"gpt-neox-20b": 3}.get(name, int("prepare" in reads))
    (first, *_) = field_differences(before.final_step("start-080.s0"), after.final_step("start-080.s0"))
    assert first.second == "e" * 64 and first.path.endswith("digest")


def test_content_read_in_two_ways_is_two_contents() -> None:
    captions = ARM.stages[0].mix.images.sources[0]
    assert isinstance(captions, Recaptioned)
    real = single_source(captions.external)
    stage = replace(ARM.stages[0], mix=replace(ARM.stages[0].mix, images=real))
    both = Study(name="two", scale="1b", question="?", arms=(ARM, replace(ARM, name="real", stages=(stage,))))
    content_ids = {**CONTENT_IDS, "datacomp-dr-1b": "f" * 64}
    assert content_key(captions) in content_ids and content_key(captions.external) in content_ids
    leaves = [step for step in build_graph(both, content_ids).steps if step.spec == captions.external]
    assert len(leaves) == 2 and build_graph(both, content_ids).undigested_names() == ()
    assert build_graph(both, CONTENT_IDS).undigested_names() == ("datacomp-dr-1b",)


def test_names_without_a_digest_are_listed_and_names_stay_readable() -> None:
    assert len(planned(ARM, {}).undigested_names()) == 6 and planned(ARM, CONTENT_IDS).undigested_names() == ()
    drawn = "\n".join(render_tree(planned(ARM, CONTENT_IDS)))
    for name in ("dclm-mix", "datacomp-dr-1b", "gpt-neox-20b", "paper-benchmarks"):
        assert f"({name})" in drawn


def test_an_adopted_folder_is_linked_not_copied(tmp_path: Path) -> None:
    steps = planned(ARM, CONTENT_IDS)
    (step, *_) = [step for step in steps.steps if isinstance(step.spec, Prepare)]
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "deep" / "tokens.npy").write_bytes(b"12345")
    (made / "manifest.json").write_text("{}")
    (made / ".manifest.json.0123abcd.tmp").write_text("{")
    store = Store(tmp_path / "runs")
    leftover = store.work_path(step.address) / "left by a killed run"
    leftover.parent.mkdir()
    leftover.write_text("x")
    result = store.adopt(step, made, ANY_FILES)
    assert store.has(step.address) and store.verify(step.address) == ()
    assert sorted(store.provenance(step.address)["files"]) == ["deep/tokens.npy", "manifest.json"]
    assert (result / "deep" / "tokens.npy").stat().st_ino == (made / "deep" / "tokens.npy").stat().st_ino
    assert store.provenance(step.address)["identities"] == CONTENT_IDS
    assert store.adopt(step, tmp_path / "not read", ANY_FILES) == result


def test_two_runs_do_not_publish_the_same_at_once(tmp_path: Path) -> None:
    (step, *_) = [step for step in planned(ARM, CONTENT_IDS).steps if isinstance(step.spec, Prepare)]
    (tmp_path / "made").mkdir()
    store = Store(tmp_path / "runs")
    with store.lock(step.address) as is_free, pytest.raises(StoreError, match="another run"):
        assert is_free
        store.adopt(step, tmp_path / "made", ANY_FILES)
