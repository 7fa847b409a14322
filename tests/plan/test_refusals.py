"""What a handler would refuse does not plan: the arm, the field, wanted, got, and what to write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from firstsight.errors import RequestError
from firstsight.plan.graph import build_graph
from firstsight.plan.refusals import check_arm, vocabulary_size
from firstsight.recipe.mixture import (
    DRAWINGS_PER_KIND,
    MAX_SHARE_DENOMINATOR,
    MAX_SOURCES,
    Mixture,
    SyntheticDialogues,
    SyntheticVocabulary,
    WeightedSource,
    single_source,
)
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.scales.synthetic import SYNTHETIC_TEXT_TASKS, SYNTHETIC_VISION_TASKS
from firstsight.recipe.stages import LastCheckpoints, RowShape
from firstsight.recipe.study import Arm, Study
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.synthetic.catalog import DRAWINGS
from firstsight.synthetic.text_tasks import TEXT_TASK_MAKERS
from firstsight.synthetic.vision_tasks import SYNTHETIC_VISION_TASKS as MADE_VISION_TASKS
from firstsight.synthetic.vocabulary import vocabulary_words
from firstsight.units import Share
from firstsight.workspace.study_functions import find_study_function, shipped_studies

LATE = branch_at(get_scale("smoke"), Share(4, 5))
MODEL = LATE.stages[0].model
WORLD = LATE.evaluate.benchmarks.world  # type: ignore[union-attr]
OTHER_WORLD = replace(WORLD, objects=20)


def stage(number: int, **fields: Any) -> Arm:
    """The arm with other fields in one stage; those of the mix are given as `mix_...`."""
    stages = list(LATE.stages)
    mix = {name.removeprefix("mix_"): value for name, value in fields.items() if name.startswith("mix_")}
    fields = {name: value for name, value in fields.items() if not name.startswith("mix_")}
    stages[number] = replace(stages[number], mix=replace(stages[number].mix, **mix), **fields)
    return replace(LATE, stages=tuple(stages))


def included_first() -> Arm:
    return stage(0, model=replace(MODEL, encoder="included"))


def evaluated(**fields: Any) -> Arm:
    return replace(LATE, evaluate=replace(LATE.evaluate, **fields))


def examined(**fields: Any) -> Arm:
    return evaluated(benchmarks=replace(LATE.evaluate.benchmarks, **fields))


def shaped(number: int, batch_size: int, length: int) -> Arm:
    return stage(number, row_shape=RowShape(batch_size=batch_size, length=length))


def shown(source: SyntheticDialogues) -> Arm:
    return stage(0, mix_images=single_source(source))


def images(count: int, share: Share) -> Mixture:
    """`count` sources that differ, the first of share `share`, in shares of tokens."""
    rest = Share((1 - share) / (count - 1))
    parts = [
        WeightedSource(source=dialogues(n + 5), share=share if n == 0 else rest, max_epochs=1) for n in range(count)
    ]
    return Mixture(components=tuple(parts), share_unit="tokens")


def dialogues(count: int) -> SyntheticDialogues:
    return SyntheticDialogues(world=WORLD, images=count, turns=1)


def encoder(**fields: Any) -> Arm:
    """The arm with other fields of its encoder's training."""
    vision: Any = MODEL.vision
    model = replace(MODEL, vision=replace(vision, weights=replace(vision.weights, **fields)))
    return replace(LATE, stages=tuple(replace(stage, model=model) for stage in LATE.stages))


PATCHES = PatchProjectionSpec(image_size=48, patch_size=24, width=128, fit="resize")
WIDE = replace(MODEL, projector=replace(MODEL.projector, kind="linear"))
CASES: list[tuple[Callable[[], Arm], str, str, str]] = [
    (included_first, "finetune.model.encoder", '"included"', "'external'"),
    (lambda: stage(1, model=WIDE), "finetune.model.projector.kind", "'mlp2'", "'linear'"),
    (lambda: stage(1, model=replace(MODEL, vision=PATCHES)), "finetune.model.vision", "siglip", "patch_projection"),
    (lambda: stage(1, model=replace(MODEL, lm=replace(MODEL.lm, layers=5))), "finetune.model.lm.layers", "4", "5"),
    (lambda: stage(0, model=replace(MODEL, lm=replace(MODEL.lm, layers=3))), "midtrain.model.lm.layers", "4", "3"),
    (
        lambda: stage(0, model=replace(MODEL, lm=replace(MODEL.lm, vocab_size=500))),
        "lm.vocab_size",
        "at least 512",
        "500",
    ),
    (
        lambda: replace(LATE, pretrain=replace(LATE.pretrain, model=replace(MODEL.lm, vocab_size=129))),
        "pretrain.model.vocab_size",
        "at least the 130",
        "129",
    ),
    (
        lambda: stage(1, tokenizer=SyntheticVocabulary(world=OTHER_WORLD)),
        "finetune.tokenizer",
        "that of the model before",
        "objects=20",
    ),
    (lambda: shaped(0, 16, 128), "midtrain.row_shape.length", "divides the 64 tokens", "128"),
    (lambda: shaped(0, 16, 12), "midtrain.row_shape.length", "13 in all", "12"),
    (lambda: shaped(1, 16, 20), "finetune.row_shape.length", "25 in all", "20"),
    (lambda: stage(0, optim=replace(LATE.stages[0].optim, beta2=1.0)), "midtrain.optim.beta2", "AdamW", "1.0"),
    (
        lambda: stage(0, mix_images=images(MAX_SOURCES, Share(1, 2))),
        "midtrain.mix",
        f"at most {MAX_SOURCES} sources",
        "9",
    ),
    (
        lambda: stage(0, mix_images=images(2, Share(1, MAX_SHARE_DENOMINATOR + 1))),
        "midtrain.mix.images",
        "denominators",
        "67,108,865",
    ),
    (lambda: shown(replace(dialogues(5), world=OTHER_WORLD)), "midtrain.mix.images", "objects=16", "objects=20"),
    (
        lambda: shown(replace(dialogues(5), world=replace(WORLD, kinds=1))),
        "midtrain.mix.images",
        "2 to 14 kinds",
        "kinds=1",
    ),
    (lambda: encoder(text_width=30), "midtrain.model.vision.weights.text_width", "multiple of the 4 heads", "30"),
    (lambda: encoder(warmup=Share(1)), "midtrain.model.vision.weights", "a warm-up that ends", "100 %"),
    (lambda: evaluated(vision_tasks=(), text_tasks=()), "evaluate", "at least one task", "none"),
    (lambda: evaluated(vision_tasks=("gqa", "gqa")), "evaluate", "each task once", "gqa"),
    (
        lambda: evaluated(vision_tasks=("piqa",)),
        "evaluate.vision_tasks",
        "no task of the built-in benchmarks",
        "'piqa'",
    ),
    (
        lambda: evaluated(text_tasks=("copa", "winogrande")),
        "evaluate.text_tasks",
        "no task of the built-in",
        "'winogrande'",
    ),
    (lambda: replace(LATE, stages=()), "evaluate.vision_tasks", "none for a text model", "vqav2"),
    (lambda: examined(world=OTHER_WORLD), "evaluate.benchmarks.world", "objects=16", "objects=20"),
    (lambda: examined(world=replace(WORLD, max_objects=1)), "benchmarks.world.max_objects", "at least 2", "1"),
]


