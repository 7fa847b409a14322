"""What a plan costs: tokens, FLOPs, bytes and hours by formula, and what sharing saves.

Training costs three times the forward pass for what is trained and one forward pass for a frozen encoder.
Numbers that hang on data which nobody has counted yet are estimates, and their rows say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import floor
from types import MappingProxyType

from firstsight.errors import MixError, QuantityError, UnknownName
from firstsight.plan.enough import CAPTION, image_rows, pictures_a_row, thin
from firstsight.plan.graph import LINE, Graph
from firstsight.plan.step import Step
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.mix import Benchmarks, Captions, Dialogues, Named, Source, Texts
from firstsight.recipe.model import VLMSpec
from firstsight.recipe.stages import Encode, Evaluate, Finetune, Midtrain, Prepare, Segment
from firstsight.recipe.vision import Contrast, Patches, Siglip
from firstsight.units import in_bytes

PEAKS: dict[str, float] = {
    "h100": 989e12,
    "h200": 989e12,
    "a100": 312e12,
    "b200": 2250e12,
    "l40s": 362e12,
    "rtx4090": 165e12,
    "cpu": 0.35e12,
}
"""Dense bf16 FLOPs a second, from the makers' data sheets; cpu is one core."""

WEIGHTS, MOMENTS = 4, 8
"""Bytes a parameter takes in a checkpoint: fp32, and AdamW's two moments."""

QUESTION = 64
"""Estimated tokens of one question with its answer."""

ITEM = 1e-3
"""Seconds to make, read or check one document, picture or question: only to order and foretell, never billed."""

NOTHING: Mapping[str, int] = MappingProxyType({})
"""No source was counted yet."""

QUESTIONS: dict[str, int] = {
    "vqav2": 214_354,
    "gqa": 12_578,
    "vizwiz": 4_319,
    "textvqa": 5_000,
    "refcoco": 26_488,
    "ocid_ref": 18_342,
    "pope": 9_000,
}
"""Published sizes of the vision tasks. Source: paper section 2.2."""

