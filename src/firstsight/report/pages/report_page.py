"""report.html: one self-contained file; beside it the figures as SVG and PNG, scores and noise as CSV and Parquet."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cache
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import vl_convert
from markupsafe import Markup

from firstsight.files import cached_bytes, write_atomic
from firstsight.recipe.analysis import Bars, Grid, ScoreFigure, Sweep
from firstsight.recipe.study import Study
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.claims import ClaimResult, rule_sentence
from firstsight.report.figures import StudyChart, figure_names, study_charts
from firstsight.report.figures.curves import read_curves
from firstsight.report.figures.layout import lay_out
from firstsight.report.figures.style import vega_lite_spec
from firstsight.report.format import axis_limit, format_percent, inline_json, read_assets, render_template
from firstsight.report.pages.arm_pairs import pair_data
from firstsight.report.pages.question_cards import draw_samples
from firstsight.report.results import ArmResult, RunInfo, arms_with_scores, damage_by_arms
from firstsight.report.summary import comparability_warnings, seed_gaps, study_limits, tests_paper
from firstsight.report.table import models_table, task_overview
from firstsight.visible import visible_values

VEGA_LITE_VERSION = "6.4"
VegaSpec = dict[str, Any]
MAX_SCORE_ROWS = 4000
"""Of more scores the page has the CSV alone: their table would be most of the page, and of the time to open it."""
MAX_LISTED_ARMS = 8
"""Panels of single tasks that list more arms than that have the whole width of the page."""

FIGURE_TITLES = {
    "main": "Left: all tasks together. Right: single tasks.",
    "stable": "Stable score: mean over tasks of (accuracy − chance).",
    "single": "Scores of single tasks.",
    "pareto": "One score against the other. Dashed: the arms that no other arm equals in one and exceeds in the other.",
    "forgetting": "The score after every stage at which it was measured. Lines join the stages of one training.",
    "soft": "Soft stable score: mean over tasks of (expected score of a sampled answer − chance).",
    "accuracy": "Share of pairs of arms in the order of the largest size, by size. Hollow: of the pairs decided there.",
    "pairs": "Pairs of arms: below the line the smaller size reverses the order. Hollow: undecided at the largest.",
    "tasks": "Single tasks.",
    "heat": "Mean score of every arm on every task.",
    "schedules": "Learning rate of every arm by the plan, first seed; fine-tuning is drawn fainter.",
    "losses": "Training loss of every arm and seed, running mean; each phase has its loss on different tokens.",
}
SWEEP_MARKS = "Large: mean over seeds{hollow}. Small: one seed. Thick bars: 95 % over questions."
BAR_MARKS = "Bars: mean over seeds. Dots: one seed. Thick lines: 95 % over questions."


def write(results: StudyAnalysis, *, run: RunInfo, folder: Path) -> Path:
    """Write report.html, scores and noise as CSV and Parquet, and figures/ into `folder`; returns the page's path.

    The page of an unfinished study lists what is missing. Equal input gives equal bytes.
    Raises DataError where a scores, answers or log file is invalid.
    """
    study, curves = results.study, read_curves(results.arms)
    charts = study_charts(results, curves)
    specs = {name: vega_lite_spec(chart) for name, chart in charts.items()}
    supported, limitations = study_limits(results.arms, results.scores, study, run=run, tokens=curves.total_tokens)
    svgs = {name: _render_svg(with_title(spec, name, study)) for name, spec in specs.items()}
    page = render_template(
        "page.html",
        css=read_assets("page.css"),
        js=read_assets("page.js", "pairs.js"),
        vega=_vega_script(run.cache),
        figures=list(specs),
        specs=inline_json({name: spec for name, spec in specs.items() if name != "main"}),
        pairs=inline_json(pair_data(results, run.recipe_differences)),
        static_figures={name: Markup(svg) for name, svg in svgs.items()},
        supported=supported,
        limitations=limitations,
        run=run,
        **_study_context(results.arms, study, curves.total_tokens),
        **_results_context(results),
    )
    for name, svg in svgs.items():
        for suffix in (".svg", ".png"):
            _write_svg(svg, folder / "figures" / f"{name}{suffix}")
    _write_table(results.scores, folder / "scores")
    _write_table(results.noise.frame(), folder / "noise")
    if results.decision_accuracy:
        _write_table(results.decision_accuracy.frame(), folder / "decision-accuracy")
    write_atomic(folder / "report.html", page)
    return folder / "report.html"


def write_figure(chart: StudyChart, name: str, *, study: Study, path: Path) -> None:
    """Write one figure of a study, with its title, as .svg or .png by the suffix of `path`."""
    _write_svg(_render_svg(with_title(vega_lite_spec(chart), name, study)), path)


def _write_svg(svg: str, path: Path) -> None:
    write_atomic(path, svg if path.suffix == ".svg" else vl_convert.svg_to_png(svg, scale=2))


def _write_table(table: pl.DataFrame, path: Path) -> None:
    """Write `path` with the suffixes .parquet and .csv."""
    content = BytesIO()  # polars reports a full disk by errors of its own
    table.write_parquet(content)
    write_atomic(path.with_suffix(".parquet"), content.getvalue())
    write_atomic(path.with_suffix(".csv"), table.write_csv())


def with_title(spec: VegaSpec, name: str, study: Study) -> VegaSpec:
    """The figure with the study's question as title, and its content and source below."""
    kind = re.sub(r"-\d+$", "", name)
    marks = f" {_marks_caption(study)}" if kind in ("main", "stable", "single", "soft", "tasks") else ""
    source = f"firstsight · {study.name} · {study.scale} scale · horizon {study.horizon}"
    title = {"text": study.question, "subtitle": [FIGURE_TITLES[kind] + marks, source]}
    return spec | {"padding": 16, "title": visible_values(title)}


