"""Studies of branches of a donor: which checkpoint they start from, and what is refused before anything runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from firstsight.cli.app import command
from firstsight.errors import RequestError
from firstsight.plan.graph import build_graph
from firstsight.workspace.check_models import check_models
from firstsight.workspace.resolve import find_checkpoint
from firstsight.workspace.sources import current_site
from firstsight.workspace.study_graph import StoredStudy
from tests.workspace.projects import DonorProject
from tests.workspace.test_doctor_store import flip, result_digests


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_branches_of_a_donor_run_once(donor: DonorProject, capsys: pytest.CaptureFixture[str]) -> None:
    assert "donor: 51,200 tokens, learning rate 0 to 0.002 to 2e-05, 1 % warm-up" in donor.run(capsys, "plan")[1]
    code, output = donor.run(capsys, "run", "--jobs", "1")
    assert code == 0 and "7 steps run" in output, output  # two branches of three steps, and the evaluated checkpoint
    report = (donor.root / "runs/reports/donated-79m/report.html").read_text()
    assert "start-040" in report and "named-checkpoint" in report
    assert not list((donor.root / "runs" / "steps").glob("pretrain*"))
    branches = [folder for folder in (donor.root / "runs" / "steps").iterdir() if folder.name.startswith("midtrain")]
    assert len({_starts_from(folder, donor.data) for folder in branches}) == 2
    _check_text_rows(branches)

    assert "0 steps run" in donor.run(capsys, "run")[1]
    _check_repair(donor.root / "runs", branches[0], capsys)
    assert "0 steps run" in donor.run(capsys, "run")[1]
    (donor.data / "donor-40").rename(donor.data / "elsewhere")
    donor.replace("site.toml", ("donor-40]", "the-first]"), ("data/donor-40", "data/elsewhere"))
    donor.replace("mine.py", ('external("donor-40"', 'external("the-first"'))
    assert "0 steps run" in donor.run(capsys, "run")[1]
    assert "(the-first)" in donor.run(capsys, "plan")[1]

    assert find_checkpoint("given", StoredStudy(donor.study(), donor.root / "runs")) == donor.data / "donor-80"
    stored = next(folder.name for folder in (donor.root / "runs" / "steps").glob("evaluate-1-task*"))
    assert find_checkpoint(stored, StoredStudy(donor.study(), donor.root / "runs")) == donor.data / "donor-80"


def _check_repair(root: Path, branch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A branch of a donor and a prepared source of the user's are computed again from their provenance."""
    before, prepared = result_digests(root), next((root / "steps").glob("prepare*"))
    for file in (branch / "model.safetensors", prepared / "tokens.npy"):
        flip(file)
    assert command(["doctor", "--store", str(root), "--repair", "--jobs", "1"]) == 0
    assert capsys.readouterr().out.count("the same bytes as when it was published") == 2
    assert result_digests(root) == before
    assert len(list((root / "damaged" / f"{prepared.name}.1").glob("source-*"))) == 1  # its files were linked


def _starts_from(branch: Path, data: Path) -> str:
    """The checkpoint whose weights a branch started from, which eight updates change little, at its learning rate."""
    after = load_file(branch / "model.safetensors")
    first = json.loads((branch / "log.jsonl").read_text().splitlines()[0])["lr"]
    for name, percent in (("donor-40", 40), ("donor-80", 80)):
        before = load_file(data / name / "model.safetensors")
        if max((after[key] - tensor).abs().max().item() for key, tensor in before.items()) < 0.02:
            part = (51_200 * percent / 100 - 512) / (51_200 - 512)
            rate = 2e-5 + 0.5 * (2e-3 - 2e-5) * (1 + torch.cos(torch.tensor(torch.pi * part)).item())
            assert rate * 0.9 < first < rate  # the first of eight steps of its cosine
            return name
    raise AssertionError(f"{branch} comes from neither checkpoint")