TEXT_QUESTIONS = 5_000
"""Estimated model calls of one published text task, all choices counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one step costs on any machine."""

    asked: int = 0
    """Tokens that the recipe asks for."""
    tokens: int = 0
    """Tokens that the model is trained on: `asked`, up to whole steps."""
    steps: int = 0
    """Updates of the weights."""
    flops: int = 0
    bytes: int = 0
    """Kept in the store: weights, moments, features, token indexes of named text."""
    items: int = 0
    """Documents, pictures or questions handled."""
    note: str = ""
    """What was estimated, and how."""

    def seconds(self, speed: float) -> float:
        """At `speed` FLOPs a second, with a nominal time for each item: to order steps by."""
        return self.flops / speed + self.items * ITEM


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What the work is billed on."""

    name: str
    peak: float
    """Dense bf16 FLOPs a second."""
    utilisation: float
    """Part of the peak that training reaches; 0.4 is usual for a GPU."""

    def hours(self, flops: int) -> float:
        return flops / (self.peak * self.utilisation) / 3600


def device(name: str, *, utilisation: float) -> Device:
    """The device called `name` in `PEAKS`; UnknownName or QuantityError otherwise."""
    if name not in PEAKS:
        raise UnknownName("device", name, PEAKS)
    if not 0 < utilisation <= 1:
        raise QuantityError(f"utilisation is a part of {name}'s peak, above 0 and at most 1. Got {utilisation}.")
    return Device(name=name, peak=PEAKS[name], utilisation=utilisation)


def cost(step: Step) -> Cost:
    """What `step` costs by its spec alone; a judgement also looks at the model that it judges."""
    match step.spec:
        case Segment() as segment:
            return _segment(segment)
        case Midtrain() | Finetune() as stage:
            return _stage(stage)
        case Siglip() as vision:
            return _contrast(vision)
        case Encode() as spec:
            return _encode(spec)
        case Evaluate() as spec:
            return _evaluate(spec, step)
        case Prepare() as spec:
            return _prepare(spec)
        case Texts() | Captions() | Dialogues():
            return Cost(items=_pictures(step.spec) or _documents(step.spec))
        case Benchmarks():
            return Cost(items=step.spec.questions)
        case Named() if step.holds:
            return Cost(
                bytes=WEIGHTS * step.holds.parameters(), note="given: a donor's weights, where they were imported"
            )
        case _:
            return Cost()


def _segment(segment: Segment) -> Cost:
    pretrain = segment.pretrain
    asked = floor(pretrain.tokens * segment.until) - floor(pretrain.tokens * segment.since)
    return Cost(
        asked=asked,
        tokens=segment.tokens,
        steps=segment.tokens // pretrain.rows.tokens,
        flops=3 * segment.tokens * pretrain.model.flops(pretrain.rows.length),
        bytes=(WEIGHTS + MOMENTS) * pretrain.model.parameters(),
    )


def _stage(stage: Midtrain | Finetune) -> Cost:
    model, length = stage.model, stage.rows.length
    steps = stage.rows.steps(stage.tokens)
    pictures, note = _seen(stage)
    decoder = 3 * steps * stage.rows.tokens * model.lm.flops(length)
    return Cost(
        asked=stage.tokens,
        tokens=steps * stage.rows.tokens,
        steps=steps,
        flops=decoder + pictures * _picture_flops(stage),
        bytes=WEIGHTS * (model.lm.parameters() + _eyes(model)) + MOMENTS * _learning(stage),
        note=note,
    )


def _seen(stage: Midtrain | Finetune) -> tuple[int, str]:
    """Pictures read in a stage, and what of it was estimated."""
    each, mix = pictures_a_row(stage), stage.mix
    notes: list[str] = []
    if mix.packing != "one_image_per_row":
        notes.append(f"{each} pictures a row of {stage.rows.length}, {CAPTION} words each")
    if mix.counted_in != "rows":
        unit = mix.counted_in.replace("_", " ")
        notes.append(f"image rows from shares of {unit}, {CAPTION} words a picture, text rows full")
    return image_rows(stage) * each, f"estimate: {'; '.join(notes)}" if notes else ""


def _picture_flops(stage: Midtrain | Finetune) -> int:
    """Of one picture in training: three passes through what is trained; one through an encoder that is held still,
    none where the features of a frozen one lie in the store."""
    vision = stage.model.vision
    trained = 3 * stage.model.projector.flops(vision, stage.model.lm)
    if isinstance(vision, Patches) or (stage.model.encoder == "trained" and stage.optim.encoder_rate):
        return trained + 3 * vision.flops()
    cached = stage.model.encoder == "frozen" and any(isinstance(one.weights, Contrast) for one in vision.towers)
    return trained + (0 if cached else vision.flops())


def _eyes(model: VLMSpec) -> int:
    """Parameters outside the decoder that belong to the model: a frozen encoder lies beside it, by links."""
    own = isinstance(model.vision, Patches) or model.encoder == "trained"
    return model.projector.parameters(model.vision, model.lm) + (model.vision.parameters() if own else 0)


def _learning(stage: Midtrain | Finetune) -> int:
    """Parameters that are trained: all of the model's own but an encoder that is held still."""
    model, still = stage.model, stage.model.encoder == "trained" and not stage.optim.encoder_rate
    return model.lm.parameters() + _eyes(model) - (model.vision.parameters() if still else 0)


def _contrast(vision: Siglip) -> Cost:
    """Training an encoder of our own; its text tower is small and left out. A named one costs nothing here."""
    if isinstance(vision.weights, Named):
        return Cost()
    pictures = vision.weights.steps * vision.weights.batch
    deeper = replace(vision.vit, layers=vision.vit.layers + 1)  # of this one the second-to-last block is our last
    return Cost(
        steps=vision.weights.steps,
        flops=3 * pictures * deeper.flops(),
        bytes=WEIGHTS * vision.vit.parameters(),
        note="estimate: without the text tower",
    )


def _encode(spec: Encode) -> Cost:
    vision, pictures = spec.vision, _pictures(spec.source)
    return Cost(
        flops=pictures * vision.flops(),
        bytes=2 * pictures * vision.tokens * vision.width,
        items=pictures,
        note="" if pictures else "unknown: the source's pictures are not counted",
    )


def _prepare(spec: Prepare) -> Cost:
    """Indexes of named text are worth counting: two bytes a token and one for its loss."""
    tokens = spec.source.tokens if isinstance(spec.source, Named) and spec.source.form == "text" else 0
    note = "estimate: 3 bytes a token" if tokens else ""
    return Cost(bytes=3 * tokens, items=_pictures(spec.source) or _documents(spec.source), note=note)


def _pictures(source: Source) -> int:
    return source.pictures if isinstance(source, Captions | Dialogues) else 0


def _documents(source: Source) -> int:
    return source.documents if isinstance(source, Texts) else 0


def _evaluate(spec: Evaluate, step: Step) -> Cost:
    """Each vision question is asked with its picture and blind."""
    seen, read = (sum(_questions(spec, task) for task in tasks) for tasks in (spec.vision, spec.text))
    model = _judged(step)
    lm = model.lm if isinstance(model, VLMSpec) else model
    flops = (seen * 2 + read) * QUESTION * lm.flops(QUESTION)
    if isinstance(model, VLMSpec):
        flops += seen * (model.image_tokens * lm.flops(model.image_tokens + QUESTION) + model.vision.flops())
    return Cost(flops=flops, items=seen * 2 + read, note=f"estimate: {QUESTION} tokens a question")


