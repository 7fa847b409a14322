"""The cost of a plan: tokens, FLOPs, bytes and hours by formula, and the savings of sharing steps between arms.

Numbers that depend on data that has not been counted are estimates, and have a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor
from operator import sub
from typing import Any, NamedTuple

from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.data_requirements import CAPTION_TOKENS, count_image_rows, images_per_row
from firstsight.plan.features import encoded_bytes, image_count
from firstsight.plan.graph import MODEL_ROLES, Graph
from firstsight.plan.step import FEATURES_SUFFIX, Step
from firstsight.recipe.mixture import (
    External,
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticInterleaved,
    SyntheticMultitask,
    SyntheticTexts,
    base_source,
)
from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec
from firstsight.recipe.stages import Donor, Encode, Evaluate, Finetune, Midtrain, Prepare, Pretrain, TrunkSegment
from firstsight.recipe.training_flops import PEAK_FLOPS, image_flops, token_flops
from firstsight.recipe.vision import ContrastiveTraining, PatchProjectionSpec, Siglip
from firstsight.units import format_bytes

DEVICE_GB: dict[str, int] = {"h100": 80, "h200": 141, "a100": 80, "b200": 180, "l40s": 48, "rtx4090": 24}
"""Memory, from the same data sheets, of the larger variant; that of a cpu is not known."""
WEIGHT_BYTES, MOMENT_BYTES, GRADIENT_BYTES = 4, 8, 4
"""Bytes per parameter: its fp32 value and AdamW's two moments, which a checkpoint has too, and its fp32 gradient."""
LARGEST_SHORT_VOCABULARY = 2**16
"""Tokens of larger vocabularies take four bytes in an index instead of two; a loss flag takes another one."""
RECORD_BYTES, IMAGE_REF_BYTES, IMAGE_BYTES = 24, 8, 28
"""Bytes in an index of a record, of an image in it, and of a place where an image is read from."""
QUESTION_TOKENS = 64
QUESTION_COUNTS: dict[str, int] = {
    "vqav2": 214_354,
    "gqa": 12_578,
    "vizwiz": 4_319,
    "textvqa": 5_000,
    "refcoco": 26_488,
    "ocid_ref": 18_342,
    "pope": 9_000,
}
"""Published sizes of the vision tasks. Source: paper section 2.2."""
TEXT_TASK_QUESTIONS = 5_000
"""Estimated model calls of one published text task, all choices counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeCost:
    """The cost of one step, on any device."""

    requested_tokens: int = 0
    tokens: int = 0
    """Tokens that the model is trained on: the requested ones, rounded up to whole steps."""
    steps: int = 0
    flops: int = 0
    stored_bytes: int = 0
    """Bytes in the store: weights, moments, features, indexes of external sources."""
    memory_bytes: int = 0
    """Bytes of weights, gradients and moments on the device in an update of pre-, mid-training or fine-tuning."""
    items: int = 0
    """Documents, images or questions, or model calls of an evaluation."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """The device that hours are estimated for, one of PEAK_FLOPS in any case; else UnknownName or QuantityError."""

    name: str
    utilisation: float
    """The part of the peak that training reaches; 0.4 is usual for a GPU."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.lower())
        if self.name not in PEAK_FLOPS:
            raise UnknownName("device", self.name, PEAK_FLOPS)
        if not 0 < self.utilisation <= 1:
            limits = f"a part of {self.name}'s peak, above 0 and at most 1"
            raise QuantityError(f"utilisation is {limits}. Got {self.utilisation}.")

    @property
    def peak_flops(self) -> float:
        return PEAK_FLOPS[self.name]

    def hours(self, flops: int) -> float:
        return flops / (self.peak_flops * self.utilisation) / 3600


def estimate_step(step: Step, *, vocab_size: int = 0) -> ComputeCost:
    """The cost of `step`, from its spec; that of an evaluation also depends on its model.

    `vocab_size`: of the models that read a prepared source.
    """
    match step.spec:
        case TrunkSegment() as segment:
            return _segment_cost(segment)
        case Midtrain() | Finetune() as stage:
            return _stage_cost(stage, has_features=has_stored_features(step))
        case Siglip(weights=ContrastiveTraining() as training) as vision:
            return _contrastive_cost(vision, training)
        case Encode() as spec:
            return _encode_cost(spec)
        case Evaluate() as spec:
            return _evaluate_cost(spec, _evaluated_model(step))
        case Prepare() as spec:
            return _prepare_cost(spec, vocab_size)
        case External() if step.donor_model:
            weight_bytes = WEIGHT_BYTES * step.donor_model.parameters()
            return ComputeCost(stored_bytes=weight_bytes, note="imported: a donor's weights")
        case source:
            return ComputeCost(items=_item_count(source))


