"""The site file, and a user's own data from it to a report: what is read, refused, kept and never done twice."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from firstsight.cli import command
from firstsight.errors import RequestError
from firstsight.plan.graph import build_graph
from firstsight.recipe.scales import scale_named
from firstsight.site import Site
from firstsight.site_file import read_site
from firstsight.studies.when import when
from firstsight.workspace.machine import machine_findings
from firstsight.workspace.sources import current_site, external_sources, find_site_file
from tests.own_data import STUDY, OwnData
from tests.test_tutorial import BLOCK, commands, pattern

HOW_TO = Path(__file__).parents[2] / "docs" / "howto" / "own-data.md"


def told(tmp_path: Path, text: str) -> Site:
    file = tmp_path / "site.toml"
    file.write_text(text)
    return read_site(file)


def test_the_site_file_is_found_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    (home / ".config" / "firstsight").mkdir(parents=True)
    here.mkdir()
    monkeypatch.delenv("FIRSTSIGHT_SITE", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    assert find_site_file() is None and current_site().sources == {}
    (home / ".config" / "firstsight" / "site.toml").write_text("[machine]\nthreads = 2")
    assert current_site().threads == 2
    (here / "site.toml").write_text("[machine]\nthreads = 3")
    assert current_site().threads == 3
    monkeypatch.setenv("FIRSTSIGHT_SITE", str(tmp_path / "mine.toml"))
    with pytest.raises(RequestError, match=r"mine\.toml"):
        current_site()


def test_the_how_to_is_true(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its site files read, its study plans, and its commands say what it shows, on a machine without any data."""
    monkeypatch.delenv("FIRSTSIGHT_SITE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    page = HOW_TO.read_text()
    names = {
        name for text in re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S) for name in told(tmp_path, text).sources
    }
    assert names > {source.name for source in external_sources(build_graph(when(scale_named("79m"))))}
    (tmp_path / "site.toml").unlink()
    for form, block in BLOCK.findall(page):
        if form == "python":
            (tmp_path / "own.py").write_text(block)
            continue
        for words, shown in commands(block):
            command(shlex.split(words)[1:])
            out, err = capsys.readouterr()
            assert pattern(shown.strip()).search(" ".join((out + err).split())), f"{words}\n{out}{err}"


class Own:
    """A user's folder: data, site file, study file, results."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.monkeypatch = root, monkeypatch
        self.data = root / "data"
        OwnData(self.data).write()
        (root / "mine.py").write_text(STUDY)
        self.placed(root / "site.toml", self.data)

    def placed(self, file: Path, data: Path) -> None:
        """From now on the data lies there, as this site file says."""
        OwnData(data).site(file)
        self.monkeypatch.setenv("FIRSTSIGHT_SITE", str(file))

    def say(self, capsys: pytest.CaptureFixture[str], word: str, *more: str) -> tuple[int, str]:
        code = command([word, str(self.root / "mine.py"), "--scale", "79m", "--out", str(self.root / "runs"), *more])
        out, err = capsys.readouterr()
        return code, " ".join((out + err).split())

    def steps(self, kind: str) -> list[Path]:
        return sorted(folder for folder in (self.root / "runs" / "steps").iterdir() if folder.name.startswith(kind))


@pytest.mark.timeout(400)
def test_a_study_of_ones_own_data_runs_once_and_refuses_what_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Own(tmp_path, monkeypatch)
    assert "provisional until a run has read my-benchmarks, my-datacomp" in own.say(capsys, "plan")[1]
    code, words = own.say(capsys, "run", "--jobs", "1")
    assert code == 0, words
    assert "8 steps run" in words and (tmp_path / "runs/reports/mine-79m/report.html").is_file()
    _shares_are_as_asked(own)

    addresses = {folder.name for folder in own.steps("")}
    assert len(addresses) == 5 + 8  # five sources prepared; two segments, and two of each later stage
    assert not any("my-" in address for address in addresses)
    planned = own.say(capsys, "plan")[1]
    assert "provisional" not in planned and "(my-datacomp)" in planned and planned.count("[stored]") == 13
    assert "0 steps run" in own.say(capsys, "run")[1]

    moved = tmp_path / "elsewhere" / "data"
    shutil.copytree(own.data, moved, copy_function=shutil.copyfile)  # new times of change, old bytes
    shutil.rmtree(own.data)
    own.placed(tmp_path / "elsewhere" / "site.toml", moved)
    code, words = own.say(capsys, "run")
    assert code == 0 and "0 steps run" in words, words
    assert {folder.name for folder in own.steps("")} == addresses

    shard = moved / "datacomp" / "00000001.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    code, words = own.say(capsys, "run")
    assert code == 2 and "00000001.tar" in words and "my-datacomp has changed" in words and "Nothing was run" in words


def test_nothing_runs_for_data_and_models_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Own(tmp_path, monkeypatch)
    good = (tmp_path / "site.toml").read_text()

    def refused(site: str) -> str:
        (tmp_path / "site.toml").write_text(site)
        code, words = own.say(capsys, "run")
        assert code == 2 and not (tmp_path / "runs").exists(), words
        return words

    lacking = refused(good.replace("my-dclm", "other-dclm").replace("my-siglip", "other-siglip"))
    assert '[sources.my-dclm] path = "..." # text [sources.my-siglip] path = "..." # encoder' in lacking
    assert "my-notes," not in lacking
    assert f"my-dclm: {tmp_path}/data/dcml does not exist." in refused(good.replace("data/dclm", "data/dcml"))
    study = (tmp_path / "mine.py").read_text()
    (tmp_path / "mine.py").write_text(study.replace("vocab_size=512", "vocab_size=300"))
    assert "my-tokenizer: wanted at most 300 tokens" in refused(good)
    (tmp_path / "mine.py").write_text(study.replace("ViTSpec(layers=2, width=16", "ViTSpec(layers=3, width=32"))
    fits = refused(good)
    assert "wanted num_hidden_layers 3, got 2; wanted hidden_size 32, got 16" in fits


def test_doctor_looks_at_every_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Own(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", "400")
    assert command(["doctor", "--out", str(tmp_path / "runs")]) == 0
    words = " ".join(capsys.readouterr().out.split())
    size = sum(file.stat().st_size for file in (own.data / "datacomp").iterdir())
    assert f"captions: 2 shards, {size / 1000:.3g} kB, not prepared" in words
    for found in (
        "10 sources",
        "tokenizer: 325 tokens",
        "text: 2 shards",
        "dialogues: 1 shard,",
        "interleaved: 1 shard,",
    ):
        assert found in words
    assert "2 layers, width 16, image 16, patch 8" in words and "wanted num_hidden_layers 27, got 2" in words
    assert "token store" in words and "for what is not prepared" in words
    (tmp_path / "site.toml").write_text("[sources.dclm-mix]\npath = 'nowhere'\n[sources.junk]\npath = 'mine.py'")
    assert command(["doctor", "--out", str(tmp_path / "runs")]) == 1
    found = {finding.topic: finding for finding in machine_findings(tmp_path / "runs")}
    assert found["dclm-mix"].state == found["junk"].state == "missing"
    assert found["dclm-mix"].value == f"nothing at {tmp_path}/nowhere"
    assert "Got nothing that is read as text, captions" in found["junk"].advice
    capsys.readouterr()
    (tmp_path / "site.toml").write_text("[machin]")
    assert command(["doctor", "--out", str(tmp_path / "runs")]) == 1
    assert "Nearest: machine" in " ".join(capsys.readouterr().out.split())


def _shares_are_as_asked(own: Own) -> None:
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
