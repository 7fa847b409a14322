"""The training of a study's arms as text: trunks, and each stage's start, images, learning rate, length and modules.

What is published of the paper's runs is beside it. `planned_rates` and `published_rate` have the same for figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from firstsight.plan.estimate import DeviceSpec, format_hours, text_run_flops
from firstsight.recipe.scales.donors import run_of_donor
from firstsight.recipe.scales.published import COMMON_ASSUMPTIONS, PUBLISHED_DEVICE, published_run
from firstsight.recipe.schedule import Continue, CurvePoint, Rewarm
from firstsight.recipe.stages import Donor, Finetune, Midtrain, Pretrain, PublicModel, Trains, TrunkSegment
from firstsight.recipe.study import Arm, Study
from firstsight.units import Tokens

COLUMNS = ("arm", "stage", "starts at", "images", "schedule", "learning rate", "tokens", "steps", "rows x tokens")
ALL_ARMS = "all arms"
USUAL_MODULES = "decoder, projector"
"""What trains in a stage, if the plan does not say it."""
OPTIONAL_COLUMNS = {"published rate": "", "trains": USUAL_MODULES}
"""The last columns, each with the cell that says nothing: a column of such cells alone is not printed."""
CURVE_POINTS = 60
"""Steps between the points of a planned curve."""
HORIZON_TEXTS = {
    "branch": "every arm trains its own stages, however many tokens its trunk had",
    "full": "mid-training lasts until all arms have seen equally many tokens",
}
"""What each horizon means."""


def training_lines(study: Study) -> list[str]:
    """The horizon of a study, a line for each of its trunks, and for each arm that is evaluated before its end."""
    horizon = f"horizon {study.horizon}: {HORIZON_TEXTS[study.horizon]}"
    early = [f"{arm.name}: {text}" for arm in study.arms if (text := early_evaluation(arm))]
    return [horizon, *dict.fromkeys([*(_trunk_text(arm.pretrain) for arm in study.arms), *early])]


def early_evaluation(arm: Arm) -> str:
    """Where on the curve of its last stage an arm is evaluated, and how a run of that length would differ.

    Empty where it is evaluated at the end.
    """
    if not arm.evaluate.checkpoint:
        return ""
    stage = arm.resolved_stages()[-1]
    end, tokens = stage.rounded_tokens, Tokens(stage.checkpoint_tokens[arm.evaluate.checkpoint])
    return (
        f"evaluated after {tokens:,} of the {end:,} tokens of {stage.TAG}, at a learning rate of "
        f"{stage.lr(tokens):.4g}; a run of its own of that length would have ended at {stage.lr(end):.4g}"
    )


def stage_table(study: Study) -> tuple[tuple[str, ...], ...]:
    """Rows of text: a header, then the stages of the arms (one seed), by stage and arm; a stage of all arms once.

    Where any stage trains others than `USUAL_MODULES`, or scales rates, or decays unequally, the last column says what;
    where learning rates are published, the one before it has them, and by how much ours differ.
    """
    arms = {arm.name: arm for arm in reversed(study.arms) if arm.stages}
    cells = {name: list(_stage_cells(arm)) for name, arm in reversed(arms.items())}
    contents = list(cells.values())
    common = [row for row in (contents[0] if contents else []) if all(row in rows for rows in contents)]
    label = ALL_ARMS if len(contents) > 1 else next(iter(cells), "")
    placed = [(at, name, row) for name, rows in cells.items() for at, row in enumerate(rows) if row not in common]
    placed += [(max(rows.index(row) for rows in contents), label, row) for row in common]
    rows = [(name, *row) for _, name, row in sorted(placed, key=lambda entry: entry[0])]
    table = zip(*((*COLUMNS, *OPTIONAL_COLUMNS), *rows), strict=True)
    columns = [
        (name, *cells)
        for name, *cells in table
        if name not in OPTIONAL_COLUMNS or any(cell != OPTIONAL_COLUMNS[name] for cell in cells)
    ]
    return tuple(zip(*columns, strict=True))


def published_lines(study: Study, *, utilisation: float) -> Iterator[str]:
    """For each of the paper's trunks its published hours beside ours, with the utilisation that they imply, and what
    the scale assumes where the paper says nothing or contradicts itself."""
    trained = (arm.pretrain for arm in study.arms if not isinstance(arm.pretrain, PublicModel))
    trunks = dict.fromkeys(map(_without_seed, trained))
    runs = {trunk: run for trunk in trunks if (run := published_run(trunk))}
    for trunk, run in runs.items():
        if run.gpu_hours:
            flops, device = text_run_flops(trunk, trunk.rounded_tokens), DeviceSpec(PUBLISHED_DEVICE, utilisation)
            implied = device.hours(flops) * utilisation / run.gpu_hours
            yield (
                f"published of the trunk of {run.size}: {run.gpu_hours:,} {device.name} hours (paper, Table 2), which "
                f"are {implied:.0%} of the peak for our {flops:.3g} FLOPs. "
                f"Ours at {utilisation:.0%}: {format_hours(device.hours(flops))} hours."
            )
        yield from (f"assumed at {run.size}: {sentence}" for sentence in run.assumptions)
    yield from (f"assumed: {sentence}" for sentence in COMMON_ASSUMPTIONS * bool(runs))
    for donor in filter(None, map(run_of_donor, trunks)):
        where = "; ".join(donor.sources)
        yield f"donor {donor.name}: {donor.licence}; {where}. How to import it: firstsight donors {donor.name}"
        yield from (f"differs from the paper: {sentence}" for sentence in donor.differences(study.scale))


def _without_seed(trunk: Pretrain | Donor) -> Pretrain | Donor:
    return trunk if isinstance(trunk, Donor) else replace(trunk, seed=0)


@dataclass(frozen=True, slots=True)
class PublishedRate:
    """A learning rate of an arm's mid-training that the paper's authors published, and ours."""

    published: float
    planned: float
    tokens: Tokens
    """Tokens of the stage before it: 0 at its first rate, those of the warm-up at a peak."""

    @property
    def difference(self) -> float:
        """Ours less the published one, as a share of it."""
        return self.planned / self.published - 1


def published_rate(arm: Arm) -> PublishedRate | None:
    """The rate of an arm that starts, and schedules its mid-training, as an arm of the paper; None for any other."""
    trunk, stage = arm.pretrain, arm.stages[0] if arm.stages else None
    run = None if isinstance(trunk, PublicModel) else published_run(trunk)
    if run is None or stage is None or arm.start not in run.rates:
        return None
    published = run.rates[arm.start]
    match stage.schedule:
        case Continue() if 0 < arm.start < 1:
            return PublishedRate(published, arm.resolved_stages()[0].lr(Tokens(0)), Tokens(0))
        case Rewarm() as schedule if arm.start in (0, 1):
            return PublishedRate(published, schedule.peak_lr, schedule.warmup_tokens(stage.rounded_tokens))
        case _:
            return None


def planned_rates(spec: TrunkSegment | Midtrain | Finetune) -> list[tuple[int, float]]:
    """(tokens, learning rate) along a segment of a trunk, counted from the trunk's first token, or along a resolved
    stage, counted from its own: CURVE_POINTS steps of equal length, and the end of a warm-up."""
    if isinstance(spec, TrunkSegment):
        run = spec.pretrain
        first, last = run.tokens_at(spec.start), run.tokens_at(spec.end)
    else:
        run, first, last = spec, 0, spec.rounded_tokens
    points = {first + (last - first) * number // CURVE_POINTS for number in range(CURVE_POINTS + 1)}
    if isinstance(run.schedule, Rewarm):
        points |= {tokens for tokens in [run.schedule.warmup_tokens(run.rounded_tokens)] if first < tokens < last}
    return [(tokens, run.lr(Tokens(tokens))) for tokens in sorted(points)]


def _trunk_text(trunk: Pretrain | Donor | PublicModel) -> str:
    """One trunk: its length and rates, and a donor's checkpoints; or a public model."""
    if isinstance(trunk, PublicModel):
        return f"public model: {trunk.weights.name}, evaluated as it is"
    rates = _rates_text([trunk.lr(Tokens(0)), trunk.schedule.peak_lr, trunk.lr(trunk.rounded_tokens)])
    schedule = f"{trunk.tokens:,} tokens, learning rate {rates}, {trunk.schedule.warmup} warm-up"
    if isinstance(trunk, Pretrain):
        modules = _trains_text(trunk.trains)
        return f"trunk: {schedule}" if modules == "decoder" else f"trunk: {schedule}, trains {modules}"
    checkpoints = ", ".join(f"{source.name} at {share}" for share, source in sorted(trunk.checkpoints))
    return f"donor: {schedule}; checkpoints: {checkpoints}; the text of a branch starts at its first row"


