"""Does the small scale tell the truth? The study `when` at several sizes of decoder.

Hypothesis: a small model orders the starts as a large one does, so that a study is decided at a fraction of the cost.
Arms: the starts of `when` at the scale's own size, and at its smaller ones (`smaller_sizes`): the paper's models with
their own budgets, or in the synthetic world narrower decoders with the same data, steps and encoder. The arms of the
largest size are those of `when` and have its claims; the names of the others end in their size.
Metric: decision accuracy, the share of pairs of arms whose order at a small size is that at the largest one, of the
vision and text stable scores and of their soft forms, over seeds.
Refuted if: that share is not above one half by more than its interval, over the pairs that the largest size decides.
Unlike DataDecide, sizes differ by one or two orders of magnitude in the synthetic world, where a single recipe of
learning rates serves all of them, and one kind of intervention is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from firstsight.errors import QuantityError
from firstsight.recipe.analysis import STABLE_MEASURES, Axis, DecisionAccuracy, Figure, Sweep
from firstsight.recipe.model import decoder_spec
from firstsight.recipe.scales import Scale, smaller_sizes
from firstsight.recipe.stages import PublicModel
from firstsight.recipe.study import Arm, Horizon, Study
from firstsight.studies.when import when_at
from firstsight.units import parse_share

SIZE = Axis(name="decoder_size", label="Parameters of the decoder", unit="parameters", scale="log")


def ladder(scale: Scale, starts: str = "0%,20%,40%,60%,80%,100%", horizon: Horizon = "branch") -> Study:
    """The study `when` at the smaller sizes and at the scale's own; `starts` are shares, separated by commas."""
    try:
        shares = [parse_share(text) for text in starts.split(",")]
    except QuantityError as error:
        raise QuantityError(f"--starts: {error}") from None
    if len(set(shares)) < 2:
        raise QuantityError(f"--starts: wanted two or more different shares such as 20%,80%,100%. Got {starts!r}.")
    scale = scale.with_horizon(horizon)
    sizes = {name: size.with_horizon(horizon) for name, size in smaller_sizes(scale).items()}
    study = at_sizes(lambda size: when_at(size, shares), smaller=sizes, largest=scale)
    return replace(study, name="ladder", question="Does the order of the arms at a small size predict that at a large?")


def at_sizes(build: Callable[[Scale], Study], *, smaller: Mapping[str, Scale], largest: Scale) -> Study:
    """A study with its arms at several sizes: the coordinate `decoder_size` is the decoder's number of parameters.

    The arms of the largest size keep their names, so that the study's claims are about them; those of the `smaller`
    ones end in the size's name. The data that sizes read alike are steps of all of them.
    """
    study = build(largest)
    arms = [arm for name, scale in smaller.items() for arm in _sized(build(scale), f"-{name}")]
    arms = sorted([*arms, *_sized(study, "")], key=lambda arm: arm.seed)
    return replace(
        study,
        arms=tuple(arms),
        axes=(*study.axes, SIZE),
        figures=tuple(_sized_figures(study)),
        decision_accuracy=DecisionAccuracy(axis=SIZE.name),
    )


def _sized(study: Study, suffix: str) -> Iterator[Arm]:
    """The arms of a study with `suffix` after their names, and the size of their decoder as coordinate."""
    for arm in study.arms:
        if isinstance(arm.pretrain, PublicModel):
            got = f"Got {arm.name}, a model of others. Leave it out"
            raise QuantityError(f"{study.name}: wanted arms that are trained here, at any size. {got}.")
        size = decoder_spec(arm.stages[-1].model if arm.stages else arm.pretrain.model).parameters()
        yield replace(arm, name=f"{arm.name}{suffix}", at={**arm.at, SIZE.name: size})


def _sized_figures(study: Study) -> Iterator[Figure]:
    """The sweeps of a study with a line for each size; bars become lines over the sizes.

    Others are left out, and sweeps of single tasks or in which several arms of one size have one place.
    """
    names = {arm.name for arm in study.arms if arm.role == "compared"}
    for figure in study.score_figures:
        if isinstance(figure, Sweep):
            places = {arm.at[figure.x] for arm in study.arms if arm.role == "compared"}
            if figure.measures == STABLE_MEASURES and not figure.lines and len(places) == len(names):
                yield replace(figure, lines=SIZE.name)
        elif [axis.name for axis in study.axes] == [figure.x]:
            yield Sweep(x=SIZE.name, lines=figure.x)
