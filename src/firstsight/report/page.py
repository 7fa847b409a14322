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
from firstsight.report.answers import shown
from firstsight.report.claims import Claim, claims, points, probability, span, told
from firstsight.report.compare import Comparison
from firstsight.report.figures import SCHEDULES, Curves
from firstsight.report.headline import answer, limits
from firstsight.report.results import ArmResult, StudyFacts, judged, read_achieved
from firstsight.report.samples import samples
from firstsight.report.table import STABLE, overview, single, tidy
from firstsight.units import Share, short

VEGA_LITE = "6.4"
Spec = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Material:
    """All that the page is made of."""

    arms: Sequence[ArmResult]
    study: StudyFacts
    rows: pl.DataFrame
    comparison: Comparison
    logged: Curves
    drawn: dict[str, Spec]
    """Vega-Lite specifications by name; a figure that would be empty is left out."""
    static: dict[str, str]
    """The same as SVG, with titles, because these leave the page."""


def write(arms: Sequence[ArmResult], *, study: StudyFacts, folder: Path) -> Path:
    """Write report.html, scores.csv, scores.parquet and figures/ into `folder`; returns the page's path.

    A half-finished study is written too and says what is missing. Equal input gives equal bytes.
    Raises DataError where a scores, answers or log file is not what it claims to be.
    """
    rows = tidy(arms)
    comparison = Comparison(arms, rows)
    logged = figures.curves(arms)
    drawn = _drawn(rows, comparison, logged)
    static = {name: _svg(titled(spec, name, study)) for name, spec in drawn.items()}
    material = _Material(
        arms=arms, study=study, rows=rows, comparison=comparison, logged=logged, drawn=drawn, static=static
    )
    page = folder / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    page.write_text(_page(material), encoding="utf-8")
    _export(material, folder)
    return page


def _drawn(rows: pl.DataFrame, comparison: Comparison, logged: Curves) -> dict[str, Spec]:
    charts = {}
    line = rows.filter(pl.col("ordinary") & (pl.col("condition") == "sighted"))
    if not line.filter(pl.col("task") == STABLE).is_empty():
        charts["stable"] = figures.stable(rows, _intervals(rows, comparison))
    if not single(line).is_empty():
        charts["tasks"] = figures.tasks(rows)
    if not single(rows).filter(pl.col("condition") == "sighted").is_empty():
        charts["heat"] = figures.heat(rows)
    if logged.rows:
        charts["schedules"] = figures.schedules(logged)
        charts["losses"] = figures.losses(logged)
    if "stable" in charts and "tasks" in charts:
        charts["main"] = figures.both(rows, charts["stable"])
    return {name: figures.themed(chart) for name, chart in charts.items()}


TITLES = {
    "main": "Left: all tasks together. Right: single tasks.",
    "stable": "Stable score: mean over tasks of (accuracy − chance).",
    "tasks": "Single tasks.",
    "heat": "Mean score of every arm on every task.",
    "schedules": "Learning rate of every arm, first seed; fine-tuning is drawn faint.",
    "losses": "Training loss of every arm and seed, running mean; phases are scored on different tokens.",
}
MARKS = "Large: mean over seeds, hollow where the schedule differs. Small: one seed. Bars: 95 % over questions."


def titled(spec: Spec, name: str, study: StudyFacts) -> Spec:
    """The figure with what it needs to stand alone: question, what is drawn, and where it comes from."""
    says = [TITLES[name] + (f" {MARKS}" if name in ("main", "stable", "tasks") else "")]
    source = f"firstsight · {study.name} · {study.scale} scale"
    return spec | {"padding": 16, "title": {"text": study.question, "subtitle": [*says, source]}}


def _svg(spec: Spec) -> str:
    """The figure as SVG; the renderer counts gradients over its whole life, so they are numbered anew."""
    svg = vl_convert.vegalite_to_svg(spec, VEGA_LITE)
    names = {name: f"shade_{place}" for place, name in enumerate(dict.fromkeys(re.findall(r"gradient_\d+", svg)))}
    return re.sub(r"gradient_\d+", lambda found: names[found[0]], svg)


