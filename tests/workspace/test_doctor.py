"""What doctor reports about a machine and the sources of its site file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from firstsight.cli.app import command
from firstsight.errors import MissingPackage
from firstsight.site import Location
from firstsight.workspace import doctor
from firstsight.workspace.doctor import machine_findings, missing_package
from tests.evaluate.models import tiny_hf_models
from tests.workspace.projects import DonorProject, OwnProject


@pytest.fixture(autouse=True)
def no_site_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIRSTSIGHT_SITE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_a_machine_that_runs_the_tests_lacks_nothing(tmp_path: Path) -> None:
    findings = {finding.topic: finding for finding in machine_findings(tmp_path / "new" / "runs")}
    assert not [finding for finding in findings.values() if finding.state == "missing"]
    assert findings["cores"].value == str(len(os.sched_getaffinity(0)))
    assert findings["disk"].value.endswith(f" GB free at {tmp_path}")
    assert findings["site file"].value == "none" and {"[eval]", "[s3]"} <= set(findings)


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=2", "no-such-package<3", 'never; extra == "dev"'])
    (tmp_path / "file").write_text("")
    (tmp_path / "site.toml").write_text("[machin]")
    findings = {finding.topic: finding for finding in machine_findings(tmp_path / "file" / "runs")}
    packages = findings["packages"]
    assert packages.value == "1 of 2, without no-such-package" and packages.advice == "pip install no-such-package"
    assert packages.state == findings["disk"].state == findings["site file"].state == "missing"
    assert "Nearest: machine" in findings["site file"].advice


def test_only_modules_of_an_extra_are_optional() -> None:
    error = missing_package(ModuleNotFoundError("no", name="lm_eval.tasks"))
    assert isinstance(error, MissingPackage) and "pip install 'firstsight[eval]'" in str(error)
    assert missing_package(ModuleNotFoundError("no", name="lm_evaluate")) is None


def test_doctor_reports_every_source_of_the_site_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = OwnProject(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "400")
    assert command(["doctor", "--out", str(tmp_path / "runs")]) == 0
    output = " ".join(capsys.readouterr().out.split())
    size = sum(file.stat().st_size for file in (own.data / "datacomp").iterdir())
    assert f"captions: 2 shards, {size / 1000:.3g} kB, not prepared" in output
    for text in (
        "10 sources",
        "tokenizer: 325 tokens",
        "text: 2 shards",
        "dialogues: 1 shard,",
        "interleaved: 1 shard,",
    ):
        assert text in output
    assert "2 layers, width 16, image 16, patch 8" in output and "wanted num_hidden_layers 27, got 2" in output
    assert "token store" in output and "for sources not yet prepared" in output
    (tmp_path / "site.toml").write_text("[sources.dclm-mix]\npath = 'nowhere'\n[sources.junk]\npath = 'mine.py'")
    assert command(["doctor", "--out", str(tmp_path / "runs")]) == 1
    findings = {finding.topic: finding for finding in machine_findings(tmp_path / "runs")}
    assert findings["dclm-mix"].state == findings["junk"].state == "missing"
    assert findings["dclm-mix"].value == f"nothing at {tmp_path}/nowhere"
    assert "Got nothing that is read as text, captions" in findings["junk"].advice
    capsys.readouterr()
    (tmp_path / "site.toml").write_text("[machin]")
    assert command(["doctor", "--out", str(tmp_path / "runs")]) == 1
    assert "Nearest: machine" in " ".join(capsys.readouterr().out.split())


def test_doctor_reports_checkpoints_and_models_that_are_not_downloaded(
    donor: DonorProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(donor.root / "hub"))
    there = f'\n[sources.far]\npath = "hf://someone/model-{donor.root.name}@main"\n'
    there += '[sources.odd]\npath = "hf://a/b/c"\n'
    (donor.root / "site.toml").write_text((donor.root / "site.toml").read_text() + there)
    findings = {finding.topic: finding for finding in machine_findings(donor.root / "runs")}
    assert findings["donor-40"].value == "checkpoint: 2 layers, width 32, vocabulary 512, without moments"
    assert "not on this machine yet" in findings["far"].value and "set path to that folder" in findings["far"].advice
    assert findings["odd"].state == "missing" and "hf://OWNER/NAME" in findings["odd"].advice


def test_a_model_in_the_layout_of_transformers_is_one(tmp_path: Path) -> None:
    location = Location(path=str(tiny_hf_models.llava(tmp_path / "llava")))
    assert doctor.detect_form("whole", location) == "model"
