"""The paper's budgets against its tables."""

from __future__ import annotations

import pytest

from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.scales.paper import PAPER_SIZES
from firstsight.recipe.stages import Finetune, Midtrain, RowShape
from firstsight.units import Share, Tokens


@pytest.mark.parametrize("name", ["79m", "154m", "411m", "1b"])
def test_trunks_are_150_times_20_tokens_a_parameter_and_branches_20(name: str) -> None:
    """Paper Table 2, M = 150: parameters without the gains of QK-norm, budgets rounded as the scale states them."""
    arm = get_scale(name).base
    lm = arm.pretrain.model
    count = lm.parameters() - lm.layers * 2 * lm.width
    assert arm.pretrain.tokens == pytest.approx(3_000 * count, rel=2e-3)
    assert arm.stages[0].tokens == pytest.approx(20 * count, rel=2e-3)


def test_the_paper_budget_rounds_up_to_its_step_count() -> None:
    assert RowShape(batch_size=256, length=1024).steps(Tokens(28_795_904_000)) == 109_848
    stage = branch_at(get_scale("1b"), Share(80, 100)).stages[0]
    assert isinstance(stage, Midtrain)
    assert stage.row_shape.steps(stage.tokens) == 109_848
    assert stage.tokens == 28_795_904_000


def test_fine_tuning_is_two_epochs_of_llava_with_its_own_schedule() -> None:
    """624,610 dialogues, one a row of 1,024 tokens; 3 % warm-up to 2e-5, then to 0. Source: paper section 4."""
    for name in ("79m", "1b", "7b"):
        stage = get_scale(name).base.stages[1]
        assert isinstance(stage, Finetune) and stage.epochs == 2
        assert stage.row_shape.rows(stage.epoch_tokens) == 624_610 - 624_610 % 128
        warmup_tokens = stage.tokens * 3 // 100
        assert stage.lr(Tokens(warmup_tokens)) == 2e-5 and stage.lr(stage.tokens) == 0
        assert stage.lr(Tokens(warmup_tokens // 2)) == 2e-5 * (warmup_tokens // 2) / warmup_tokens
        assert stage.mix.image_share == 1 and stage.tokenizer == get_scale(name).base.pretrain.tokenizer


def test_text_is_read_twice_only_where_it_is_too_small_for_one_pass() -> None:
    """DCLM's 4.1T tokens suffice for every trunk but that of 4.3T."""
    epochs = {name: get_scale(name).base.pretrain.text.components[0].max_epochs for name in PAPER_SIZES}
    assert epochs == {"79m": 1, "154m": 1, "411m": 1, "1b": 2, "7b": 1}
