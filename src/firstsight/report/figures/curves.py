"""Learning rate and loss of every arm against the tokens that its model was trained on.

Rates are those of the plan, so that they are drawn before a run; losses are those of the logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import altair as alt

from firstsight.plan.schedules import published_rate
from firstsight.recipe.study import Arm, Study
from firstsight.report.figures.style import (
    GREY_COLOUR,
    INK_COLOUR,
    ArmChannels,
    ChartRow,
    LayeredChart,
    field_tooltips,
    inline_data,
    rows_chart,
)
from firstsight.report.results import ArmResult, StageLog

X_TITLE = "tokens that the model was trained on"
LEAST_BRANCH = 8
"""Learning rates after the branch are stretched where the longest curve is shorter than an eighth of the trunk."""
MAX_CURVE_POINTS = 90
"""Points of a curve on the page; its first and last point and its highest rate are always among them."""

GROUP_DASHES = [[1, 0], [5, 3], [2, 2], [8, 3, 2, 3]]
"""Dashes of the groups of arms, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingCurves:
    """Curves of all stages; a stage that several arms share occurs once."""

    stages: tuple[ChartRow, ...]
    """address, arm, label, seed, group, start (tokens of the trunk), order, stage; a shared stage has the name of the
    first arm that uses it."""
    rows: tuple[ChartRow, ...]
    """address, seen, lr; `seen` counted from the model's first token. Those of logs have loss too, a running mean."""

    @property
    def total_tokens(self) -> dict[str, float]:
        """Tokens at the end of each model's curves, by arm name."""
        last_seen = {row["address"]: row["seen"] for row in self.rows}
        totals: dict[str, float] = {}
        for stage in self.stages:
            if stage["stage"] != "pretrain" and stage["address"] in last_seen:
                totals[stage["arm"]] = max(totals.get(stage["arm"], 0), last_seen[stage["address"]])
        return totals


def read_curves(arms: Sequence[ArmResult]) -> TrainingCurves:
    """The curves of all stages whose logs exist."""
    return _curves(arms, lambda stage: _subsample(_smooth_loss(stage.rows)))


def planned_curves(arms: Sequence[ArmResult]) -> TrainingCurves:
    """The learning rates of all stages by the plan."""
    return _curves(arms, lambda stage: list(map(dict, stage.planned)))


def _curves(arms: Sequence[ArmResult], stage_points: Callable[[StageLog], list[dict[str, float]]]) -> TrainingCurves:
    stages: dict[str, ChartRow] = {}
    rows: list[ChartRow] = []
    names = list(dict.fromkeys(arm.name for arm in arms))
    for arm in sorted(arms, key=lambda arm: (arm.role == "baseline", names.index(arm.name), arm.seed)):
        previous: list[dict[str, float]] = []
        for stage in arm.stages:
            stage_rows = stage_points(stage)
            if stage_rows and stage.address not in stages:
                stages[stage.address] = _stage_row(arm, stage) | {"order": names.index(arm.name)}
                # A segment of the trunk starts with the last point of the segment before it: an unbroken line.
                points = previous[-1:] + stage_rows if stage.kind == "pretrain" else stage_rows
                rows += [row | {"address": stage.address} for row in points]
            previous = stage_rows
    return TrainingCurves(stages=tuple(stages.values()), rows=tuple(rows))


def _stage_row(arm: ArmResult, stage: StageLog) -> ChartRow:
    names = {"arm": arm.name, "label": arm.label, "seed": arm.seed, "group": arm.group}
    branch = next((later for later in arm.stages if later.kind != "pretrain" and later.planned), None)
    names["branch_seen"] = branch.planned[0]["seen"] if branch else 0
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


def learning_rate_chart(curves: TrainingCurves, study: Study, *, width: int | str = 760) -> LayeredChart:
    """Planned learning rate of every arm of the first seed, with the shared trunk, and points at published rates."""
    first_seed = min((stage["seed"] for stage in curves.stages), default=0)
    stages = [stage for stage in curves.stages if stage["seed"] == first_seed]
    factor, x_title = _branch_factor(stages, curves.rows), X_TITLE
    if factor > 1:
        x_title += f"; after the branch drawn {factor} times as long"
    starts = {stage["address"]: stage["branch_seen"] for stage in stages if stage["stage"] != "pretrain"}
    rows = [row | {"x": _stretched(row["seen"], starts.get(row["address"]), factor)} for row in curves.rows]
    points = [row for arm in study.arms if arm.seed == first_seed and (row := _published_row(arm, factor))]
    y_title = f"learning rate{'; diamonds: published' * bool(points)}"
    chart = _curve_chart(stages, rows, field="lr", titles=(x_title, y_title), width=width)
    if not points:
        return chart
    marks = rows_chart(points).mark_point(shape="diamond", size=80, strokeWidth=1.5, color=INK_COLOUR, opacity=1)
    tooltips = field_tooltips("arm", "published", "lr", "difference")
    marks = marks.encode(x="x:Q", y="published:Q", tooltip=tooltips)
    return alt.layer(chart, marks).properties(width=width, height=300)


