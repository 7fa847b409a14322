"""Claims on studies with known effects."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firstsight.recipe.analysis import Claim, Comparison, within
from firstsight.report.claims import ClaimResult, evaluate_claims, family_sentence
from firstsight.report.compare import ArmComparison
from firstsight.report.results import ArmResult
from firstsight.report.summary import answer_sentence
from firstsight.report.table import score_table
from firstsight.studies.when import BEST, EARLIEST_WORSE, TEXT_KEPT, TWO_POINTS
from firstsight.studies.when_controls import SAME_SCHEDULE
from tests.report.study_builder import MakeArms

AS_IN_PAPER = {0: 0.05, 20: 0.2, 40: 0.3, 60: 0.45, 80: 0.8, 100: 0.6}
OPPOSITE = {0: 0.8, 20: 0.6, 40: 0.5, 60: 0.4, 80: 0.2, 100: 0.5}
FLAT = dict.fromkeys(range(0, 101, 20), 0.5)


WHEN = (BEST, TWO_POINTS, EARLIEST_WORSE, TEXT_KEPT)


def _claims(arms: list[ArmResult], *claims: Claim) -> dict[str, ClaimResult]:
    results = evaluate_claims(claims or WHEN, arms, ArmComparison(arms, score_table(arms)))
    return {result.claim.name: result for result in results}


def _verdicts(arms: list[ArmResult], *claims: Claim) -> dict[str, str]:
    return {name: result.verdict for name, result in _claims(arms, *claims).items()}


def test_claims_hold_for_effects_as_in_the_paper(make_arms: MakeArms) -> None:
    arms = make_arms(vision=AS_IN_PAPER, text={0: 0.1, 20: 0.3, 40: 0.4, 60: 0.5, 80: 0.75, 100: 0.6}, questions=80)
    assert _verdicts(arms) == dict.fromkeys(("best", "two-points", "earliest-worse", "text-kept"), "holds")


def test_claims_flip_for_opposite_effects(make_arms: MakeArms) -> None:
    arms = make_arms(vision=OPPOSITE, text=OPPOSITE, questions=80)
    assert _verdicts(arms) == dict.fromkeys(("best", "two-points", "earliest-worse", "text-kept"), "flips")


def test_claims_are_undecided_without_effects(make_arms: MakeArms) -> None:
    verdicts = _verdicts(make_arms(vision=FLAT, text=FLAT, noise=0.08, questions=30))
    assert verdicts.pop("text-kept") != "flips"
    assert verdicts == dict.fromkeys(("best", "two-points", "earliest-worse"), "undecided")


@pytest.mark.parametrize(
    ("effects", "margin", "verdict"),
    [
        ((0.5, 0.5), 0.3, "holds"),
        ((0.5, 0.8), 0.05, "flips"),
        ((0.8, 0.5), 0.05, "flips"),
        ((0.5, 0.5), 0.001, "undecided"),
    ],
)
def test_equivalence_needs_both_ends_of_the_interval_within_the_margin(
    make_arms: MakeArms, effects: tuple[float, float], margin: float, verdict: str
) -> None:
    vision, text = dict(zip((60, 80), effects, strict=True)), {60: 0.5, 80: 0.5}
    arms = make_arms(vision=vision, text=text, questions=80, trunk=False)
    compare = within(("start-060",), ("start-080",), measure="vision", margin=margin)
    (result,) = _claims(arms, Claim(name="same", statement="?", source="?", compare=compare)).values()
    assert result.verdict == verdict
    intervals = [difference.interval for difference in result.differences]
    assert verdict != "holds" or all(each is not None and -margin < each[0] < each[1] < margin for each in intervals)


def test_claims_that_stay_decided_with_one_error_rate_for_all(make_arms: MakeArms) -> None:
    """Holm over the claims by hand: of 40 claims the smallest p-value must be below .05 / 40."""
    clear = _claims(make_arms(vision=AS_IN_PAPER, questions=80))
    vague = _claims(make_arms(vision=FLAT, text=FLAT, noise=0.08, questions=30))
    p_values = {
        name: max(d.adjusted_p or 0 for d in r.differences) for name, r in clear.items() if r.verdict == "holds"
    }
    others = {f"vague-{number}": vague["two-points"] for number in range(40 - len(clear))}
    names = [
        name
        for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1]))
        if p <= 0.05 / (40 - rank)
    ]
    assert names, "the example has a claim that stays decided"
    sentence = family_sentence({**clear, **others})
    assert "5 % for all 40 together: " in sentence
    assert {text.partition(" ")[0] for text in sentence.partition("together: ")[2].split(", ")} == set(names)
    assert family_sentence(others) == "", "nothing is decided"
    assert family_sentence({"alone": clear["two-points"]}) == ""


def test_one_seed_decides_nothing(make_arms: MakeArms) -> None:
    arms = make_arms(vision=AS_IN_PAPER, seeds=(1,), questions=80)
    assert set(_verdicts(arms).values()) == {"undecided"}
    assert "One seed cannot distinguish" in _claims(arms)["two-points"].evidence
    assert "over questions alone" in _claims(arms)["two-points"].evidence


def test_every_difference_has_its_interval(make_arms: MakeArms) -> None:
    for seeds in ((1,), (1, 2)):
        arms = make_arms(vision=AS_IN_PAPER, seeds=seeds, questions=40)
        rows = score_table(arms)
        texts = [claim.evidence for claim in _claims(arms).values()]
        texts.append(answer_sentence(arms, rows, ArmComparison(arms, rows)))
        sized = [text for text in texts if "points more" in text or "points less" in text or "points behind" in text]
        assert len(sized) >= 4
        assert all(" to " in text and ("% interval" in text or "over questions alone" in text) for text in sized)


def test_comparisons_that_decide_one_claim_are_corrected_together(make_arms: MakeArms) -> None:
    claims = _claims(make_arms(vision=AS_IN_PAPER, questions=80))
    assert [d.family_size for d in claims["best"].differences] == [5] * 5
    assert [d.family_size for d in claims["earliest-worse"].differences] == [2] * 2
    assert claims["two-points"].differences[0].family_size == 1
    assert "after Holm for 5" in claims["best"].evidence


def test_seeds_that_disagree_are_undecided(make_arms: MakeArms) -> None:
    arms = make_arms(vision={60: 0.5, 80: 0.55, 100: 0.5}, text=dict.fromkeys((60, 80, 100), 0.5), noise=0.3)
    assert _verdicts(arms)["two-points"] == "undecided"


def test_missing_arm_is_named_and_undecided(make_arms: MakeArms) -> None:
    arms = make_arms(vision=AS_IN_PAPER, missing={f"start-100.s{seed}": "failed" for seed in (1, 2)})
    result = _claims(arms)["two-points"]
    assert result.verdict == "undecided"
    assert result.evidence == "Cannot be tested: start-100 has no scores."
    best = _claims(arms)["best"]
    assert best.verdict == "undecided" and len(best.differences) == 4
    assert best.evidence.endswith("Not compared: start-100 has no scores.")
    assert _verdicts(make_arms(vision=AS_IN_PAPER, missing={"start-080.s1": "failed", "start-080.s2": "failed"}))[
        "best"
    ] == ("undecided")
    assert _verdicts(arms, SAME_SCHEDULE) == {"same-schedule": "not tested"}
    assert _claims(arms, SAME_SCHEDULE)["same-schedule"].evidence == (
        "Cannot be tested: this study has no arm start-080-rewarm; this study has no arm start-100-matched."
    )


def test_a_claim_about_a_task_that_no_arm_has_is_not_tested(make_arms: MakeArms) -> None:
    claim = replace(TWO_POINTS, compare=tuple(replace(part, measure="vqav3") for part in TWO_POINTS.compare))
    result = _claims(make_arms(questions=10), claim)["two-points"]
    assert (result.verdict, result.evidence) == ("not tested", "Cannot be tested: this study has no task vqav3.")
    waiting = make_arms(questions=10, missing={f"start-100.s{seed}": "not run yet" for seed in (1, 2)})
    assert _verdicts(waiting, claim) == {"two-points": "undecided"}


def test_same_schedule_is_compared_where_its_control_was_run(make_arms: MakeArms) -> None:
    arms = make_arms(vision=AS_IN_PAPER, questions=80)
    late = [arm for arm in arms if arm.name == "start-080"]
    controls = [
        replace(arm, name="start-080-rewarm", label=f"start-080-rewarm.s{arm.seed}", group="re-warmed") for arm in late
    ]
    result = _claims([*arms, *controls], SAME_SCHEDULE)["same-schedule"]
    assert result.verdict == "holds"
    assert "start-080-rewarm scores" in result.evidence
    assert "than start-100" in result.evidence
    assert "this study has no arm start-100-matched" in result.evidence


def test_published_difference_is_placed_in_the_interval(make_arms: MakeArms) -> None:
    arms = make_arms(vision={80: 0.6, 100: 0.5}, text={80: 0.5, 100: 0.5}, noise=0.05)
    result = _claims(arms, TWO_POINTS)["two-points"]
    interval = result.differences[0].interval
    assert interval is not None
    location = "inside" if interval[0] <= 0.02 <= interval[1] else "outside"
    assert f"The published difference of +2.0 points is {location} the interval." in result.evidence


def _claim(*compare: Comparison, decide: str) -> Claim:
    return replace(BEST, name="mine", compare=compare, decide=decide)


VERDICTS = [
    (("start-000", "start-020"), "all", "holds"),
    (("start-000", "start-100"), "all", "flips"),
    (("start-000", "start-100"), "any", "undecided"),
    (("start-000", "missing"), "all", "undecided"),
    (("start-000", "missing"), "any", "holds"),
    (("start-100", "missing"), "all", "flips"),
    (("start-100", "missing"), "any", "flips"),
]


def test_all_and_any(make_arms: MakeArms) -> None:
    """The true order in vision is 0 < 20 < 60 < 100 %."""
    arms = make_arms(vision={0: 0.1, 20: 0.2, 60: 0.6, 100: 0.9}, text=dict.fromkeys((0, 20, 60, 100), 0.5))
    comparison = ArmComparison(arms, score_table(arms))
    for others, decide, verdict in VERDICTS:
        claim = _claim(Comparison(arms=("start-060",), others=others, measure="vision"), decide=decide)
        assert [result.verdict for result in evaluate_claims([claim], arms, comparison)] == [verdict]


def test_a_claim_can_be_about_a_single_task(make_arms: MakeArms) -> None:
    arms = make_arms(vision=AS_IN_PAPER, questions=80)
    rows = score_table(arms).filter(condition="sighted", task="vizwiz")
    part = Comparison(arms=("start-080",), others=("start-000",), measure="vizwiz")
    result = _claims(arms, _claim(part, decide="all"))["mine"]
    means = [rows.filter(arm=name).get_column("score").mean() for name in ("start-080", "start-000")]
    [difference] = result.differences
    assert difference.mean == pytest.approx(means[0] - means[1])
    assert difference.kind == "vision" and result.verdict == "holds"
    assert "in vizwiz than start-000" in result.evidence


def test_a_margin_moves_the_tested_value(make_arms: MakeArms) -> None:
    arms = make_arms(vision={80: 0.6, 100: 0.5}, text={80: 0.5, 100: 0.5}, questions=100)
    part = Comparison(arms=("start-080",), others=("start-100",), measure="vision", margin=0.5)
    assert _verdicts(arms, _claim(part, decide="all")) == {"mine": "flips"}
    assert _verdicts(arms, _claim(replace(part, expect="less"), decide="all")) == {"mine": "holds"}
