"""The preview: what it prepares and refuses, and that its rows are those of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.cli.app import command
from firstsight.plan.graph import Graph, build_graph
from firstsight.plan.store import Store
from firstsight.recipe.scales import get_scale
from firstsight.recipe.study import Study
from firstsight.studies.when import when
from firstsight.units import Share, Tokens
from firstsight.workspace.execute import run_graph
from firstsight.workspace.preview import arm_stages, stage_data, write_preview
from firstsight.workspace.sources import current_site
from firstsight.workspace.study_graph import StoredStudy

WHEN = when(replace(get_scale("smoke"), seeds=1))
PLAN = build_graph(WHEN)


def small_study() -> Study:
    """One arm whose text continues over three stages of a few steps."""
    base, step = get_scale("smoke").base, 1024
    trunk = replace(base.pretrain, tokens=Tokens(8 * step))
    mid, fine = base.stages
    mid = replace(mid, tokens=Tokens(3 * step), mix=replace(mid.mix, image_share=Share(1, 3)))
    fine = replace(fine, epoch_tokens=Tokens(2 * step), mix=replace(fine.mix, image_share=Share(1, 2)))  # type: ignore[call-arg]
    arm = replace(base, name="small", pretrain=trunk, start=Share(1, 2), stages=(mid, fine))
    return Study(name="small", scale="smoke", question="Are the rows those of training?", arms=(arm,))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stage", "fintune"], "Nearest: finetune"),
        (["--arm", "start-08"], "start-080.s1"),
        (["--arm", "trunk", "--stage", "midtrain"], "Nearest: pretrain"),
        (["--first", "320"], "from 0 to 319"),
        (["--first", "-1"], "from 0 to 319"),
        (["--rows", "0"], "at least 1"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_made(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = command(["preview", "when", "--scale", "smoke", "--out", str(tmp_path / "out"), *words])
    assert code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "kinds"),
    [
        ("pretrain", {"vocabulary", "texts", "prepare"}),
        ("midtrain", {"vocabulary", "texts", "captions", "prepare"}),
        ("finetune", {"vocabulary", "texts", "captions", "dialogues", "prepare"}),
    ],
)
def test_only_data_is_prepared(stage: str, kinds: set[str], tmp_path: Path) -> None:
    step = arm_stages(PLAN, WHEN.arm("start-080"))[stage]
    part = stage_data(PLAN, step, Store(tmp_path / "out"))
    assert {step.kind for step in part.steps} == kinds
    assert {step.address for step in part.steps} <= {step.address for step in PLAN.steps}


def test_stages_are_named_by_kind_and_numbered_if_it_repeats() -> None:
    arm = WHEN.arm("start-080")
    assert list(arm_stages(PLAN, arm)) == ["pretrain", "midtrain", "finetune"]
    assert list(arm_stages(PLAN, WHEN.arm("start-000"))) == ["midtrain", "finetune"]
    twice = replace(arm, stages=(arm.stages[0], *arm.stages))
    study = replace(WHEN, arms=(twice,), figures=(), claims=())
    assert list(arm_stages(build_graph(study), twice)) == ["pretrain", "midtrain-1", "midtrain-2", "finetune"]
    assert arm_stages(PLAN, arm)["pretrain"].spec.end == Share(4, 5)


@pytest.mark.slow
def test_the_page_is_the_same_before_and_after_training(tmp_path: Path) -> None:
    """Where a stage's text starts depends on the stages before it; the preview computes it without training them."""
    study = small_study()
    before = write_preview(StoredStudy(study, tmp_path), stage="finetune", count=32).read_text()
    plan = build_graph(study)
    [label] = plan.arms
    trained = tuple(step for step in plan.arms[label] if step.kind not in ("evaluate", "benchmarks"))
    part = Graph(title="trained", steps=trained, arms={label: trained}, seeds={label: 0})
    run_graph(part, Store(tmp_path), site=current_site(), jobs=2).check()
    after = write_preview(StoredStudy(study, tmp_path), stage="finetune", count=32).read_text()
    assert "record" in before
    assert after == before