def _branch_factor(stages: Sequence[ChartRow], rows: Sequence[ChartRow]) -> int:
    """By how much curves after the branch are stretched, so that the longest is a LEAST_BRANCH-th of the trunk."""
    last_seen = {row["address"]: row["seen"] for row in rows}
    trunk = max((last_seen[stage["address"]] for stage in stages if stage["stage"] == "pretrain"), default=0)
    lengths = (last_seen[stage["address"]] - stage["branch_seen"] for stage in stages if stage["stage"] != "pretrain")
    return max(1, round(trunk / LEAST_BRANCH / max(lengths, default=trunk or 1)))


def _stretched(seen: float, start: float | None, factor: int) -> float:
    """A position on the axis; `start` is where the arm branches off, None for a position on the trunk."""
    return seen if start is None else start + factor * (seen - start)


def _published_row(arm: Arm, factor: int) -> ChartRow | None:
    """The published rate of an arm beside ours."""
    rate, start = published_rate(arm), float(arm.pretrain.tokens_at(arm.start))
    if rate is None:
        return None
    x = _stretched(start + rate.tokens, start, factor)
    return {"arm": arm.name, "x": x, "published": rate.published, "lr": rate.planned, "difference": rate.difference}


def loss_chart(curves: TrainingCurves, *, width: int | str = 760) -> LayeredChart:
    """Training loss of every arm and seed as a running mean, on the x axis of the learning rates."""
    rows = [row | {"x": row["seen"]} for row in curves.rows]
    titles = X_TITLE, "training loss, running mean"
    return _curve_chart(curves.stages, rows, field="loss", titles=titles, width=width)


def _curve_chart(
    stages: Sequence[ChartRow], rows: Sequence[ChartRow], *, field: str, titles: tuple[str, str], width: int | str
) -> LayeredChart:
    """Lines of `field` over the rows' `x`; `titles` are those of both axes."""
    addresses = {stage["address"] for stage in stages}
    points = [{key: row[key] for key in ("address", "seen", "x", field)} for row in rows if row["address"] in addresses]
    fields = ["arm", "label", "group", "stage"]
    lookup = alt.LookupData(data=inline_data(stages), key="address", fields=fields)
    axis = alt.Axis(format=".2~s", grid=False, tickCount=8)
    x = alt.X("x:Q", title=titles[0], axis=axis, scale=alt.Scale(nice=False))
    y = alt.Y(f"{field}:Q", title=titles[1], axis=alt.Axis(format="~g", tickCount=5))
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
    channels = _arm_channels(stages)
    ends = _last_points(stages, points)
    lines = lines.encode(color=channels.colour, strokeDash=dash, opacity=opacity)
    marks = (
        rows_chart(ends).transform_lookup(lookup="address", from_=lookup).mark_point(size=55, filled=True, opacity=1)
    )
    marks = marks.encode(x=x, y=y, color=channels.colour, shape=channels.shape, tooltip=tooltips)
    is_trunk = {stage["stage"] == "pretrain" for stage in stages}
    layers = [trunk] * (True in is_trunk) + [lines, marks] * (False in is_trunk)
    return alt.layer(*layers).properties(width=width, height=300)


def _last_points(stages: Sequence[ChartRow], points: Sequence[ChartRow]) -> list[ChartRow]:
    """The last point of each arm and seed, which carries the arm's shape."""
    last = {point["address"]: point for point in points}
    finals = {stage["label"]: last[stage["address"]] for stage in stages if stage["stage"] != "pretrain"}
    return list(finals.values())


def _arm_channels(stages: Sequence[ChartRow]) -> ArmChannels:
    arms = sorted((stage["order"], stage["arm"]) for stage in stages if stage["stage"] != "pretrain")
    return ArmChannels(list(dict.fromkeys(name for _, name in arms)))
