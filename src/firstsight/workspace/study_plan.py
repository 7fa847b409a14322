"""The plan of a study: what would run, what arms share, and what it costs. Printing it shows all of this as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from firstsight.errors import UnknownName
from firstsight.plan.data_requirements import check_data_sufficient
from firstsight.plan.estimate import (
    DEVICE_GB,
    ComputeCost,
    CostEstimate,
    DeviceSpec,
    encoder_flops,
    estimate_cost,
    estimate_table,
    format_hours,
    has_stored_features,
)
from firstsight.plan.features import encoded_bytes
from firstsight.plan.graph import Graph, render_tree
from firstsight.plan.schedules import published_lines, stage_table, training_lines
from firstsight.plan.source_needs import growth_lines
from firstsight.plan.step import Step
from firstsight.recipe.analysis import STABLE_MEASURES, Comparison, Coordinate, split_measure
from firstsight.recipe.scales import plan_assumptions
from firstsight.recipe.stages import Encode, Finetune, Midtrain, Pretrain
from firstsight.recipe.study import Arm, Study
from firstsight.units import format_bytes
from firstsight.workspace.study_graph import StoredStudy


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyPlan:
    """The steps of a study and their cost."""

    study: Study
    graph: Graph
    cost: CostEstimate
    stored_addresses: frozenset[str]
    feature_bytes: int
    """The site's room for stored features."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every step once, each after its inputs."""
        return self.graph.steps

    def lines(self) -> Iterator[str]:
        """The plan as lines of text; that of a combined study has a row for each part."""
        published = published_lines(self.study, utilisation=self.cost.device.utilisation)
        if self.study.parts:
            yield from (*_part_lines(self), *published)
            return
        yield from (self.study.question, "", *render_tree(self.graph, self.stored_addresses), "")
        yield from (*training_lines(self.study), *align_table(stage_table(self.study)), "")
        yield from (*_mixture_lines(self.study), *growth_lines(self.study), "")
        yield from (*_cost_lines(self.cost), *_feature_lines(self.cost, self.feature_bytes))
        yield from _size_cost_lines(self.study, self.cost)
        yield from published
        if names := self.graph.undigested_names():
            yield f"Addresses are provisional until a run has read {', '.join(names)}."
        if plan_assumptions(self.study.scale).seed_deviation:
            command = f"firstsight power {self.study.name} --scale {self.study.scale} --effect 2"
            yield f"The differences that this study detects, by what its scale assumes of noise: {command}"
        yield from _claim_lines(self.study)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__


def plan_study(stored: StoredStudy, *, device: str | None = None, utilisation: float | None = None) -> StudyPlan:
    """The plan of a study on a device, of whose peak training reaches a part; by default those of its scale.

    QuantityError where the user's own data is declared too small for it.
    """
    check_data_sufficient(stored.graph)
    assumed = plan_assumptions(stored.study.scale)
    part = assumed.utilisation if utilisation is None else utilisation
    folder = stored.root / "steps"
    return StudyPlan(
        study=stored.study,
        graph=stored.graph,
        cost=estimate_cost(stored.graph, DeviceSpec(device or assumed.device, part)),
        stored_addresses=frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset(),
        feature_bytes=stored.site.feature_bytes,
    )


