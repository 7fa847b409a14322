"""Claims and the headline on studies whose truth is known because it was put there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from firstsight.report.claims import Claim, evaluate_claims
from firstsight.report.compare import Comparison
from firstsight.report.format import format_points
from firstsight.report.results import ArmResult, StudyFacts
from firstsight.report.summary import answer_sentence, study_limits
from firstsight.report.table import score_table

Make = Callable[..., list[ArmResult]]
PAPER = {0: 0.05, 20: 0.2, 40: 0.3, 60: 0.45, 80: 0.8, 100: 0.6}
AGAINST = {0: 0.8, 20: 0.6, 40: 0.5, 60: 0.4, 80: 0.2, 100: 0.5}
FLAT = dict.fromkeys(range(0, 101, 20), 0.5)


def _claims(arms: list[ArmResult]) -> dict[str, Claim]:
    return {claim.name: claim for claim in evaluate_claims(arms, Comparison(arms, score_table(arms)))}


def _answer(arms: list[ArmResult]) -> str:
    rows = score_table(arms)
    return answer_sentence(arms, rows, Comparison(arms, rows))


def _verdicts(arms: list[ArmResult]) -> dict[str, str]:
    return {name: claim.verdict for name, claim in _claims(arms).items()}


def test_claims_hold_where_the_paper_is_true(make: Make) -> None:
    arms = make(ability=PAPER, literacy={0: 0.1, 20: 0.3, 40: 0.4, 60: 0.5, 80: 0.75, 100: 0.6}, questions=80)
    assert _verdicts(arms) == dict.fromkeys(("best", "two-points", "from-scratch", "text-kept"), "holds")


def test_claims_flip_where_the_opposite_is_true(make: Make) -> None:
    arms = make(ability=AGAINST, literacy=AGAINST, questions=80)
    assert _verdicts(arms) == dict.fromkeys(("best", "two-points", "from-scratch", "text-kept"), "flips")


def test_claims_stay_undecided_where_nothing_differs(make: Make) -> None:
    found = _verdicts(make(ability=FLAT, literacy=FLAT, noise=0.08, questions=30))
    assert found.pop("text-kept") != "flips"
    assert found == dict.fromkeys(("best", "two-points", "from-scratch"), "undecided")


def test_one_seed_decides_nothing_however_clear_it_looks(make: Make) -> None:
    arms = make(ability=PAPER, seeds=(1,), questions=80)
    assert set(_verdicts(arms).values()) == {"undecided"}
    assert "One seed cannot distinguish" in _claims(arms)["two-points"].evidence
    assert "one seed cannot distinguish an effect from a lucky run" in _answer(arms)
    assert "over questions alone" in _claims(arms)["two-points"].evidence


def test_no_difference_is_told_without_its_interval(make: Make) -> None:
    for seeds in ((1,), (1, 2)):
        arms = make(ability=PAPER, seeds=seeds, questions=40)
        told = [text for claim in _claims(arms).values() if (text := claim.evidence)] + [_answer(arms)]
        sized = [text for text in told if "points more" in text or "points less" in text or "points behind" in text]
        assert len(sized) >= 4
        assert all(" to " in text and ("% interval" in text or "over questions alone" in text) for text in sized)


def test_comparisons_that_decide_one_claim_are_corrected_together(make: Make) -> None:
    found = _claims(make(ability=PAPER, questions=80))
    assert [d.family_size for d in found["best"].differences] == [5] * 5
    assert [d.family_size for d in found["from-scratch"].differences] == [2] * 2
    assert found["two-points"].differences[0].family_size == 1
    assert "after Holm for 5" in found["best"].evidence


def test_seeds_that_disagree_decide_nothing(make: Make) -> None:
    arms = make(ability={60: 0.5, 80: 0.55, 100: 0.5}, literacy=dict.fromkeys((60, 80, 100), 0.5), noise=0.3)
    assert _verdicts(arms)["two-points"] == "undecided"


def test_a_missing_arm_is_named_and_decides_nothing(make: Make) -> None:
    arms = make(ability=PAPER, missing={f"start-100.s{seed}": "failed" for seed in (1, 2)})
    claim = _claims(arms)["two-points"]
    assert claim.verdict == "undecided"
    assert "needs the arms at 80 % and at 100 %" in claim.evidence
    assert _verdicts(make(ability=PAPER, missing={"start-080.s1": "failed", "start-080.s2": "failed"}))["best"] == (
        "undecided"
    )


def test_the_same_schedule_is_compared_where_the_control_was_run(make: Make) -> None:
    arms = make(ability=PAPER, questions=80)
    assert "same-schedule" not in _verdicts(arms)
    late = [arm for arm in arms if arm.name == "start-080"]
    controls = [
        replace(arm, name="start-080-rewarm", label=f"start-080-rewarm.s{arm.seed}", schedule="rewarm") for arm in late
    ]
    claim = _claims([*arms, *controls])["same-schedule"]
    assert claim.verdict == "holds"
    assert "start-080-rewarm scores" in claim.evidence
    assert "than start-100" in claim.evidence


def test_no_claims_where_starts_do_not_vary(make: Make) -> None:
    assert _claims(make(ability={80: 0.5}, literacy={80: 0.5}, trunk=False)) == {}


def test_the_answer_names_best_next_and_seeds(make: Make) -> None:
    text = _answer(make(ability=PAPER, questions=80))
    assert text.startswith("Vision is best when images enter at 80 % of the text training: ")
    assert "(mean of 2 seeds), significantly better than every other arm; 100 % is next, " in text
    assert "cannot distinguish it from" in _answer(make(ability=FLAT, noise=0.05))


def test_a_score_that_a_guesser_reaches_is_no_answer(make: Make) -> None:
    low = dict.fromkeys(range(0, 101, 20), 0.01)
    assert "a guesser without" in _answer(make(ability=low))
    assert "a guesser without" not in _answer(make(ability=PAPER))


@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 3)])
def test_limits_count_seeds_and_budgets(make: Make, study: Callable[[str], StudyFacts], seeds: tuple[int, ...]) -> None:
    arms = make(seeds=seeds, questions=20)
    _, cannot = study_limits(
        arms, score_table(arms), study(""), tokens={"start-000": 1_392_640.0, "start-100": 2_826_240.0}
    )
    text = " ".join(cannot)
    assert ("The result of another seed" in text) == (len(seeds) < 3)
    assert "1.39M tokens in all and the latest on 2.83M" in text
    assert "The start alone at 0 % and 100 %" in text
    assert "lacks copa, piqa" in text


def test_points_carry_their_sign() -> None:
    assert [format_points(0.0213), format_points(-0.4)] == ["+2.1", "\N{MINUS SIGN}40.0"]
