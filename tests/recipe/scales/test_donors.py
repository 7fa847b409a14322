"""Public runs as donors: their sizes and rates are the published ones, and studies of them are complete."""

from __future__ import annotations

from math import cos, pi

import pytest

from firstsight.errors import QuantityError, UnknownName
from firstsight.plan.graph import build_graph
from firstsight.plan.schedules import published_lines
from firstsight.recipe.scales import branch_at, get_scale
from firstsight.recipe.scales.donors import PUBLIC_RUNS, donor_scale, public_run, run_lines, run_of_donor
from firstsight.recipe.serialize import from_json, to_json
from firstsight.recipe.stages import Donor
from firstsight.studies.when import when
from firstsight.studies.when_controls import when_controls
from firstsight.units import Share

PYTHIA_NON_EMBEDDING = {
    "70m": 18_915_328,
    "160m": 85_056_000,
    "410m": 302_311_424,
    "1b": 805_736_448,
    "1.4b": 1_208_602_624,
    "2.8b": 2_517_652_480,
    "6.9b": 6_444_163_072,
    "12b": 11_327_027_200,
}
"""Biderman et al. 2023 (Pythia), Table 1."""


@pytest.mark.parametrize("name", PYTHIA_NON_EMBEDDING)
def test_pythias_have_their_published_parameters(name: str) -> None:
    lm = public_run(f"pythia-{name}").model
    assert lm.parameters() - 2 * lm.vocab_size * lm.width == PYTHIA_NON_EMBEDDING[name]


@pytest.mark.parametrize(
    ("name", "billions"), [("olmo2-1b", 1.48), ("olmo2-7b", 7.30), ("olmo2-13b", 13.72), ("smollm3-3b", 3.08)]
)
def test_others_have_the_parameters_of_their_cards(name: str, billions: float) -> None:
    assert public_run(name).model.parameters() / 1e9 == pytest.approx(billions, abs=0.006)


@pytest.mark.parametrize(
    ("name", "revision"),
    [
        ("olmo2-1b", "allenai/OLMo-2-0425-1B@stage1-step1907359-tokens4001B"),
        ("olmo2-7b", "allenai/OLMo-2-1124-7B@stage1-step928646-tokens3896B"),
        ("olmo2-13b", "allenai/OLMo-2-1124-13B@stage1-step596057-tokens5001B"),
        ("olmo2-32b", "allenai/OLMo-2-0325-32B@stage1-step721901-tokens6056B"),
        ("pythia-1.4b", "EleutherAI/pythia-1.4b@step143000"),
    ],
)
def test_last_revisions_are_the_published_ones(name: str, revision: str) -> None:
    assert public_run(name).checkpoints[-1][1] == revision


def test_a_branch_of_pythia_starts_at_its_rate_there() -> None:
    """GPT-NeoX's cosine from 2e-4 to 2e-5 after 1,430 steps of warm-up, at step 114,000 of 143,000."""
    arm = branch_at(donor_scale(public_run("pythia-1.4b")), Share(80, 100))
    assert arm.name == "start-080" and arm.start == arm.at["start"] == Share(114_000, 143_000)
    decayed = 0.5 * (1 + cos(pi * (114_000 - 1430) / (143_000 - 1430)))
    assert arm.resolved_stages()[0].lr(0) == pytest.approx(2e-5 + 1.8e-4 * decayed, rel=1e-6)  # pyright: ignore


def test_a_run_that_was_cut_follows_its_longer_curve() -> None:
    """OLMo 2 7B's cosine spans 5T tokens, of which it trained 3.9T."""
    donor = public_run("olmo2-7b").donor()
    done = (donor.rounded_tokens - 8_388_608_000) / (5e12 - 8_388_608_000)
    expected = 3e-5 + 2.7e-4 * 0.5 * (1 + cos(pi * done))
    assert donor.lr(donor.rounded_tokens) == pytest.approx(expected, rel=1e-4) and expected > 5e-5
    assert from_json(to_json(donor)) == donor


@pytest.mark.parametrize("name", PUBLIC_RUNS)
def test_every_run_makes_complete_studies(name: str) -> None:
    run = public_run(name)
    scale = donor_scale(run)
    study = when(scale)
    arms = [arm.name for arm in study.arms]
    assert arms == ["trunk", "start-000", "start-020", "start-040", "start-060", "start-080", "start-100"]
    assert len(study.claims) == 4
    steps = build_graph(study).steps
    assert not [step for step in steps if step.kind == "pretrain"]
    assert {step.spec.name for step in steps if step.donor_model} == {run.source_name(n) for n, _ in run.checkpoints}
    build_graph(when_controls(scale))
    assert run_of_donor(scale.base.pretrain) == run
    lines = list(published_lines(study, utilisation=0.4))
    assert any(line.startswith(f"donor {name}: ") for line in lines)
    assert all(f"inferred: {sentence}" in "\n".join(lines) for sentence in run.inferred)
    assert all(abs(share - n * Share(1, 5)) <= Share(2, 100) for n, (share, _) in enumerate(run.donor().checkpoints, 1))


def test_a_share_without_a_checkpoint_near_it_is_refused() -> None:
    arm = branch_at(donor_scale(public_run("pythia-70m")), Share(1, 2))
    with pytest.raises(QuantityError, match="wanted a checkpoint of the donor at 50 %"):
        build_graph(when(get_scale("smoke")).__class__(name="x", scale="x", question="?", arms=(arm,)))
    with pytest.raises(UnknownName, match="pythia-70m"):
        public_run("pythia-70")


def test_the_data_of_another_scale_can_be_used() -> None:
    scale = donor_scale(public_run("pythia-70m"), get_scale("smoke"))
    assert scale.name == "smoke-pythia-70m" and isinstance(scale.base.pretrain, Donor)
    assert scale.base.stages[0].mix.images == get_scale("smoke").base.stages[0].mix.images
    assert build_graph(when(scale)).steps


def test_lines_name_every_checkpoint_and_its_import() -> None:
    lines = list(run_lines(public_run("pythia-1.4b")))
    command = "firstsight import EleutherAI/pythia-1.4b --revision step29000 --out donors/pythia-1.4b-step29000"
    assert any(line.startswith(f"{command} --seen 60817408000") for line in lines)
    assert "[sources.gpt-neox-20b]" in lines and "[sources.pythia-1.4b-step143000]" in lines
