"""A figure for every study: the shipped ones and a user's, by their axes, and one chart by name."""

from __future__ import annotations

from dataclasses import replace

import altair as alt
import pytest

from firstsight.errors import RequestError, UnknownName
from firstsight.recipe.analysis import Axis, Coordinate
from firstsight.recipe.scales import get_scale
from firstsight.recipe.study import Study
from firstsight.report.analysis import StudyAnalysis
from firstsight.report.figures import draw_figure, study_charts
from firstsight.report.figures.curves import read_curves
from firstsight.report.figures.style import vega_lite_spec
from firstsight.report.results import ArmResult
from firstsight.studies.when import trunk_arm
from firstsight.workspace.study_functions import find_study_function, shipped_studies
from tests.report.figures.charts import Spec, nodes
from tests.report.study_builder import MakeArms, study

EPOCHS = Axis(name="epochs", label="Epochs of fine-tuning", unit="count")
RATE = Axis(name="rate", label="Peak learning rate", unit="count", scale="log")
ENCODER = Axis(name="encoder", label="Encoder", unit="category")
PLACES: list[dict[str, Coordinate]] = [
    {"epochs": 1, "rate": 1e-4, "encoder": "siglip"},
    {"epochs": 2, "rate": 1e-3, "encoder": "patches"},
    {"epochs": 4, "rate": 1e-2, "encoder": "dinov2"},
]


def _user_study(*axes: Axis) -> Study:
    return Study(name="mine", scale="cpu", question="Which?", arms=(trunk_arm(get_scale("cpu")),), axes=axes)


def _user_arms(make_arms: MakeArms) -> list[ArmResult]:
    """Three arms of a user's study and the baseline."""
    places = dict(zip(("start-020", "start-060", "start-080"), PLACES, strict=True))
    arms = make_arms(questions=10, seeds=(1,))
    named = [replace(arm, name=f"mine-{arm.name}", at=places[arm.name]) for arm in arms if arm.name in places]
    return [*named, *(arm for arm in arms if arm.role == "baseline")]


def _spec(arms: list[ArmResult], drawn: Study, name: str = "stable") -> Spec:
    return vega_lite_spec(draw_figure(StudyAnalysis(arms, drawn), name))


def _x_axes(spec: Spec) -> list[Spec]:
    axes = [node["encoding"]["x"] for node in nodes(spec) if "x" in node.get("encoding", {})]
    return [axis for axis in axes if "field" in axis and "bandPosition" not in axis]


def _marks(spec: Spec) -> set[str]:
    return {node["mark"]["type"] for node in nodes(spec) if isinstance(node.get("mark"), dict)}


def test_ordered_numbers_are_lines(make_arms: MakeArms) -> None:
    spec = _spec(_user_arms(make_arms), _user_study(EPOCHS))
    [axis] = _x_axes(spec)
    assert (axis["type"], axis["title"], axis["axis"]["values"]) == ("quantitative", EPOCHS.label, [1, 2, 4])
    assert {"line", "point"} <= _marks(spec) and "bar" not in _marks(spec)


def test_logarithms_are_lines_on_a_logarithmic_scale(make_arms: MakeArms) -> None:
    [axis] = _x_axes(_spec(_user_arms(make_arms), _user_study(RATE)))
    assert axis["scale"]["type"] == "log" and axis["axis"]["values"] == [1e-4, 1e-3, 1e-2]
    low, high = axis["scale"]["domain"]
    assert 0 < low < 1e-4 and high > 1e-2


@pytest.mark.parametrize(("axes", "names"), [((ENCODER,), ["siglip", "patches", "dinov2"]), ((), None)])
def test_categories_and_names_are_bars(make_arms: MakeArms, axes: tuple[Axis, ...], names: list[str] | None) -> None:
    results = StudyAnalysis(_user_arms(make_arms), _user_study(*axes))
    spec = vega_lite_spec(study_charts(results, read_curves(results.arms))["stable"])
    axis = spec["encoding"]["y"] if "encoding" in spec else next(layer["encoding"]["y"] for layer in spec["layer"])
    assert axis["type"] == "nominal" and axis["sort"] == (names or [f"mine-start-0{n}" for n in (20, 60, 80)])
    assert "bar" in _marks(spec) and "line" not in _marks(spec)


def test_two_axes_are_a_grid_with_a_cell_for_each_arm(make_arms: MakeArms) -> None:
    spec = _spec(_user_arms(make_arms), _user_study(EPOCHS, ENCODER))
    [cells] = spec["datasets"].values()
    assert {(row["column"], row["row"]) for row in cells} == {("1", "siglip"), ("2", "patches"), ("4", "dinov2")}
    assert len(cells) == 3 * 2 and {row["kind"] for row in cells} == {"vision", "text"}
    assert {max(row["shade"] for row in cells if row["kind"] == kind) for kind in ("vision", "text")} == {1}
    assert all(row["guesser_score"] < 1 for row in cells if row["kind"] == "vision")


@pytest.mark.parametrize("name", shipped_studies())
def test_every_shipped_study_has_valid_figures(make_arms: MakeArms, name: str) -> None:
    shipped = find_study_function(name).build("smoke", seeds=1, options={})
    scores = {arm.name: arm for arm in make_arms(questions=5, seeds=(1,))}
    values = [arm for arm in scores.values() if arm.role == "compared"]
    arms = [scores["trunk"]]
    for arm, result in zip([arm for arm in shipped.arms if arm.role == "compared"], values, strict=False):
        arms.append(replace(result, name=arm.name, label=arm.label, at=arm.at, group=arm.group))
    charts = study_charts(StudyAnalysis(arms, shipped), read_curves(arms))
    assert {"stable", "soft", "tasks", "main", "heat", "schedules", "losses"} <= charts.keys()
    assert len([key for key in charts if key.startswith(("stable", "single"))]) == len(shipped.score_figures)
    for chart in charts.values():
        spec = vega_lite_spec(chart)
        spec["datasets"] = {key: data[:1] for key, data in spec["datasets"].items()}
        alt.Chart.from_dict(spec, validate=True)


def test_one_chart_by_name(make_arms: MakeArms) -> None:
    arms = make_arms(questions=5, seeds=(1,))
    main = draw_figure(StudyAnalysis(arms, study()), "when")
    assert isinstance(main, alt.HConcatChart)
    assert draw_figure(StudyAnalysis(arms, study()), "main").to_dict(validate=False) == main.to_dict(validate=False)
    with pytest.raises(UnknownName, match=r"'stabel'\. Nearest: stable, soft, schedules\."):
        draw_figure(StudyAnalysis(arms, study()), "stabel")


@pytest.mark.parametrize("name", ["stable", "soft", "tasks", "heat", "schedules", "losses", "main", "when"])
def test_a_chart_without_results_says_so(make_arms: MakeArms, name: str) -> None:
    arms = [replace(arm, scores=None, stages=()) for arm in make_arms(questions=2, seeds=(1,))]
    with pytest.raises(RequestError, match=f"^the figure '{name}' of when has no results yet"):
        draw_figure(StudyAnalysis(arms, study()), name)
