"""The training of a study's arms as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.plan.schedules import COLUMNS, stage_table, training_lines
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.schedule import Continue, SameCurve
from firstsight.recipe.stages import ModuleTraining, Pretrain, Trains
from firstsight.recipe.study import Study, over_seeds
from firstsight.studies.frozen import frozen
from firstsight.studies.when import when
from firstsight.units import Share, Tokens

SCALE = get_scale("smoke")


def table(study: Study) -> list[dict[str, str]]:
    head, *rows = stage_table(study)
    assert head in (COLUMNS, (*COLUMNS, "trains"))
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_every_stage_has_a_row_and_what_all_arms_share_has_one() -> None:
    study = replace(when(SCALE), arms=over_seeds(when(SCALE).arms[:7], [1, 2]))
    rows = table(study)
    assert [(row["arm"], row["stage"]) for row in rows] == [
        *((f"start-{percent:03d}", "midtrain") for percent in range(0, 101, 20)),
        ("all arms", "finetune"),
    ]
    assert [row["starts at"] for row in rows[:2]] == ["0 (0 %)", "8,192 (20 %)"]
    assert rows[-1] == {
        "arm": "all arms",
        "stage": "finetune",
        "starts at": "after midtrain",
        "images": "87.5 %",
        "schedule": "Rewarm (3 % warm-up)",
        "learning rate": "0 to 0.004 to 0",
        "tokens": "20,480",
        "steps": "20",
        "rows x tokens": "16 x 64",
        "trains": "decoder, projector",
    }
    assert {row["trains"] for row in rows[:-1]} == {"decoder x1, projector x4"}


def test_several_stages_have_each_their_own_start_share_and_schedule() -> None:
    base = branch_at(SCALE, Share(4, 5))
    midtrain, finetune = base.stages
    second = replace(midtrain, mix=replace(midtrain.mix, image_share=Share(1, 4)), schedule=Continue(min_lr=1e-5))
    arm = replace(base, stages=(midtrain, second, replace(finetune, schedule=SameCurve(), epochs=2)))
    rows = table(Study(name="two", scale="smoke", question="?", arms=(arm,)))
    assert {row["arm"] for row in rows} == {"start-080"}
    columns = ("starts at", "images", "schedule", "tokens", "steps")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("32,768 (80 %)", "80 %", "Continue", "20,480", "20"),
        ("after midtrain", "25 %", "Continue", "20,480", "20"),
        ("after midtrain", "87.5 %", "SameCurve", "40,960", "40"),
    ]
    resolved = arm.resolved_stages()
    middle = f"{resolved[1].lr(resolved[1].rounded_tokens):.4g}"
    assert [row["learning rate"] for row in rows[1:]] == [f"3e-05 to {middle}", f"{middle} to 1e-05"]
    assert 1e-5 < float(middle) < 3e-5


def test_rows_are_in_the_order_of_stages_then_arms() -> None:
    base = branch_at(SCALE, Share(4, 5))
    midtrain, finetune = base.stages
    short = replace(base, name="short", stages=(midtrain, replace(finetune, epochs=2)))
    long = replace(base, name="long", stages=(midtrain, replace(midtrain, schedule=Continue(min_lr=1e-5)), finetune))
    for arms, order in (
        ([base, short], [("all arms", "midtrain"), (base.name, "finetune"), ("short", "finetune")]),
        ([base, long], [("all arms", "midtrain"), ("long", "midtrain"), ("all arms", "finetune")]),
    ):
        rows = table(Study(name="order", scale="smoke", question="?", arms=tuple(arms)))
        assert [(row["arm"], row["stage"]) for row in rows] == order


def test_what_trains_is_printed_where_any_stage_differs_from_decoder_and_projector() -> None:
    head, *rows = stage_table(frozen(SCALE))
    assert head == (*COLUMNS, "trains")
    assert {(row[0], row[1], row[-1]) for row in rows} == {
        ("frozen", "midtrain", "decoder x1, projector x4"),
        ("trained", "midtrain", "decoder x1, projector x4, encoder x1"),
        ("lowered", "midtrain", "decoder x1, projector x4, encoder x0.1"),
        ("frozen", "finetune", "decoder, projector"),
        ("trained", "finetune", "decoder, projector, encoder"),
        ("lowered", "finetune", "decoder x1, projector x1, encoder x0.1"),
    }


@pytest.mark.parametrize(
    ("scales_and_decays", "text"),
    [
        ([None, (1.0, 0.1), None], "projector"),
        ([(1.0, 0.1), (2.0, 0.1), None], "decoder x1, projector x2"),
        ([(1.0, 0.1), None, (1.0, 0.0)], "decoder (decay 0.1), encoder (decay 0)"),
        ([None, (1.0, 0.0), (0.05, 1e-6)], "projector x1 (decay 0), encoder x0.05 (decay 1e-06)"),
    ],
)
def test_rates_and_decays_of_trained_modules(scales_and_decays: list[tuple[float, float] | None], text: str) -> None:
    modules = [pair and ModuleTraining(lr_scale=pair[0], weight_decay=pair[1]) for pair in scales_and_decays]
    arm = frozen(SCALE).arms[-1]
    midtrain, finetune = arm.stages
    stage = replace(midtrain, trains=Trains(decoder=modules[0], projector=modules[1], encoder=modules[2]))
    _, *rows = stage_table(
        Study(name="one", scale="smoke", question="?", arms=(replace(arm, stages=(stage, finetune)),))
    )
    assert [row[-1] for row in rows] == [text, "decoder x1, projector x1, encoder x0.1"]


def test_a_trunk_says_what_trains_if_its_rate_is_scaled() -> None:
    arm = when(SCALE).arms[0]
    assert isinstance(arm.pretrain, Pretrain)
    scaled = Trains(decoder=ModuleTraining(lr_scale=0.5, weight_decay=0.1), projector=None, encoder=None)
    study = Study(
        name="one", scale="smoke", question="?", arms=(replace(arm, pretrain=replace(arm.pretrain, trains=scaled)),)
    )
    assert training_lines(study)[1].endswith("5 % warm-up, trains decoder x0.5")


@pytest.mark.parametrize("horizon", ["branch", "full"])
def test_the_horizon_is_printed_first_and_the_table_has_its_tokens(horizon: str) -> None:
    study = when(SCALE, horizon)
    first, trunk = training_lines(study)
    assert first.startswith(f"horizon {horizon}: ")
    assert trunk == "trunk: 40,960 tokens, learning rate 0 to 0.004 to 1.2e-05, 5 % warm-up"
    tokens = [int(row["tokens"].replace(",", "")) for row in table(study)[:-1]]
    rest = [40_960 - 8_192 * number for number in range(6)] if horizon == "full" else [0] * 6
    assert tokens == [20_480 + extra for extra in rest]


def test_a_study_of_trunks_has_no_stages() -> None:
    trunk = when(SCALE).arms[0]
    assert table(Study(name="text", scale="smoke", question="?", arms=(trunk,))) == []
    assert Tokens(40_960) == trunk.pretrain.rounded_tokens
