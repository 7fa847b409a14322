"""Plan and run have one verdict: a random study that plans runs to its end; one that does not names arm and field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import pytest

from firstsight.errors import RequestError
from firstsight.plan.graph import Graph, build_graph
from firstsight.recipe.mixture import (
    Mixture,
    ShareSpan,
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticInterleaved,
    SyntheticMultitask,
    SyntheticTexts,
    WeightedSource,
    single_source,
)
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.scales import get_scale
from firstsight.recipe.schedule import Continue, Matched, Rewarm, SameCurve
from firstsight.recipe.stages import Finetune, Midtrain, ModuleTraining, RowShape
from firstsight.recipe.study import Arm, Study
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.site import Site
from firstsight.units import Share, Tokens
from firstsight.workspace.execute import HANDLERS

BASE = get_scale("smoke").base
WORLD = BASE.evaluate.benchmarks.world  # type: ignore[union-attr]
MODEL = BASE.stages[0].model
FIELDS = re.compile(
    r"row_shape\.\w+|tokens|epochs|schedule|model\.[\w.]+|tokenizer|mix\.[\w.]+|optim\.\w+|vision_tasks|text_tasks|trains|horizon"
)
"""A refusal names one of these."""


def tiny_model() -> VLMSpec:
    """The smoke model with two small layers and two steps of encoder training."""
    vision: Any = MODEL.vision
    weights = replace(vision.weights, steps=2, batch_size=4, captions=replace(vision.weights.captions, images=40))
    vit = replace(vision.vit, layers=2, width=32, mlp_width=64)
    lm = replace(MODEL.lm, layers=1, width=32, head_dim=8, mlp_width=64)
    return replace(MODEL, lm=lm, vision=replace(vision, vit=vit, weights=weights))


def draw_source(rng: Random) -> Any:
    images, quarters = rng.choice([8, 30]), dict.fromkeys(("captions", "words", "boxes", "dialogues"), Share(1, 4))
    return rng.choice(
        [
            SyntheticCaptions(world=WORLD, images=images, quality="rich"),
            SyntheticCaptions(world=WORLD, images=images, quality="noisy"),
            SyntheticDialogues(world=WORLD, images=images, turns=rng.choice([1, 2, 5])),
            SyntheticInterleaved(world=WORLD, documents=images, max_images=rng.choice([1, 3])),
            SyntheticMultitask(world=WORLD, images=images, turns=2, **quarters),
        ]
    )


def draw_mixture(rng: Random, sources: list[Any]) -> Mixture:
    """One source, or two in shares of rows or tokens."""
    if len(sources) == 1 or sources[0] == sources[1]:
        return single_source(sources[0], max_epochs=rng.choice([1, 1, 2]))
    share = rng.choice([Share(1, 2), Share(1, 3), Share(1), Share(1, (1 << 26) + 1)][: 3 + (rng.random() < 0.3)])
    parts = zip(sources, (share, Share(1 - share)), strict=True)
    components = tuple(
        WeightedSource(source=source, share=each, max_epochs=rng.choice([1, 2])) for source, each in parts
    )
    return Mixture(components=components, share_unit=rng.choice(["rows", "tokens", "loss_tokens"]))


def draw_stage(rng: Random, text: Mixture, model: VLMSpec, *, later: bool) -> Midtrain | Finetune:
    like: Any = BASE.stages[rng.choice([0, 1])]
    shares = [Share(0), Share(1, 3), Share(4, 5), Share(1)]
    spans = (ShareSpan(end=Share(1, 2), share=rng.choice(shares)), ShareSpan(end=Share(1), share=rng.choice(shares)))
    mix = replace(
        like.mix,
        text=text,
        images=draw_mixture(rng, [draw_source(rng) for _ in range(rng.choice([1, 1, 2]))]),
        image_share=rng.choice([*shares, spans]),
        share_unit=rng.choice(["rows", "rows", "tokens", "loss_tokens"]),
        packing=rng.choice(["best_fit", "one_image_per_row"]),
    )
    shape = RowShape(batch_size=4, length=rng.choice([64] * 20 + [32, 32, 128, 20, 12]))
    schedules = [Rewarm(peak_lr=1e-3, min_lr=1e-5, warmup=Share(1, 3)), Continue(min_lr=1e-6), SameCurve()][: 2 + later]
    schedules += [Matched(trunk_share=Share(1, 2), min_lr=rng.choice([1e-6] * 5 + [1.0]))]
    frozen, encoder = rng.random() < 0.2, ModuleTraining(lr_scale=0.5, weight_decay=0.1)
    trains = replace(
        like.trains,
        decoder=None if frozen else like.trains.decoder,
        encoder=encoder if model.encoder == "included" and rng.random() < 0.5 else None,
    )
    fields: dict[str, Any] = {"model": model, "mix": mix, "row_shape": shape, "trains": trains}
    fields |= {"schedule": rng.choice(schedules), "moments": rng.choice(["carried", "fresh"])}
    tokens = Tokens(shape.tokens_per_step * rng.choice([2, 3]))
    if isinstance(like, Finetune):
        return replace(like, epoch_tokens=tokens, epochs=rng.choice([1, 2]), **fields)
    return replace(like, tokens=tokens, **fields)


def next_model(rng: Random, model: VLMSpec) -> VLMSpec:
    """Mostly the same model; else with one field changed."""
    if rng.random() < 0.7:
        return model
    vision: Any = model.vision
    patches = PatchProjectionSpec(image_size=48, patch_size=24, width=model.lm.width, fit="resize")
    return rng.choice(
        [
            lambda: replace(model, lm=replace(model.lm, vocab_size=rng.choice([520, 120]))),
            lambda: replace(model, lm=replace(model.lm, layers=2)),
            lambda: replace(model, attention="prefix"),
            lambda: replace(model, projector=replace(model.projector, kind="linear")),
            lambda: replace(model, projector=replace(model.projector, tokens_per_patch=1)),
            lambda: replace(model, encoder="external" if model.encoder == "included" else "included"),
            lambda: replace(model, vision=patches, encoder="external"),
            lambda: replace(model, vision=replace(vision, fit="letterbox")),
        ]
    )()


def draw_arm(rng: Random, number: int) -> Arm:
    text = single_source(SyntheticTexts(world=WORLD, documents=20, loss_mask="determined"))
    model = replace(tiny_model(), encoder=rng.choice(["external", "included"]))
    shape = RowShape(batch_size=4, length=64)
    trunk = replace(BASE.pretrain, model=model.lm, text=text, row_shape=shape, tokens=Tokens(4 * shape.tokens_per_step))
    if rng.random() < 0.15:
        model = replace(model, projector=replace(model.projector, pixel_shuffle=2))
    stages = list[Midtrain | Finetune]()
    for _ in range(rng.choice([1, 2, 2])):
        stages.append(draw_stage(rng, text, model, later=bool(stages)))
        model = next_model(rng, model)
    tasks = rng.choice(
        [("vqav2", "boolq"), ("pope", "copa"), ("refcoco", "copa"), ("coco", "copa")][: 3 + (rng.random() < 0.2)]
    )
    evaluate = replace(
        BASE.evaluate,
        benchmarks=SyntheticBenchmarks(world=WORLD, questions=4),
        vision_tasks=tasks[:1],
        text_tasks=tasks[1:],
    )
    start = rng.choice([Share(0), Share(1, 2), Share(1)])
    horizon = rng.choice(["branch", "branch", "branch", "full"])
    return replace(
        BASE,
        name=f"arm-{number}",
        pretrain=trunk,
        start=start,
        stages=tuple(stages),
        evaluate=evaluate,
        horizon=horizon,
    )


@cache
def handler(name: str) -> Any:
    module, function = HANDLERS[name].function.split(":")
    return getattr(import_module(module), function)


def run_steps(graph: Graph, root: Path) -> Iterator[Path]:
    """Run the handlers of all steps that `root` lacks, in this process, and yield each result."""
    for step in graph.steps:
        out = root / step.address
        if not (root / f"{step.address}.done").exists():
            out.mkdir()
            inputs = {role: root / parent.address for role, parent in step.needs}
            handler(step.kind)(
                step.spec, inputs=inputs, out=out, site=Site(cache=root / "cache"), on_progress=lambda _: None
            )
            (root / f"{step.address}.done").touch()
        yield out


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def hold_to_one_verdict(number: int, root: Path) -> bool:
    """Whether the study with that number plans."""
    arm = draw_arm(Random(number), number)
    study = Study(name="random", scale="smoke", question="?", arms=(arm,))
    try:
        graph = build_graph(study)
    except RequestError as refusal:
        message = str(refusal)
        assert f"arm-{number}.s0" in message and FIELDS.search(message), message
        return False
    *_, last = run_steps(graph, root)
    assert (last / "scores.json").is_file()
    return True


@pytest.mark.parametrize("number", range(4))
def test_a_random_study_plans_exactly_if_it_runs(number: int, root: Path) -> None:
    hold_to_one_verdict(number, root)


@pytest.mark.slow
def test_forty_random_studies_plan_exactly_if_they_run(root: Path) -> None:
    verdicts = [hold_to_one_verdict(number, root) for number in range(4, 44)]
    assert 10 <= sum(verdicts) <= 34
