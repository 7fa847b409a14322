"""Learning rate and loss of every arm against the tokens that its model was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt

from firstsight.report.figures.style import GREY_COLOUR, ChartRow, LayeredChart, field_tooltips, inline_data, rows_chart
from firstsight.report.results import ArmResult, StageLog

MAX_CURVE_POINTS = 90
"""Points of a curve on the page; its first and last point and its highest rate are always among them."""

ARM_COLOURS = ["#4b2a8a", "#3b5fa8", "#1f8a99", "#2ba36b", "#9aa81f", "#d98b00"]
"""From the study's first arm (dark) to its last (light)."""
GROUP_DASHES = [[1, 0], [5, 3], [2, 2], [8, 3, 2, 3]]
"""Dashes of the groups of arms, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingCurves:
    """Logs of all stages; a stage that several arms share occurs once."""

    stages: tuple[ChartRow, ...]
    """address, arm, label, seed, group, order, stage; a shared stage has the name of the first arm that uses it."""
    rows: tuple[ChartRow, ...]
    """address, seen, lr, loss; `seen` counted from the model's first token, loss as a running mean."""

    @property
    def total_tokens(self) -> dict[str, float]:
        """Total training tokens of each finished model, by arm name."""
        last_seen = {row["address"]: row["seen"] for row in self.rows}
        totals: dict[str, float] = {}
        for stage in self.stages:
            if stage["stage"] != "pretrain" and stage["address"] in last_seen:
                totals[stage["arm"]] = max(totals.get(stage["arm"], 0), last_seen[stage["address"]])
        return totals


def read_curves(arms: Sequence[ArmResult]) -> TrainingCurves:
    """The curves of all stages whose logs exist."""
    stages: dict[str, ChartRow] = {}
    rows: list[ChartRow] = []
    names = list(dict.fromkeys(arm.name for arm in arms))
    for arm in sorted(arms, key=lambda arm: (arm.role == "baseline", names.index(arm.name), arm.seed)):
        previous: list[ChartRow] = []
        for stage in arm.stages:
            log_rows = _subsample(_smooth_loss(stage.rows))
            if log_rows and stage.address not in stages:
                stages[stage.address] = _stage_row(arm, stage) | {"order": names.index(arm.name)}
                # A segment of the trunk starts with the last point of the segment before it: an unbroken line.
                points = previous[-1:] + log_rows if stage.kind == "pretrain" else log_rows
                rows += [row | {"address": stage.address} for row in points]
            previous = log_rows
    return TrainingCurves(stages=tuple(stages.values()), rows=tuple(rows))


def _stage_row(arm: ArmResult, stage: StageLog) -> ChartRow:
    names = {"arm": arm.name, "label": arm.label, "seed": arm.seed, "group": arm.group}
    if stage.kind == "pretrain":
        names |= {"arm": stage.kind, "label": f"{stage.kind}, seed {arm.seed}", "group": ""}
    return {"address": stage.address, **names, "stage": stage.kind}


def _smooth_loss(rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    half = len(rows) // 40
    windows = (rows[max(0, index - half) : index + half + 1] for index in range(len(rows)))
    means = [sum(row["loss"] for row in window) / len(window) for window in windows]
    return [{**row, "loss": mean} for row, mean in zip(rows, means, strict=True)]


def _subsample(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    if len(rows) <= MAX_CURVE_POINTS:
        return rows
    indices = {round(index * (len(rows) - 1) / (MAX_CURVE_POINTS - 1)) for index in range(MAX_CURVE_POINTS)}
    indices.add(max(range(len(rows)), key=lambda index: rows[index]["lr"]))
    return [rows[index] for index in sorted(indices)]


def learning_rate_chart(curves: TrainingCurves, *, width: int | str = 760) -> LayeredChart:
    """Learning rate of every arm of the first seed, with the shared trunk."""
    first_seed = min((stage["seed"] for stage in curves.stages), default=0)
    stages = [stage for stage in curves.stages if stage["seed"] == first_seed]
    return _curve_chart(stages, curves.rows, field="lr", title="learning rate", width=width)


def loss_chart(curves: TrainingCurves, *, width: int | str = 760) -> LayeredChart:
    """Training loss of every arm and seed as a running mean, on the x axis of the learning rates."""
    return _curve_chart(curves.stages, curves.rows, field="loss", title="training loss, running mean", width=width)


def _curve_chart(
    stages: Sequence[ChartRow], rows: Sequence[ChartRow], *, field: str, title: str, width: int | str
) -> LayeredChart:
    addresses = {stage["address"] for stage in stages}
    points = [{key: row[key] for key in ("address", "seen", field)} for row in rows if row["address"] in addresses]
    fields = ["arm", "label", "group", "stage"]
    lookup = alt.LookupData(data=inline_data(stages), key="address", fields=fields)
    axis = alt.Axis(format=".2~s", grid=False, tickCount=8)
    x = alt.X("seen:Q", title="tokens that the model was trained on", axis=axis, scale=alt.Scale(nice=False))
    y = alt.Y(f"{field}:Q", title=title, axis=alt.Axis(format="~g", tickCount=5))
    tooltips = field_tooltips("label", "stage", "seen", field, "address")
    base = rows_chart(points).transform_lookup(lookup="address", from_=lookup)
    base = base.encode(x=x, y=y, detail="address:N", tooltip=tooltips)
    trunk, lines = (base.transform_filter(f) for f in (alt.datum.stage == "pretrain", alt.datum.stage != "pretrain"))
    trunk, lines = trunk.mark_line(color=GREY_COLOUR, strokeWidth=5, opacity=0.35), lines.mark_line(strokeWidth=1.9)
    # Fine-tuning is the same in every arm, so it is drawn fainter than the phase that the study varies.
    opacity = alt.condition("datum.stage == 'finetune'", alt.value(0.4), alt.value(1))
    groups = list(dict.fromkeys(stage["group"] for stage in stages if stage["stage"] != "pretrain"))
    dashes = alt.Scale(domain=groups, range=[GROUP_DASHES[i % len(GROUP_DASHES)] for i in range(len(groups))])
    legend = alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolSize=400, symbolStrokeWidth=2)
    dash = alt.StrokeDash("group:N", scale=dashes, legend=legend if len(groups) > 1 else None)
    lines = lines.encode(color=_arm_colour(stages), strokeDash=dash, opacity=opacity)
    is_trunk = {stage["stage"] == "pretrain" for stage in stages}
    layers = [trunk] * (True in is_trunk) + [lines] * (False in is_trunk)
    return alt.layer(*layers).properties(width=width, height=300)


def _arm_colour(stages: Sequence[ChartRow]) -> alt.Color:
    arms = sorted((stage["order"], stage["arm"]) for stage in stages if stage["stage"] != "pretrain")
    names = list(dict.fromkeys(name for _, name in arms))
    last = max(len(names) - 1, 1)
    colours = [ARM_COLOURS[round(index * (len(ARM_COLOURS) - 1) / last)] for index in range(len(names))]
    legend = alt.Legend(title=None, orient="top", columns=6, symbolType="stroke", symbolStrokeWidth=3)
    return alt.Color("arm:N", scale=alt.Scale(domain=names, range=colours), legend=legend)
