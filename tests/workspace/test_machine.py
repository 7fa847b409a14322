"""What doctor reports about a machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from firstsight.errors import MissingPackage
from firstsight.workspace import machine
from firstsight.workspace.machine import machine_findings, missing_package


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
    monkeypatch.setattr(machine, "requires", lambda name: ["numpy>=2", "no-such-package<3", 'never; extra == "dev"'])
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
