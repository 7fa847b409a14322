"""A study driven from Python: what is returned, and the errors of the command line as exceptions."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import firstsight as fs
from firstsight.cli.app import command
from firstsight.errors import RequestError, StoreError
from firstsight.recipe.scales import Scale, branch_at, get_scale
from firstsight.recipe.study import Study
from firstsight.site import Location, Site
from firstsight.units import Share


def late(scale: Scale, at: Share = Share(9, 10)) -> Study:
    return Study(name="late", scale=scale.name, question="Is late enough?", arms=(branch_at(scale, at),))


def test_a_study_is_a_name_a_file_or_a_function(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from firstsight.recipe.scales import Scale\nfrom firstsight.recipe.study import Study\n"
        "from tests.workspace.test_workspace import late as other\n"
        "from firstsight.units import Share\n"
        "def late(scale: Scale, at: Share = Share(9, 10)) -> Study:\n    return other(scale, at)\n"
    )
    studies = [fs.study(source, scale="smoke", at="80%") for source in (late, file, f"{file}:late")]
    assert studies == 3 * [late(get_scale("smoke"), Share(4, 5))]
    assert fs.study(late, scale="smoke") == late(get_scale("smoke"))
    assert {arm.seed for arm in fs.study("when", scale="smoke", seeds=3).arms} == {1, 2, 3}


@pytest.mark.parametrize(
    ("words", "call"),
    [
        (["plan", "wen"], lambda ws: fs.study("wen")),
        (["plan", "when", "--scale", "smal"], lambda ws: fs.study("when", scale="smal")),
        (["plan", "when", "--seeds", "0"], lambda ws: fs.study("when", seeds=0)),
        (["report", "when"], lambda ws: ws.report(fs.study("when"))),
        (["power", "when", "--effect", "2"], lambda ws: ws.results(fs.study("when"))),
        (["run", "when", "--scale", "1b"], lambda ws: ws.run(fs.study("when", scale="1b"))),
        (["explain", "start-02", "start-080"], lambda ws: ws.explain(fs.study("when"), "start-02", "start-080")),
        (["preview", "when", "--arm", "late"], lambda ws: ws.preview(fs.study("when"), arm="late")),
        (["answers", "trunk"], lambda ws: ws.answers(fs.study("when"), "trunk")),
        (["evaluate", "trunk"], lambda ws: ws.evaluate(fs.study("when"), "trunk")),
        (["ask", "trunk", "a.png", "what ?"], lambda ws: ws.ask(fs.study("when"), "trunk", image="a.png", question="")),
        (["prepare", "nowhere"], lambda ws: ws.prepare("nowhere")),
    ],
)
def test_an_error_is_an_exception_with_the_message_of_the_command(
    words: list[str], call: object, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert command(words) == 2
    message = capsys.readouterr().err.removeprefix("error: ").rstrip("\n")
    with pytest.raises(RequestError) as error:
        call(fs.Workspace())  # type: ignore[operator]
    assert str(error.value) == message
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_has_the_site_that_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIRSTSIGHT_SITE", raising=False)
    monkeypatch.chdir(tmp_path)
    names = ("dclm-mix", "gpt-neox-20b", "paper-benchmarks")
    site = Site(sources={name: Location(path=str(tmp_path / "there")) for name in names})
    assert fs.Workspace(site=site).site is site
    file = tmp_path / "other.toml"
    file.write_text('[sources.dclm]\npath = "/elsewhere"\n')
    assert fs.Workspace(site=file).site.sources["dclm"].path == "/elsewhere"
    assert fs.Workspace().site.sources == {}
    file.rename(tmp_path / "site.toml")
    assert fs.Workspace().site.sources["dclm"].path == "/elsewhere"
    with pytest.raises(RequestError, match=r"dclm-mix: .*there does not exist"):
        fs.Workspace(tmp_path / "runs", site=replace(site, device="cpu")).run(_reads_text())


def _reads_text() -> Study:
    """A study of text alone."""
    study = fs.study("when", scale="1b", seeds=1)
    return replace(study, arms=(study.arm("trunk"),), figures=(), claims=())


WRONG_VALUES = {
    "workspace.plan('when')": "wanted a Study. Got str. Pass the result of firstsight.study('when').",
    "workspace.run(mine)": "wanted a Study. Got function. Pass the result of firstsight.study(mine).",
    "workspace.results(3)": "wanted a Study. Got int. Pass the result of firstsight.study(3).",
    "fs.study('when', scale=3)": "scale: wanted the name of one, such as 'cpu'. Got 3.",
    "fs.study('when', seeds='2')": "--seeds: wanted a whole number from 1 to 1000. Got '2'.",
}


def test_values_of_other_types_are_refused_with_what_is_wanted(tmp_path: Path) -> None:
    """In a program of its own, because the tests' type checker has other messages."""
    lines = ["import firstsight as fs", "def mine(): pass", f"workspace = fs.Workspace({str(tmp_path)!r})"]
    lines += ["from firstsight.errors import RequestError"]
    for call in WRONG_VALUES:
        lines += [f"try: {call}", "except RequestError as error: print(error)"]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == list(WRONG_VALUES.values()), done.stderr


def test_names_of_the_package_are_those_that_it_lists() -> None:
    assert all(getattr(fs, name) is not None for name in fs.__all__) and dir(fs) == sorted(fs.__all__)
    with pytest.raises(AttributeError, match="Worksapce"):
        fs.Worksapce  # noqa: B018
    with pytest.raises(StoreError):
        fs.Workspace("/proc/none").results(fs.study("when"))
