"""Axes, figures and claims: legal values, the default figure of each kind of axis, and no trace in an address."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.graph import build_graph
from firstsight.recipe.analysis import (
    Axis,
    Bars,
    Comparison,
    Coordinate,
    Figure,
    Forgetting,
    Grid,
    ParetoFront,
    Sweep,
)
from firstsight.recipe.scales import START, branch_at, get_scale
from firstsight.recipe.study import Study
from firstsight.units import Share, Tokens
from firstsight.workspace.study_functions import find_study_function, shipped_studies

EPOCHS = Axis(name="epochs", label="Epochs", unit="count")
ENCODER = Axis(name="encoder", label="Encoder", unit="category")
RATE = Axis(name="rate", label="Peak learning rate", unit="count", scale="log")
PLACES: list[dict[str, Coordinate]] = [
    {"epochs": 1, "encoder": "siglip", "rate": 1e-4},
    {"epochs": 2, "encoder": "patches", "rate": 1e-3},
]


def _study(axes: tuple[Axis, ...], places: list[dict[str, Coordinate]] = PLACES, **values: Any) -> Study:
    base = get_scale("smoke").base
    arms = tuple(replace(base, name=f"arm-{index}", at=place) for index, place in enumerate(places))
    return Study(name="mine", scale="smoke", question="?", arms=arms, axes=axes, **values)


@pytest.mark.parametrize(
    ("axes", "figure"),
    [
        ((), Bars()),
        ((EPOCHS,), Sweep(x="epochs")),
        ((RATE,), Sweep(x="rate")),
        ((ENCODER,), Bars(x="encoder")),
        ((EPOCHS, ENCODER), Grid(x="epochs", y="encoder")),
        ((EPOCHS, ENCODER, RATE), Bars()),
    ],
)
def test_default_figure_fits_the_axes(axes: tuple[Axis, ...], figure: Figure) -> None:
    assert _study(axes).drawn_figures == (figure,)


def test_arms_at_one_place_are_drawn_by_name_or_refused() -> None:
    places: list[dict[str, Coordinate]] = [{"epochs": 1}, {"epochs": 1}]
    assert _study((EPOCHS,), places).drawn_figures == (Bars(),)
    with pytest.raises(QuantityError, match="Got arm-0 and arm-1 at one"):
        _study((EPOCHS,), places, figures=(Sweep(x="epochs"),))
    study = _study((EPOCHS,), places)
    groups = tuple(replace(arm, group=arm.name) for arm in study.arms)
    assert replace(study, arms=groups).drawn_figures == (Sweep(x="epochs"),)


@pytest.mark.parametrize(
    ("axes", "values", "message"),
    [
        ((START,), {}, r"arm-0: wanted a coordinate on the axis start of mine. Got epochs, encoder, rate. Write"),
        ((EPOCHS, EPOCHS), {}, "different names. Got epochs twice"),
        ((ENCODER,), {"figures": (Sweep(x="encoder"),)}, "wanted a numeric axis. Got encoder"),
        ((EPOCHS,), {"figures": (Sweep(x="epoch"),)}, "epochs"),
        ((EPOCHS,), {"figures": (Sweep(x="epochs", hollow="warm"),)}, "warm"),
        ((EPOCHS,), {"figures": (Grid(x="epochs", y="encoder"),)}, "encoder"),
        ((EPOCHS,), {"figures": (Sweep(x="epochs", measures=("vqa",)),)}, r"vqa.*Nearest: vqav2"),
        ((EPOCHS,), {"figures": (ParetoFront(y="gqaa soft"),)}, "gqaa"),
        ((EPOCHS,), {"figures": (Forgetting(measure="texts"),)}, "texts"),
        ((replace(ENCODER, unit="count"),), {}, "wanted a number. Got 'siglip'"),
        ((replace(EPOCHS, unit="category"),), {}, "wanted the name of a category. Got 1"),
        ((replace(EPOCHS, unit="percent"),), {}, r"wanted a Share, such as Share\(4, 5\). Got 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(axes: tuple[Axis, ...], values: dict[str, Any], message: str) -> None:
    with pytest.raises((QuantityError, UnknownName), match=message):
        _study(axes, **values)


@pytest.mark.parametrize(
    ("expect", "margin", "smallest"), [("more", 0.0, -0.01), ("less", 0.0, 0.01), ("more", 0.02, 0.01)]
)
def test_the_smallest_difference_lies_beyond_the_margin(
    expect: Literal["more", "less"], margin: float, smallest: float
) -> None:
    arms = {"arms": ("a",), "others": ("b",), "measure": "vision"}
    with pytest.raises(QuantityError, match=f"{expect} than the margin of {margin:g}"):
        Comparison(**arms, expect=expect, margin=margin, smallest=smallest)
    assert Comparison(**arms, expect=expect, margin=margin).smallest_difference == margin


def test_figures_without_axes_come_after_the_one_that_fits_the_axes() -> None:
    study = _study((EPOCHS,), figures=(ParetoFront(), Forgetting(measure="boolq soft")))
    assert study.score_figures == (Sweep(x="epochs"),)
    assert study.drawn_figures == (Sweep(x="epochs"), ParetoFront(), Forgetting(measure="boolq soft"))


@pytest.mark.parametrize("measures", [(), ("vision",), ("vision", "boolq"), ("boolq", "copa", "gqa", "pope", "vqav2")])
def test_a_sweep_is_of_the_stable_scores_or_of_a_few_tasks(measures: tuple[str, ...]) -> None:
    with pytest.raises(QuantityError, match=r"^Sweep\.measures: wanted one to 4 tasks, or"):
        Sweep(x="epochs", measures=measures)


def test_a_pareto_front_has_two_measures() -> None:
    with pytest.raises(QuantityError, match=r"^ParetoFront: wanted two different measures"):
        ParetoFront(x="text", y="text")


def test_a_grid_has_two_axes() -> None:
    with pytest.raises(QuantityError, match=r"^Grid: wanted two different axes\. Got 'epochs' as x and as y"):
        Grid(x="epochs", y="epochs")


def test_logarithms_need_numbers_above_zero() -> None:
    with pytest.raises(QuantityError, match=r"above 0, because the scale is logarithmic\. Got 0"):
        _study((RATE,), [{"rate": 0}])


def test_a_symmetric_logarithm_has_a_place_for_zero_alone() -> None:
    symlog = replace(RATE, scale="symlog")
    assert _study((symlog,), [{"rate": 0}]).drawn_figures == (Sweep(x="rate"),)
    with pytest.raises(QuantityError, match=r"of 0 or above, because the scale is logarithmic\. Got -1"):
        symlog.check(-1)


@pytest.mark.parametrize("coordinate", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
def test_coordinates_are_finite(coordinate: float, scale: Literal["linear", "log", "symlog"]) -> None:
    with pytest.raises(QuantityError, match=r"axis epochs: wanted a number that is finite\. Got -?(nan|inf)"):
        replace(EPOCHS, scale=scale).check(coordinate)


@pytest.mark.parametrize("name", ["", "Epochs", "2nd", "image share", "score", "task"])
def test_axis_names_are_columns(name: str) -> None:
    with pytest.raises(QuantityError, match="the name of an axis"):
        replace(EPOCHS, name=name)


@pytest.mark.parametrize(
    ("axis", "coordinate", "text"),
    [
        (START, Share(4, 5), "80 %"),
        (START, Share(197, 1000), "19.7 %"),
        (EPOCHS, 4, "4"),
        (EPOCHS, 12_345, "12345"),
        (RATE, 3e-4, "0.0003"),
        (RATE, 3e-5, "0.00003"),
        (RATE, 2.0, "2"),
        (replace(EPOCHS, unit="tokens"), Tokens(28_795_904_000), "28.8B"),
        (ENCODER, "siglip", "siglip"),
    ],
)
def test_coordinates_as_text(axis: Axis, coordinate: Coordinate, text: str) -> None:
    assert axis.text(coordinate) == text


@pytest.mark.parametrize("name", shipped_studies())
def test_axes_figures_and_claims_enter_no_address(name: str) -> None:
    study = find_study_function(name).build("smoke", seeds=1, options={})
    assert study.parts or (study.axes and (study.figures or study.claims))
    bare = [replace(arm, at={}, group="", role="compared") for arm in study.arms]
    plain = replace(study, arms=tuple(bare), axes=(), figures=(), claims=(), decision_accuracy=None)
    addresses, plain_addresses = ([step.address for step in build_graph(each).steps] for each in (study, plain))
    assert addresses == plain_addresses


@pytest.mark.parametrize("scale", ["smoke", "1b"])
@pytest.mark.parametrize("name", shipped_studies())
def test_claims_of_shipped_studies_name_their_arms_and_numbers(name: str, scale: str) -> None:
    study = find_study_function(name).build(scale, seeds=1, options={})
    names = {arm.name for arm in study.arms}
    for claim in study.claims:
        assert claim.source and claim.published
        assert all(names.issuperset(comparison.arms + comparison.others) for comparison in claim.compare)


def test_branches_have_their_start_as_coordinate() -> None:
    arm = branch_at(get_scale("smoke"), Share(2, 5))
    assert arm.at == {START.name: arm.start}


def test_the_study_of_the_how_to_is_drawn_as_lines_over_its_axis(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "howto" / "everyday.md").read_text()
    path = tmp_path / "epochs.py"
    path.write_text(page[page.index("# epochs.py") :].partition("```")[0])
    study = find_study_function(str(path)).build("smoke", seeds=2, options={})
    assert study.drawn_figures == (Sweep(x="epochs"),)
    assert [arm.stages[-1].epochs for arm in study.arms] == [arm.at["epochs"] for arm in study.arms] == [1, 2, 4] * 2
    addresses = {build_graph(study).final_step(arm.label).address for arm in study.arms}
    assert len(addresses) == 6
