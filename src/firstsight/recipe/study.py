"""A study is a list of arms: variants of a base arm along an axis, each with several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import ClassVar, Literal

from firstsight.errors import QuantityError, UnknownName
from firstsight.recipe.analysis import (
    STABLE_MEASURES,
    Axis,
    Bars,
    Claim,
    Coordinate,
    DecisionAccuracy,
    Figure,
    Forgetting,
    Grid,
    Measure,
    ParetoFront,
    ScoreFigure,
    Sweep,
    split_measure,
)
from firstsight.recipe.spec import check_name, spec
from firstsight.recipe.stages import (
    Donor,
    Evaluate,
    Finetune,
    LastCheckpoints,
    Midtrain,
    Pretrain,
    PublicModel,
    resolve_schedules,
)
from firstsight.units import Share, Tokens

LAST_SPACING = Share(1, 20)
"""From one of the last checkpoints to the next, as a share of the stage."""

Horizon = Literal["branch", "full"]
"""How long arms train: each its own stages, or until all of them have seen equally many tokens."""


@spec
class Arm:
    """One model of a study: the trunk up to `start`, then stages, then the evaluation."""

    TAG: ClassVar = "arm"
    name: str
    seed: int
    pretrain: Pretrain | Donor | PublicModel
    """The trunk: text pre-training of this study, or a public run with checkpoints; or a finished model of others."""
    start: Share
    """Where on the trunk the first stage branches off; 0 starts from an untrained model."""
    stages: tuple[Midtrain | Finetune, ...]
    """Without any, the trunk itself is evaluated."""
    evaluate: Evaluate
    horizon: Horizon = "branch"
    """full: the first mid-training stage in which the decoder trains is longer by the trunk's tokens after `start`."""
    at: Mapping[str, Coordinate] = field(default_factory=dict[str, Coordinate], hash=False)
    """Coordinates by axis; those on axes that the study does not have are ignored."""
    group: str = ""
    """Arms of one group differ in nothing but their coordinates: a figure joins them by a line."""
    role: Literal["compared", "baseline"] = "compared"
    """A baseline needs no coordinates and is drawn as a level; the compared arms are ranked."""

    def __post_init__(self) -> None:
        check_name(self, "name")

    @property
    def label(self) -> str:
        """Name and seed, unique within a study."""
        return f"{self.name}.s{self.seed}"

    def with_seed(self, seed: int) -> Arm:
        """The same arm with another seed in its trunk and in every stage; a donor has none.

        The seed of a stage that differs from the arm's by a number differs by it afterwards too.
        """
        trunk, change = self.pretrain, seed - self.seed
        trunk = replace(trunk, seed=trunk.seed + change) if isinstance(trunk, Pretrain) else trunk
        stages = tuple(replace(stage, seed=stage.seed + change) for stage in self.stages)
        return replace(self, seed=seed, pretrain=trunk, stages=stages)

    def resolved_stages(self) -> tuple[Midtrain | Finetune, ...]:
        """The stages as they are trained: as long as the horizon makes them, with the curves of their learning rates.

        QuantityError for a schedule that has nothing to continue, or would rise.
        """
        if isinstance(self.pretrain, PublicModel):
            return ()
        return resolve_schedules(self._full_stages(), trunk=self.pretrain, start=self.start, location=self.label)

    def total_tokens(self) -> Tokens:
        """The tokens that the arm sees: the trunk up to `start` and its stages, not rounded to their whole steps."""
        return Tokens(self.pretrain.tokens_at(self.start) + sum(stage.tokens for stage in self._full_stages()))

    def _full_stages(self) -> tuple[Midtrain | Finetune, ...]:
        """The stages as long as the horizon makes them."""
        stages, rest = self.stages, self.pretrain.rounded_tokens - self.pretrain.tokens_at(self.start)
        if self.horizon == "branch" or not rest:
            return stages
        for number, stage in enumerate(stages):
            if isinstance(stage, Midtrain) and stage.trains.decoder:
                longer = replace(stage, tokens=Tokens(stage.tokens + rest))
                return (*stages[:number], longer, *stages[number + 1 :])
        if stages:
            lengthened = "a mid-training stage in which the decoder trains"
            raise QuantityError(f'{self.label}: horizon "full" lengthens {lengthened}. Got an arm without one.')
        return stages


