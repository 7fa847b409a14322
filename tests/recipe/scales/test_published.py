"""Published facts of the paper's sizes, and what scales assume."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.recipe.scales import PAPER_SIZES, get_scale
from firstsight.recipe.scales.published import PUBLISHED, published_run
from firstsight.recipe.stages import Pretrain
from firstsight.units import Share, Tokens

POSITIONS = {20: 0.197, 40: 0.404, 60: 0.602, 80: 0.801}
"""Where on the trunk the authors' checkpoints were, from the rates of their names."""


def test_every_size_of_the_paper_is_there_once() -> None:
    assert [run.size for run in PUBLISHED] == list(PAPER_SIZES)
    assert all(run.assumptions for run in PUBLISHED)


def test_a_trunk_is_known_by_its_decoder_and_length() -> None:
    for name in PAPER_SIZES:
        trunk = get_scale(name).base.pretrain
        run = published_run(trunk)
        assert isinstance(trunk, Pretrain) and run is not None and run.size == name
        assert published_run(replace(trunk, seed=7)) == run
        assert published_run(replace(trunk, tokens=Tokens(trunk.tokens // 2))) is None
    assert published_run(get_scale("cpu").base.pretrain) is None


def test_the_published_start_rates_are_those_of_the_trunk_at_the_real_positions() -> None:
    trunk, run = get_scale("1b").base.pretrain, PUBLISHED[3]
    for percent, position in POSITIONS.items():
        ours = trunk.lr(trunk.tokens_at(Share(round(1000 * position), 1000)))
        assert ours == pytest.approx(run.rates[Share(percent, 100)], rel=5e-3)
    assert run.rates[Share(0)] == run.rates[Share(1)] == get_scale("1b").rewarm.peak_lr


@pytest.mark.parametrize("name", PAPER_SIZES)
def test_no_arm_warms_up_to_a_rate_above_the_peak_of_its_trunk(name: str) -> None:
    scale = get_scale(name)
    assert scale.rewarm.peak_lr <= scale.base.pretrain.schedule.peak_lr
    assert scale.rewarm.min_lr == scale.base.pretrain.schedule.min_lr == 3e-5
    assert scale.base.stages[0].schedule == scale.rewarm


def test_7b_rewarms_to_the_share_of_its_peak_that_1b_has() -> None:
    shares = [scale.rewarm.peak_lr / scale.base.pretrain.schedule.peak_lr for scale in map(get_scale, ("1b", "7b"))]
    assert shares == pytest.approx([0.3, 0.3])
