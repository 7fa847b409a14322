"""Ten-line studies of the built-in world's interleaved documents and multitask data, through the real handlers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from firstsight.data.index import Index
from firstsight.data.verify_ledger import verify_ledgers
from firstsight.plan.graph import Graph, build_graph
from firstsight.plan.store import Store
from firstsight.recipe.mixture import SyntheticInterleaved, SyntheticMultitask, SyntheticWorld, single_source
from firstsight.recipe.scales import Scale, branch_at, get_scale
from firstsight.recipe.study import Arm, Study
from firstsight.units import Share
from firstsight.workspace.execute import HANDLERS, run_graph
from firstsight.workspace.preview import arm_stages, write_preview

WORLD = SyntheticWorld(objects=16, kinds=4, image_size=48, max_objects=4, seed=0)


def documents(scale: Scale) -> Study:
    """Does mid-training on interleaved documents differ with the number of images a document?"""

    def arm(max_images: int) -> Arm:
        base = branch_at(scale, Share(4, 5))
        source = SyntheticInterleaved(world=WORLD, documents=900, max_images=max_images)
        mid, fine = base.stages
        mix = replace(mid.mix, images=single_source(source, max_epochs=2))
        return replace(base, name=f"images-{max_images}", seed=1, stages=(replace(mid, mix=mix), fine))

    return Study(name="documents", scale=scale.name, question="Several images?", arms=(arm(1), arm(3)))


def multitask(scale: Scale) -> Study:
    """Do words to read in mid-training help? All other tasks keep their proportions."""

    def arm(words: Share) -> Arm:
        base, rest = branch_at(scale, Share(4, 5)), Share((1 - words) / 3)
        source = SyntheticMultitask(
            world=WORLD, images=800, turns=2, words=words, captions=rest, boxes=rest, dialogues=rest
        )
        stages = (replace(stage, mix=replace(stage.mix, images=single_source(source))) for stage in base.stages)
        return replace(base, name=f"words-{float(words * 100):.0f}", seed=1, stages=tuple(stages))

    return Study(name="multitask", scale=scale.name, question="Words?", arms=(arm(Share(0)), arm(Share(1, 2))))


def trained(study: Study) -> Graph:
    """The study's steps up to its checkpoints, without benchmarks and evaluation."""
    graph = build_graph(study)
    without = ("evaluate", "benchmarks")
    arms = {label: tuple(step for step in steps if step.kind not in without) for label, steps in graph.arms.items()}
    steps = tuple(step for step in graph.steps if step.kind not in without)
    return Graph(title=study.name, steps=steps, arms=arms, seeds=graph.seeds)


@pytest.mark.slow
@pytest.mark.parametrize(("function", "tag"), [(documents, "interleaved"), (multitask, "multitask")])
def test_a_study_trains_on_the_source_and_its_ledgers_are_verified(
    function: Callable[[Scale], Study], tag: str, tmp_path: Path
) -> None:
    study, store = function(get_scale("smoke")), Store(tmp_path)
    graph = trained(study)
    run_graph(graph, store, jobs=2).check()
    for arm in study.arms:
        stages = arm_stages(graph, arm)
        folders = {name: store.path(step.address) for name, step in stages.items()}
        check = verify_ledgers(list(folders.values()))
        assert check.problems == () and tag in {source.name for source in check.coverage}
        achieved = json.loads((folders["midtrain"] / "achieved.json").read_text())
        assert achieved["rows"] == {tag: 256, "text": 64}  # 4/5 of 320 rows
        log = [json.loads(line)["losses"][tag] for line in (folders["midtrain"] / "log.jsonl").open()]
        assert len(log) == 20 and mean(log[-5:]) < 0.8 * mean(log[:5])
        source = arm.stages[0].mix.images.sources[0]
        inputs = {role: store.path(step.address) for role, step in stages["midtrain"].needs}
        index, features = Index.open(inputs["image0"]), np.load(inputs["image0.features"] / "features.npy")
        assert len(index.images) == len(features) == source.images  # type: ignore[union-attr]
        assert (index.path / "quarantine.jsonl").read_text() == ""
    page = write_preview(study, arm=study.arms[-1].name, count=16, out=tmp_path).read_text()
    shard = {"interleaved": "documents-00000.jsonl.zst", "multitask": "dialogues.json"}[tag]
    assert page.count(shard) >= 12  # every image row, of 16 rows at 4/5


def test_sources_that_differ_in_a_share_are_two_steps_and_share_all_others() -> None:
    graph = build_graph(multitask(get_scale("smoke")))
    kinds = Counter(step.kind for step in graph.steps)
    assert kinds["multitask"] == 2 and kinds["contrast"] == kinds["captions"] == kinds["vocabulary"] == 1
    assert {step.kind for step in graph.steps} <= set(HANDLERS)