def _segment_cost(segment: TrunkSegment) -> ComputeCost:
    pretrain, parameters = segment.pretrain, segment.pretrain.model.parameters()
    return ComputeCost(
        requested_tokens=floor(pretrain.tokens * segment.end) - floor(pretrain.tokens * segment.start),
        tokens=segment.tokens,
        steps=segment.tokens // pretrain.row_shape.tokens_per_step,
        flops=text_run_flops(pretrain, segment.tokens),
        stored_bytes=(WEIGHT_BYTES + MOMENT_BYTES) * parameters,
        memory_bytes=(WEIGHT_BYTES + MOMENT_BYTES + GRADIENT_BYTES) * parameters,
    )


def text_run_flops(run: Pretrain | Donor, tokens: int) -> int:
    """FLOPs of so many tokens of a text run."""
    return tokens * token_flops(run)


def has_stored_features(step: Step) -> bool:
    """Whether a stage reads features that a step of its own computes."""
    return any(role.endswith(FEATURES_SUFFIX) for role, _ in step.needs)


def encoder_flops(stage: Midtrain | Finetune) -> int:
    """FLOPs of one pass of a stage's images through its encoder."""
    return count_image_rows(stage) * images_per_row(stage) * stage.model.vision.flops()


def _stage_cost(stage: Midtrain | Finetune, *, has_features: bool) -> ComputeCost:
    model, steps = stage.model, stage.row_shape.steps(stage.tokens)
    tokens = steps * stage.row_shape.tokens_per_step
    images = count_image_rows(stage) * images_per_row(stage)
    parameters = _parameters_by_module(model)
    trained_parameters = sum(count for name, count in parameters.items() if getattr(stage.trains, name))
    weight_bytes = WEIGHT_BYTES * sum(parameters.values())
    stored_bytes = weight_bytes + MOMENT_BYTES * trained_parameters
    runs_external_encoder = model.encoder == "external" and model.vision.towers and not has_features
    encoder_bytes = WEIGHT_BYTES * model.vision.parameters() if runs_external_encoder else 0
    return ComputeCost(
        requested_tokens=stage.tokens,
        tokens=tokens,
        steps=steps,
        flops=tokens * token_flops(stage) + images * image_flops(stage, stored_features=has_features),
        stored_bytes=stored_bytes + weight_bytes * (len(stage.checkpoint_tokens) - 1),
        memory_bytes=stored_bytes + GRADIENT_BYTES * trained_parameters + encoder_bytes,
        note=_stage_note(stage),
    )


def _stage_note(stage: Midtrain | Finetune) -> str:
    notes: list[str] = []
    if stage.mix.packing != "one_image_per_row":
        count = f"images per row of {stage.row_shape.length} tokens: {images_per_row(stage)}"
        notes.append(f"{count}, with {CAPTION_TOKENS} text tokens each")
    if stage.mix.share_unit != "rows":
        unit = stage.mix.share_unit.replace("_", " ")
        notes.append(f"image rows by shares of {unit}, {CAPTION_TOKENS} text tokens per image, full text rows")
    return f"estimate: {'; '.join(notes)}" if notes else ""


def _parameters_by_module(model: VLMSpec) -> dict[str, int]:
    """Parameters in the checkpoint by the fields of `Trains`; an external encoder is only linked into its folder."""
    is_patch_projection = isinstance(model.vision, PatchProjectionSpec)
    patch_projection = model.vision.parameters() if is_patch_projection else 0
    return {
        "decoder": model.lm.parameters(),
        "projector": model.projector.parameters(model.vision, model.lm) + patch_projection,
        "encoder": model.vision.parameters() if model.encoder == "included" else 0,
    }


def _contrastive_cost(vision: Siglip, training: ContrastiveTraining) -> ComputeCost:
    vit = replace(vision.vit, layers=vision.vit.layers + 1)  # ViTSpec.flops omits the last block, which trains here
    return ComputeCost(
        steps=training.steps,
        flops=3 * training.steps * training.batch_size * vit.flops(),
        stored_bytes=WEIGHT_BYTES * vision.vit.parameters(),
        note="estimate: without the text tower",
    )


