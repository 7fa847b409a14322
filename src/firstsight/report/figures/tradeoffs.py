"""What arms gain and lose: one score against another with its Pareto front, and a score after every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt
import polars as pl

from firstsight.recipe.analysis import STABLE_MEASURES, Forgetting, Measure, ParetoFront, split_measure
from firstsight.report.compare import ArmComparison
from firstsight.report.figures.style import (
    GREY_COLOUR,
    PERCENT_LABEL,
    ArmChannels,
    ChartRow,
    LayeredChart,
    field_tooltips,
    rows_chart,
)
from firstsight.report.results import ArmResult, arms_with_scores
from firstsight.report.table import measure_scores

STAGE_TEXTS = {"pretrain": "text pre-training", "midtrain": "image-text mid-training", "finetune": "fine-tuning"}
POINT_SIZE, SEED_SIZE = 120, 26
INTERVAL_FIELDS = ("x_low", "x_high", "y_low", "y_high")


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names of the points that no other point equals in one coordinate and exceeds in the other, from left to
    right."""
    front: list[str] = []
    highest = float("-inf")
    for name, (x, y) in sorted(points.items(), key=lambda item: (-item[1][0], -item[1][1])):
        if y > highest or (front and points[front[-1]] == (x, y)):
            front.append(name)
            highest = y
    return front[::-1]


def measure_title(measure: Measure) -> str:
    """The title of an axis: vision: mean over tasks of (score − chance), or the name of a task."""
    name, is_soft = split_measure(measure)
    soft = "soft " * is_soft
    return f"{name}: mean over tasks of ({soft}score − chance)" if name in STABLE_MEASURES else f"{name}: {soft}score"


def pareto_chart(
    figure: ParetoFront,
    rows: pl.DataFrame,
    comparison: ArmComparison,
    *,
    texts: Mapping[str, str],
    width: int | str = 460,
) -> LayeredChart | None:
    """A point for each arm that has both scores, with its seeds and 95 % intervals; None without such an arm.

    `texts` are the arms' names in the legend.
    """
    keys = ["arm", "seed"]
    seeds = measure_scores(rows, figure.x).select(*keys, "address", "label", x="score")
    seeds = seeds.join(measure_scores(rows, figure.y).select(*keys, y="score"), on=keys, maintain_order="left")
    if seeds.is_empty():
        return None
    means = seeds.group_by("arm", maintain_order=True).agg(
        pl.col("x", "y").mean(), pl.len().alias("seeds"), pl.col("address").str.join(", ")
    )
    front = pareto_front({arm: (x, y) for arm, x, y in means.select("arm", "x", "y").iter_rows()})
    points: list[ChartRow] = []
    for row in means.to_dicts():
        place = "on the front" if row["arm"] in front else "another arm is at least as good in both"
        ends = [comparison.question_interval(row["arm"], measure) or (None, None) for measure in (figure.x, figure.y)]
        intervals = dict(zip(INTERVAL_FIELDS, (*ends[0], *ends[1]), strict=True))
        points.append(row | {"front": place, "text": texts[row["arm"]]} | intervals)
    by_arm = {row["arm"]: row for row in points}
    line = [{key: by_arm[arm][key] for key in ("x", "y")} for arm in front]
    dots = [row | {"text": texts[row["arm"]]} for row in seeds.to_dicts()]
    return alt.layer(*_pareto_layers(figure, points, line=line, dots=dots)).properties(width=width, height=400)


def _pareto_layers(
    figure: ParetoFront, points: Sequence[ChartRow], *, line: Sequence[ChartRow], dots: Sequence[ChartRow]
) -> list[alt.Chart]:
    scale, axis = alt.Scale(zero=False, nice=True), alt.Axis(labelExpr=PERCENT_LABEL, tickCount=6)
    x = alt.X("x:Q", title=measure_title(figure.x), scale=scale, axis=axis)
    y = alt.Y("y:Q", title=measure_title(figure.y), scale=scale, axis=axis)
    channels = ArmChannels([row["text"] for row in points], field="text")
    numbers = _score_tooltips(x=figure.x, y=figure.y)
    ends = zip(INTERVAL_FIELDS, (f"{m} {end}" for m in (figure.x, figure.y) for end in ("from", "to")), strict=True)
    details = [*field_tooltips("arm", "front"), *numbers, *_score_tooltips(**dict(ends))]
    base = rows_chart(points).encode(tooltip=[*details, *field_tooltips("seeds", "address")], color=channels.colour)
    bars = base.mark_rule(strokeWidth=5, opacity=0.16)
    seeds = rows_chart(dots).mark_circle(size=SEED_SIZE, opacity=0.8)
    return [
        rows_chart(line).mark_line(color=GREY_COLOUR, strokeWidth=1.6, strokeDash=[5, 3]).encode(x=x, y=y),
        bars.encode(x=alt.X("x_low:Q"), x2="x_high:Q", y=y),
        bars.encode(x=x, y=alt.Y("y_low:Q"), y2="y_high:Q"),
        seeds.encode(
            x=x, y=y, color=channels.colour, tooltip=[*field_tooltips("label"), *numbers, *field_tooltips("address")]
        ),
        base.mark_point(size=POINT_SIZE, filled=True, opacity=1).encode(
            x=x, y=y, shape=channels.shape, description="address:N"
        ),
    ]


