"""Studies by name and in files: what is found, parsed and refused."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import FieldError, QuantityError, RequestError, UnknownName
from firstsight.recipe.scales import Scale
from firstsight.recipe.study import Study
from firstsight.units import Share, Tokens
from firstsight.workspace import doctor
from firstsight.workspace.study_functions import StudyParameter, find_study_function, shipped_studies, study
from tests.cli.command_line import STUDY_FILE, refused
from tests.cli.conftest import study_file

__all__ = ["study_file"]


FIELDS = "mine.py:13: Arm has no field 'nam'. Its fields: name, seed, pretrain, start, stages, evaluate, horizon, at"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def late(scale: Scale) -> Study: ...", "NameError"),
        ("def late(:", "SyntaxError"),
        ("import no_such_module", "No module named"),
        ("x = 1", "-> Study"),
        (STUDY_FILE + STUDY_FILE.replace("def late", "def later"), "Name one"),
        (STUDY_FILE.replace("scale: Scale, at", "at"), "scale: Scale"),
        (STUDY_FILE.replace("copies: int", "copies: bytes"), "cannot become an option"),
        (STUDY_FILE.replace("copies: int", "copies: Nothing"), "name 'Nothing' is not defined"),
        ("assert 1 == 2", "mine.py:1: AssertionError."),
        (
            STUDY_FILE.replace("    return Study(", "    raise RuntimeError('boom')\n    return Study("),
            "14: RuntimeError: boom.",
        ),
        (
            STUDY_FILE.replace("    return Study(", "    open('/nope')\n    return Study("),
            "mine.py:14: FileNotFoundError: ",
        ),
        (STUDY_FILE.replace("copies: int", "out: int"), "Rename the parameter"),
        (STUDY_FILE.replace("    return Study(", "    return repr("), "mine.py:14: TypeError"),
        (STUDY_FILE.replace("branch_at(scale, at)", "branch_at(scale, strat=at)"), "mine.py:13: TypeError"),
        (STUDY_FILE.replace("branch_at(scale, at)", "_not_this(at=at)"), "'at'. Its parameters: scale."),
        (STUDY_FILE.replace("scale.seeds", "scale.sedes"), "Its fields: name, base, rewarm, seeds"),
        (STUDY_FILE.replace("replace(branch_at(scale, at), name", "replace(branch_at(scale, at), nam"), FIELDS),
        (STUDY_FILE.replace("Share(9, 10)", "Share(10, 9)"), "mine.py:11: a share is between 0 and 1"),
    ],
)
def test_an_invalid_study_file_is_refused(
    capsys: pytest.CaptureFixture[str], study_file: Path, text: str, expected: str
) -> None:
    study_file.write_text(text)
    assert expected in refused(capsys, "plan", study_file, "--scale", "smoke")


ENDS = {
    "import sys\nsys.exit(3)": ":2: SystemExit: 3. A study file returns a Study and ends no program",
    "raise SystemExit": ":1: SystemExit. A study file",
    "raise KeyboardInterrupt": ":1: KeyboardInterrupt. A study file",
    "class Own(BaseException): ...\nraise Own('x')": ":2: Own: x. A study file",
    "class Own(Exception):\n  def __str__(self): return 1/0\nraise Own": ":3: Own: its message cannot be read",
    "raise ExceptionGroup('many', [ValueError()])": ":1: ExceptionGroup: many (1 sub-exception)",
    "def f(): f()\nf()": ":1: RecursionError: maximum recursion depth exceeded",
    "raise MemoryError": ":1: MemoryError",
    "raise BrokenPipeError": ":1: BrokenPipeError",
    "raise ValueError('\\x1b[2J\\u202e')": r":1: ValueError: \x1b[2J\u202e.",
    "x = '\udcff'": "SyntaxError: (unicode error) 'utf-8' codec can't decode byte 0xff",
    "x = '\0'": "null bytes",
}


@pytest.mark.parametrize("place", ["file", "function"])
@pytest.mark.parametrize(("text", "expected"), ENDS.items())
def test_what_a_study_file_raises_names_its_line(
    capsys: pytest.CaptureFixture[str], study_file: Path, text: str, expected: str, place: str
) -> None:
    """Also what would end the program, or hang at a pipe, if another function raised it."""
    number, head = 0, ""
    if place == "function" and "SyntaxError" not in expected and "null" not in expected:
        head, number = STUDY_FILE.partition("    arm = replace")[0], 12
        text = "\n".join(f"    {line}" for line in text.splitlines())
    study_file.write_bytes((head + text).encode(errors="surrogateescape"))
    expected = re.sub(r"^:(\d)", lambda match: f"mine.py:{int(match[1]) + number}", expected)
    assert expected in refused(capsys, "plan", study_file, "--scale", "smoke")


def test_ctrl_c_while_a_study_file_is_executed_stops_the_command(tmp_path: Path) -> None:
    path, ready = tmp_path / "slow.py", tmp_path / "ready"
    path.write_text(f"open({str(ready)!r}, 'w').close()\nwhile True: pass\n")
    words = [sys.executable, "-m", "firstsight", "plan", str(path)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not ready.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130 and message.startswith("error: stopped. ") and message.count("\n") == 1


CHANGES = {
    'replace(midtrain, model=replace(midtrain.model, encoder="trainned"))': (
        "VLMSpec.encoder: wanted 'external' or 'included'. Got 'trainned'."
    ),
    "replace(midtrain, mix=replace(midtrain.mix, image_share=0.5))": (
        "ImageTextMix.image_share: wanted a Share, such as Share(1, 2) or a tuple of: ShareSpan. Got 0.5."
    ),
    "replace(finetune, epoch=4)": "Finetune has no field 'epoch'. Its fields: ",
    "replace(finetune, epochs=4.0)": "Finetune.epochs: wanted a whole number. Got 4.0.",
    "replace(finetune, schedule=0.1)": "Finetune.schedule: wanted Rewarm or Continue or Matched or SameCurve",
    "RowShape(batch_size=4)": "RowShape: wanted a value of length. Got none. Its fields: batch_size, length.",
    "RowShape(4, 32)": "RowShape: wanted every field by its name. Got 4. Its fields: batch_size, length.",
}


@pytest.mark.parametrize(("change", "message"), CHANGES.items())
def test_a_mistake_in_a_recipe_names_the_line_the_field_and_what_is_legal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: str, message: str
) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom firstsight.recipe.scales import Scale, branch_at\n"
        "from firstsight.recipe.stages import RowShape\nfrom firstsight.recipe.study import Study\n\n"
        "def mine(scale: Scale) -> Study:\n    midtrain, finetune = scale.base.stages\n"
        f"    stage = (\n        {change}\n    )\n"
    )
    assert f"mine.py:9: {message}" in refused(capsys, "plan", tmp_path / "mine.py", "--scale", "smoke")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("branch_at(scale, 0.5)", "13: branch_at: wanted a Share, such as Share(1, 2) as start. Got 0.5."),
        ("branch_at(scale)", "missing 1 required positional argument: 'start'. Its parameters: scale, start."),
    ],
)
def test_a_wrong_argument_names_the_line_the_argument_and_what_is_legal(
    study_file: Path, call: str, message: str
) -> None:
    """In a program of its own, because the tests' type checker has other messages."""
    study_file.write_text(STUDY_FILE.replace("branch_at(scale, at)", call))
    words = ["-m", "firstsight", "plan", str(study_file), "--scale", "smoke"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"{study_file}:13: " in done.stderr and message in done.stderr


def test_a_mistake_in_a_function_of_a_script_or_a_notebook_names_its_line() -> None:
    values: dict[str, Any] = {}
    cell = "def mine(scale: Scale) -> Study:\n    return replace(scale.base, epoch=1)\n"
    imports = {"Scale": Scale, "Study": Study, "replace": replace}
    exec(compile(cell, "<ipython-input-3>", "exec"), values | imports, values)
    with pytest.raises(FieldError, match=r"^<ipython-input-3>:2: Arm has no field 'epoch'"):
        study(values["mine"], scale="smoke")


def test_options_are_text_or_values_of_their_type(study_file: Path) -> None:
    late = find_study_function(str(study_file))
    as_text, as_values = ({"at": "1/2", "copies": "2"}, {"at": Share(1, 2), "copies": 2})
    assert late.build("smoke", options=as_text) == late.build("smoke", options=as_values)
    with pytest.raises(QuantityError, match=r"--at: wanted a Share, such as Share\(1, 2\). Got 0.5."):
        late.build("smoke", options={"at": 0.5})
    with pytest.raises(UnknownName, match=r"no option of .*late is called 'att'. Nearest: at"):
        late.build("smoke", options={"att": "1/2"})


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


def test_numbers_are_options() -> None:
    rate = StudyParameter(name="peak_lr", kind=float, default=None)
    assert rate.parse("3e-4") == rate.parse(3e-4) == 0.0003 and rate.parse("1") == 1.0
    for text in ("high", "nan", "inf"):
        with pytest.raises(QuantityError, match=f"--peak-lr: wanted a number. Got '{text}'"):
            rate.parse(text)


def test_an_option_without_a_default_is_asked_for() -> None:
    def late(scale: Scale, at: Share) -> Study:
        raise AssertionError

    with pytest.raises(
        RequestError, match=r"^late: wanted a Share, such as Share\(1, 2\) as at\. Got none\. Give --at\."
    ):
        study(late)


def test_a_study_function_has_a_scale() -> None:
    with pytest.raises(RequestError, match=r"the first parameter of <lambda> must be 'scale: Scale'"):
        study(lambda: None)  # type: ignore[arg-type]


def test_every_shipped_study_is_found_by_name() -> None:
    assert "when" in shipped_studies()
    assert all(find_study_function(name).name == name for name in shipped_studies())
    assert find_study_function("when_controls").function is find_study_function("when-controls").function
    with pytest.raises(UnknownName):
        find_study_function("never")