def _check_text_rows(branches: list[Path]) -> None:
    for folder in branches:
        achieved = json.loads((folder / "achieved.json").read_text())
        read = sum(rows for name, rows in achieved["rows"].items() if name.startswith("text"))
        assert achieved["text_rows_seen"] == read and achieved["text_seed"] == 1


def test_the_rows_of_a_donors_branch_can_be_previewed_before_a_run(
    donor: DonorProject, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = donor.run(capsys, "preview", "--arm", "start-040", "--rows", "4")
    assert code == 0, output
    assert (donor.root / "runs" / "preview-start-040.s1-midtrain.html").is_file()


def _change_spec(donor: DonorProject) -> None:
    spec = donor.data / "donor-40" / "spec.json"
    spec.write_text(spec.read_text().replace('"eps": 1e-05', '"eps": 1e-06'))


def _swap_token_ids(donor: DonorProject) -> None:
    """Swap the ids of two tokens in the checkpoint's tokenizer."""
    file = donor.data / "donor-40" / "tokenizer.json"
    body: dict[str, Any] = json.loads(file.read_text())
    ids = body["model"]["vocab"]
    first, second = sorted(ids, key=ids.get)[100:102]
    ids[first], ids[second] = ids[second], ids[first]
    file.write_text(json.dumps(body))


def _add_missing_shard(donor: DonorProject) -> None:
    index = {"metadata": {}, "weight_map": {"lm.norm.weight": "model-00002-of-00002.safetensors"}}
    (donor.data / "donor-40" / "model.safetensors.index.json").write_text(json.dumps(index))


REFUSED: list[tuple[Callable[[DonorProject], object], str]] = [
    (_change_spec, r"donor-40: eps wanted 1e-05, got 1e-06 in .*donor-40/spec\.json\. Declare the donor's model"),
    (
        _swap_token_ids,
        r"my-tokenizer: wanted the tokens of donor-40 under their own numbers\. Got 2 of 320 under others",
    ),
    (_add_missing_shard, r"no model-00002-of-00002\.safetensors .*Download it again completely"),
    (
        lambda donor: (donor.data / "donor-40" / "model.safetensors").unlink(),
        r"Got spec\.json, tokenizer\.json\. Write",
    ),
    (lambda donor: shutil.rmtree(donor.data / "donor-40"), r"donor-40: .*donor-40 does not exist"),
    (
        lambda donor: donor.replace("mine.py", ('moments="fresh"', 'moments="carried"')),
        r"wanted optimizer\.safetensors in .*donor-40, since the branch continues its donor's moments\. Got none\. "
        r'Set moments="fresh" in the study, or import donor-40 with its optimizer file',
    ),
    (
        lambda donor: donor.replace(
            "mine.py", ("branch_at(donor_scale, Share(2, 5))", "branch_at(donor_scale, Share(3, 5))")
        ),
        "wanted a checkpoint of the donor at 60 % of its run. Got 40 %, 80 %",
    ),
]


@pytest.mark.parametrize(
    ("spoil", "message"), REFUSED, ids=["spec", "tokenizer", "shard", "weights", "folder", "moments", "share"]
)
def test_an_unfit_donor_is_refused_before_anything_runs(
    donor: DonorProject, capsys: pytest.CaptureFixture[str], spoil: Callable[[DonorProject], object], message: str
) -> None:
    spoil(donor)
    code, output = donor.run(capsys, "run")
    assert code == 2 and re.search(message, output), output
    assert not (donor.root / "runs").exists()


def test_a_donor_with_moments_may_carry_them(donor: DonorProject) -> None:
    donor.replace("mine.py", ('moments="fresh"', 'moments="carried"'))
    steps = build_graph(donor.study())
    with pytest.raises(RequestError, match="donor-40"):
        check_models(steps.steps, current_site())
    for name in ("donor-40", "donor-80"):
        save_file({"lm.norm.weight.step": torch.zeros(())}, donor.data / name / "optimizer.safetensors")
    check_models(steps.steps, current_site())