def _intervals(rows: pl.DataFrame, comparison: Comparison) -> dict[tuple[str, str], tuple[float, float]]:
    pairs = rows.filter(pl.col("task") == STABLE).select("arm", "kind").unique(maintain_order=True).rows()
    found = {pair: comparison.interval(*pair) for pair in pairs}
    return {pair: ends for pair, ends in found.items() if ends is not None}


def _export(material: _Material, folder: Path) -> None:
    material.rows.write_csv(folder / "scores.csv")
    material.rows.write_parquet(folder / "scores.parquet")
    place = folder / "figures"
    place.mkdir(exist_ok=True)
    for name, svg in material.static.items():
        (place / f"{name}.svg").write_text(svg, encoding="utf-8")
        (place / f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=2))


def _page(material: _Material) -> str:
    """The template filled; every value that is not ours is escaped by it."""
    home = files("firstsight.report")
    frame = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    frame.filters |= {"percent": percent, "points": points, "short": short, "shown": shown, "told": told}
    frame.filters |= {"span": span, "probability": probability}
    frame.filters |= {"share": lambda share: str(Share(share)), "duration": duration}
    ours = {name: Markup((home / f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    template = frame.from_string((home / "page.html").read_text(encoding="utf-8"))
    return template.render(**ours, **_study(material), **_findings(material), **_charts(material))


def _study(material: _Material) -> dict[str, Any]:
    arms = sorted(material.arms, key=lambda arm: (arm.start, arm.name, arm.seed))
    return {
        "study": material.study,
        "arms": arms,
        "names": list(dict.fromkeys(arm.name for arm in arms)),
        "done": judged(arms),
        "missing": [arm for arm in arms if arm.scores is None],
        "seeds": sorted({arm.seed for arm in arms}),
        "schedules": SCHEDULES,
        "tokens": material.logged.ends,
        "mixes": {arm.label: _mix(arm) for arm in arms},
    }


def _mix(arm: ArmResult) -> str:
    """The image share of the arm's image phase: asked, then achieved in rows, tokens and loss tokens."""
    found = read_achieved(arm)
    if not found or arm.schedule in ("trunk", "none"):
        return ""
    achieved = [percent(found["achieved"][unit]) for unit in ("rows", "tokens", "loss_tokens")]
    return f"{100 * float(Fraction(found['asked'])):.3g} → {' · '.join(achieved)} %"


def _findings(material: _Material) -> dict[str, Any]:
    can, cannot = limits(material.arms, material.rows, material.study, tokens=material.logged.ends)
    found = claims(material.arms, material.comparison)
    return {
        "answer": answer(material.arms, material.rows, material.comparison),
        "can": can,
        "cannot": cannot,
        "claims": found,
        "reach": _reach(found),
        "overview": overview(material.rows),
        "samples": samples(material.arms, material.rows, material.comparison),
        "numbers": material.rows.to_dicts(),
        "csv": base64.b64encode(material.rows.write_csv().encode()).decode(),
    }


def _reach(found: Sequence[Claim]) -> float:
    """How far the strips of differences reach to either side of 0, in whole 5 points: all seeds and common intervals.

    An interval of three times the usual size is cut at its strip's end, so that the others can still be read.
    """
    told = [d for claim in found for d in claim.differences]
    ends = [abs(end) for d in told for end in d.shown or ()]
    common = [end for end in ends if end <= 3 * median(ends)]
    seeds = [abs(value) for d in told for value in dict(d.per_seed).values()]
    return 0.05 * ceil(max([0.01, *common, *seeds]) / 0.05)


def _charts(material: _Material) -> dict[str, Any]:
    return {
        "figures": set(material.drawn),
        "specs": inline_json({name: spec for name, spec in material.drawn.items() if name != "main"}),
        "static": {name: Markup(svg) for name, svg in material.static.items()},
        "vega": _vega(),
    }


def inline_json(value: object) -> Markup:
    """JSON that can stand inside a script element, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


@cache
def _vega() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed vl-convert: no network, now or when read."""
    return Markup(
        vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE).replace("</script", "<\\/script")
    )


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent: 53.1; an empty string for none."""
    return "" if value is None else f"{100 * value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """Seconds as one reads them: 42 s, 9.5 min, 31 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"
