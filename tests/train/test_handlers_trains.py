"""Stages that train some modules only, through the real handlers: projector first, then all, then a frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from firstsight.errors import QuantityError
from firstsight.model.checkpoint_io import load, read_spec
from firstsight.model.tensors import read_tensors
from firstsight.plan.graph import build_graph
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.schedule import Continue, Matched
from firstsight.recipe.stages import Midtrain
from firstsight.recipe.study import Arm, Study
from firstsight.site import Progress, Site
from firstsight.train.handlers import pretrain, train_stage
from firstsight.units import Share, Tokens
from tests.train import tiny_study

MODULES = ("lm.", "projector.", "vision.")
WARMUP_STEPS, JOINT_STEPS, TUNING_STEPS = 3, 4, 2


def projector_first(arm: Arm, warmup: Tokens) -> Arm:
    """A user's study: the projector trains alone before everything does, and the encoder no more in fine-tuning."""
    midtrain, finetune = arm.stages
    model = replace(midtrain.model, encoder="included")
    alone = replace(midtrain.trains, decoder=None)
    everything = replace(midtrain.trains, encoder=midtrain.trains.decoder)
    stages = (
        replace(midtrain, model=model, trains=alone, tokens=warmup),
        replace(midtrain, model=model, trains=everything, schedule=Continue(min_lr=1e-4)),
        replace(finetune, model=model),
    )
    return replace(arm, name="projector-first", stages=stages)


def tiny_arm() -> Arm:
    midtrain = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, JOINT_STEPS, "3/4")
    return Arm(
        name="base",
        seed=1,
        pretrain=tiny_study.pretrain_spec(4),
        start=Share(1),
        stages=(midtrain, tiny_study.finetune_spec(tiny_study.FEATURE_VLM, TUNING_STEPS)),
        evaluate=get_scale("smoke").base.evaluate,
    )


ARM = projector_first(tiny_arm(), Tokens(WARMUP_STEPS * tiny_study.ROW_SHAPE.tokens_per_step))


@pytest.fixture(scope="module")
def folders(inputs: dict[str, Path], site: Site, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Checkpoints of the trunk and of each stage."""
    root, spec = tmp_path_factory.mktemp("trains"), tiny_study.segment_spec(4, "0", "1")
    folders = [tiny_study.run_handler(pretrain, spec, inputs, root / "trunk", site)]
    for number, stage in enumerate(ARM.resolved_stages()):
        stage_inputs = {**inputs, "previous": folders[-1]}
        folders.append(tiny_study.run_handler(train_stage, stage, stage_inputs, root / f"{number}", site))
    return folders


def changed_modules(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    """Modules of which any byte differs; each of their matrices must then."""
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    modules = {name.split(".")[0] + "." for name in changed}
    assert not {name for name in before.keys() - changed if name.startswith(tuple(modules)) and before[name].dim() > 1}
    return modules


def step_counts(folder: Path) -> dict[str, set[float]]:
    """Counts of updates in the stored moments, by module."""
    moments = read_tensors(folder, "optimizer")
    counts = {
        module: {float(moments[name]) for name in moments if name.startswith(module) and name.endswith(".step")}
        for module in MODULES
    }
    return {module: values for module, values in counts.items() if values}


def test_only_trained_modules_change_and_have_moments(folders: list[Path]) -> None:
    """Moments are carried for a module that trained before, and start at zero for another."""
    trunk, *stages = map(read_tensors, folders)
    assert changed_modules(trunk, stages[0]) == set()
    assert changed_modules(stages[0], stages[1]) == set(MODULES)
    assert changed_modules(stages[1], stages[2]) == {"lm.", "projector."}
    assert [step_counts(folder) for folder in folders] == [
        {"lm.": {4.0}},
        {"projector.": {WARMUP_STEPS}},
        {"lm.": {JOINT_STEPS}, "projector.": {WARMUP_STEPS + JOINT_STEPS}, "vision.": {JOINT_STEPS}},
        {"lm.": {TUNING_STEPS}, "projector.": {TUNING_STEPS}},
    ]
    assert load(folders[-1]).spec == read_spec(folders[1])["model"] == ARM.stages[0].model


def test_the_projector_alone_learns(folders: list[Path], inputs: dict[str, Path], site: Site, tmp_path: Path) -> None:
    """Its first update is the one that it makes when everything trains: the same gradients, up to clipping."""
    first = ARM.resolved_stages()[0]
    assert isinstance(first, Midtrain)
    one_step = replace(first, tokens=tiny_study.ROW_SHAPE.tokens_per_step)
    joint = replace(one_step, trains=tiny_study.TRAINS)
    stage_inputs = {**inputs, "previous": folders[0]}
    alone = tiny_study.run_handler(train_stage, one_step, stage_inputs, tmp_path / "alone", site)
    together = tiny_study.run_handler(train_stage, joint, stage_inputs, tmp_path / "together", site)
    moments = [read_tensors(folder, "optimizer") for folder in (alone, together)]
    names = [name for name in moments[0] if name.endswith(".exp_avg")]
    assert names and all(name.startswith("projector.") for name in names)
    first_averages, second_averages = (torch.cat([tensors[name].flatten() for name in names]) for tensors in moments)
    cosine = torch.nn.functional.cosine_similarity(first_averages, second_averages, dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-6) and float(first_averages.norm()) > 0


def test_a_killed_warm_up_leaves_the_same_bytes(
    folders: list[Path], inputs: dict[str, Path], site: Site, tmp_path: Path
) -> None:
    spec, stage_inputs = ARM.resolved_stages()[0], {**inputs, "previous": folders[0]}

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    eager = replace(site, save_every=0.0)
    with pytest.raises(KeyboardInterrupt):
        train_stage(spec, inputs=stage_inputs, out=tmp_path, site=eager, on_progress=stop)
    assert (tmp_path / "resume").is_dir()
    tiny_study.run_handler(train_stage, spec, stage_inputs, tmp_path, site)
    assert tiny_study.read_files(tmp_path) == tiny_study.read_files(folders[1])


def test_the_study_plans_and_an_external_encoder_cannot_train() -> None:
    warmup, joint, tuning = projector_first(branch_at(get_scale("smoke"), Share(4, 5)), Tokens(2048)).stages
    joint = replace(joint, schedule=Matched(trunk_share=Share(4, 5), min_lr=3e-5))
    arm = replace(branch_at(get_scale("smoke"), Share(4, 5)), stages=(warmup, joint, tuning))
    graph = build_graph(Study(name="mine", scale="smoke", question="?", arms=(arm,)))
    trained = [step.spec.trains for step in graph.steps if step.kind in ("midtrain", "finetune")]
    assert trained == [stage.trains for stage in arm.stages]
    with pytest.raises(QuantityError, match=r'trains\.encoder: .* encoder="included" in the model'):
        replace(ARM.stages[0], model=tiny_study.FEATURE_VLM, trains=ARM.stages[1].trains)