def _score_tooltips(**titles: str) -> list[alt.Tooltip]:
    """Fields of scores with their titles."""
    return [alt.Tooltip(f"{field}:Q", title=title, format=".1%") for field, title in titles.items()]


def stage_names(arm: ArmResult) -> list[str]:
    """What each training step of an arm is on the axis of `forgetting_chart`; a second stage of a kind has a number."""
    names: list[str] = []
    for stage in arm.stages:
        name = STAGE_TEXTS[stage.kind]
        number = 1 + sum(other == name or other.startswith(f"{name} ") for other in names)
        names.append(name if stage.kind == "pretrain" or number == 1 else f"{name} {number}")
    return names


def earlier_arms(arms: Sequence[ArmResult]) -> dict[str, list[ArmResult]]:
    """The evaluated points of each arm's training, by label: the arms whose steps are the first of its steps, and
    itself last. Arms that are the beginning of another one have no entry, and those whose steps are not known."""
    chains = {arm.label: tuple(stage.address for stage in arm.stages) for arm in arms}
    points: dict[str, list[ArmResult]] = {}
    for arm in arms:
        chain = chains[arm.label]
        is_part = any(len(other) > len(chain) and other[: len(chain)] == chain for other in chains.values())
        if chain and not is_part:
            parts = [part for part in arms if chains[part.label] and chains[part.label] == chain[: len(part.stages)]]
            shorter = [part for part in parts if len(part.stages) < len(chain)]
            points[arm.label] = [*sorted(shorter, key=lambda part: len(part.stages)), arm]
    return points


def forgetting_chart(
    figure: Forgetting,
    arms: Sequence[ArmResult],
    rows: pl.DataFrame,
    *,
    texts: Mapping[str, str],
    width: int | str = 460,
) -> LayeredChart | None:
    """The last score measured in every stage, a line for each arm; None if all have one point."""
    scores = dict(measure_scores(rows, figure.measure).select("label", "score").iter_rows())
    scored = [arm for arm in arms_with_scores(arms) if arm.label in scores]
    by_label = {arm.label: arm for arm in scored}
    seeds: list[ChartRow] = []
    for label, points in earlier_arms(scored).items():
        end = by_label[label]
        latest = {stage_names(point)[-1]: point for point in points}  # a stage may be measured on its way too
        for point in latest.values():
            row = {"arm": end.name, "text": texts[end.name], "measured": point.name, "label": point.label}
            row |= {"stage": stage_names(point)[-1], "steps": len(point.stages), "seed": point.seed}
            seeds.append(row | {"score": scores[point.label], "address": point.address})
    if len({row["stage"] for row in seeds}) < 2:
        return None
    return alt.layer(*_stage_layers(figure, seeds)).properties(width=width, height=400)


def _stage_layers(figure: Forgetting, seeds: Sequence[ChartRow]) -> list[alt.Chart]:
    keys = ["arm", "text", "measured", "stage", "steps"]
    means = pl.DataFrame(seeds).group_by(keys, maintain_order=True)
    means = means.agg(pl.col("score").mean(), pl.len().alias("seeds"), pl.col("address").str.join(", "))
    steps = {row["stage"]: row["steps"] for row in sorted(seeds, key=lambda row: row["steps"])}
    order = sorted(steps, key=lambda stage: (stage != STAGE_TEXTS["pretrain"], steps[stage]))
    channels = ArmChannels(list(dict.fromkeys(row["text"] for row in seeds)), field="text")
    x = alt.X("stage:N", sort=order, title="measured after", axis=alt.Axis(labelAngle=0, labelLimit=150))
    axis = alt.Axis(labelExpr=PERCENT_LABEL)
    y = alt.Y("score:Q", title=measure_title(figure.measure), axis=axis, scale=alt.Scale(zero=False, nice=True))
    tooltips = field_tooltips("arm", "measured", "stage", "score", "seeds", "address")
    base = rows_chart(means.to_dicts()).encode(x=x, y=y, color=channels.colour, tooltip=tooltips)
    dots = rows_chart(seeds).mark_circle(size=SEED_SIZE, opacity=0.8, xOffset=9)
    return [
        base.mark_line(strokeWidth=2).encode(detail="text:N", order="steps:Q"),
        dots.encode(x=x, y=y, color=channels.colour, tooltip=field_tooltips("label", "stage", "score", "address")),
        base.mark_point(size=POINT_SIZE, filled=True, opacity=1).encode(shape=channels.shape, description="address:N"),
    ]
