"""preview.html: facts and rows into one file that loads nothing and runs no script, whatever the data wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from firstsight.report.pages.batch_rows import PreviewElement, PreviewRow
from firstsight.report.pages.token_text import single_line_text, visible_html

SOURCE_COLOUR_COUNT = 8
"""Sources beyond these take the first colours again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewSource:
    """One source over the whole stage."""

    name: str
    form: str
    requested_share: str
    """Its share as the recipe says it."""
    rows: int
    tokens: int
    """Padding not among them."""
    loss_tokens: int
    epochs: float
    """How often the stage goes through it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageIdentity:
    """Which stage it is."""

    study: str
    scale: str
    arm: str
    stage: str
    seed: int
    address: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewFacts:
    """What the header says."""

    identity: StageIdentity
    batch_rows: int
    row_length: int
    steps: int
    packing: str
    tokenizer_digest: str
    """Digest of its file."""
    needs_spacing: bool
    """Its tokens hold no white space."""
    requested_share: str
    """The image share, and what it counts."""
    achieved_shares: Mapping[str, float]
    """The image share in rows, tokens and loss tokens."""
    padding_share: float
    """Share of all positions."""
    sources: tuple[PreviewSource, ...]
    """In the order of `Row.kind`."""

    @property
    def rows(self) -> int:
        return self.steps * self.batch_rows


def render_preview(facts: PreviewFacts, rows: Sequence[PreviewRow]) -> str:
    """The page as HTML; equal input gives equal text."""
    report_files, preview_files = files("firstsight.report.pages"), files("firstsight.report.pages")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"plain": single_line_text, "token": _token_html, "percent": _format_percent}
    css = [
        (report_files / "page.css").read_text(encoding="utf-8"),
        (preview_files / "preview.css").read_text(encoding="utf-8"),
    ]
    totals = {
        unit: sum(getattr(source, unit) for source in facts.sources) for unit in ("rows", "tokens", "loss_tokens")
    }
    return environment.from_string((preview_files / "preview.html").read_text(encoding="utf-8")).render(
        css=Markup("\n".join(css)), facts=facts, rows=rows, colours=SOURCE_COLOUR_COUNT, totals=totals
    )


def _format_percent(part: int | float, whole: int = 1) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def _token_html(element: PreviewElement) -> Markup:
    """One token; its class says whether it carries loss, its title where it stands."""
    token_text = element.token_text
    assert token_text is not None  # only pictures have no spelling
    classes = ["t"]
    classes += (
        ["l"] * element.has_loss
        + ["s"] * token_text.is_special
        + ["j"] * token_text.is_continuation
        + ["x"] * token_text.is_invalid_utf8
    )
    title = f"position {element.position}, column {element.column}, token {element.token_id}"
    if element.kind == "beyond":
        classes.append("b")
        title = f"target of column {element.column}, token {element.token_id}, behind the end of this row"
    return Markup('<span class="{}" title="{}">{}</span>').format(
        " ".join(classes), title, visible_html(token_text.text)
    )
