"""Shares, budgets and counts: read, printed and rounded."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import QuantityError
from firstsight.plan.graph import build_graph, render_tree
from firstsight.recipe.scales import get_scale
from firstsight.recipe.stages import RowShape
from firstsight.studies.when import when
from firstsight.units import Share, Tokens, format_bytes, format_count, parse_duration, parse_share, parse_tokens

PYTHONS = [Path(sys.executable), *sorted(Path.home().glob(".pyenv/versions/3.1[1-9]*/bin/python"))]


@given(st.integers(0, 100))
def test_percent_and_fraction_read_alike(percent: int) -> None:
    assert parse_share(f"{percent}%") == parse_share(f"{percent}/100") == Fraction(percent, 100)
    assert parse_share(str(Share(percent, 100))) == Fraction(percent, 100)


@pytest.mark.parametrize("text", ["101%", "-1%", "ten", "", "1/0", "nan"])
def test_impossible_shares_are_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        parse_share(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200),
        ("1.5h", 5400),
        ("90min", 5400),
        ("90m", 5400),
        ("1h30min", 5400),
        (" 1 h 30 s ", 3630),
        ("3d", 259_200),
    ],
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "", "-2h", "0h", "2 weeks", "1h 30", "nan", "infs", f"{'9' * 400}h"])
def test_impossible_durations_are_refused(text: str) -> None:
    with pytest.raises(QuantityError, match="2h"):
        parse_duration(text)


def test_tokens_read_and_print() -> None:
    assert parse_tokens("28B") == 28_000_000_000
    assert parse_tokens("28_795_904_000") == 28_795_904_000
    assert parse_tokens("1.4M") == 1_400_000
    assert format_count(28_795_904_000) == "28.8B"
    with pytest.raises(QuantityError):
        parse_tokens("1.5")


@pytest.mark.parametrize(("share", "text"), [(Share(1, 5), "20 %"), (Share(1, 3), "33.33 %"), (Share(1), "100 %")])
def test_a_share_prints_as_a_percentage_however_it_is_formatted(share: Share, text: str) -> None:
    assert str(share) == f"{share}" == format(share) == "%s" % share == text  # noqa: UP031
    assert f"{share:>8}" == text.rjust(8)


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: path.parts[-3])
def test_every_python_prints_shares_alike_and_plans_without_heavy_packages(python: Path) -> None:
    """Fraction has a format of its own since Python 3.12; `-S` leaves out every installed package."""
    script = """
from firstsight.plan.graph import build_graph, render_tree
from firstsight.recipe.mixture import External, Recaptioned, source_label
from firstsight.recipe.scales import get_scale
from firstsight.studies.when import when
from firstsight.units import Share
external = External(name="pairs", form="captions", tokens=0)
print(f"{Share(1, 5)}", source_label(Recaptioned(external=external, synthetic_share=Share(1, 4), seed=0)))
print(when(get_scale("smoke")).arms[1].stages[0].mix)
print(render_tree(build_graph(when(get_scale("smoke"))))[0])
"""
    source = Path(__file__).parents[1] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    output = subprocess.run([python, "-S", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert output.stdout.splitlines() == [
        "20 % pairs (25 % synthetic captions)",
        "80 % images, as shares of rows; images: rich captions; text: texts",
        render_tree(build_graph(when(get_scale("smoke"))))[0],
    ], output.stderr


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (3_102_720, "3.1 MB"), (10**12, "1 TB"), (25 * 10**14, "2.5 PB")]
)
def test_bytes_print_in_three_digits(count: int, text: str) -> None:
    assert format_bytes(count) == text


@given(st.integers(1, 10**14), st.integers(1, 4096), st.integers(1, 8192))
def test_whole_steps_cover_a_budget_and_waste_less_than_one(tokens: int, batch: int, row: int) -> None:
    rows = RowShape(batch_size=batch, length=row)
    assert 0 <= rows.round_up(Tokens(tokens)) - tokens < rows.tokens_per_step


def test_a_budget_of_no_step_is_refused() -> None:
    with pytest.raises(QuantityError, match="at least one step"):
        RowShape(batch_size=32, length=64).steps(Tokens(0))
