"""What a run would refuse, as refusals of the plan: the arm, the field, what is wanted, what came, what to write.

The handlers assert the same rules about the files that they get.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, NoReturn

from firstsight.errors import QuantityError, UnknownName
from firstsight.recipe.mixture import (
    MAX_SHARE_DENOMINATOR,
    MAX_SOURCES,
    Mixture,
    SyntheticBenchmarks,
    SyntheticVocabulary,
    SyntheticWorld,
    image_source_names,
    source_label,
    text_source_names,
)
from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec
from firstsight.recipe.scales.synthetic import SYNTHETIC_TEXT_TASKS, SYNTHETIC_VISION_TASKS
from firstsight.recipe.stages import AdamWSpec, Pretrain, PublicModel, Stage, TokenizerSource
from firstsight.recipe.study import Arm
from firstsight.recipe.synthetic_sizes import LARGEST_TURNS, SyntheticSource
from firstsight.recipe.vision import ContrastiveTraining, Dinov2, TowerSpec
from firstsight.units import Share

_ADDED_WORDS = 110
"""Words of a built-in vocabulary besides the names of objects and kinds."""


def check_arm(arm: Arm) -> None:
    """Raise QuantityError or UnknownName where a step of the arm could not run, or would train on another model's ids.

    Whether the sources have enough rows is the matter of `source_needs` and `data_requirements`; whether the user's
    files fit, that of `workspace.check_models`.
    """
    if not arm.start and not arm.stages:
        raise QuantityError(
            f"{arm.label}: nothing is trained before the evaluation. "
            "Got start 0 and no stages; set a start above 0 or add a stage."
        )
    trunk = arm.pretrain
    if isinstance(trunk, PublicModel):
        _check_public_model(arm)
        _check_evaluation(arm)
        return
    if arm.start and isinstance(trunk, Pretrain):
        _check_numbers(f"{arm.label}: pretrain", trunk)
        _check_vocabulary(f"{arm.label}: pretrain", trunk.tokenizer, trunk.model)
        _check_sources(f"{arm.label}: pretrain.text", trunk.text, trunk.tokenizer)
    previous: LMSpec | VLMSpec | None = trunk.model if arm.start else None
    tokenizer = trunk.tokenizer if arm.start else None
    for stage in arm.stages:
        location = f"{arm.label}: {stage.TAG}"
        _check_numbers(location, stage)
        if previous is not None:
            _check_models(f"{location}.model", previous, stage.model)
        _check_tokenizer(location, stage, tokenizer, previous)
        for tower in stage.model.vision.towers:
            _check_tower(f"{location}.model.vision", tower)
        _check_mix(location, stage)
        _check_last_checkpoints(f"{location}.last_checkpoints", stage)
        previous, tokenizer = stage.model, stage.tokenizer
    _check_evaluation(arm)


def _refuse(location: str, wanted: str, got: object, advice: str) -> NoReturn:
    raise QuantityError(f"{location}: wanted {wanted}. Got {got}. {advice}.")


def _check_numbers(location: str, stage: Pretrain | Stage) -> None:
    optim = stage.optim
    for name, is_legal in _optimizer_limits(optim):
        if not is_legal:
            _refuse(
                f"{location}.optim.{name}",
                "a value that AdamW can use",
                getattr(optim, name),
                "The paper has betas of 0.9 and 0.95, eps 1e-8, a norm of 1 and z_loss 1e-4",
            )


def _optimizer_limits(optim: AdamWSpec) -> tuple[tuple[str, bool], ...]:
    return (
        ("beta1", 0 <= optim.beta1 < 1),
        ("beta2", 0 <= optim.beta2 < 1),
        ("eps", optim.eps >= 0),
        ("max_grad_norm", optim.max_grad_norm > 0),
        ("z_loss", optim.z_loss >= 0),
    )


def _check_vocabulary(location: str, tokenizer: TokenizerSource, model: LMSpec) -> None:
    """The user's own tokenizers are read, and checked, before a run."""
    if not isinstance(tokenizer, SyntheticVocabulary):
        return
    _check_world(f"{location}.tokenizer.world", tokenizer.world)
    size = vocabulary_size(tokenizer)
    if size > model.vocab_size:
        _refuse(
            f"{location}.model.vocab_size", f"at least the {size} tokens of its tokenizer", model.vocab_size, "Raise it"
        )


def vocabulary_size(vocabulary: SyntheticVocabulary) -> int:
    """Tokens of a built-in vocabulary."""
    return _ADDED_WORDS + vocabulary.world.objects + vocabulary.world.kinds


