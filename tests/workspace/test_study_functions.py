"""Studies by name and in files: what is found, parsed and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight.errors import QuantityError, UnknownName
from firstsight.units import Share, Tokens
from firstsight.workspace import doctor
from firstsight.workspace.study_functions import StudyParameter, find_study_function, shipped_studies
from tests.cli.command_line import STUDY_FILE, refused
from tests.cli.conftest import study_file

__all__ = ["study_file"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def late(scale: Scale) -> Study: ...", "NameError"),
        ("def late(:", "SyntaxError"),
        ("import no_such_module", "No module named"),
        ("x = 1", "-> Study"),
        (STUDY_FILE + STUDY_FILE.replace("def late", "def later"), "Name one"),
        (STUDY_FILE.replace("scale: Scale, at", "at"), "scale: Scale"),
        (STUDY_FILE.replace("copies: int", "copies: float"), "cannot become an option"),
        (STUDY_FILE.replace("copies: int", "out: int"), "Rename the parameter"),
        (STUDY_FILE.replace("    return Study(", "    return repr("), "TypeError"),
    ],
)
def test_an_invalid_study_file_is_refused(
    capsys: pytest.CaptureFixture[str], study_file: Path, text: str, expected: str
) -> None:
    study_file.write_text(text)
    assert expected in refused(capsys, "plan", study_file, "--scale", "smoke")


def test_a_missing_optional_package_is_named_with_its_extra(
    capsys: pytest.CaptureFixture[str], study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "no_such_module", ("eval", "text tasks"))
    study_file.write_text("import no_such_module.below")
    assert "pip install 'firstsight[eval]'" in refused(capsys, "plan", study_file, "--scale", "smoke")


def test_a_missing_study_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, study_file: Path) -> None:
    assert "there is no such study file" in refused(capsys, "plan", tmp_path / "other.py")
    assert "late" in refused(capsys, "plan", f"{study_file}:lat")


def test_parameters_are_parsed_exactly() -> None:
    share, tokens = (StudyParameter(name="x_y", kind=kind, default=None) for kind in (Share, Tokens))
    assert share.option == "--x-y" and share.parse("12.5%") == Share(1, 8) and share.parse("1/3") == Share(1, 3)
    assert tokens.parse("28B") == 28_000_000_000
    with pytest.raises(QuantityError, match="--x-y"):
        tokens.parse("lots")


def test_every_shipped_study_is_found_by_name() -> None:
    assert "when" in shipped_studies()
    assert all(find_study_function(name).name == name for name in shipped_studies())
    with pytest.raises(UnknownName):
        find_study_function("never")
