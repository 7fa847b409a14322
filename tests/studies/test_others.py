"""The study `others`: models of others on the same questions, scored by the same code, with addresses of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import firstsight as fs
from firstsight.errors import QuantityError
from firstsight.files import FileDigests
from firstsight.plan.graph import build_graph
from firstsight.recipe.analysis import Comparison
from firstsight.recipe.mixture import External
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.stages import PublicModel
from firstsight.recipe.study import Study
from firstsight.report.claims import describe_difference
from firstsight.site import Location, Site
from firstsight.studies.others import EPOCHS, PUBLISHED_MODELS, beside, others, public_arm
from firstsight.units import Share, Tokens
from firstsight.workspace.sources import content_digest
from tests.evaluate.models import tiny_hf_models

SMOKE = get_scale("smoke")
TASKS = {"vision_tasks": ("pope",), "text_tasks": ("arc_easy",)}


def small(name: str) -> fs.Arm:
    """A public model on two tasks of the built-in benchmarks."""
    arm = public_arm(SMOKE, name)
    benchmarks = replace(arm.evaluate.benchmarks, questions=4)
    return replace(arm, evaluate=replace(arm.evaluate, benchmarks=benchmarks, **TASKS))


def two_models() -> Study:
    claim = replace(beside("second"), compare=(Comparison(arms=("first",), others=("second",), measure="vision"),))
    arms = (small("first"), small("second"))
    return Study(name="two", scale="smoke", question="Which?", arms=arms, claims=(claim,))


@pytest.mark.parametrize("scale", ["smoke", "cpu", "79m", "1b", "7b"])
def test_the_recipe_is_that_of_table_9_beside_the_named_models(scale: str) -> None:
    size = replace(get_scale(scale), seeds=2)
    study = others(size)
    late = branch_at(size, Share(4, 5)).with_seed(2)
    own = study.arm("own.s2")
    assert own.stages == (late.stages[0], replace(late.stages[1], epochs=EPOCHS)) and own.start == Share(4, 5)
    models = [arm for arm in study.arms if isinstance(arm.pretrain, PublicModel)]
    assert [arm.label for arm in models] == [f"{name}.s1" for name in PUBLISHED_MODELS if scale in ("79m", "1b", "7b")]
    assert all(arm.evaluate == size.base.evaluate for arm in (own, *models))
    named = others(size, models=" a, b ")
    assert [arm.name for arm in named.arms if isinstance(arm.pretrain, PublicModel)] == ["a", "b"]
    assert {step.kind for step in build_graph(named).arms["a.s1"]} <= {"named", "benchmarks", "evaluate"}


def test_a_model_of_others_has_no_stages_and_is_a_model() -> None:
    arm, late = public_arm(SMOKE, "a"), branch_at(SMOKE, Share(4, 5))
    with pytest.raises(QuantityError, match=r"a\.s1: pretrain: wanted a finished model without stages"):
        build_graph(Study(name="s", scale="smoke", question="?", arms=(replace(arm, stages=late.stages),)))
    with pytest.raises(QuantityError, match='form "model"'):
        PublicModel(weights=External(name="a", form="encoder", tokens=Tokens(0)))


@pytest.mark.timeout(600)
def test_two_published_layouts_are_judged_like_a_checkpoint(tmp_path: Path) -> None:
    """Their scores are those of `firstsight evaluate`; they are compared over questions, and the page says so."""
    folders = {
        "first": tiny_hf_models.llava(tmp_path / "llava"),
        "second": tiny_hf_models.idefics3(tmp_path / "idefics"),
    }
    site = Site(
        sources={name: Location(path=str(folder)) for name, folder in folders.items()}, cache=tmp_path / "cache"
    )
    workspace, study = fs.Workspace(tmp_path / "runs", site=site), two_models()
    assert len(workspace.run(study, jobs=1).published) == 3  # benchmarks and two evaluations
    assert len(workspace.run(study, jobs=1).published) == 0
    results = workspace.results(study)
    assert all(arm.scores and arm.stages == () for arm in results.arms)
    direct = workspace.evaluate(study, "first")
    scores = results.arms[0].scores
    assert scores and direct.scores.tasks.keys() == scores.tasks.keys() == {"pope", "arc_easy"}
    assert all(task.score == direct.scores.tasks[name].score for name, task in scores.tasks.items())
    (claim,) = results.claims
    assert claim.verdict == "undecided"
    (difference,) = claim.differences
    assert difference.interval is None and difference.question_interval is not None, describe_difference(difference)
    text = workspace.report(study).read_text()
    assert "How first, second would score with other seeds, data or budgets: not trained here." in text
    assert "lacks seed" not in text
    scores_csv = pl.read_csv(tmp_path / "runs" / "reports" / "two-smoke" / "scores.csv")
    table = scores_csv.filter(task="stable", kind="vision")
    assert set(table["arm"]) == {"first", "second"}
    pope = {arm.name: arm.scores.tasks["pope"] for arm in results.arms if arm.scores}
    rows = {condition: scores_csv.filter(task="pope", condition=condition) for condition in ("sighted", "soft")}
    written = {condition: dict(table.select("arm", "score").rows()) for condition, table in rows.items()}
    assert written["sighted"] == pytest.approx({name: task.score for name, task in pope.items()})
    assert written["soft"] == pytest.approx({name: task.soft.score for name, task in pope.items() if task.soft})
    assert set(written["soft"]) == {"first", "second"}


def test_what_a_model_reads_is_part_of_its_digest(tmp_path: Path) -> None:
    """Weights, settings of the generation, tokenizer and prompt layout; a readme is not."""
    folder = tiny_hf_models.llava(tmp_path / "llava")
    model, site = External(name="a", form="model", tokens=Tokens(0)), Site(sources={"a": Location(path=str(folder))})

    def digest() -> str:
        return content_digest(model, site, FileDigests(tmp_path / "cache"))

    digests = [digest()]
    for name in ("model.safetensors", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        digests.append(digest())
    assert len(set(digests)) == 5
    (folder / "README.md").write_text("words")
    assert digest() == digests[-1]
