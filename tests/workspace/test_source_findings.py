"""What doctor reports about the sources of a site file."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight.cli import command
from firstsight.workspace.machine import machine_findings
from tests.workspace.projects import DonorProject, OwnProject


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
    assert "token store" in output and "for what is not prepared" in output
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
    assert "not on this machine yet" in findings["far"].value and "let path name the folder" in findings["far"].advice
    assert findings["odd"].state == "missing" and "hf://OWNER/NAME" in findings["odd"].advice