def _questions(spec: Evaluate, task: str) -> int:
    """How many questions a task asks: our own world's by its spec, published ones by their size."""
    if isinstance(spec.benchmarks, Benchmarks):
        return spec.benchmarks.questions
    return QUESTIONS.get(task, TEXT_QUESTIONS)


def _judged(step: Step) -> LMSpec | VLMSpec:
    """The model of the checkpoint that `step` judges."""
    before = next(parent for role, parent in step.needs if role in LINE)
    if before.holds:
        return before.holds
    if isinstance(before.spec, Segment):
        return before.spec.pretrain.model
    return before.spec.model


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One step on the bill."""

    step: Step
    arms: tuple[str, ...]
    cost: Cost
    hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """A sum of costs."""

    tokens: int
    flops: int
    bytes: int
    hours: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What a whole plan costs on one kind of device, each step once."""

    device: Device
    rows: tuple[Row, ...]
    total: Total
    alone: Total
    """What it would cost to run each arm by itself."""
    thin: tuple[str, ...]
    """Sources that would have to repeat, a sentence each."""

    @property
    def saved(self) -> Total:
        """What sharing saves against running each arm alone."""
        ours, theirs = self.total, self.alone
        return Total(
            tokens=theirs.tokens - ours.tokens,
            flops=theirs.flops - ours.flops,
            bytes=theirs.bytes - ours.bytes,
            hours=theirs.hours - ours.hours,
        )

    @property
    def saving(self) -> float:
        """The part of the FLOPs that sharing saves, 0 to 1."""
        return self.saved.flops / self.alone.flops if self.alone.flops else 0.0


def bill(graph: Graph, device: Device, *, counted: Mapping[str, int] = NOTHING) -> Bill:
    """The costs of every step of `graph`, in its order; `counted`: tokens of named sources that were counted."""
    users = graph.users()
    rows = tuple(
        Row(step=step, arms=users[step], cost=(price := cost(step)), hours=device.hours(price.flops))
        for step in graph.steps
    )
    return Bill(
        device=device,
        rows=rows,
        total=_sum((row, 1) for row in rows),
        alone=_sum((row, len(row.arms)) for row in rows),
        thin=tuple(dict.fromkeys(line for row in rows for line in thin(row.step, counted))),
    )


def _sum(rows: Iterable[tuple[Row, int]]) -> Total:
    counted = list(rows)
    return Total(
        tokens=sum(row.cost.tokens * times for row, times in counted),
        flops=sum(row.cost.flops * times for row, times in counted),
        bytes=sum(row.cost.bytes * times for row, times in counted),
        hours=sum(row.hours * times for row, times in counted),
    )


def refuse_thin(bill: Bill) -> None:
    """Raise MixError if any source of the plan would have to repeat beyond the epochs that its recipe asks for."""
    if bill.thin:
        raise MixError("\n".join(bill.thin))


def table(bill: Bill) -> tuple[tuple[str, ...], ...]:
    """The bill as rows of words: a header, what trains or is stored with equal steps in one row, then the sums."""
    head = (
        "step",
        "times",
        "asked",
        "tokens each",
        "updates",
        "FLOPs each",
        "stored each",
        f"{bill.device.name} hours",
    )
    alike: dict[tuple[str, Cost], list[Row]] = {}
    for row in bill.rows:
        if row.cost.flops or row.cost.bytes:
            alike.setdefault((row.step.slug, row.cost), []).append(row)
    body = [_words(slug, price, rows=rows) for (slug, price), rows in alike.items()]
    sums = (("total", bill.total), ("each arm alone", bill.alone), (f"saved ({bill.saving:.0%})", bill.saved))
    return (head, *body, *(_sums(name, total) for name, total in sums))


def _words(slug: str, price: Cost, *, rows: list[Row]) -> tuple[str, ...]:
    counts = (price.asked, price.tokens, price.steps)
    asked, tokens, steps = (f"{count:,}" if count else "" for count in counts)
    hours = _hours(sum(row.hours for row in rows))
    return (slug, str(len(rows)), asked, tokens, steps, f"{price.flops:.3g}", _stored(price.bytes), hours)


def _sums(name: str, total: Total) -> tuple[str, ...]:
    return (name, "", "", f"{total.tokens:,}", "", f"{total.flops:.3g}", _stored(total.bytes), _hours(total.hours))


def _stored(count: int) -> str:
    return in_bytes(count) if count else ""


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"
