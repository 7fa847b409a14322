"""preview.html: facts and rows into one file that loads nothing and runs no script, whatever the data wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from firstsight.report.preview.rows import Row, Shown
from firstsight.report.preview.spelling import marked, plain

COLOURS = 8
"""Sources beyond these take the first colours again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """One source over the whole stage."""

    name: str
    form: str
    asked: str
    """Its share as the recipe says it."""
    rows: int
    tokens: int
    """Padding not among them."""
    loss_tokens: int
    passes: float
    """How often the stage goes through it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """Which stage it is."""

    study: str
    scale: str
    arm: str
    stage: str
    seed: int
    address: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What the header says."""

    where: Where
    batch: int
    length: int
    steps: int
    packing: str
    tokenizer: str
    """Digest of its file."""
    apart: bool
    """Its tokens hold no white space."""
    asked: str
    """The image share, and what it counts."""
    achieved: Mapping[str, float]
    """The image share in rows, tokens and loss tokens."""
    padding: float
    """Share of all positions."""
    sources: tuple[Count, ...]
    """In the order of `Row.kind`."""

    @property
    def rows(self) -> int:
        return self.steps * self.batch


def render(facts: Facts, rows: Sequence[Row]) -> str:
    """The page as HTML; equal input gives equal text."""
    home, ours = files("firstsight.report"), files("firstsight.report.preview")
    frame = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    frame.filters |= {"plain": plain, "token": _token, "percent": _percent}
    css = [(home / "page.css").read_text(encoding="utf-8"), (ours / "preview.css").read_text(encoding="utf-8")]
    totals = {unit: sum(getattr(one, unit) for one in facts.sources) for unit in ("rows", "tokens", "loss_tokens")}
    return frame.from_string((ours / "preview.html").read_text(encoding="utf-8")).render(
        css=Markup("\n".join(css)), facts=facts, rows=rows, colours=COLOURS, totals=totals
    )


def _percent(part: int | float, whole: int = 1) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def _token(shown: Shown) -> Markup:
    """One token; its class says whether it carries loss, its title where it stands."""
    spelt = shown.spelt
    assert spelt is not None  # only pictures have no spelling
    names = ["t"]
    names += ["l"] * shown.loss + ["s"] * spelt.special + ["j"] * spelt.joined + ["x"] * spelt.broken
    told = f"position {shown.position}, column {shown.column}, token {shown.token}"
    if shown.sort == "beyond":
        names.append("b")
        told = f"target of column {shown.column}, token {shown.token}, behind the end of this row"
    return Markup('<span class="{}" title="{}">{}</span>').format(" ".join(names), told, marked(spelt.text))
