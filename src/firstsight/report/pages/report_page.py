"""report.html: one self-contained file, with the same figures as SVG and PNG and the scores as CSV and Parquet."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.resources import files
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
import vl_convert
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from firstsight.report import figures
from firstsight.report.claims import (
    Claim,
    describe_difference,
    evaluate_claims,
    format_interval,
    format_p_value,
    format_points,
)
from firstsight.report.compare import Comparison
from firstsight.report.figures import SCHEDULE_LABELS, TrainingCurves
from firstsight.report.pages.answer_samples import draw_samples
from firstsight.report.pages.answer_text import readable_answer
from firstsight.report.results import ArmResult, StudyFacts, arms_with_scores, read_achieved
from firstsight.report.summary import answer_sentence, study_limits
from firstsight.report.table import STABLE, score_table, single_task_rows, task_overview
from firstsight.units import Share, format_count

VEGA_LITE_VERSION = "6.4"
VegaSpec = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _ReportContent:
    """All that the page is made of."""

    arms: Sequence[ArmResult]
    study: StudyFacts
    rows: pl.DataFrame
    comparison: Comparison
    curves: TrainingCurves
    specs: dict[str, VegaSpec]
    """Vega-Lite specifications by name; a figure that would be empty is left out."""
    svgs: dict[str, str]
    """The same as SVG, with titles, because these leave the page."""


def write(arms: Sequence[ArmResult], *, study: StudyFacts, folder: Path) -> Path:
    """Write report.html, scores.csv, scores.parquet and figures/ into `folder`; returns the page's path.

    A half-finished study is written too and says what is missing. Equal input gives equal bytes.
    Raises DataError where a scores, answers or log file is not what it claims to be.
    """
    rows = score_table(arms)
    comparison = Comparison(arms, rows)
    curves = figures.read_curves(arms)
    specs = _figure_specs(rows, comparison, curves)
    svgs = {name: _render_svg(with_title(spec, name, study)) for name, spec in specs.items()}
    content = _ReportContent(
        arms=arms, study=study, rows=rows, comparison=comparison, curves=curves, specs=specs, svgs=svgs
    )
    page_path = folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    page_path.write_text(_render_page(content), encoding="utf-8")
    _write_exports(content, folder)
    return page_path


def _figure_specs(rows: pl.DataFrame, comparison: Comparison, curves: TrainingCurves) -> dict[str, VegaSpec]:
    charts = {}
    sweep_rows = rows.filter(pl.col("ordinary") & (pl.col("condition") == "sighted"))
    if not sweep_rows.filter(pl.col("task") == STABLE).is_empty():
        charts["stable"] = figures.stable_score_chart(rows, _question_intervals(rows, comparison))
    if not single_task_rows(sweep_rows).is_empty():
        charts["tasks"] = figures.task_grid(rows)
    if not single_task_rows(rows).filter(pl.col("condition") == "sighted").is_empty():
        charts["heat"] = figures.task_heatmap(rows)
    if curves.rows:
        charts["schedules"] = figures.learning_rate_chart(curves)
        charts["losses"] = figures.loss_chart(curves)
    if "stable" in charts and "tasks" in charts:
        charts["main"] = figures.combined_chart(rows, charts["stable"])
    return {name: figures.vega_lite_spec(chart) for name, chart in charts.items()}


FIGURE_TITLES = {
    "main": "Left: all tasks together. Right: single tasks.",
    "stable": "Stable score: mean over tasks of (accuracy − chance).",
    "tasks": "Single tasks.",
    "heat": "Mean score of every arm on every task.",
    "schedules": "Learning rate of every arm, first seed; fine-tuning is drawn faint.",
    "losses": "Training loss of every arm and seed, running mean; phases are scored on different tokens.",
}
MARKS_CAPTION = "Large: mean over seeds, hollow where the schedule differs. Small: one seed. Bars: 95 % over questions."


def with_title(spec: VegaSpec, name: str, study: StudyFacts) -> VegaSpec:
    """The figure with what it needs to stand alone: question, what is drawn, and where it comes from."""
    subtitle_lines = [FIGURE_TITLES[name] + (f" {MARKS_CAPTION}" if name in ("main", "stable", "tasks") else "")]
    source = f"firstsight · {study.name} · {study.scale} scale"
    return spec | {"padding": 16, "title": {"text": study.question, "subtitle": [*subtitle_lines, source]}}


def _render_svg(spec: VegaSpec) -> str:
    """The figure as SVG; the renderer counts gradients over its whole life, so they are numbered anew."""
    svg = vl_convert.vegalite_to_svg(spec, VEGA_LITE_VERSION)
    gradient_names = {
        name: f"shade_{index}" for index, name in enumerate(dict.fromkeys(re.findall(r"gradient_\d+", svg)))
    }
    return re.sub(r"gradient_\d+", lambda match: gradient_names[match[0]], svg)


def _question_intervals(rows: pl.DataFrame, comparison: Comparison) -> dict[tuple[str, str], tuple[float, float]]:
    pairs = rows.filter(pl.col("task") == STABLE).select("arm", "kind").unique(maintain_order=True).rows()
    intervals = {pair: comparison.question_interval(*pair) for pair in pairs}
    return {pair: interval for pair, interval in intervals.items() if interval is not None}


def _write_exports(content: _ReportContent, folder: Path) -> None:
    content.rows.write_csv(folder / "scores.csv")
    content.rows.write_parquet(folder / "scores.parquet")
    figures_dir = folder / "figures"
    figures_dir.mkdir(exist_ok=True)
    for name, svg in content.svgs.items():
        (figures_dir / f"{name}.svg").write_text(svg, encoding="utf-8")
        (figures_dir / f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=2))


def _render_page(content: _ReportContent) -> str:
    """The template filled; every value that is not ours is escaped by it."""
    package_files = files("firstsight.report.pages")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": format_percent,
        "points": format_points,
        "short": format_count,
        "shown": readable_answer,
        "told": describe_difference,
    }
    environment.filters |= {"span": format_interval, "probability": format_p_value}
    environment.filters |= {"share": lambda share: str(Share(share)), "duration": format_duration}
    assets = {name: Markup((package_files / f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    template = environment.from_string((package_files / "page.html").read_text(encoding="utf-8"))
    return template.render(**assets, **_study_context(content), **_results_context(content), **_charts_context(content))


def _study_context(content: _ReportContent) -> dict[str, Any]:
    arms = sorted(content.arms, key=lambda arm: (arm.start, arm.name, arm.seed))
    return {
        "study": content.study,
        "arms": arms,
        "names": list(dict.fromkeys(arm.name for arm in arms)),
        "done": arms_with_scores(arms),
        "missing": [arm for arm in arms if arm.scores is None],
        "seeds": sorted({arm.seed for arm in arms}),
        "schedules": SCHEDULE_LABELS,
        "tokens": content.curves.total_tokens,
        "mixes": {arm.label: _image_share_text(arm) for arm in arms},
    }


def _image_share_text(arm: ArmResult) -> str:
    """The image share of the arm's image phase: asked, then achieved in rows, tokens and loss tokens."""
    mix = read_achieved(arm)
    if not mix or arm.schedule in ("trunk", "none"):
        return ""
    achieved_percents = [format_percent(mix["achieved"][unit]) for unit in ("rows", "tokens", "loss_tokens")]
    return f"{100 * float(Fraction(mix['asked'])):.3g} → {' · '.join(achieved_percents)} %"


