"""What to run next, and running it until all claims are decided; steps are written without being run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.errors import DamagedResult, QuantityError, RequestError, StoreError
from firstsight.plan.graph import build_graph
from firstsight.recipe.study import Study
from firstsight.units import Share
from firstsight.workspace.decisions import next_runs
from firstsight.workspace.decisions.next_runs import DECIDES, NextOption
from firstsight.workspace.decisions.record import read_sequential_record
from firstsight.workspace.execute import worker_count
from tests.workspace.decision_store import SECONDS, DecisionStore, combined_study, small_study

FAR = {80: 0.8, 100: 0.5}


@pytest.fixture
def undecided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DecisionStore:
    """Two arms that differ, with two seeds that spread too much to show it."""
    store = DecisionStore(tmp_path, FAR, noise=0.15)
    monkeypatch.setattr(next_runs, "run_graph", store.run_graph)
    store.fill(small_study())
    return store


def test_the_table_has_cost_and_chance_of_the_best_option(undecided: DecisionStore) -> None:
    study = small_study()
    look = undecided.workspace.next(study, budget="4h", jobs=1)
    (option,) = look.options
    assert set(option.first_seed()) == {"start-080.s3", "start-100.s3"}
    assert list(option.chances) == ["two-points"] and 0 < option.chances["two-points"] <= 1
    header, row = look.table()
    assert header == ("run", "time", DECIDES) and row[0].startswith("start-080, start-100 x seed")
    assert row[2] == f"two-points {100 * option.chances['two-points']:.0f}"
    assert read_sequential_record(study, undecided.workspace.root) is None, (
        "nothing is declared by looking at what would be next"
    )
    # Every stored step took as long: the trunk to 80 and to 100 %, and two stages and an evaluation of each arm.
    graph = build_graph(study.with_arms(["start-080.s3", "start-100.s3"]))
    new = [step for step in graph.steps if all(label.endswith(".s3") for label in graph.arms_by_step()[step])]
    seeds = len(option.labels) // 2
    assert option.seconds == pytest.approx(seeds * len(new) * SECONDS, rel=0.15)


def test_an_undecided_claim_of_a_report_has_the_run_of_next_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_runs, "LIKELY", 0.02)  # of a claim that seeds alone hardly decide
    store = DecisionStore(tmp_path, {80: 0.8, 100: 0.65}, noise=0.1)
    store.fill(small_study())
    look, results = store.workspace.next(small_study(), budget="1000h"), store.workspace.results(small_study())
    sentence = results.next_runs["two-points"]
    option = look.likely_option
    assert option is not None and sentence.startswith(f"{option.cost_text()} decides it with a chance of ")
    assert int(sentence.split()[-2]) == round(100 * option.chances["two-points"]) >= 2
    page = results.write_report().read_text()
    assert f"<b>The cheapest way to decide it.</b> {sentence}" in page


@pytest.mark.parametrize(("stored", "first"), [("both", "One seed has no variance"), ("one", "Not all of its arms")])
def test_without_seeds_or_scores_it_says_what_to_run_before_a_chance_is_known(
    tmp_path: Path, stored: str, first: str
) -> None:
    """Every stored step took a minute; the run is of the steps of the arms that are named."""
    store, study = DecisionStore(tmp_path, FAR, noise=0.15), small_study(1)
    part = study if stored == "both" else replace(study, arms=study.arms[:1], claims=(), figures=())
    store.fill(part)
    results = store.workspace.results(study)
    sentence = results.next_runs["two-points"]
    labels = ("start-080.s2", "start-100.s2") if stored == "both" else (study.arms[1].label,)
    text = "start-080, start-100 x seed 2" if stored == "both" else f"{study.arms[1].name} x seed 1"
    assert sentence.startswith(first) and f"Run {text} (about " in sentence and "chance is known after" in sentence
    extended = study.with_arms([label for label in labels if label.endswith(".s2")])
    steps = {step for label in labels for step in build_graph(extended).arms[label]}
    stored_steps = set(store.workspace.stored(part).graph.steps)
    missing = [step for step in steps if step not in stored_steps and step.kind != "external"]
    minutes = float(sentence.split("(about ")[1].split()[0]) * (1 / 60 if " s on" in sentence else 1)
    assert minutes * worker_count(store.workspace.site, None) == pytest.approx(len(missing) * SECONDS / 60, rel=0.3)


def test_a_decided_claim_has_no_run(tmp_path: Path) -> None:
    store = DecisionStore(tmp_path, {80: 0.9, 100: 0.1}, noise=0.0)
    store.fill(small_study(3))
    results = store.workspace.results(small_study(3))
    assert [result.verdict for result in results.claims] == ["holds"] and results.next_runs == {}


def test_chances_do_not_fall_with_seeds_and_a_small_budget_buys_few(undecided: DecisionStore) -> None:
    rich, poor = (undecided.workspace.next(small_study(), budget=budget, jobs=1) for budget in ("40h", "12min"))
    assert len(poor.options[0].labels) == 2 <= len(rich.options[0].labels)
    assert poor.options[0].chances["two-points"] <= (rich.likely_option or rich.options[0]).chances["two-points"]


@pytest.mark.timeout(600)
def test_seeds_are_added_until_the_claim_is_decided(undecided: DecisionStore) -> None:
    workspace, study = undecided.workspace, small_study()
    looks = list(workspace.run_until_decided(study, budget="100h", jobs=1))
    assert [result.verdict for result in looks[-1].claims] == ["holds"] and not looks[-1].options
    assert [look.seeds["start-080"] for look in looks] == list(range(2, 2 + len(looks)))
    record = read_sequential_record(study, workspace.root)
    assert record is not None and len(record.looks) == len(looks) == 1 + len(record.labels) // 2
    results = workspace.results(study)
    assert [result.verdict for result in results.claims] == ["holds"], "the record makes the study and its rule"
    assert len(results.arms) == 4 + len(record.labels)
    assert set(small_study(3).arms) <= set(workspace.stored(small_study(3)).study.arms), "whatever --seeds says"


def test_one_run_adds_what_the_first_line_says_and_no_more(undecided: DecisionStore) -> None:
    workspace, study = undecided.workspace, small_study()
    before, after = workspace.run_until_decided(study, budget="4h", max_runs=1, jobs=1)
    record = read_sequential_record(study, workspace.root)
    assert record is not None and record.labels == before.options[0].labels
    assert after.summary is not None and after.seeds["start-080"] == 2 + len(record.labels) // 2


def test_studies_in_one_graph_share_the_steps_of_a_proposal(undecided: DecisionStore) -> None:
    alone = undecided.workspace.next(small_study(), budget="4h", jobs=1).options[0]
    look = undecided.workspace.next(combined_study(), budget="4h", jobs=1)
    assert {name for option in look.options for name in option.chances} == {"when.two-points", "when-text.text-kept"}
    (option,) = (option for option in look.options if len(option.labels) == 2 * len(alone.labels))
    names = ("when.start-080", "when.start-100", "when-text.start-080", "when-text.start-100")
    assert {label.rpartition(".s")[0] for label in option.labels} == set(names), "equal models are proposed together"
    assert option.seconds == pytest.approx(alone.seconds), "and cost what one of them does"
    assert option.chances["when.two-points"] == alone.chances["two-points"]
    assert "when.two-points" in look.table()[1][2]


def test_all_parts_of_a_combined_study_are_decided(undecided: DecisionStore) -> None:
    workspace, study = undecided.workspace, combined_study()
    before, after = workspace.run_until_decided(study, budget="100h", max_runs=1, jobs=1)
    records = [read_sequential_record(part, workspace.root) for part in study.parts]
    for part, record in zip(study.parts, records, strict=True):
        assert record is not None and len(record.looks) == 2
        added = [label.removeprefix(f"{part.name}.") for label in before.options[0].labels]
        assert set(record.labels) == {label for label in added if label.startswith("start-")}
        results = workspace.results(part)
        names = [f"{part.name}.{result.claim.name}" for result in results.claims]
        assert names == [result.claim.name for result in after.claims if result.claim.name.startswith(f"{part.name}.")]
        assert all(arm.scores for arm in results.arms) and results.rule == "sequential"
    assert len(workspace.stored(study).study.arms) == 8 + len(before.options[0].labels), (
        "the combined study has them too"
    )


def test_arms_that_no_claim_compares_are_not_run(undecided: DecisionStore) -> None:
    study = small_study()
    further = replace(study.arms[0], name="start-050", start=Share(1, 2))
    study = replace(study, arms=(*study.arms, further), axes=(), figures=())
    before, after = undecided.workspace.run_until_decided(study, budget="100h", max_runs=1, jobs=1)
    assert before.options and after.summary is not None and after.seeds["start-050"] == 0
    final = undecided.workspace.stored(study).graph.final_step("start-050.s1")
    assert final not in after.summary.published


def test_a_seed_that_only_some_arms_have_has_the_addresses_of_a_whole_study() -> None:
    whole, part = build_graph(small_study(3)), build_graph(small_study(2).with_arms(["start-100.s3"]))
    assert part.arms["start-100.s3"] == whole.arms["start-100.s3"]


def _without_claims(study: Study) -> Study:
    return replace(study, claims=())


@pytest.mark.parametrize(
    ("study", "budget", "message"),
    [
        (_without_claims(small_study()), "4h", "Got none. Write claims=(Claim(...),)"),
        (
            small_study(3),
            "4h",
            "none of start-080.s3, start-100.s3. Run firstsight run when --scale smoke --seeds 3 --out ",
        ),
        (small_study(1), "4h", "at least two seeds"),
        (small_study(), "1min", "the cheapest next run. Got 60 s."),
    ],
)
def test_what_cannot_be_decided_is_refused(undecided: DecisionStore, study: Study, budget: str, message: str) -> None:
    workspace = undecided.workspace
    for call in (
        lambda: workspace.next(study, budget=budget),
        lambda: next(workspace.run_until_decided(study, budget=budget)),
    ):
        with pytest.raises(RequestError) as error:
            call()
        assert message in str(error.value) and "\n" not in str(error.value)
    assert not (workspace.root / "decisions").exists()


def test_damaged_scores_are_named_with_the_repair(undecided: DecisionStore) -> None:
    workspace = undecided.workspace
    step = workspace.stored(small_study()).graph.final_step("start-080.s1")
    path = workspace.root / "steps" / step.address / "scores.json"
    path.write_text(path.read_text().replace("0", "1", 1))
    with pytest.raises(DamagedResult, match=r"Got none of start-080\.s1: .*scores\.json.* --repair"):
        workspace.next(small_study(), budget="4h")
    answer, claims, cost = workspace.conclusion(small_study())
    assert answer and "two-points" in claims and "--repair" in cost


def test_nothing_stored_and_no_time_are_refused(tmp_path: Path, undecided: DecisionStore) -> None:
    with pytest.raises(StoreError, match="nothing is stored"):
        DecisionStore(tmp_path / "empty", FAR, noise=0.1).workspace.next(small_study())
    for budget in ("soon", "0h", "-2h", -1.0, float("nan")):
        with pytest.raises(QuantityError, match="2h"):
            undecided.workspace.next(small_study(), budget=budget)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (("a.s3",), "a x seed 3"),
        (("a.s4", "b.s4", "a.s5", "b.s5"), "a, b x seeds 4-5"),
        (("a.s4", "b.s4", "a.s5"), "a x seeds 4-5; b x seed 4"),
        (tuple(f"arm{number}.s2" for number in range(9)), "9 arms (arm0 to arm8) x seed 2"),
    ],
)
def test_an_option_names_its_arms_and_seeds(labels: tuple[str, ...], text: str) -> None:
    assert str(NextOption(labels=labels, seconds=1.0, chances={})) == text