def _encode_cost(spec: Encode) -> ComputeCost:
    images = image_count(spec.source)
    return ComputeCost(
        flops=images * spec.vision.flops(),
        stored_bytes=encoded_bytes(spec),
        items=images,
        note="" if images else "unknown: the source's images are not counted",
    )


def _prepare_cost(spec: Prepare, vocab_size: int) -> ComputeCost:
    """The index of a whole external source by its declared size."""
    source = base_source(spec.source)
    if not isinstance(source, External):
        return ComputeCost(items=_item_count(source))
    if not (source.tokens or source.records):
        return ComputeCost(note=f"unknown: the size of {source.name}, which declares no tokens and no records")
    token_bytes = (2 if vocab_size <= LARGEST_SHORT_VOCABULARY else 4) + 1
    record_bytes = RECORD_BYTES + (IMAGE_REF_BYTES + IMAGE_BYTES if source.form != "text" else 0)
    return ComputeCost(
        stored_bytes=token_bytes * source.tokens + record_bytes * source.records,
        items=_item_count(source),
        note=f"estimate: an index of the whole source, by its declared size, {token_bytes} bytes per token",
    )


def _item_count(source: Any) -> int:
    """Documents, images or questions of a source; 0 where they are unknown."""
    match source:
        case (
            SyntheticTexts(documents=count)
            | SyntheticInterleaved(documents=count)
            | SyntheticCaptions(images=count)
            | SyntheticDialogues(images=count)
            | SyntheticMultitask(images=count)
            | SyntheticBenchmarks(questions=count)
            | External(form="text" | "captions" | "dialogues", records=count)
        ):
            return count
        case _:
            return 0


def _evaluate_cost(spec: Evaluate, model: LMSpec | VLMSpec | None) -> ComputeCost:
    """Each vision question is run with its image and, blind, without it; by every model that the step evaluates."""
    vision_questions = sum(question_count(spec, task) for task in spec.vision_tasks)
    calls = vision_questions * 2 + sum(question_count(spec, task) for task in spec.text_tasks)
    calls, vision_questions = calls * spec.evaluated_models, vision_questions * spec.evaluated_models
    if model is None:
        return ComputeCost(items=calls, note="unknown: the FLOPs of a model of others")
    lm = decoder_spec(model)
    flops = calls * QUESTION_TOKENS * lm.flops(QUESTION_TOKENS)
    if isinstance(model, VLMSpec):
        image_flops = model.image_tokens * lm.flops(model.image_tokens + QUESTION_TOKENS) + model.vision.flops()
        flops += vision_questions * image_flops
    return ComputeCost(flops=flops, items=calls, note=f"estimate: {QUESTION_TOKENS} tokens per question")


def question_count(spec: Evaluate, task: str) -> int:
    """Questions of a vision task, as published or fewer where a subset is declared; estimated calls of a text task."""
    if isinstance(spec.benchmarks, SyntheticBenchmarks):
        return spec.benchmarks.questions
    count = QUESTION_COUNTS.get(task, TEXT_TASK_QUESTIONS)
    return min(count, spec.benchmarks.records) if spec.benchmarks.records and task in spec.vision_tasks else count


def _evaluated_model(step: Step) -> LMSpec | VLMSpec | None:
    """None for a model of others."""
    checkpoint = next(parent for role, parent in step.needs if role in MODEL_ROLES)
    if checkpoint.is_public_checkpoint:
        return checkpoint.donor_model
    spec = checkpoint.spec
    return spec.pretrain.model if isinstance(spec, TrunkSegment) else spec.model


@dataclass(frozen=True, slots=True)
class StepCost:
    """The cost of one step on a device."""

    step: Step
    arms: tuple[str, ...]
    cost: ComputeCost
    hours: float


class CostTotal(NamedTuple):
    """A sum of costs."""

    tokens: int
    flops: int
    stored_bytes: int
    hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CostEstimate:
    """The cost of a whole plan on one kind of device, each step once."""

    device: DeviceSpec
    step_costs: tuple[StepCost, ...]
    total: CostTotal
    unshared_total: CostTotal

    @property
    def savings(self) -> CostTotal:
        """Total without sharing minus total with sharing."""
        return CostTotal._make(map(sub, self.unshared_total, self.total))

    @property
    def saved_fraction(self) -> float:
        """The part of the FLOPs that sharing saves, 0 to 1."""
        return self.savings.flops / self.unshared_total.flops if self.unshared_total.flops else 0.0


