"""The rate of every update that the handlers make, against the curve that the recipe states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from math import cos, pi
from pathlib import Path

import pytest

from firstsight.model.tensors import read_tensors
from firstsight.recipe.scales import get_scale
from firstsight.recipe.schedule import Continue, Matched, Rewarm, SameCurve
from firstsight.recipe.stages import Finetune, Midtrain
from firstsight.recipe.study import Arm
from firstsight.site import Site
from firstsight.train.handlers import train_stage
from firstsight.units import Share, Tokens
from tests.train import tiny_study

STEP = tiny_study.ROW_SHAPE.tokens_per_step
TRUNK_STEPS = 10
TRUNK_RATE = 1e-4 + 0.5 * (1 + cos(pi * (4 - 1) / (TRUNK_STEPS - 1))) * (1e-2 - 1e-4)
"""The trunk's rate after 4 of 10 steps, of which 1 is the warm-up."""
MIDTRAIN = tiny_study.midtrain_spec(tiny_study.FEATURE_VLM, 6, "1/2")
FINETUNE = tiny_study.finetune_spec(tiny_study.FEATURE_VLM, 5)


def train(
    stages: tuple[Midtrain | Finetune, ...], inputs: Mapping[str, Path], trunk: Path, out: Path
) -> tuple[list[list[float]], Path]:
    """Run the stages of an arm that branches off after 4 of 10 steps: the rates of each stage, the last checkpoint."""
    arm = Arm(
        name="arm",
        seed=1,
        pretrain=tiny_study.pretrain_spec(TRUNK_STEPS),
        start=Share(2, 5),
        stages=stages,
        evaluate=get_scale("smoke").base.evaluate,
    )
    role, folder, rates = "trunk", trunk, list[list[float]]()
    for number, stage in enumerate(arm.resolved_stages()):
        site = Site(compile=False, cache=out / "cache")
        folder = tiny_study.run_handler(train_stage, stage, {**inputs, role: folder}, out / str(number), site)
        role = "previous"
        rates.append([json.loads(line)["lr"] for line in (folder / "log.jsonl").read_text().splitlines()])
    return rates, folder


def cosine(start: float, end: float, steps: int) -> list[float]:
    """`steps` updates after `start`, the last one at `end`."""
    return [end + 0.5 * (1 + cos(pi * number / steps)) * (start - end) for number in range(1, steps + 1)]


def warmed(peak: float, end: float, *, warmup: int, steps: int) -> list[float]:
    """`warmup` updates up to `peak`, then cosine to `end`."""
    return [peak * number / warmup for number in range(1, warmup + 1)] + cosine(peak, end, steps - warmup)


def test_longer_stages_follow_their_whole_curve(inputs: dict[str, Path], trunk: Path, tmp_path: Path) -> None:
    """Four times the epochs and twice the tokens: the warm-up keeps its share, the minimum is the last update's."""
    midtrain = replace(MIDTRAIN, tokens=Tokens(2 * MIDTRAIN.tokens), schedule=Continue(min_lr=1e-4))
    schedule = Rewarm(peak_lr=4e-3, min_lr=0.0, warmup=Share(1, 5))
    finetune = replace(FINETUNE, epochs=4, schedule=schedule, mix=replace(FINETUNE.mix, image_share=Share(1, 4)))
    (mid, tuned), _ = train((midtrain, finetune), inputs, trunk, tmp_path)
    assert mid == pytest.approx(cosine(TRUNK_RATE, 1e-4, 12), rel=1e-12)
    assert tuned == pytest.approx(warmed(4e-3, 0.0, warmup=4, steps=20), rel=1e-12, abs=1e-20)
    assert mid[-1] == 1e-4 and tuned[-1] == 0 and 0 not in tuned[:-1]


def test_two_stages_on_one_curve_train_at_the_rates_of_one(
    inputs: dict[str, Path], trunk: Path, tmp_path: Path
) -> None:
    first = replace(MIDTRAIN, schedule=Rewarm(peak_lr=3e-3, min_lr=1e-5, warmup=Share(2, 11)))
    second = replace(FINETUNE, schedule=SameCurve(), moments="carried")
    (mid, tuned), folder = train((first, second), inputs, trunk, tmp_path)
    assert [len(mid), len(tuned)] == [6, 5]
    assert mid + tuned == pytest.approx(warmed(3e-3, 1e-5, warmup=2, steps=11), rel=1e-12)
    moments = read_tensors(folder, "optimizer")
    steps = {name: int(value) for name, value in moments.items() if name.endswith(".step")}
    assert {steps[name] for name in steps if name.startswith("lm.")} == {4 + 6 + 5}
    assert {steps[name] for name in steps if name.startswith("projector.")} == {6 + 5}


def test_fine_tuning_continues_any_stage_with_fresh_or_carried_moments(
    inputs: dict[str, Path], trunk: Path, tmp_path: Path
) -> None:
    first = replace(MIDTRAIN, schedule=Matched(trunk_share=Share(2, 5), min_lr=1e-3), moments="fresh")
    second = replace(FINETUNE, schedule=Continue(min_lr=5e-4))
    third = replace(FINETUNE, schedule=Continue(min_lr=0.0), moments="carried")
    rates, folder = train((first, second, third), inputs, trunk, tmp_path)
    curves = [cosine(TRUNK_RATE, 1e-3, 6), cosine(1e-3, 5e-4, 5), cosine(5e-4, 0.0, 5)]
    assert list(chain(*rates)) == pytest.approx(list(chain(*curves)), rel=1e-12, abs=1e-20)
    steps = {int(value) for name, value in read_tensors(folder, "optimizer").items() if name.endswith(".step")}
    assert steps == {5 + 5}
