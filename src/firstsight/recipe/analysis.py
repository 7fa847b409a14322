"""What a study varies (axes), how it is drawn (figures) and what is claimed about it (claims).

Values only: `report` draws and tests them. They belong to a study, not to a step, so that no address depends on them.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import ClassVar, Literal

from firstsight.errors import QuantityError
from firstsight.recipe.spec import spec
from firstsight.units import Share, format_count

Coordinate = Share | int | float | str
"""Position of an arm on an axis: a number (an exact share on an axis of percents), or the name of a category."""

Measure = str
"""What arms are compared on: "vision" or "text" (the stable score of that kind), or the name of one task.

With " soft" after it, the soft score instead: "vision soft", "text soft", "pope soft"."""

STABLE_MEASURES = ("vision", "text")
SOFT_SUFFIX = " soft"
MAX_MEASURES = 4
"""The most single tasks in one figure."""


def split_measure(measure: Measure) -> tuple[str, bool]:
    """The kind or task of a measure, and whether its soft score is meant."""
    return measure.removesuffix(SOFT_SUFFIX), measure.endswith(SOFT_SUFFIX)


RESERVED_NAMES = (
    *("arm", "label", "seed", "group", "role", "task", "kind", "condition"),
    *("score", "interval_low", "interval_high", "margin_low", "margin_high", "chance", "baseline"),
    *("questions", "metric", "address", "version"),
)
"""The other columns of a table of scores, which has one column for each axis."""


@spec
class Axis:
    """Something that differs from arm to arm. Arms have a coordinate on each axis of their study: `Arm.at`."""

    TAG: ClassVar = "axis"
    name: str
    """As in `Arm.at`; also a column of scores.csv."""
    label: str
    """Title of the axis in figures and tables: Text pre-training before images."""
    unit: Literal["percent", "count", "tokens", "parameters", "category"]
    scale: Literal["linear", "log", "symlog"] = "linear"
    """Of numbers; categories have none. symlog: logarithmic, but linear near 0, so that it has a place for 0."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name in RESERVED_NAMES:
            reserved = f"not a column of the table of scores ({', '.join(sorted(RESERVED_NAMES))})"
            raise QuantityError(
                f"the name of an axis has lower-case letters, digits and _, and is {reserved}. Got {self.name!r}."
            )

    @property
    def is_numeric(self) -> bool:
        """Whether coordinates are numbers, which have an order and distances."""
        return self.unit != "category"

    def check(self, coordinate: Coordinate) -> None:
        """Raise QuantityError where a coordinate does not fit the axis."""
        is_number = not isinstance(coordinate, (str, bool))
        wanted = "a number" if self.is_numeric else "the name of a category"
        if self.unit == "percent":
            is_number, wanted = isinstance(coordinate, Share), "a Share, such as Share(4, 5)"
        if isinstance(coordinate, float) and self.is_numeric and not math.isfinite(coordinate):
            is_number, wanted = False, f"{wanted} that is finite"
        elif is_number and self.is_numeric and self.scale != "linear":
            is_legal = float(coordinate) > 0 if self.scale == "log" else float(coordinate) >= 0
            limit = "above 0" if self.scale == "log" else "of 0 or above"
            is_number, wanted = is_legal, f"{wanted} {limit}, because the scale is logarithmic"
        if is_number != self.is_numeric:
            raise QuantityError(f"axis {self.name}: wanted {wanted}. Got {coordinate!r}.")

    def text(self, coordinate: Coordinate) -> str:
        """A coordinate as in tables and sentences: 80 %, 28.8B, 0.0003, siglip."""
        if self.unit in ("tokens", "parameters") and isinstance(coordinate, (int, float)):
            return format_count(coordinate)
        if isinstance(coordinate, float) and 1e-6 <= abs(coordinate) < 1e6:
            return format(Decimal(f"{coordinate:.4g}"), "f")
        return str(coordinate)


@spec
class Sweep:
    """Scores against a numeric axis: the arms of one group are joined by a line, or those of one coordinate."""

    TAG: ClassVar = "sweep"
    x: str
    """Name of a numeric axis."""
    lines: str = ""
    """Name of an axis: a line joins the arms with one coordinate on it, instead of those of one group."""
    hollow: str = ""
    """A group whose points lie on the line of the others: drawn hollow, because they differ in more than x, and joined
    by dashed lines."""
    measures: tuple[Measure, ...] = STABLE_MEASURES
    """What is drawn, each in a colour of its own: the two stable scores, or single tasks, by name."""

    def __post_init__(self) -> None:
        is_stable = self.measures == STABLE_MEASURES
        if not is_stable and not (
            0 < len(self.measures) <= MAX_MEASURES and not set(self.measures) & {*STABLE_MEASURES}
        ):
            raise QuantityError(
                f"Sweep.measures: wanted one to {MAX_MEASURES} tasks, or {STABLE_MEASURES}. Got {self.measures}. "
                "Write two figures: one of the stable scores and one of the tasks."
            )


