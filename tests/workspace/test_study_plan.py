"""Plans: what is loaded to make one, and what it prints."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import firstsight as fs
from firstsight.cli.app import command
from firstsight.errors import RequestError
from firstsight.recipe.analysis import Comparison
from firstsight.recipe.stages import Pretrain
from firstsight.recipe.study import Study, combine, over_seeds
from firstsight.site import Site
from firstsight.units import Tokens, format_bytes
from firstsight.workspace.study_graph import StoredStudy
from firstsight.workspace.study_plan import align_table, plan_study
from tests.plan.test_features import ARMS

HEAVY = "{'torch', 'numpy', 'transformers', 'polars', 'altair', 'rich', 'typer'} & set(sys.modules)"
WORDS = st.text(st.sampled_from("ab1"), min_size=1, max_size=9)


@pytest.mark.parametrize(("name", "line"), [("when", "saved ("), ("paper", "with every arm alone")])
def test_a_plan_is_made_without_a_terminal_and_without_heavy_packages(name: str, line: str, tmp_path: Path) -> None:
    """In a program that has no `__main__` file, as in a notebook."""
    script = (
        f"import sys; import firstsight as fs; print({HEAVY});"
        f"plan = fs.Workspace({str(tmp_path / 'none')!r}).plan(fs.study({name!r}, scale='1b'));"
        f"print(len(plan.steps), plan.cost.device.name, {HEAVY}); print(plan)"
    )
    done = subprocess.run([sys.executable], input=script, capture_output=True, text=True, check=True)
    imported, planned, *text = done.stdout.splitlines()
    study = fs.study(name, scale="1b")
    graph = StoredStudy(study, tmp_path, Site()).graph
    assert imported == "set()" and planned == f"{len(graph.steps)} h100 set()"
    assert text[0] == study.question and any(line in printed for printed in text)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_prints_what_the_command_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["plan", "when", "--scale", "smoke", "--out", str(tmp_path)]) == 0
    plan = fs.Workspace(tmp_path).plan(fs.study("when", scale="smoke"))
    assert capsys.readouterr().out == f"{plan}\n" and repr(plan) == str(plan)


def test_a_plan_with_too_little_data_is_refused(tmp_path: Path) -> None:
    study = fs.study("when", scale="1b", seeds=1)
    trunk = study.arms[0].pretrain
    assert isinstance(trunk, Pretrain)
    (component,) = trunk.text.components
    text = replace(trunk.text, components=(replace(component, source=replace(component.source, tokens=Tokens(9))),))
    arms = tuple(replace(arm, pretrain=replace(trunk, text=text)) for arm in study.arms)
    with pytest.raises(RequestError, match=r"text: wanted [\d,]+ tokens in one pass of 'dclm-mix'\. Got 9, as"):
        fs.Workspace(tmp_path).plan(replace(study, arms=arms))


def test_steps_of_a_store_are_those_that_it_has(tmp_path: Path) -> None:
    study = fs.study("when", scale="smoke", seeds=1)
    first = fs.Workspace(tmp_path).plan(study).steps[0].address
    (tmp_path / "steps" / first).mkdir(parents=True)
    plan = fs.Workspace(tmp_path).plan(study)
    assert plan.stored_addresses == {first} and [step.address for step in plan.steps].count(first) == 1


def test_a_mixture_that_all_arms_read_is_one_line(tmp_path: Path) -> None:
    """All arms of `when` read the same, so that no line names any."""
    images = "12 tokens per image, 64 per row"
    lines = str(fs.Workspace(tmp_path).plan(fs.study("when", scale="smoke"))).splitlines()
    assert [line for line in lines if " reads " in line] == [
        "pretrain reads texts",
        f"midtrain reads 80 % images, as shares of rows; images: rich captions; text: texts; {images}",
        f"finetune reads 87.5 % images, as shares of rows; images: dialogues; text: texts; {images}",
    ]


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[WORDS] * width), min_size=1, max_size=5)))
def test_columns_of_a_table_are_aligned(rows: list[tuple[str, ...]]) -> None:
    """Every cell is kept; the first column begins, and all others end, at the same place in each line."""
    lines = align_table(rows)
    assert [tuple(line.split()) for line in lines] == rows
    ends = {tuple(_ends(line))[1:] for line in lines}
    assert len(ends) == 1 and not any(line.startswith(" ") for line in lines)


def _ends(line: str) -> list[int]:
    return [
        place for place in range(1, len(line) + 1) if line[place - 1] != " " and line[place : place + 1] in ("", " ")
    ]


def test_a_plan_names_the_training_that_the_memory_of_the_device_is_too_small_for(tmp_path: Path) -> None:
    """7B weights at 16 bytes each are more than the 80 GB of an H100, and less than the 141 GB of an H200."""
    study = fs.study("when", scale="7b")
    sizes = [16 * arm.pretrain.model.parameters() for arm in study.arms]
    assert 80e9 < min(sizes) <= max(sizes) < 141e9
    (line,) = [line for line in fs.Workspace(tmp_path).plan(study).lines() if line.startswith("One h100 has 80 GB")]
    steps = [part.split(" (")[0] for part in line.removeprefix("One h100 has 80 GB: too little for ").split(", ")]
    trunk = [f"pretrain-{start:03d}-{start + 20:03d}" for start in range(0, 100, 20)]
    assert sorted(steps) == ["finetune-2-epochs", "midtrain-010-images", *trunk]
    assert "One h200 has 141 GB." in fs.Workspace(tmp_path).plan(study, device="h200").lines()
    assert not any(line.startswith("One cpu") for line in fs.Workspace(tmp_path).plan(study, device="cpu").lines())


def test_a_plan_names_the_claims_whose_arms_or_tasks_do_not_exist(tmp_path: Path) -> None:
    study = fs.study("when", scale="smoke")
    known, *_ = study.claims
    good = Comparison(arms=("start-080",), others=("start-100",), measure="pope")
    ghost, task = replace(good, arms=("start-080x", "start-020")), replace(good, measure="vqav3")
    claims = [
        replace(known, name="good", compare=(good,)),
        replace(known, name="ghost", compare=(good, ghost)),
        replace(known, name="measure", compare=(task,)),
        replace(known, name="either", compare=(good, task), decide="any"),
    ]
    lines = list(fs.Workspace(tmp_path).plan(replace(study, claims=(*study.claims, *claims))).lines())
    ghost_line, task_line = [line for line in lines if line.startswith("claim ")]
    assert ghost_line.startswith("claim ghost cannot be tested: no arm is called 'start-080x'. Nearest: start-080,")
    assert task_line.startswith("claim measure cannot be tested: no measure or task is called 'vqav3'. Nearest: vqav2")


def test_a_combined_plan_counts_what_parts_share(tmp_path: Path) -> None:
    """The controls add branches to the steps of `when`, each with mid-training, fine-tuning and evaluation."""
    parts = [fs.study(name, scale="smoke") for name in ("when", "when-controls")]
    graphs = [StoredStudy(part, tmp_path, Site()).graph for part in parts]
    added = set(graphs[1].steps) - set(graphs[0].steps)
    assert {step.kind for step in added} == {"midtrain", "finetune", "evaluate"}
    plan = fs.Workspace(tmp_path).plan(combine("both", question="Which?", parts=parts))
    rows = [line.split() for line in plan.lines()]
    counts = [row[:4] for row in rows if row[:1] in (["when"], ["when-controls"])]
    assert counts == [
        ["when", "7", str(len(graphs[0].steps)), str(len(graphs[0].steps))],
        ["when-controls", str(len(parts[1].arms)), str(len(graphs[1].steps)), str(len(added))],
    ]
    costs = [fs.Workspace(tmp_path).plan(part).cost for part in parts]
    separate, unshared = (sum(getattr(c, name).flops for c in costs) for name in ("total", "unshared_total"))
    total = plan.cost.total.flops
    text = str(plan)
    assert f"{total / separate:.0%} of {separate:.3g} with a store for each study" in text
    assert f"{total / unshared:.0%} of {unshared:.3g} with every arm alone" in text


def test_a_plan_says_what_stored_features_save_and_where_they_have_no_room(tmp_path: Path) -> None:
    """Two branches of smoke with a published encoder: counted from the graph's steps."""
    study = Study(name="some", scale="smoke", question="?", arms=over_seeds(ARMS, [1]))
    plan = plan_study(StoredStudy(study, tmp_path, Site()))
    encodes = [step.cost for step in plan.cost.step_costs if step.step.kind == "encode"]
    once, size = sum(part.flops for part in encodes), sum(part.stored_bytes for part in encodes)
    afresh = plan_study(StoredStudy(study, tmp_path, Site(feature_bytes=0)))
    saved = sum(step.cost.flops for step in afresh.cost.step_costs if step.step.kind in ("midtrain", "finetune"))
    saved -= sum(
        step.cost.flops for step in plan.cost.step_costs if step.step.kind in ("midtrain", "finetune", "encode")
    )
    start = f"Features of images for 4 stages: {format_bytes(size)} stored, computed once in {once:.3g} FLOPs, which "
    (line,) = [line for line in plan.lines() if line.startswith("Features")]
    assert line.startswith(start) and f"{abs(saved):.3g} FLOPs" in line
    (line,) = [line for line in afresh.lines() if line.startswith("Features")]
    assert line.startswith("Features for 4 stages are not stored") and "of the site is 0 B. Training computes" in line