def _results_context(content: _ReportContent) -> dict[str, Any]:
    supported, limitations = study_limits(content.arms, content.rows, content.study, tokens=content.curves.total_tokens)
    study_claims = evaluate_claims(content.arms, content.comparison)
    return {
        "answer": answer_sentence(content.arms, content.rows, content.comparison),
        "can": supported,
        "cannot": limitations,
        "claims": study_claims,
        "reach": _axis_limit(study_claims),
        "overview": task_overview(content.rows),
        "samples": draw_samples(content.arms, content.rows, content.comparison),
        "numbers": content.rows.to_dicts(),
        "csv": base64.b64encode(content.rows.write_csv().encode()).decode(),
    }


def _axis_limit(study_claims: Sequence[Claim]) -> float:
    """How far the strips of differences reach to either side of 0, in whole 5 points: all seeds and common intervals.

    An interval of three times the usual size is cut at its strip's end, so that the others can still be read.
    """
    differences = [difference for claim in study_claims for difference in claim.differences]
    interval_ends = [abs(end) for difference in differences for end in difference.display_interval or ()]
    typical_ends = [end for end in interval_ends if end <= 3 * median(interval_ends)]
    seed_values = [abs(value) for difference in differences for value in dict(difference.per_seed).values()]
    return 0.05 * ceil(max([0.01, *typical_ends, *seed_values]) / 0.05)


def _charts_context(content: _ReportContent) -> dict[str, Any]:
    return {
        "figures": set(content.specs),
        "specs": inline_json({name: spec for name, spec in content.specs.items() if name != "main"}),
        "static": {name: Markup(svg) for name, svg in content.svgs.items()},
        "vega": _vega_script(),
    }


def inline_json(value: object) -> Markup:
    """JSON that can stand inside a script element, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


@cache
def _vega_script() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed vl-convert: no network, now or when read."""
    return Markup(
        vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE_VERSION).replace(
            "</script", "<\\/script"
        )
    )


def format_percent(value: float | None, digits: int = 1) -> str:
    """A share as percent: 53.1; an empty string for none."""
    return "" if value is None else f"{100 * value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def format_duration(seconds: float) -> str:
    """Seconds as one reads them: 42 s, 9.5 min, 31 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"
