"""What a plan costs: tokens, FLOPs, bytes and hours by formula, and what sharing saves.

Training costs three times the forward pass for what is trained and one forward pass for a frozen encoder.
Numbers that hang on data which nobody has counted yet are estimates, and their rows say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import floor
from types import MappingProxyType

from firstsight.errors import MixError, QuantityError, UnknownName
from firstsight.plan.data_requirements import CAPTION_TOKENS, count_image_rows, data_shortages, images_per_row
from firstsight.plan.graph import MODEL_ROLES, Graph
from firstsight.plan.step import Step
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mixture import (
    DataSource,
    External,
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticTexts,
)
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.stages import Encode, Evaluate, Finetune, Midtrain, Prepare, TrunkSegment
from firstsight.recipe.vision import ContrastiveTraining, PatchProjectionSpec, Siglip
from firstsight.units import format_bytes

PEAK_FLOPS: dict[str, float] = {
    "h100": 989e12,
    "h200": 989e12,
    "a100": 312e12,
    "b200": 2250e12,
    "l40s": 362e12,
    "rtx4090": 165e12,
    "cpu": 0.35e12,
}
"""Dense bf16 FLOPs a second, from the makers' data sheets; cpu is one core."""

WEIGHT_BYTES, MOMENT_BYTES = 4, 8
"""Bytes a parameter takes in a checkpoint: fp32, and AdamW's two moments."""

QUESTION_TOKENS = 64
"""Estimated tokens of one question with its answer."""

NOMINAL_FLOPS_PER_SECOND, NOMINAL_START_SECONDS = 2e10, 0.2
SECONDS_PER_ITEM = 1e-3
"""A slow CPU's FLOPs a second, the start of a step, and one document, image or question: see `nominal_seconds`."""

