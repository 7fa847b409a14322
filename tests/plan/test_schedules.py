"""The training of a study's arms as text."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from firstsight.plan.graph import build_graph
from firstsight.plan.schedules import (
    COLUMNS,
    planned_rates,
    published_lines,
    published_rate,
    stage_table,
    training_lines,
)
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.schedule import Continue, Rewarm, SameCurve
from firstsight.recipe.stages import ModuleTraining, Pretrain, Trains
from firstsight.recipe.study import Study, over_seeds
from firstsight.studies.frozen import frozen
from firstsight.studies.ladder import ladder
from firstsight.studies.when import when
from firstsight.studies.when_controls import when_controls
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
    shares = ("030", "050", "080")
    assert head == (*COLUMNS, "trains")
    assert {(row[0], row[1], row[-1]) for row in rows} == {
        *((f"frozen-{share}", "midtrain", "decoder x1, projector x4") for share in shares),
        *((f"trained-{share}", "midtrain", "decoder x1, projector x4, encoder x1") for share in shares),
        ("lowered-080", "midtrain", "decoder x1, projector x4, encoder x0.1"),
        *((f"frozen-{share}", "finetune", "decoder, projector") for share in shares),
        *((f"trained-{share}", "finetune", "decoder, projector, encoder") for share in shares),
        ("lowered-080", "finetune", "decoder x1, projector x1, encoder x0.1"),
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


def test_planned_rates_are_those_of_training_with_both_ends_and_the_peak() -> None:
    """On the trunk they begin where the segment before ends; an arm that continues begins at the rate of the trunk."""
    graph = build_graph(when(SCALE))
    ends: dict[tuple[str, int], float] = {}
    for step in graph.steps:
        if step.kind in ("pretrain", "midtrain", "finetune"):
            points = dict(planned_rates(step.spec))
            run = step.spec.pretrain if step.kind == "pretrain" else step.spec
            assert list(points) == sorted(points) and points == {at: run.lr(Tokens(at)) for at in points}
            length = step.spec.tokens if step.kind == "pretrain" else run.rounded_tokens
            assert max(points) - min(points) == length
            if isinstance(run.schedule, Rewarm) and min(points) == 0:
                assert max(points.values()) == run.schedule.peak_lr
            ends[step.kind, max(points)] = points[max(points)]
    trunk = when(SCALE).arm("start-080").pretrain
    assert {tokens: rate for (kind, tokens), rate in ends.items() if kind == "pretrain"} == {
        tokens: trunk.lr(Tokens(tokens)) for tokens in range(8_192, 40_961, 8_192)
    }


def test_published_hours_are_printed_with_the_utilisation_that_they_imply() -> None:
    """1b: 4.32e12 tokens of about 6 x 1.44e9 FLOPs in 106,000 hours of 312 TFLOP/s; attention and the input embeddings,
    which cost nothing, change that by less than a tenth."""
    first, *others = published_lines(when(get_scale("1b")), utilisation=0.5)
    match = re.search(r"of 1b: 106,000 a100 hours .* are (\d+)% of the peak .* Ours at 50%: ([\d,]+) hours", first)
    assert match is not None
    implied = 6 * 1.44e9 * 4.3194e12 / (106_000 * 3600 * 312e12)
    assert int(match[1]) / 100 == pytest.approx(implied, rel=0.1)
    assert int(match[2].replace(",", "")) == pytest.approx(106_000 * int(match[1]) / 50, rel=0.02)
    assert all(line.startswith("assumed") for line in others)
    assert sum("Table 2 prints 256" in line for line in others) == sum("Prismatic" in line for line in others) == 1


def test_facts_are_those_of_the_trunks_of_a_study() -> None:
    sizes = list(published_lines(ladder(get_scale("154m")), utilisation=0.4))
    assert [line.split(":")[0] for line in sizes if not line.startswith("assumed: ")] == [
        "published of the trunk of 79m",
        *["assumed at 79m"] * 2,
        *["assumed at 154m"] * 2,
    ]
    assert list(published_lines(when(SCALE), utilisation=0.4)) == []
    (line,) = [line for line in published_lines(when(get_scale("7b")), utilisation=0.4) if "6e-4" in line]
    assert line.startswith("assumed at 7b: re-warmed arms")


def test_rates_are_published_of_the_arms_and_schedules_of_the_paper_alone() -> None:
    study = when_controls(get_scale("1b"))
    known = {arm.name for arm in study.arms if published_rate(arm)}
    assert known == {"start-080", "start-080-fresh", "start-100", "start-100-fresh"}
    end = published_rate(study.arm("start-100"))
    assert end is not None and (end.published, end.planned, end.difference) == (3e-3, 3e-3, 0)
    assert end.tokens == pytest.approx(5_000 * 256 * 1_024, rel=1e-4)