def _part_lines(plan: StudyPlan) -> Iterator[str]:
    """What each part of a combined study needs, what of it no earlier part does, and what sharing saves."""
    cost, graph, study = plan.cost, plan.graph, plan.study
    costs = {step_cost.step: step_cost for step_cost in cost.step_costs}
    rows, seen, separate_flops = list[tuple[str, ...]](), set[Step](), 0
    for part in study.parts:
        steps = {step for arm in part.arms for step in graph.arms[f"{part.name}.{arm.label}"]}
        alone, added = (sum(costs[step].cost.flops for step in group) for group in (steps, steps - seen))
        hours = format_hours(sum(costs[step].hours for step in steps - seen))
        rows.append(
            (
                part.name,
                str(len(part.arms)),
                str(len(steps)),
                str(len(steps - seen)),
                f"{alone:.3g}",
                f"{added:.3g}",
                hours,
            )
        )
        seen, separate_flops = seen | steps, separate_flops + alone
    columns = ("study", "arms", "steps", "new steps", "FLOPs", "new FLOPs", f"new {cost.device.name} hours")
    total, unshared = cost.total, cost.unshared_total
    stored = sum(step.address in plan.stored_addresses for step in graph.steps)
    yield from (study.question, "", *align_table([columns, *rows]), "")
    yield f"new: what no study above it needs. {len(graph.steps)} steps in all, {stored} of them stored."
    yield (
        f"Together {total.flops:.3g} FLOPs, {format_hours(total.hours)} {cost.device.name} hours: "
        f"{_ratio(total.flops, separate_flops)} of {separate_flops:.3g} with a store for each study, "
        f"{_ratio(total.flops, unshared.flops)} of {unshared.flops:.3g} with every arm alone."
    )
    yield _device_line(cost)
    yield "Schedules, data and steps of a study: firstsight plan STUDY."
    if names := graph.undigested_names():
        yield f"Addresses are provisional until a run has read {', '.join(names)}."


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def align_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    first_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return ["  ".join([row[0].ljust(first_width), *map(str.rjust, row[1:], widths)]).rstrip() for row in rows]


def _mixture_lines(study: Study) -> Iterator[str]:
    """What each stage reads: sources, shares and epochs; stages that read the same are one line."""
    arms_by_line: dict[str, dict[str, None]] = {}
    for arm in study.arms:
        for line in _arm_mixtures(arm):
            arms_by_line.setdefault(line, {})[arm.name] = None
    all_arms = {arm.name for arm in study.arms if arm.stages}
    for line, names in arms_by_line.items():
        yield line if all_arms <= names.keys() else f"{line} ({', '.join(names)})"


def _claim_lines(study: Study) -> Iterator[str]:
    """A line for each claim that cannot be decided, because it names arms or tasks that the study does not have."""
    arms = {arm.name for arm in study.arms}
    evaluations = [arm.evaluate for arm in study.arms]
    tasks = {name for evaluate in evaluations for name in (*evaluate.vision_tasks, *evaluate.text_tasks)}
    for claim in study.claims:
        gaps = [_unknown_names(part, arms, tasks | set(STABLE_MEASURES)) for part in claim.compare]
        if all(gaps) if claim.decide == "any" else any(gaps):
            yield f"claim {claim.name} cannot be tested: {' '.join(dict.fromkeys(chain.from_iterable(gaps)))}"


def _unknown_names(part: Comparison, arms: set[str], measures: set[str]) -> list[str]:
    """A sentence for each name of a comparison that does not exist, with the nearest ones."""
    unknown = [UnknownName("arm", name, arms) for name in (*part.arms, *part.others) if name not in arms]
    if split_measure(part.measure)[0] not in measures:
        unknown.append(UnknownName("measure or task", part.measure, measures))
    return list(map(str, unknown))


def _arm_mixtures(arm: Arm) -> Iterator[str]:
    """What each stage reads; a donor's mixture is not known."""
    if isinstance(arm.pretrain, Pretrain):
        yield f"pretrain reads {arm.pretrain.text}"
    for stage in arm.stages:
        image = f"{stage.model.image_tokens:,} tokens per image, {stage.row_shape.length:,} per row"
        yield f"{stage.TAG} reads {stage.mix}; {image}"