NO_COUNTS: Mapping[str, int] = MappingProxyType({})
"""No source was counted yet."""

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
    """What one step costs on any machine."""

    requested_tokens: int = 0
    """Tokens that the recipe asks for."""
    tokens: int = 0
    """Tokens that the model is trained on: `asked`, up to whole steps."""
    steps: int = 0
    """Updates of the weights."""
    flops: int = 0
    stored_bytes: int = 0
    """Kept in the store: weights, moments, features, token indexes of named text."""
    items: int = 0
    """Documents, pictures or questions handled."""
    note: str = ""
    """What was estimated, and how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceSpec:
    """What the work is billed on."""

    name: str
    peak_flops: float
    """Dense bf16 FLOPs a second."""
    utilisation: float
    """Part of the peak that training reaches; 0.4 is usual for a GPU."""

    def hours(self, flops: int) -> float:
        return flops / (self.peak_flops * self.utilisation) / 3600


def device_spec(name: str, *, utilisation: float) -> DeviceSpec:
    """The device called `name` in `PEAKS`; UnknownName or QuantityError otherwise."""
    if name not in PEAK_FLOPS:
        raise UnknownName("device", name, PEAK_FLOPS)
    if not 0 < utilisation <= 1:
        raise QuantityError(f"utilisation is a part of {name}'s peak, above 0 and at most 1. Got {utilisation}.")
    return DeviceSpec(name=name, peak_flops=PEAK_FLOPS[name], utilisation=utilisation)


def estimate_step(step: Step) -> ComputeCost:
    """What `step` costs by its spec alone; a judgement also looks at the model that it judges."""
    match step.spec:
        case TrunkSegment() as segment:
            return _segment_cost(segment)
        case Midtrain() | Finetune() as stage:
            return _stage_cost(stage)
        case Siglip() as vision:
            return _contrastive_cost(vision)
        case Encode() as spec:
            return _encode_cost(spec)
        case Evaluate() as spec:
            return _evaluate_cost(spec, step)
        case Prepare() as spec:
            return _prepare_cost(spec)
        case SyntheticTexts() | SyntheticCaptions() | SyntheticDialogues():
            return ComputeCost(items=_source_images(step.spec) or _source_documents(step.spec))
        case SyntheticBenchmarks():
            return ComputeCost(items=step.spec.questions)
        case External() if step.donor_model:
            return ComputeCost(
                stored_bytes=WEIGHT_BYTES * step.donor_model.parameters(),
                note="given: a donor's weights, where they were imported",
            )
        case _:
            return ComputeCost()


@cache
def nominal_seconds(step: Step) -> float:
    """How long a step takes on a nominal machine: right only in proportion to the other steps, never an hour billed."""
    cost = estimate_step(step)
    return NOMINAL_START_SECONDS + cost.flops / NOMINAL_FLOPS_PER_SECOND + cost.items * SECONDS_PER_ITEM


def _segment_cost(segment: TrunkSegment) -> ComputeCost:
    pretrain = segment.pretrain
    requested_tokens = floor(pretrain.tokens * segment.end) - floor(pretrain.tokens * segment.start)
    return ComputeCost(
        requested_tokens=requested_tokens,
        tokens=segment.tokens,
        steps=segment.tokens // pretrain.row_shape.tokens_per_step,
        flops=3 * segment.tokens * pretrain.model.flops(pretrain.row_shape.length),
        stored_bytes=(WEIGHT_BYTES + MOMENT_BYTES) * pretrain.model.parameters(),
    )


def _stage_cost(stage: Midtrain | Finetune) -> ComputeCost:
    model, length = stage.model, stage.row_shape.length
    steps = stage.row_shape.steps(stage.tokens)
    image_count, note = _stage_images(stage)
    decoder_flops = 3 * steps * stage.row_shape.tokens_per_step * model.lm.flops(length)
    return ComputeCost(
        requested_tokens=stage.tokens,
        tokens=steps * stage.row_shape.tokens_per_step,
        steps=steps,
        flops=decoder_flops + image_count * _image_flops(stage),
        stored_bytes=WEIGHT_BYTES * (model.lm.parameters() + _vision_parameters(model))
        + MOMENT_BYTES * _trained_parameters(stage),
        note=note,
    )


def _stage_images(stage: Midtrain | Finetune) -> tuple[int, str]:
    """Pictures read in a stage, and what of it was estimated."""
    per_row_images, mix = images_per_row(stage), stage.mix
    notes: list[str] = []
    if mix.packing != "one_image_per_row":
        notes.append(f"{per_row_images} pictures a row of {stage.row_shape.length}, {CAPTION_TOKENS} words each")
    if mix.share_unit != "rows":
        unit = mix.share_unit.replace("_", " ")
        notes.append(f"image rows from shares of {unit}, {CAPTION_TOKENS} words a picture, text rows full")
    return count_image_rows(stage) * per_row_images, f"estimate: {'; '.join(notes)}" if notes else ""


def _image_flops(stage: Midtrain | Finetune) -> int:
    """Of one picture in training: three passes through what is trained; one through an encoder that is held still,
    none where the features of a frozen one lie in the store."""
    vision = stage.model.vision
    trained_flops = 3 * stage.model.projector.flops(vision, stage.model.lm)
    if isinstance(vision, PatchProjectionSpec) or (stage.model.encoder == "trained" and stage.optim.encoder_lr_scale):
        return trained_flops + 3 * vision.flops()
    has_stored_features = stage.model.encoder == "frozen" and any(
        isinstance(tower.weights, ContrastiveTraining) for tower in vision.towers
    )
    return trained_flops + (0 if has_stored_features else vision.flops())


def _vision_parameters(model: VLMSpec) -> int:
    """Parameters outside the decoder that belong to the model: a frozen encoder lies beside it, by links."""
    is_part_of_model = isinstance(model.vision, PatchProjectionSpec) or model.encoder == "trained"
    return model.projector.parameters(model.vision, model.lm) + (model.vision.parameters() if is_part_of_model else 0)


def _trained_parameters(stage: Midtrain | Finetune) -> int:
    """Parameters that are trained: all of the model's own but an encoder that is held still."""
    model, is_encoder_fixed = stage.model, stage.model.encoder == "trained" and not stage.optim.encoder_lr_scale
    return model.lm.parameters() + _vision_parameters(model) - (model.vision.parameters() if is_encoder_fixed else 0)