@pytest.mark.parametrize(("make", "field", "wanted", "got"), CASES, ids=[f"{c[1]}-{c[3]}" for c in CASES])
def test_what_cannot_run_does_not_plan(make: Callable[[], Arm], field: str, wanted: str, got: str) -> None:
    with pytest.raises(RequestError) as refused:
        build_graph(Study(name="one", scale="smoke", question="?", arms=(make(),)))
    message = str(refused.value)
    assert all(part in message for part in (LATE.label, field, wanted, got))


@pytest.mark.parametrize("scale", ["smoke", "cpu", "79m", "1b", "7b"])
@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_not_refused(name: str, scale: str) -> None:
    if (name, scale) == ("ladder", "79m"):
        pytest.skip("the smallest size has no ladder")
    for arm in find_study_function(name).build(scale, seeds=1, options={}).arms:
        check_arm(arm)


def test_a_larger_vocabulary_and_an_encoder_that_enters_the_checkpoint_are_no_contradictions() -> None:
    check_arm(stage(1, model=replace(MODEL, lm=replace(MODEL.lm, vocab_size=600))))
    check_arm(stage(1, model=replace(MODEL, encoder="included")))
    check_arm(stage(1, model=replace(MODEL, attention="prefix")))


def test_numbers_of_the_built_in_world_are_those_of_its_makers() -> None:
    assert tuple(len(drawings) for drawings in DRAWINGS.values()) == DRAWINGS_PER_KIND
    for objects, kinds in ((8, 2), (16, 4), (48, 8), (28, 14), (340, 14)):
        world = replace(WORLD, objects=min(objects, sum(DRAWINGS_PER_KIND[:kinds])), kinds=kinds)
        if objects != 340:
            assert vocabulary_size(SyntheticVocabulary(world=world)) == len(vocabulary_words(world))
        assert vocabulary_size(SyntheticVocabulary(world=world)) >= len(vocabulary_words(world))
    assert {task.name.split()[0] for task in MADE_VISION_TASKS} == set(SYNTHETIC_VISION_TASKS)
    assert set(TEXT_TASK_MAKERS) == set(SYNTHETIC_TEXT_TASKS)


@pytest.mark.parametrize("fields", [{"average": 4}, {"each_of_last": 4}, {"checkpoint": 3}])
def test_an_evaluation_of_more_checkpoints_than_published_is_refused(fields: dict[str, int]) -> None:
    arm = stage(1, last_checkpoints=LastCheckpoints(count=3, every=Share(1, 20)))
    within = {name: count - 1 for name, count in fields.items()}
    check_arm(replace(arm, evaluate=replace(arm.evaluate, **within)))
    (name, count), *_ = fields.items()
    with pytest.raises(RequestError, match=rf"start-080\.s0: evaluate: wanted at most the 3 .* Got .*{name}={count}"):
        check_arm(replace(arm, evaluate=replace(arm.evaluate, **fields)))
    with pytest.raises(RequestError, match="at most the 1 "):
        check_arm(evaluated(average=2))


@pytest.mark.parametrize("count", [20, 21])
def test_last_checkpoints_before_the_stage_are_refused(count: int) -> None:
    """Fine-tuning at smoke is 20 steps, so the 20th last checkpoint is after its first step."""
    arm = stage(1, last_checkpoints=LastCheckpoints(count=count, every=Share(1, 20)))
    if count == 20:
        check_arm(arm)
    else:
        with pytest.raises(RequestError, match=r"finetune\.last_checkpoints: wanted checkpoints within .* one at 0"):
            check_arm(arm)