def _stage_cells(arm: Arm) -> Iterator[tuple[str, ...]]:
    rate = published_rate(arm)
    published = [f"{rate.published:.4g} ({rate.difference:+.1%})" if rate else "", *[""] * len(arm.stages)]
    starts = [f"{arm.pretrain.tokens_at(arm.start):,} ({arm.start})"]
    starts += [f"after {stage.TAG}" for stage in arm.stages]
    stages = zip(starts, arm.stages, arm.resolved_stages(), published, strict=False)
    for start, stated, stage, rate_text in stages:
        share, shape = stage.mix.image_share, stage.row_shape
        images = ", ".join(str(span.share) for span in share) if isinstance(share, tuple) else str(share)
        schedule = type(stated.schedule).__name__
        if isinstance(stated.schedule, Rewarm):
            schedule += f" ({stated.schedule.warmup} warm-up)"
        lengths = (f"{stage.tokens:,}", f"{shape.steps(stage.tokens):,}", f"{shape.batch_size} x {shape.length:,}")
        rates = _rates_text(_turning_points(stage))
        yield (stage.TAG, start, images, schedule, rates, *lengths, rate_text, _trains_text(stage.trains))


def _trains_text(trains: Trains) -> str:
    """The trained modules, with multiples of the learning rate unless all are 1, and weight decays if they differ."""
    modules = (("decoder", trains.decoder), ("projector", trains.projector), ("encoder", trains.encoder))
    trained = [(name, module) for name, module in modules if module]
    scales = [f" x{module.lr_scale:g}" for _, module in trained]
    decays = [f" (decay {module.weight_decay:g})" for _, module in trained]
    if set(scales) == {" x1"}:
        scales = [""] * len(trained)
    if len(set(decays)) == 1:
        decays = [""] * len(trained)
    return ", ".join(f"{name}{scale}{decay}" for (name, _), scale, decay in zip(trained, scales, decays, strict=True))


def _turning_points(stage: Midtrain | Finetune) -> list[float]:
    """The rates at the start and the end of a stage, and the peak between them."""
    schedule, rates = stage.schedule, [stage.lr(Tokens(0)), stage.lr(stage.rounded_tokens)]
    begin, total = (schedule.at, schedule.tokens) if isinstance(schedule, CurvePoint) else (0, stage.rounded_tokens)
    curve = schedule.schedule if isinstance(schedule, CurvePoint) else schedule
    if isinstance(curve, Rewarm) and begin < curve.warmup_tokens(total) < begin + stage.rounded_tokens:
        rates.insert(1, curve.peak_lr)
    return rates


def _rates_text(rates: list[float]) -> str:
    """0 to 0.003 to 3e-05; equal neighbours once."""
    changes = [rate for previous, rate in pairwise([None, *rates]) if rate != previous]
    return " to ".join(f"{rate:.4g}" for rate in changes)