def _contrastive_cost(vision: Siglip) -> ComputeCost:
    """Training an encoder of our own; its text tower is small and left out. A named one costs nothing here."""
    if isinstance(vision.weights, External):
        return ComputeCost()
    image_count = vision.weights.steps * vision.weights.batch_size
    full_vit = replace(vision.vit, layers=vision.vit.layers + 1)  # of this one the second-to-last block is our last
    return ComputeCost(
        steps=vision.weights.steps,
        flops=3 * image_count * full_vit.flops(),
        stored_bytes=WEIGHT_BYTES * vision.vit.parameters(),
        note="estimate: without the text tower",
    )


def _encode_cost(spec: Encode) -> ComputeCost:
    vision, image_count = spec.vision, _source_images(spec.source)
    return ComputeCost(
        flops=image_count * vision.flops(),
        stored_bytes=2 * image_count * vision.tokens * vision.width,
        items=image_count,
        note="" if image_count else "unknown: the source's pictures are not counted",
    )


def _prepare_cost(spec: Prepare) -> ComputeCost:
    """Indexes of named text are worth counting: two bytes a token and one for its loss."""
    tokens = spec.source.tokens if isinstance(spec.source, External) and spec.source.form == "text" else 0
    note = "estimate: 3 bytes a token" if tokens else ""
    return ComputeCost(
        stored_bytes=3 * tokens, items=_source_images(spec.source) or _source_documents(spec.source), note=note
    )


def _source_images(source: DataSource) -> int:
    return source.images if isinstance(source, SyntheticCaptions | SyntheticDialogues) else 0


def _source_documents(source: DataSource) -> int:
    return source.documents if isinstance(source, SyntheticTexts) else 0


def _evaluate_cost(spec: Evaluate, step: Step) -> ComputeCost:
    """Each vision question is asked with its picture and blind."""
    vision_questions, text_questions = (
        sum(_question_count(spec, task) for task in tasks) for tasks in (spec.vision_tasks, spec.text_tasks)
    )
    model = _evaluated_model(step)
    lm = model.lm if isinstance(model, VLMSpec) else model
    flops = (vision_questions * 2 + text_questions) * QUESTION_TOKENS * lm.flops(QUESTION_TOKENS)
    if isinstance(model, VLMSpec):
        flops += vision_questions * (
            model.image_tokens * lm.flops(model.image_tokens + QUESTION_TOKENS) + model.vision.flops()
        )
    return ComputeCost(
        flops=flops, items=vision_questions * 2 + text_questions, note=f"estimate: {QUESTION_TOKENS} tokens a question"
    )


def _question_count(spec: Evaluate, task: str) -> int:
    """How many questions a task asks: our own world's by its spec, published ones by their size."""
    if isinstance(spec.benchmarks, SyntheticBenchmarks):
        return spec.benchmarks.questions
    return QUESTION_COUNTS.get(task, TEXT_TASK_QUESTIONS)


def _evaluated_model(step: Step) -> LMSpec | VLMSpec:
    """The model of the checkpoint that `step` judges."""
    checkpoint_step = next(parent for role, parent in step.needs if role in MODEL_ROLES)
    if checkpoint_step.donor_model:
        return checkpoint_step.donor_model
    if isinstance(checkpoint_step.spec, TrunkSegment):
        return checkpoint_step.spec.pretrain.model
    return checkpoint_step.spec.model


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """One step on the bill."""

    step: Step
    arms: tuple[str, ...]
    cost: ComputeCost
    hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CostTotal:
    """A sum of costs."""

    tokens: int
    flops: int
    stored_bytes: int
    hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CostEstimate:
    """What a whole plan costs on one kind of device, each step once."""

    device: DeviceSpec
    step_costs: tuple[StepCost, ...]
    total: CostTotal
    unshared_total: CostTotal
    """What it would cost to run each arm by itself."""
    shortages: tuple[str, ...]
    """Sources that would have to repeat, a sentence each."""

    @property
    def savings(self) -> CostTotal:
        """What sharing saves against running each arm alone."""
        shared, unshared = self.total, self.unshared_total
        return CostTotal(
            tokens=unshared.tokens - shared.tokens,
            flops=unshared.flops - shared.flops,
            stored_bytes=unshared.stored_bytes - shared.stored_bytes,
            hours=unshared.hours - shared.hours,
        )

    @property
    def saved_fraction(self) -> float:
        """The part of the FLOPs that sharing saves, 0 to 1."""
        return self.savings.flops / self.unshared_total.flops if self.unshared_total.flops else 0.0