def _check_tokenizer(
    location: str, stage: Stage, previous: TokenizerSource | None, previous_model: LMSpec | VLMSpec | None
) -> None:
    """The tokenizer of the model before, whose ids keep their meaning; a larger vocabulary may have another one's."""
    _check_vocabulary(location, stage.tokenizer, stage.model.lm)
    if previous is None or previous_model is None or stage.tokenizer == previous:
        return
    has_new_rows = stage.model.lm.vocab_size > decoder_spec(previous_model).vocab_size
    if not has_new_rows or isinstance(stage.tokenizer, SyntheticVocabulary):
        advice = "Name that one, or give this stage a larger vocabulary with rows for the tokens that it adds"
        _refuse(f"{location}.tokenizer", f"that of the model before, {previous}", stage.tokenizer, advice)


def _check_models(location: str, previous: LMSpec | VLMSpec, current: VLMSpec) -> None:
    """A stage continues the decoder, projector and encoder of the model before; only the vocabulary may grow."""
    _check_same(f"{location}.lm", decoder_spec(previous), current.lm, growing="vocab_size")
    if not isinstance(previous, VLMSpec):
        return
    _check_same(f"{location}.projector", previous.projector, current.projector)
    if previous.encoder == "included" and current.encoder != "included":
        advice = 'Write encoder="included" in this stage too, where `trains` may freeze it'
        _refuse(
            f"{location}.encoder",
            '"included", as in the model before, whose encoder is in its checkpoint',
            repr(current.encoder),
            advice,
        )
    if type(previous.vision) is not type(current.vision):
        kinds = (previous.vision.TAG, current.vision.TAG)
        _refuse(f"{location}.vision", f"{kinds[0]}, as in the model before", kinds[1], "Use the same in both")
    _check_same(f"{location}.vision", previous.vision, current.vision)


def _check_tower(location: str, tower: TowerSpec) -> None:
    vit, training = tower.vit, tower.weights
    if isinstance(tower, Dinov2) and vit.mlp_width % vit.width:
        _refuse(
            f"{location}.vit.mlp_width", f"a multiple of the width {vit.width}", vit.mlp_width, "DINOv2 has 4 times"
        )
    if not isinstance(training, ContrastiveTraining):
        return
    _check_world(f"{location}.weights.captions.world", training.captions.world)
    if training.text_width % vit.heads:
        wanted = f"a multiple of the {vit.heads} heads, which the text tower has too"
        _refuse(f"{location}.weights.text_width", wanted, training.text_width, "Choose a multiple")
    if not training.peak_lr > 0 or training.warmup == 1:
        got = f"peak_lr={training.peak_lr:g}, warmup={training.warmup}"
        _refuse(f"{location}.weights", "a rate above 0 and a warm-up that ends", got, "Change either")


def _check_same(location: str, old: Any, new: Any, *, growing: str = "") -> None:
    """Every field is equal, but `growing`, which may be larger than before."""
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        may_grow = field.name == growing
        if before != after and not (may_grow and after > before):
            wanted = f"at least {before!r}, the model before's" if may_grow else f"{before!r}, as in the model before"
            _refuse(f"{location}.{field.name}", wanted, repr(after), "Use the same in both")


def _check_mix(location: str, stage: Stage) -> None:
    mix, length, image_tokens = stage.mix, stage.row_shape.length, stage.model.image_tokens
    names = (*text_source_names(mix.text), *image_source_names(mix.images))
    if len(names) > MAX_SOURCES:
        _refuse(f"{location}.mix", f"at most {MAX_SOURCES} sources", len(names), "Take some out")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        _refuse(f"{location}.mix", "sources with different names", f"{', '.join(repeated)} twice", "Rename one")
    for field, mixture in (("text", mix.text), ("images", mix.images)):
        _check_sources(f"{location}.mix.{field}", mixture, stage.tokenizer)
        if mixture.share_unit != "rows":
            _check_denominators(f"{location}.mix.{field}", [component.share for component in mixture.components])
    if mix.share_unit != "rows":
        _check_denominators(f"{location}.mix.image_share", [share for _, share in mix.spans(0)])
    for source in mix.images.sources:
        room = image_tokens + LARGEST_TURNS.get(source.TAG, 1)
        if length < room:
            what = f"room for an image of {image_tokens} tokens and the {room - image_tokens} of a text with it"
            _refuse(
                f"{location}.row_shape.length",
                f"{what}, {room} in all",
                length,
                "Lengthen the rows, or pool image tokens",
            )


