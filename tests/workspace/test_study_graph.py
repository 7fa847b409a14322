"""Studies of a user's own data: prepared and run once, refused where data changed or does not fit."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from firstsight.cli.app import command
from firstsight.plan.graph import build_graph
from firstsight.recipe.scales import get_scale
from firstsight.site_file import read_site
from firstsight.studies.when import when
from firstsight.workspace.sources import external_sources
from tests.test_tutorial import BLOCK, commands, pattern
from tests.workspace.projects import OwnProject

HOW_TO = Path(__file__).parents[2] / "docs" / "howto" / "own-data.md"


def test_the_commands_of_the_how_to_print_what_it_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its site files read, its study plans, and its commands say what it shows, on a machine without any data."""
    monkeypatch.delenv("FIRSTSIGHT_SITE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    page = HOW_TO.read_text()
    names, site_file = set[str](), tmp_path / "site.toml"
    for text in re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S):
        site_file.write_text(text)
        names |= read_site(site_file).sources.keys()
    assert names > {source.name for source in external_sources(build_graph(when(get_scale("79m"))))}
    site_file.unlink()
    for form, block in BLOCK.findall(page):
        if form == "python":
            (tmp_path / "own.py").write_text(block)
            continue
        for words, shown in commands(block):
            command(shlex.split(words)[1:])
            out, err = capsys.readouterr()
            assert pattern(shown.strip()).search(" ".join((out + err).split())), f"{words}\n{out}{err}"


@pytest.mark.timeout(400)
def test_a_study_of_own_data_runs_once_and_changed_data_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = OwnProject(tmp_path, monkeypatch)
    assert "provisional until a run has read my-benchmarks, my-datacomp" in own.run(capsys, "plan")[1]
    code, output = own.run(capsys, "run", "--jobs", "1")
    assert code == 0, output
    assert "15 steps run" in output, output[-3000:]
    assert (tmp_path / "runs/reports/mine-79m/report.html").is_file()
    _check_shares(own)

    addresses = {folder.name for folder in own.steps("")}
    # five sources prepared, and features of three; five segments and 40 to 50 %, and two of each later stage
    assert len(addresses) == 5 + 3 + 12
    assert not any("my-" in address for address in addresses)
    planned = own.run(capsys, "plan")[1]
    assert "provisional" not in planned and "(my-datacomp)" in planned and planned.count("[stored]") == len(addresses)
    assert "0 steps run" in own.run(capsys, "run")[1]

    moved = tmp_path / "elsewhere" / "data"
    shutil.copytree(own.data, moved, copy_function=shutil.copyfile)  # new times of change, old bytes
    shutil.rmtree(own.data)
    own.use(tmp_path / "elsewhere" / "site.toml", moved)
    code, output = own.run(capsys, "run")
    assert code == 0 and "0 steps run" in output, output
    assert {folder.name for folder in own.steps("")} == addresses

    shard = moved / "datacomp" / "00000001.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    code, output = own.run(capsys, "run")
    assert (
        code == 2 and "00000001.tar" in output and "my-datacomp has changed" in output and "Nothing was run" in output
    )


def test_missing_data_and_unfit_models_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = OwnProject(tmp_path, monkeypatch)
    good = (tmp_path / "site.toml").read_text()

    def refused(site: str) -> str:
        (tmp_path / "site.toml").write_text(site)
        code, output = own.run(capsys, "run")
        assert code == 2 and not (tmp_path / "runs").exists(), output
        return output

    message = refused(good.replace("my-dclm", "other-dclm").replace("my-siglip", "other-siglip"))
    assert '[sources.my-dclm] path = "..." # text [sources.my-siglip] path = "..." # encoder' in message
    assert "my-notes," not in message
    assert f"my-dclm: {tmp_path}/data/dcml does not exist." in refused(good.replace("data/dclm", "data/dcml"))
    study = (tmp_path / "mine.py").read_text()
    (tmp_path / "mine.py").write_text(study.replace("vocab_size=512", "vocab_size=300"))
    assert "my-tokenizer: wanted at most 300 tokens" in refused(good)
    (tmp_path / "mine.py").write_text(study.replace("ViTSpec(layers=2, width=16", "ViTSpec(layers=3, width=32"))
    message = refused(good)
    assert "wanted num_hidden_layers 3, got 2; wanted hidden_size 32, got 16" in message


def _check_shares(own: OwnProject) -> None:
    """A quarter of 16 rows and three quarters of the next 16 show pictures; text is 3 : 1 in tokens, within a row."""
    for folder in own.steps("midtrain"):
        achieved = json.loads((folder / "achieved.json").read_text())
        assert [(span["rows"], span["achieved"]["rows"]) for span in achieved["spans"]] == [(16, 0.25), (16, 0.75)]
        rows, tokens = achieved["rows"], achieved["tokens"]
        assert [rows[name] for name in ("my-datacomp", "my-obelics", "my-llava")] == [8, 4, 4]
        dclm, notes = tokens["text-my-dclm"], tokens["text-my-notes"]
        assert abs(dclm - (dclm + notes) * 3 / 4) <= 64
    for folder in own.steps("evaluate"):
        assert set(json.loads((folder / "scores.json").read_text())["tasks"]) == {"pope", "boolq"}
