"""The training of a study's arms as text: trunks, and each stage's start, images, learning rate, length and modules."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from firstsight.recipe.schedule import CurvePoint, Rewarm
from firstsight.recipe.stages import Donor, Finetune, Midtrain, Pretrain, Trains
from firstsight.recipe.study import Arm, Study
from firstsight.units import Tokens

COLUMNS = ("arm", "stage", "starts at", "images", "schedule", "learning rate", "tokens", "steps", "rows x tokens")
ALL_ARMS = "all arms"
USUAL_MODULES = "decoder, projector"
"""What trains in a stage, if the plan does not say it."""
HORIZON_TEXTS = {
    "branch": "every arm trains its own stages, however many tokens its trunk had",
    "full": "mid-training lasts until all arms have seen equally many tokens",
}
"""What each horizon means."""


def training_lines(study: Study) -> list[str]:
    """The horizon of a study, and a line for each of its trunks."""
    horizon = f"horizon {study.horizon}: {HORIZON_TEXTS[study.horizon]}"
    return [horizon, *dict.fromkeys(_trunk_text(arm.pretrain) for arm in study.arms)]


def stage_table(study: Study) -> tuple[tuple[str, ...], ...]:
    """Rows of text: a header, then the stages of the arms (one seed), by stage and arm; a stage of all arms once.

    Where any stage trains others than `USUAL_MODULES`, or scales rates, or decays unequally, the last column says what.
    """
    arms = {arm.name: arm for arm in reversed(study.arms) if arm.stages}
    cells = {name: list(_stage_cells(arm)) for name, arm in reversed(arms.items())}
    contents = list(cells.values())
    common = [row for row in (contents[0] if contents else []) if all(row in rows for rows in contents)]
    label = ALL_ARMS if len(contents) > 1 else next(iter(cells), "")
    placed = [(at, name, row) for name, rows in cells.items() for at, row in enumerate(rows) if row not in common]
    placed += [(max(rows.index(row) for rows in contents), label, row) for row in common]
    rows = [(name, *row) for _, name, row in sorted(placed, key=lambda entry: entry[0])]
    if all(row[-1] == USUAL_MODULES for row in rows):
        return (COLUMNS, *(row[:-1] for row in rows))
    return ((*COLUMNS, "trains"), *rows)


def _trunk_text(trunk: Pretrain | Donor) -> str:
    """One trunk: its length and rates, and a donor's checkpoints."""
    rates = _rates_text([trunk.lr(Tokens(0)), trunk.schedule.peak_lr, trunk.lr(trunk.rounded_tokens)])
    schedule = f"{trunk.tokens:,} tokens, learning rate {rates}, {trunk.schedule.warmup} warm-up"
    if isinstance(trunk, Pretrain):
        modules = _trains_text(trunk.trains)
        return f"trunk: {schedule}" if modules == "decoder" else f"trunk: {schedule}, trains {modules}"
    checkpoints = ", ".join(f"{source.name} at {share}" for share, source in sorted(trunk.checkpoints))
    return f"donor: {schedule}; checkpoints: {checkpoints}; the text of a branch starts at its first row"


def _stage_cells(arm: Arm) -> Iterator[tuple[str, ...]]:
    starts = [f"{arm.pretrain.tokens_at(arm.start):,} ({arm.start})"]
    starts += [f"after {stage.TAG}" for stage in arm.stages]
    for start, stated, stage in zip(starts, arm.stages, arm.resolved_stages(), strict=False):
        share, shape = stage.mix.image_share, stage.row_shape
        images = ", ".join(str(span.share) for span in share) if isinstance(share, tuple) else str(share)
        schedule = type(stated.schedule).__name__
        if isinstance(stated.schedule, Rewarm):
            schedule += f" ({stated.schedule.warmup} warm-up)"
        lengths = (f"{stage.tokens:,}", f"{shape.steps(stage.tokens):,}", f"{shape.batch_size} x {shape.length:,}")
        rates = _rates_text(_turning_points(stage))
        yield (stage.TAG, start, images, schedule, rates, *lengths, _trains_text(stage.trains))


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
