"""The tables of docs/reference/models.md are what the specs say: every number is worked out again and compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from firstsight.recipe.mixture import External
from firstsight.recipe.model import LinearRope, Llama3Rope, LMSpec, ProjectorSpec, Rotary
from firstsight.recipe.scales import models
from firstsight.recipe.vision import VisionSpec
from firstsight.units import Tokens
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "reference" / "models.md"
DECODERS: dict[str, Callable[[], LMSpec]] = {
    name: getattr(models, name)
    for name in (
        "openlm_79m",
        "openlm_154m",
        "openlm_411m",
        "openlm_1b",
        "openlm_7b",
        "smollm2_135m",
        "smollm2_360m",
        "smollm2_1b",
        "tinyllama_1b",
        "amber_7b",
        "llama32_1b",
    )
}
ROW = 1024
"""Tokens of the paper's image-text rows."""
PUBLISHED = External(name="published", form="encoder", tokens=Tokens(0))
ENCODERS: dict[str, VisionSpec] = {
    "siglip_so400m_384": models.siglip_so400m_384(PUBLISHED),
    "siglip_base_224": models.siglip_base_224(PUBLISHED),
    "siglip2_so400m_384": models.siglip2_so400m_384(PUBLISHED),
    "clip_large_336": models.clip_large_336(PUBLISHED),
    "dinov2_large_reg_384": models.dinov2_large_reg_384(PUBLISHED),
    "dinov3_large_384": models.dinov3_large_384(PUBLISHED),
    "siglip_dinov2_384": models.siglip_dinov2_384(PUBLISHED, PUBLISHED),
    "patches_14_384": models.patches_14_384(2048),
}
Row = Sequence[str]


def angles(rope: Rotary) -> str:
    base = f"{rope.base:,.0f}"
    match rope:
        case Llama3Rope():
            return f"{base}, llama3 {rope.factor:.0f} from {rope.original_context:,}"
        case LinearRope():
            return f"{base}, linear {rope.factor:.0f}"
        case _:
            return base


def settings() -> list[Row]:
    return [
        (
            f"`{name}`",
            str(spec.layers),
            str(spec.width),
            f"{spec.heads} / {spec.kv_heads}",
            str(spec.head_dim),
            str(spec.mlp_width),
            f"{spec.vocab_size:,}",
            f"{spec.norm} {spec.eps:.0e}".replace("e-0", "e-"),
            "yes" if spec.qk_norm else "no",
            angles(spec.rope),
            "tied" if spec.ties_embeddings else "untied",
        )
        for name, spec in ((name, build()) for name, build in DECODERS.items())
    ]


def costs() -> list[Row]:
    return [
        (
            f"`{name}`",
            f"{spec.parameters():,}",
            f"{replace(spec, qk_norm=False).parameters():,}",
            f"{spec.flops(ROW) / 1e9:.3f}",
            f"{spec.flops(2 * ROW) / 1e9:.3f}",
            f"{4 * spec.parameters() / 1e9:.2f}",
            f"{8 * spec.parameters() / 1e9:.2f}",
        )
        for name, spec in ((name, build()) for name, build in DECODERS.items())
    ]


def encoders() -> list[Row]:
    return [
        (
            f"`{name}`",
            str(spec.image_size),
            f"{spec.grid_size} x {spec.grid_size}",
            str(spec.tokens),
            str(spec.width),
            f"{spec.parameters():,}",
            f"{spec.flops() / 1e9:.1f}",
        )
        for name, spec in ENCODERS.items()
    ]


def projector(kind: str, shuffle: int) -> ProjectorSpec:
    return ProjectorSpec(kind=kind, pixel_shuffle=shuffle, tokens_per_patch=1, has_position_embeddings=False)  # pyright: ignore[reportArgumentType]


def pooling() -> list[Row]:
    """Slots of an image in a row, without pixel shuffle and with it by 2 and 3, and their share of the row."""
    rows: list[Row] = []
    for name, spec in ENCODERS.items():
        counts = [projector("mlp2", factor).tokens(spec) for factor in (1, 2, 3)]
        cells = [f"{count} ({count / ROW:.1%})" for count in counts]
        rows.append((f"`{name}`", *cells))
    return rows


def projectors() -> list[Row]:
    """Widths, parameters and GFLOPs of each projector between the paper's encoder and its main decoder."""
    vision, lm = ENCODERS["siglip_so400m_384"], models.openlm_1b()
    rows: list[Row] = []
    for kind in ("linear", "mlp2", "mlp3"):
        for factor in (1, 2, 3):
            spec = projector(kind, factor)
            widths = " to ".join(str(width) for width in spec.widths(vision, lm))
            rows.append(
                (kind, str(factor), widths, f"{spec.parameters(vision, lm):,}", f"{spec.flops(vision, lm) / 1e9:.1f}")
            )
    return rows


def table(heading: str) -> list[Row]:
    """Rows of the first table below a heading, without its two lines of heading."""
    below = PAGE.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    first = below[below.index("\n|") + 1 :].split("\n\n", 1)[0]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in first.splitlines()[2:]]


@pytest.mark.parametrize(
    ("heading", "rows"),
    [
        ("Decoders: settings", settings),
        ("Decoders: what they cost", costs),
        ("Encoders", encoders),
        ("Pooling", pooling),
        ("Projectors", projectors),
    ],
)
def test_the_page_has_the_numbers_of_the_specs(heading: str, rows: Callable[[], list[Row]]) -> None:
    expected = [tuple(row) for row in rows()]
    markdown = "\n".join(f"| {' | '.join(row)} |" for row in expected)
    assert table(heading) == expected, f"docs/reference/models.md, {heading}:\n{markdown}"


def test_every_published_decoder_and_encoder_is_on_the_page() -> None:
    published = {
        name
        for name, value in vars(models).items()
        if callable(value) and getattr(value, "__module__", "") == models.__name__ and not name.startswith("_")
    }
    missing = published - {*DECODERS, *ENCODERS}
    assert not missing, f"{missing} is missing from docs/reference/models.md"


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    example, printed = PAGE.read_text().split("```python\n", 1)[1].split("```text\n", 1)
    exec(compile(example.split("```", 1)[0], str(PAGE), "exec"), {})
    assert capsys.readouterr().out == printed.split("```", 1)[0]