def _marks_caption(study: Study) -> str:
    """How to read the marks of the study's first figure."""
    figure = study.score_figures[0]
    if isinstance(figure, Sweep):
        return SWEEP_MARKS.format(hollow=f", hollow: {figure.hollow}" if figure.hollow else "")
    return BAR_MARKS if isinstance(figure, Bars) else "Means over seeds; in brackets the better guesser."


def _render_svg(spec: VegaSpec) -> str:
    """The figure as SVG, with gradients numbered from 0; the renderer's own count continues from figure to figure."""
    svg = vl_convert.vegalite_to_svg(spec, VEGA_LITE_VERSION)
    gradients = list(dict.fromkeys(re.findall(r"gradient_\d+", svg)))
    return re.sub(r"gradient_\d+", lambda match: f"shade_{gradients.index(match[0])}", svg)


def _study_context(arms: Sequence[ArmResult], study: Study, total_tokens: Mapping[str, float]) -> dict[str, Any]:
    figures = study.score_figures
    compared_names = {arm.name for arm in arms if arm.role == "compared"}
    titles = {
        name: lay_out(figure, arms, study).title
        for name, figure in figure_names(study).items()
        if isinstance(figure, ScoreFigure)
    }
    return {
        "study": study,
        "arms": sorted(arms, key=lambda arm: arm.role == "baseline"),
        "names": list(dict.fromkeys(arm.name for arm in arms)),
        "has_groups": len({arm.group for arm in arms if arm.role == "compared"}) > 1,
        "figure_titles": titles,
        "panel_tasks": next(
            (" and ".join(f.measures) for f in figures if isinstance(f, Sweep) and f != figures[0]), ""
        ),
        "is_sweep": isinstance(figures[0], Sweep),
        "is_grid": isinstance(figures[0], Grid),
        "has_small_panels": isinstance(figures[0], Sweep) or len(compared_names) <= MAX_LISTED_ARMS,
        "hollow": figures[0].hollow if isinstance(figures[0], Sweep) else "",
        "scored_arms": arms_with_scores(arms),
        "missing_arms": [arm for arm in arms if arm.scores is None],
        "damage": damage_by_arms(arms),
        "seeds": sorted({arm.seed for arm in arms}),
        "seed_gaps": seed_gaps(arms),
        "tests_paper": tests_paper(study),
        "total_tokens": total_tokens,
        "image_shares": {arm.label: _image_shares(arm) for arm in arms},
        "share_text": share_text,
    }


def _image_shares(arm: ArmResult) -> list[str]:
    """The image share of each image phase of an arm: requested, then achieved in rows, tokens and loss tokens."""
    return [share_text(stage.achieved_mix) for stage in arm.stages if stage.kind == "midtrain" and stage.achieved_mix]


def share_text(mix: Mapping[str, Any]) -> str:
    """10 → 10.0 · 9.7 · 3.1 %, from an achieved.json; empty for an empty one."""
    if not mix:
        return ""
    achieved = " · ".join(format_percent(mix["achieved"][unit]) for unit in ("rows", "tokens", "loss_tokens"))
    return f"{100 * float(Fraction(mix['asked'])):.3g} → {achieved} %"


def _results_context(results: StudyAnalysis) -> dict[str, Any]:
    arms, rows = results.arms, results.scores
    return {
        "answer": results.answer,
        "warnings": comparability_warnings(arms, rows),
        "claim_results": results.claims,
        "rule": rule_sentence(results.rule),
        "axis_limit": _claims_axis_limit(results.claims),
        "noise": results.noise,
        "accuracy": results.decision_accuracy,
        "overview": task_overview(rows),
        "models": models_table(arms, rows),
        "samples": draw_samples(arms, rows),
        "num_scores": len(rows),
        "score_rows": rows.to_dicts() if len(rows) <= MAX_SCORE_ROWS else [],
        "csv": base64.b64encode(rows.write_csv().encode()).decode(),
    }


def _claims_axis_limit(results: Sequence[ClaimResult]) -> float:
    """Axis limit of the strips of differences: it contains all seeds and intervals of usual size.

    An interval of three times the median size is cut at the strip's end, so that the others stay readable.
    """
    differences = [difference for result in results for difference in result.differences]
    ends = [abs(end) for difference in differences for end in difference.display_interval or ()]
    usual_ends = [end for end in ends if end <= 3 * median(ends)]
    return axis_limit([*usual_ends, *(value for difference in differences for _, value in difference.per_seed)])


@cache
def _vega_script(cache: Path) -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script from the installed vl-convert, so that no network is needed.

    It is bundled, which takes a second, once for each `cache`.
    """

    def bundle() -> bytes:
        return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE_VERSION).encode()

    path = cache / f"vega-lite-{VEGA_LITE_VERSION}-vl-convert-{version('vl-convert-python')}.js"
    return Markup(cached_bytes(path, bundle).decode().replace("</script", "<\\/script"))
