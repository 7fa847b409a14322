"""Claims on studies with known effects."""

from __future__ import annotations

from dataclasses import replace

from firstsight.report.claims import Claim, evaluate_claims
from firstsight.report.compare import Comparison
from firstsight.report.results import ArmResult
from firstsight.report.summary import answer_sentence
from firstsight.report.table import score_table
from tests.report.study_builder import MakeArms

AS_IN_PAPER = {0: 0.05, 20: 0.2, 40: 0.3, 60: 0.45, 80: 0.8, 100: 0.6}
OPPOSITE = {0: 0.8, 20: 0.6, 40: 0.5, 60: 0.4, 80: 0.2, 100: 0.5}
FLAT = dict.fromkeys(range(0, 101, 20), 0.5)


def _claims(arms: list[ArmResult]) -> dict[str, Claim]:
    return {claim.name: claim for claim in evaluate_claims(arms, Comparison(arms, score_table(arms)))}


def _verdicts(arms: list[ArmResult]) -> dict[str, str]:
    return {name: claim.verdict for name, claim in _claims(arms).items()}


def test_claims_hold_for_effects_as_in_the_paper(make_arms: MakeArms) -> None:
    arms = make_arms(vision=AS_IN_PAPER, text={0: 0.1, 20: 0.3, 40: 0.4, 60: 0.5, 80: 0.75, 100: 0.6}, questions=80)
    assert _verdicts(arms) == dict.fromkeys(("best", "two-points", "from-scratch", "text-kept"), "holds")


def test_claims_flip_for_opposite_effects(make_arms: MakeArms) -> None:
    arms = make_arms(vision=OPPOSITE, text=OPPOSITE, questions=80)
    assert _verdicts(arms) == dict.fromkeys(("best", "two-points", "from-scratch", "text-kept"), "flips")


def test_claims_are_undecided_without_effects(make_arms: MakeArms) -> None:
    verdicts = _verdicts(make_arms(vision=FLAT, text=FLAT, noise=0.08, questions=30))
    assert verdicts.pop("text-kept") != "flips"
    assert verdicts == dict.fromkeys(("best", "two-points", "from-scratch"), "undecided")


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
        texts.append(answer_sentence(arms, rows, Comparison(arms, rows)))
        sized = [text for text in texts if "points more" in text or "points less" in text or "points behind" in text]
        assert len(sized) >= 4
        assert all(" to " in text and ("% interval" in text or "over questions alone" in text) for text in sized)


def test_comparisons_that_decide_one_claim_are_corrected_together(make_arms: MakeArms) -> None:
    claims = _claims(make_arms(vision=AS_IN_PAPER, questions=80))
    assert [d.family_size for d in claims["best"].differences] == [5] * 5
    assert [d.family_size for d in claims["from-scratch"].differences] == [2] * 2
    assert claims["two-points"].differences[0].family_size == 1
    assert "after Holm for 5" in claims["best"].evidence


def test_seeds_that_disagree_are_undecided(make_arms: MakeArms) -> None:
    arms = make_arms(vision={60: 0.5, 80: 0.55, 100: 0.5}, text=dict.fromkeys((60, 80, 100), 0.5), noise=0.3)
    assert _verdicts(arms)["two-points"] == "undecided"


def test_missing_arm_is_named_and_undecided(make_arms: MakeArms) -> None:
    arms = make_arms(vision=AS_IN_PAPER, missing={f"start-100.s{seed}": "failed" for seed in (1, 2)})
    claim = _claims(arms)["two-points"]
    assert claim.verdict == "undecided"
    assert "needs the arms at 80 % and at 100 %" in claim.evidence
    assert _verdicts(make_arms(vision=AS_IN_PAPER, missing={"start-080.s1": "failed", "start-080.s2": "failed"}))[
        "best"
    ] == ("undecided")


def test_same_schedule_is_compared_where_its_control_was_run(make_arms: MakeArms) -> None:
    arms = make_arms(vision=AS_IN_PAPER, questions=80)
    assert "same-schedule" not in _verdicts(arms)
    late = [arm for arm in arms if arm.name == "start-080"]
    controls = [
        replace(arm, name="start-080-rewarm", label=f"start-080-rewarm.s{arm.seed}", schedule="rewarm") for arm in late
    ]
    claim = _claims([*arms, *controls])["same-schedule"]
    assert claim.verdict == "holds"
    assert "start-080-rewarm scores" in claim.evidence
    assert "than start-100" in claim.evidence


def test_there_are_no_claims_where_starts_do_not_vary(make_arms: MakeArms) -> None:
    assert _claims(make_arms(vision={80: 0.5}, text={80: 0.5}, trunk=False)) == {}