def estimate_cost(graph: Graph, device: DeviceSpec) -> CostEstimate:
    """The cost of every step of `graph`, in its order."""
    vocab_sizes = _vocab_sizes(graph)
    costs = {step: estimate_step(step, vocab_size=vocab_sizes.get(step, 0)) for step in graph.steps}
    arms = graph.arms_by_step()
    step_costs = [StepCost(step, arms[step], cost, hours=device.hours(cost.flops)) for step, cost in costs.items()]
    return CostEstimate(
        device=device,
        step_costs=tuple(step_costs),
        total=_total(step_costs),
        unshared_total=_total([step_cost for step_cost in step_costs for _ in step_cost.arms]),
    )


def _vocab_sizes(graph: Graph) -> dict[Step, int]:
    """The vocabulary of the models that read each prepared source."""
    sizes: dict[Step, int] = {}
    for step in graph.steps:
        match step.spec:
            case TrunkSegment(pretrain=run) | (Midtrain() | Finetune() as run):
                vocab_size = decoder_spec(run.model).vocab_size
                sizes |= {parent: vocab_size for _, parent in step.needs if parent.kind == "prepare"}
            case _:
                pass
    return sizes


def _total(step_costs: Sequence[StepCost]) -> CostTotal:
    costs = [step_cost.cost for step_cost in step_costs]
    tokens, flops, size = (sum(getattr(cost, name) for cost in costs) for name in ("tokens", "flops", "stored_bytes"))
    return CostTotal(tokens, flops, size, hours=sum(step_cost.hours for step_cost in step_costs))


def estimate_table(estimate: CostEstimate) -> tuple[tuple[str, ...], ...]:
    """Rows of text: a header, equal steps that train or are stored in one row each, then the totals.

    Steps of one name and another cost are followed by the arms that need them.
    """
    columns = ("step", "count", "requested tokens", "tokens each", "updates", "FLOPs each", "memory each")
    equal_steps: dict[tuple[str, ComputeCost], list[StepCost]] = {}
    for step_cost in estimate.step_costs:
        if step_cost.cost.flops or step_cost.cost.stored_bytes:
            equal_steps.setdefault((step_cost.step.slug, step_cost.cost), []).append(step_cost)
    repeated = {slug for slug, count in Counter(slug for slug, _ in equal_steps).items() if count > 1}
    return (
        (*columns, "stored each", f"{estimate.device.name} hours"),
        *(
            _step_cells(f"{slug} ({_arm_names(step_costs)})" if slug in repeated else slug, step_costs)
            for (slug, _), step_costs in equal_steps.items()
        ),
        _total_cells("total", estimate.total),
        _total_cells("without sharing", estimate.unshared_total),
        _total_cells(f"saved ({estimate.saved_fraction:.0%})", estimate.savings),
    )


def _arm_names(step_costs: list[StepCost]) -> str:
    """The first arm that needs one of several steps, and how many others do."""
    labels = dict.fromkeys(label for step_cost in step_costs for label in step_cost.arms)
    first, *rest = dict.fromkeys(label.rpartition(".s")[0] or label for label in labels)
    return f"{first} and {len(rest)} more" if rest else first


def _step_cells(name: str, step_costs: list[StepCost]) -> tuple[str, ...]:
    cost, hours = step_costs[0].cost, sum(step_cost.hours for step_cost in step_costs)
    counts = (f"{count:,}" if count else "" for count in (cost.requested_tokens, cost.tokens, cost.steps))
    memory, stored = (format_bytes(size) if size else "" for size in (cost.memory_bytes, cost.stored_bytes))
    return (name, str(len(step_costs)), *counts, f"{cost.flops:.3g}", memory, stored, format_hours(hours))


def _total_cells(name: str, total: CostTotal) -> tuple[str, ...]:
    stored = format_bytes(total.stored_bytes) if total.stored_bytes else ""
    return (name, "", "", f"{total.tokens:,}", "", f"{total.flops:.3g}", "", stored, format_hours(total.hours))


def format_hours(hours: float) -> str:
    """Three digits, or whole hours: 0.0101, 12.3, 27,200."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
