"""What happened while the arms trained: learning rates and losses on one clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from firstsight.report.figures.look import GREY, STARTS, Layers, Row, chart, packed, tip
from firstsight.report.results import ArmResult, Stage, read_log

POINTS = 90
"""Points that a curve keeps on the page; its first, last and highest rate are always among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Logged rows of every stage once, though arms share it, and whose they are."""

    stages: tuple[Row, ...]
    """address, arm, label, seed, start, schedule, stage; the first arm that uses a stage lends it its name."""
    rows: tuple[Row, ...]
    """address, seen, lr, loss; seen on the model's own clock, loss as a running mean."""

    @property
    def ends(self) -> dict[str, float]:
        """Tokens that each judged model has seen in all, by arm name."""
        last = {row["address"]: row["seen"] for row in self.rows}
        found: dict[str, float] = {}
        for stage in self.stages:
            if stage["stage"] != "pretrain" and stage["address"] in last:
                found[stage["arm"]] = max(found.get(stage["arm"], 0), last[stage["address"]])
        return found


def curves(arms: Sequence[ArmResult]) -> Curves:
    """Read every log that exists; an arm that has not run adds nothing."""
    stages: dict[str, Row] = {}
    rows: list[Row] = []
    for arm in sorted(arms, key=lambda arm: (arm.start, arm.name, arm.seed)):
        before: list[Row] = []
        for stage in arm.stages:
            found = _thin(_calm(read_log(stage)))
            if found and stage.address not in stages:
                stages[stage.address] = _facts(arm, stage)
                # A segment of the trunk goes on where the one before it ended, so the line is not broken.
                joined = before[-1:] + found if stage.kind == "pretrain" else found
                rows += [row | {"address": stage.address} for row in joined]
            before = found
    return Curves(stages=tuple(stages.values()), rows=tuple(rows))


def _facts(arm: ArmResult, stage: Stage) -> Row:
    shared = stage.kind == "pretrain"
    return {
        "address": stage.address,
        "arm": "trunk" if shared else arm.name,
        "label": f"trunk, seed {arm.seed}" if shared else arm.label,
        "seed": arm.seed,
        "start": float(arm.start),
        "schedule": "trunk" if shared else arm.schedule,
        "stage": stage.kind,
    }


def _calm(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Loss as the mean over a window of 1/20 of the log around each row; rates untouched."""
    reach = len(rows) // 40
    windows = (rows[max(0, at - reach) : at + reach + 1] for at in range(len(rows)))
    means = [sum(row["loss"] for row in window) / len(window) for window in windows]
    return [row | {"loss": mean} for row, mean in zip(rows, means, strict=True)]


def _thin(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    if len(rows) <= POINTS:
        return rows
    kept = {round(at * (len(rows) - 1) / (POINTS - 1)) for at in range(POINTS)}
    kept.add(max(range(len(rows)), key=lambda at: rows[at]["lr"]))
    return [rows[at] for at in sorted(kept)]


def schedules(found: Curves, *, width: int | str = 760) -> Layers:
    """Learning rate of every arm against the tokens its model has seen, on one axis, the shared trunk included."""
    first = min((stage["seed"] for stage in found.stages), default=0)
    once = tuple(stage for stage in found.stages if stage["seed"] == first)
    return _drawn(once, found.rows, field="lr", title="learning rate", width=width)


def losses(found: Curves, *, width: int | str = 760) -> Layers:
    """Training loss of every arm and seed, as a running mean over the log, on the axis of `schedules`."""
    return _drawn(found.stages, found.rows, field="loss", title="training loss, running mean", width=width)


def _drawn(stages: Sequence[Row], rows: Sequence[Row], *, field: str, title: str, width: int | str) -> Layers:
    """Grey trunk below, arms above: colour by start, dash by schedule."""
    named = {stage["address"] for stage in stages}
    points = [{key: row[key] for key in ("address", "seen", field)} for row in rows if row["address"] in named]
    facts = alt.LookupData(data=packed(stages), key="address", fields=["arm", "label", "schedule", "stage", "start"])
    base = (
        chart(points)
        .transform_lookup(lookup="address", from_=facts)
        .encode(
            x=alt.X(
                "seen:Q",
                title="tokens seen, over the model's whole life",
                axis=alt.Axis(format=".2~s", grid=False, tickCount=8),
                scale=alt.Scale(nice=False),
            ),
            y=alt.Y(f"{field}:Q", title=title, axis=alt.Axis(format="~g", tickCount=5)),
            detail="address:N",
            tooltip=tip("label", "stage", "seen", field, "address"),
        )
    )
    trunk = base.transform_filter(alt.datum.stage == "pretrain").mark_line(color=GREY, strokeWidth=5, opacity=0.35)
    lines = base.transform_filter(alt.datum.stage != "pretrain").mark_line(strokeWidth=1.9)
    lines = lines.encode(color=_by_arm(stages), strokeDash=_by_schedule(stages), opacity=FADED)
    kinds = {stage["stage"] == "pretrain" for stage in stages}
    layers = [trunk] * (True in kinds) + [lines] * (False in kinds)
    return alt.layer(*layers).properties(width=width, height=300)


def _by_arm(stages: Sequence[Row]) -> alt.Color:
    after = sorted(
        (stage for stage in stages if stage["stage"] != "pretrain"), key=lambda row: (row["start"], row["arm"])
    )
    names = list(dict.fromkeys(stage["arm"] for stage in after))
    last = max(len(names) - 1, 1)
    colours = [STARTS[round(place * (len(STARTS) - 1) / last)] for place in range(len(names))]
    legend = alt.Legend(title=None, orient="top", columns=6, symbolType="stroke", symbolStrokeWidth=3)
    return alt.Color("arm:N", scale=alt.Scale(domain=names, range=colours), legend=legend)


FADED = alt.condition("datum.stage == 'finetune'", alt.value(0.4), alt.value(1))
"""Fine-tuning is the same in every arm: it steps back behind the phase that the study varies."""

DASHES = {"Continue": [1, 0], "Rewarm": [5, 3], "Matched": [2, 2], "none": [8, 3, 2, 3], "trunk": [1, 0]}


def _by_schedule(stages: Sequence[Row]) -> alt.StrokeDash:
    used = sorted({stage["schedule"] for stage in stages})
    scale = alt.Scale(domain=used, range=[DASHES[name] for name in used])
    return alt.StrokeDash("schedule:N", scale=scale, legend=None)