@spec
class Bars:
    """Scores of arms side by side."""

    TAG: ClassVar = "bars"
    x: str = ""
    """Name of an axis, whose coordinates become categories; empty for the names of the arms."""


@spec
class Grid:
    """Scores over two axes: one cell for each arm."""

    TAG: ClassVar = "grid"
    x: str
    y: str

    def __post_init__(self) -> None:
        if self.x == self.y:
            raise QuantityError(f"Grid: wanted two different axes. Got {self.x!r} as x and as y. Use Sweep or Bars.")


@spec
class ParetoFront:
    """One score against another, a point for each arm; a line joins the arms that no other arm equals in one score and
    exceeds in the other."""

    TAG: ClassVar = "pareto_front"
    x: Measure = "text"
    y: Measure = "vision"

    def __post_init__(self) -> None:
        if self.x == self.y:
            raise QuantityError(f"ParetoFront: wanted two different measures. Got {self.x!r} as x and as y.")


@spec
class Forgetting:
    """A score after every stage: on the trunk, after each later stage and at the end.

    The points of an arm are its own score and those of the arms whose training is the beginning of its training. A
    study that asks for it has such arms: the trunk without stages, the arm without its fine-tuning.
    """

    TAG: ClassVar = "forgetting"
    measure: Measure = "text"


ScoreFigure = Sweep | Bars | Grid
"""Figures that place every arm by its coordinates or its name."""
Figure = ScoreFigure | ParetoFront | Forgetting


@spec
class DecisionAccuracy:
    """For which pairs of arms the order at a smaller size is that at the largest size (Magnusson et al. 2025,
    DataDecide, arXiv 2504.11393).

    An arm has a counterpart at another size: the arm that differs in no other coordinate and in no group.
    """

    TAG: ClassVar = "decision_accuracy"
    axis: str
    """Name of the numeric axis of sizes."""


@spec
class Comparison:
    """Each of some arms against each of others: is the first one's score more, or less, by more than a margin?"""

    TAG: ClassVar = "comparison"
    arms: tuple[str, ...]
    """Names of arms."""
    others: tuple[str, ...]
    measure: Measure
    expect: Literal["more", "less"] = "more"
    """Whether the claim says that `arms` score more than `others`, or less."""
    margin: float = 0.0
    """The difference, as a share of 1, that is tested: more than `margin`, or less than it."""
    smallest: float | None = None
    """The smallest difference that matters, as a share of 1, beyond `margin` on the expected side: a difference that is
    significantly short of it contradicts the claim. None: any difference beyond `margin` matters."""
    published: float | None = None
    """The published difference, as a share of 1."""

    def __post_init__(self) -> None:
        beyond = (self.smallest_difference - self.margin) * (1 if self.expect == "more" else -1)
        if beyond < 0:
            raise QuantityError(
                f"Comparison: wanted as smallest a difference {self.expect} than the margin of {self.margin:g}. "
                f"Got {self.smallest}. Leave it out where any difference matters."
            )

    @property
    def smallest_difference(self) -> float:
        """`smallest`, or the margin without it."""
        return self.margin if self.smallest is None else self.smallest


@spec
class Claim:
    """A statement about the arms of a study that its results can contradict; it holds, flips or is undecided.

    `all`: it holds where every comparison is significantly as expected, and flips where one is significantly the
    opposite, or smaller than what matters. `any`: it holds where at least one comparison is as expected and none the
    opposite, and flips the other way round; comparisons that cannot be made do not count.
    """

    TAG: ClassVar = "claim"
    name: str
    statement: str
    source: str
    """Where it was made: paper, Figure 4."""
    compare: tuple[Comparison, ...]
    decide: Literal["all", "any"] = "all"
    published: str = ""
    """The published numbers, as a sentence."""
    caution: str = ""
    """What confounds it, as a sentence."""
    dissent: str = ""
    """Later or other work that found something else, with its numbers, as a sentence."""


def within(
    arms: tuple[str, ...], others: tuple[str, ...], *, measure: Measure, margin: float
) -> tuple[Comparison, Comparison]:
    """Comparisons that hold together where each of `arms` scores less than `margin` more or less than each of `others`.

    Two one-sided tests of equivalence (Schuirmann 1987, doi:10.1007/BF01068419).
    """
    return (
        Comparison(arms=arms, others=others, measure=measure, expect="more", margin=-margin),
        Comparison(arms=arms, others=others, measure=measure, expect="less", margin=margin),
    )