@spec
class Study:
    """A question and the arms that answer it. Axes, figures and claims are for its report and enter no address."""

    TAG: ClassVar = "study"
    name: str
    scale: str
    question: str
    arms: tuple[Arm, ...]
    axes: tuple[Axis, ...] = ()
    figures: tuple[Figure, ...] = ()
    """Without any, `drawn_figures` has the one that fits the axes."""
    claims: tuple[Claim, ...] = ()
    decision_accuracy: DecisionAccuracy | None = None
    """Whether the order of the arms at smaller sizes is that at the largest one; needs an axis of sizes."""
    parts: tuple[Study, ...] = ()
    """Of a study that `combine` made: the studies whose arms it has, each with its own question."""

    def __post_init__(self) -> None:
        check_name(self, "name", "scale")
        if not self.arms:
            raise QuantityError(f"{self.name}: wanted at least one arm. Got none. Write arms=over_seeds([...], [1]).")
        labels = [arm.label for arm in self.arms]
        if repeated := sorted({label for label in labels if labels.count(label) > 1}):
            raise QuantityError(f"arms need different names. Repeated in {self.name}: {', '.join(repeated)}.")
        if self.parts:  # arms are compared within a part
            return
        horizons = {arm.horizon: arm.label for arm in reversed(self.arms)}
        if len(horizons) > 1:
            mixed = " and ".join(f"{label} has {horizon}" for horizon, label in sorted(horizons.items()))
            raise QuantityError(f"{self.name}: arms are compared at one horizon. Got two: {mixed}. Give all the same.")
        self._check_totals()
        for axis in self.axes:
            self._check_axis(axis)
        for figure in self.figures:
            self._check_figure(figure)
        if self.decision_accuracy:
            self._check_sizes(self.axis(self.decision_accuracy.axis))

    @property
    def drawn_figures(self) -> tuple[Figure, ...]:
        """`score_figures`, then the others of `figures`."""
        return (*self.score_figures, *(figure for figure in self.figures if not isinstance(figure, ScoreFigure)))

    @property
    def score_figures(self) -> tuple[ScoreFigure, ...]:
        """Those of `figures` that place every arm; without any, lines over a numeric axis, bars over a category, or a
        grid over two axes.

        Where these do not tell the arms apart, bars by the names of the arms.
        """
        if figures := tuple(figure for figure in self.figures if isinstance(figure, ScoreFigure)):
            return figures
        names = [axis.name for axis in self.axes]
        default: ScoreFigure = Bars()
        if len(names) == 1:
            default = Sweep(x=names[0]) if self.axes[0].is_numeric else Bars(x=names[0])
        elif len(names) == 2:
            default = Grid(x=names[0], y=names[1])
        return (Bars() if self._clashes(default) else default,)

    def axis(self, name: str) -> Axis:
        """The axis with that name."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise UnknownName(f"axis of {self.name}", name, [axis.name for axis in self.axes])

    def _check_totals(self) -> None:
        """Raise QuantityError where the horizon is full and arms of one size see different numbers of tokens."""
        by_size: dict[Coordinate, dict[int, str]] = {}
        for arm in reversed(self.arms):
            if arm.stages and arm.horizon == "full":
                size = arm.at.get(self.decision_accuracy.axis, "") if self.decision_accuracy else ""
                by_size.setdefault(size, {})[arm.total_tokens()] = arm.name
        for totals in by_size.values():
            if len(totals) > 1:
                got = " and ".join(f"{name} sees {total:,}" for total, name in sorted(totals.items()))
                raise QuantityError(
                    f'{self.name}: at the horizon "full" all arms see equally many tokens. Got {got}. '
                    'Make the sums of the tokens of their stages equal, or give all arms the horizon "branch".'
                )

    def _check_axis(self, axis: Axis) -> None:
        if [entry.name for entry in self.axes].count(axis.name) > 1:
            raise QuantityError(f"{self.name}: axes need different names. Got {axis.name} twice.")
        for arm in self.arms:
            if axis.name in arm.at:
                axis.check(arm.at[axis.name])
            elif arm.role != "baseline":
                raise QuantityError(
                    f"{arm.name}: wanted a coordinate on the axis {axis.name} of {self.name}. Got "
                    f"{', '.join(arm.at) or 'none'}. Write replace(arm, at={{{axis.name!r}: ...}}) with its value."
                )

    def _check_figure(self, figure: Figure) -> None:
        name = f"{self.name}: {type(figure).__name__}"
        for axis_name in _figure_axes(figure):
            self.axis(axis_name)
        tasks = {task for arm in self.arms for task in (*arm.evaluate.vision_tasks, *arm.evaluate.text_tasks)}
        for measure in _figure_measures(figure):
            if (task := split_measure(measure)[0]) not in (*STABLE_MEASURES, *tasks):
                raise UnknownName(f"task of {self.name}", task, [*STABLE_MEASURES, *tasks])
        groups = {arm.group for arm in self.arms}
        if isinstance(figure, Sweep):
            if not self.axis(figure.x).is_numeric:
                raise QuantityError(f"{name}: wanted a numeric axis. Got {figure.x}, of categories. Use Bars.")
            if figure.hollow and figure.hollow not in groups:
                raise UnknownName(f"group of arms of {self.name}", figure.hollow, groups)
        if clashes := self._clashes(figure):
            raise QuantityError(
                f"{name}: wanted arms at different places. Got {' and '.join(clashes)} at one. "
                "Give them different coordinates, or different groups of lines; or use Bars() by the names of the arms."
            )

    def _check_sizes(self, axis: Axis) -> None:
        """Raise QuantityError where the order of the arms at two sizes or more cannot be compared."""
        name, compared = f"{self.name}: DecisionAccuracy", [arm for arm in self.arms if arm.role != "baseline"]
        if not axis.is_numeric:
            raise QuantityError(f"{name}: wanted a numeric axis, from small to large. Got {axis.name}, of categories.")
        sizes = {axis.text(arm.at[axis.name]): None for arm in compared}
        if len(sizes) < 2:
            raise QuantityError(f"{name}: wanted arms at two sizes or more. Got {', '.join(sizes)}. Add a size.")
        if clashes := self._same_place([entry.name for entry in self.axes], has_groups=True):
            raise QuantityError(
                f"{name}: wanted arms of one size with different coordinates or groups, by which their counterparts at "
                f"another size are known. Got {' and '.join(clashes)} with the same. Add an axis in which they differ."
            )

    def _clashes(self, figure: Figure) -> tuple[str, ...]:
        """The names of two arms that a figure draws at one place; empty where there are none."""
        names = _figure_axes(figure)
        return self._same_place(names, has_groups=isinstance(figure, Sweep) and not figure.lines) if names else ()

    def _same_place(self, names: Sequence[str], *, has_groups: bool) -> tuple[str, ...]:
        """The names of two compared arms with the same coordinates on these axes, and groups; empty without such."""
        places: dict[tuple[Coordinate, ...], str] = {}
        for arm in self.arms:
            if arm.role != "baseline":
                place = (*(arm.at[name] for name in names), arm.group if has_groups else "")
                if places.setdefault(place, arm.name) != arm.name:
                    return places[place], arm.name
        return ()

    @property
    def horizon(self) -> Horizon:
        """The horizon of all arms."""
        return self.arms[0].horizon

    def arm(self, label: str) -> Arm:
        """The arm with that label (start-020.s1), or the first seed of the arm with that name (start-020)."""
        for arm in self.arms:
            if label in (arm.label, arm.name):
                return arm
        raise UnknownName("arm", label, [arm.label for arm in self.arms])

    def with_last_checkpoints(self, *, average: int = 1, each: int = 0, every: Share = LAST_SPACING) -> Study:
        """The study whose arms are scored by the average of the weights of the last `average` checkpoints of their last
        stage; the last `each` checkpoints are evaluated besides, each by itself. They are `every` of the stage apart.

        Arms without stages have one checkpoint, and stay as they are.
        """
        if (average, each) == (1, 0):
            return self
        if self.parts:
            parts = [part.with_last_checkpoints(average=average, each=each, every=every) for part in self.parts]
            return combine(self.name, question=self.question, parts=parts)
        last = LastCheckpoints(count=max(average, each), every=every)
        arms = [
            replace(
                arm,
                stages=(*arm.stages[:-1], replace(arm.stages[-1], last_checkpoints=last)),
                evaluate=replace(arm.evaluate, average=average, each_of_last=each),
            )
            if arm.stages
            else arm
            for arm in self.arms
        ]
        return replace(self, arms=tuple(arms))

    def with_arms(self, labels: Iterable[str]) -> Study:
        """The study with further seeds of its arms, by label (start-080.s4); arms that it has are not repeated."""
        own = {arm.label for arm in self.arms}
        further = dict.fromkeys(label for label in labels if label not in own)
        names = [label.rpartition(".s") for label in further]
        return replace(self, arms=(*self.arms, *(self.arm(name).with_seed(int(seed)) for name, _, seed in names)))


def combine(name: str, *, question: str, parts: Sequence[Study]) -> Study:
    """One study of several, so that their arms share steps in one run; its report is a page that links to theirs.

    Its arms are called by study and arm: when.start-080.
    """
    arms = [replace(arm, name=f"{part.name}.{arm.name}") for part in parts for arm in part.arms]
    return Study(name=name, scale=parts[0].scale, question=question, arms=tuple(arms), parts=tuple(parts))


def _figure_axes(figure: Figure) -> tuple[str, ...]:
    """The names of the axes over which a figure places the arms."""
    if isinstance(figure, ParetoFront | Forgetting):
        return ()
    second = figure.y if isinstance(figure, Grid) else figure.lines if isinstance(figure, Sweep) else ""
    return tuple(filter(None, (figure.x, second)))


def _figure_measures(figure: Figure) -> tuple[Measure, ...]:
    """What a figure draws, where it says so."""
    if isinstance(figure, ParetoFront):
        return figure.x, figure.y
    if isinstance(figure, Forgetting):
        return (figure.measure,)
    return figure.measures if isinstance(figure, Sweep) else ()


def over_seeds(arms: Iterable[Arm], seeds: Iterable[int]) -> tuple[Arm, ...]:
    """Every arm once for every seed, seed by seed, so that the first seed is complete first."""
    bases = tuple(arms)
    return tuple(arm.with_seed(seed) for seed in seeds for arm in bases)