def _check_public_model(arm: Arm) -> None:
    """It has no stages, and is evaluated as it is."""
    if arm.stages or arm.start != 1:
        got = f"start {arm.start} and {len(arm.stages)} stages"
        _refuse(f"{arm.label}: pretrain", "a finished model without stages", got, "Write start=Share(1), stages=()")


def _check_last_checkpoints(location: str, stage: Stage) -> None:
    if (first := stage.checkpoint_tokens[-1]) < 1:
        end = stage.checkpoint_tokens[0]
        advice = "Publish fewer, or less far apart: in whole steps"
        _refuse(location, f"checkpoints within the {end:,} tokens of the stage", f"one at {first:,}", advice)


def _check_denominators(location: str, shares: Iterable[Share]) -> None:
    if (largest := max(share.denominator for share in shares)) > MAX_SHARE_DENOMINATOR:
        limit = f"shares of denominators up to {MAX_SHARE_DENOMINATOR:,}, because they count tokens"
        _refuse(location, limit, f"{largest:,}", "Round them")


def _check_sources(location: str, mixture: Mixture, tokenizer: TokenizerSource) -> None:
    for source in mixture.sources:
        if not isinstance(source, SyntheticSource):
            continue
        _check_world(f"{location}: {source_label(source)}.world", source.world)
        if isinstance(tokenizer, SyntheticVocabulary) and not _has_same_words(source.world, tokenizer.world):
            got = f"objects={source.world.objects}, kinds={source.world.kinds}"
            wanted = f"words of its tokenizer, objects={tokenizer.world.objects}, kinds={tokenizer.world.kinds}"
            _refuse(f"{location}: {source_label(source)}", wanted, got, "Make both of one world")


def _check_world(location: str, world: SyntheticWorld) -> None:
    try:
        world.check()
    except QuantityError as error:
        raise QuantityError(f"{location}: {error}") from None


def _has_same_words(first: SyntheticWorld, second: SyntheticWorld) -> bool:
    return (first.objects, first.kinds) == (second.objects, second.kinds)


def _check_evaluation(arm: Arm) -> None:
    evaluate, location = arm.evaluate, f"{arm.label}: evaluate"
    names = (*evaluate.vision_tasks, *evaluate.text_tasks)
    published = len(arm.stages[-1].checkpoint_tokens) if arm.stages else 1
    if evaluate.checkpoints > published:
        got = f"average={evaluate.average}, each_of_last={evaluate.each_of_last}, checkpoint={evaluate.checkpoint}"
        wanted = f"at most the {published} last checkpoints that the model before it publishes"
        _refuse(location, wanted, got, "Lower it, or set last_checkpoints in the last stage to more")
    if not names:
        _refuse(location, "at least one task", "none", "Name some in vision_tasks or text_tasks")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        _refuse(location, "each task once", f"{', '.join(repeated)} twice", "Name it once")
    trunk = arm.pretrain
    if evaluate.vision_tasks and not arm.stages and not isinstance(trunk, PublicModel):
        advice = "Write vision_tasks=(), or add a stage with images"
        _refuse(f"{location}.vision_tasks", "none for a text model", ", ".join(evaluate.vision_tasks), advice)
    if not isinstance(evaluate.benchmarks, SyntheticBenchmarks):
        return
    for field, known in (("vision_tasks", SYNTHETIC_VISION_TASKS), ("text_tasks", SYNTHETIC_TEXT_TASKS)):
        for name in getattr(evaluate, field):
            if name not in known:
                raise UnknownName(f"task of the built-in benchmarks ({location}.{field})", name, known)
    world = evaluate.benchmarks.world
    _check_world(f"{location}.benchmarks.world", world)
    if world.max_objects < 2:
        _refuse(
            f"{location}.benchmarks.world.max_objects",
            "at least 2, for questions about two",
            world.max_objects,
            "Raise it",
        )
    tokenizer = arm.stages[-1].tokenizer if arm.stages else None if isinstance(trunk, PublicModel) else trunk.tokenizer
    if isinstance(tokenizer, SyntheticVocabulary) and not _has_same_words(world, tokenizer.world):
        got = f"objects={world.objects}, kinds={world.kinds}"
        wanted = f"words of the tokenizer, objects={tokenizer.world.objects}, kinds={tokenizer.world.kinds}"
        _refuse(f"{location}.benchmarks.world", wanted, got, "Make both of one world")