def _size_cost_lines(study: Study, cost: CostEstimate) -> Iterator[str]:
    """What each size of a study with decision accuracy costs, and what several sizes share."""
    if study.decision_accuracy is None:
        return
    axis = study.axis(study.decision_accuracy.axis)
    sizes = {arm.label: arm.at[axis.name] for arm in study.arms if axis.name in arm.at}
    hours: dict[frozenset[Coordinate], float] = {}
    unit = f"{cost.device.name} hours"
    for step in cost.step_costs:
        members = frozenset(sizes[label] for label in step.arms if label in sizes)
        members = members if len(members) == 1 else frozenset()
        hours[members] = hours.get(members, 0.0) + step.hours
    for coordinate in dict.fromkeys(sizes.values()):
        yield f"{axis.label} {axis.text(coordinate)}: {format_hours(hours.get(frozenset({coordinate}), 0.0))} {unit}."
    yield f"Steps of several sizes: {format_hours(hours.get(frozenset(), 0.0))} {unit}."


def _cost_lines(cost: CostEstimate) -> Iterator[str]:
    """The cost of each step as a table, then what the hours and the estimates mean."""
    device = cost.device
    yield from align_table(estimate_table(cost))
    yield _device_line(cost)
    yield "Memory of weights, gradients and moments in fp32; activations and bf16 copies of weights come on top."
    if capacity := DEVICE_GB.get(device.name):
        sizes = dict.fromkeys((step.step.slug, step.cost.memory_bytes) for step in cost.step_costs)
        too_large = [f"{slug} ({format_bytes(size)})" for slug, size in sizes if size > capacity * 10**9]
        yield f"One {device.name} has {capacity} GB{': too little for ' if too_large else ''}{', '.join(too_large)}."
    yield from dict.fromkeys(f"{step.cost.note}." for step in cost.step_costs if step.cost.note)


def _feature_lines(cost: CostEstimate, feature_bytes: int) -> Iterator[str]:
    """What stored features cost, save and take; and the stages whose features have no room."""
    stages = [step.step for step in cost.step_costs if isinstance(step.step.spec, Midtrain | Finetune)]
    readers = [step for step in stages if has_stored_features(step)]
    if readers:
        encodes = [step.cost for step in cost.step_costs if isinstance(step.step.spec, Encode)]
        afresh = sum(encoder_flops(step.spec) for step in readers)
        yield f"Features of images for {len(readers)} stages: {_feature_text(encodes, afresh, cost.device)}."
    others = [step for step in stages if step.spec.model.stores_features and step not in readers]
    if others:
        vision, sources = others[0].spec.model.vision, others[0].spec.mix.images.sources
        size = sum(encoded_bytes(Encode(source=source, vision=vision)) for source in sources)
        flops = sum(encoder_flops(step.spec) for step in others)
        need, room = format_bytes(size), format_bytes(feature_bytes)
        yield (
            f"Features for {len(others)} stages are not stored: those of {others[0].address} need {need} besides what "
            f"is stored, and feature_bytes of the site is {room}. Training computes them, in {flops:.3g} FLOPs."
        )


def _feature_text(encodes: Sequence[ComputeCost], afresh: int, device: DeviceSpec) -> str:
    """What encode steps cost, in place of `afresh` FLOPs in training."""
    if not all(part.items for part in encodes):
        return f"stored, of unknown size, as the recipe declares no records; {afresh:.3g} FLOPs in training without"
    once, size = (sum(getattr(part, name) for part in encodes) for name in ("flops", "stored_bytes"))
    saved = afresh - once
    difference = f"{abs(saved):.3g} FLOPs, {format_hours(device.hours(abs(saved)))} {device.name} hours"
    verdict = f"saves {difference}" if saved >= 0 else f"costs {difference}, more, as few of the images are read"
    return f"{format_bytes(size)} stored, computed once in {once:.3g} FLOPs, which {verdict}"


def _device_line(cost: CostEstimate) -> str:
    """What an hour is."""
    device = cost.device
    peak = f"{device.utilisation:.0%} of {device.peak_flops / 1e12:,.4g} TFLOP/s (bf16)"
    return f"Hours on one {device.name} at {peak}."