def estimate_cost(graph: Graph, device: DeviceSpec, *, counted_tokens: Mapping[str, int] = NO_COUNTS) -> CostEstimate:
    """The costs of every step of `graph`, in its order; `counted`: tokens of named sources that were counted."""
    arms_by_step = graph.arms_by_step()
    step_costs = tuple(
        StepCost(
            step=step,
            arms=arms_by_step[step],
            cost=(compute_cost := estimate_step(step)),
            hours=device.hours(compute_cost.flops),
        )
        for step in graph.steps
    )
    return CostEstimate(
        device=device,
        step_costs=step_costs,
        total=_total_cost((step_cost, 1) for step_cost in step_costs),
        unshared_total=_total_cost((step_cost, len(step_cost.arms)) for step_cost in step_costs),
        shortages=tuple(
            dict.fromkeys(
                shortage for step_cost in step_costs for shortage in data_shortages(step_cost.step, counted_tokens)
            )
        ),
    )


def _total_cost(weighted_costs: Iterable[tuple[StepCost, int]]) -> CostTotal:
    cost_list = list(weighted_costs)
    return CostTotal(
        tokens=sum(step_cost.cost.tokens * repeats for step_cost, repeats in cost_list),
        flops=sum(step_cost.cost.flops * repeats for step_cost, repeats in cost_list),
        stored_bytes=sum(step_cost.cost.stored_bytes * repeats for step_cost, repeats in cost_list),
        hours=sum(step_cost.hours * repeats for step_cost, repeats in cost_list),
    )


def check_data_sufficient(estimate: CostEstimate) -> None:
    """Raise MixError if any source of the plan would have to repeat beyond the epochs that its recipe asks for."""
    if estimate.shortages:
        raise MixError("\n".join(estimate.shortages))


def estimate_table(estimate: CostEstimate) -> tuple[tuple[str, ...], ...]:
    """The bill as rows of words: a header, what trains or is stored with equal steps in one row, then the sums."""
    header = (
        "step",
        "times",
        "asked",
        "tokens each",
        "updates",
        "FLOPs each",
        "stored each",
        f"{estimate.device.name} hours",
    )
    equal_steps: dict[tuple[str, ComputeCost], list[StepCost]] = {}
    for step_cost in estimate.step_costs:
        if step_cost.cost.flops or step_cost.cost.stored_bytes:
            equal_steps.setdefault((step_cost.step.slug, step_cost.cost), []).append(step_cost)
    body = [
        _step_cells(slug, compute_cost, step_costs=step_costs)
        for (slug, compute_cost), step_costs in equal_steps.items()
    ]
    totals = (
        ("total", estimate.total),
        ("each arm alone", estimate.unshared_total),
        (f"saved ({estimate.saved_fraction:.0%})", estimate.savings),
    )
    return (header, *body, *(_total_cells(name, total) for name, total in totals))


def _step_cells(slug: str, compute_cost: ComputeCost, *, step_costs: list[StepCost]) -> tuple[str, ...]:
    counts = (compute_cost.requested_tokens, compute_cost.tokens, compute_cost.steps)
    requested, tokens, steps = (f"{count:,}" if count else "" for count in counts)
    hours = _format_hours(sum(step_cost.hours for step_cost in step_costs))
    return (
        slug,
        str(len(step_costs)),
        requested,
        tokens,
        steps,
        f"{compute_cost.flops:.3g}",
        _format_stored_bytes(compute_cost.stored_bytes),
        hours,
    )


def _total_cells(name: str, total: CostTotal) -> tuple[str, ...]:
    return (
        name,
        "",
        "",
        f"{total.tokens:,}",
        "",
        f"{total.flops:.3g}",
        _format_stored_bytes(total.stored_bytes),
        _format_hours(total.hours),
    )


def _format_stored_bytes(byte_count: int) -> str:
    return format_bytes(byte_count) if byte_count else ""


def _format_hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
