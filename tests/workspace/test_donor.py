"""A public run as the trunk, from its checkpoint folders to a report: what it starts from, and what does not fit."""

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

from firstsight.cli import command
from firstsight.errors import RequestError
from firstsight.plan.graph import build_graph
from firstsight.recipe.study import Study
from firstsight.workspace.check_models import check_models
from firstsight.workspace.machine import machine_findings
from firstsight.workspace.resolve import find_checkpoint
from firstsight.workspace.sources import current_site, download_models, external_sources
from firstsight.workspace.study_functions import find_study_function
from tests.own_data import DONATED, OwnData


class Given:
    """A user's folder with a donor's checkpoints among the data, and a study of their branches."""

    def __init__(self, root: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.data = root, root / "data"
        shutil.copytree(written, self.data)
        OwnData(self.data).site(root / "site.toml")
        self.word = f"{root / 'mine.py'}:donated"
        (root / "mine.py").write_text(DONATED)
        monkeypatch.setenv("FIRSTSIGHT_SITE", str(root / "site.toml"))

    def say(self, capsys: pytest.CaptureFixture[str], word: str, *more: str) -> tuple[int, str]:
        code = command([word, self.word, "--scale", "79m", "--out", str(self.root / "runs"), *more])
        out, err = capsys.readouterr()
        return code, " ".join((out + err).split())

    def step(self, kind: str, number: int = 0) -> Path:
        found = [folder for folder in (self.root / "runs" / "steps").iterdir() if folder.name.startswith(kind)]
        return sorted(found, key=lambda folder: (folder / "log.jsonl").read_text())[number]

    def study(self) -> Study:
        return find_study_function(self.word).build("79m", seeds=1, options={})

    def swap(self, file: str, *changes: tuple[str, str]) -> None:
        text = (self.root / file).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (self.root / file).write_text(text)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("written") / "data"
    OwnData(root).write()
    return root


@pytest.fixture
def given(tmp_path: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    return Given(tmp_path, written, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_donor_s_branches_run_to_a_report_once(given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    assert "donor: 51,200 tokens, rate 0.002 to 2e-05" in given.say(capsys, "plan")[1]
    code, words = given.say(capsys, "run", "--jobs", "1")
    assert code == 0 and "7 steps run" in words, words  # two branches of three steps, and the judged checkpoint
    report = (given.root / "runs/reports/donated-79m/report.html").read_text()
    assert "start-040" in report and "named-checkpoint" in report
    assert not list((given.root / "runs" / "steps").glob("pretrain*"))
    branches = [folder for folder in (given.root / "runs" / "steps").iterdir() if folder.name.startswith("midtrain")]
    assert len({_starts_from(folder, given.data) for folder in branches}) == 2
    _text_begins_with_the_branch(branches)

    assert "0 steps run" in given.say(capsys, "run")[1]
    (given.data / "donor-40").rename(given.data / "elsewhere")
    given.swap("site.toml", ("donor-40]", "the-first]"), ("data/donor-40", "data/elsewhere"))
    given.swap("mine.py", ('named("donor-40"', 'named("the-first"'))
    assert "0 steps run" in given.say(capsys, "run")[1]
    assert "(the-first)" in given.say(capsys, "plan")[1]

    assert find_checkpoint("given", study=given.study(), out=given.root / "runs") == given.data / "donor-80"
    stored = next(folder.name for folder in (given.root / "runs" / "steps").glob("evaluate-1-task*"))
    assert find_checkpoint(stored, study=given.study(), out=given.root / "runs") == given.data / "donor-80"


def _starts_from(branch: Path, data: Path) -> str:
    """Which checkpoint a branch has come from: eight small updates move no weight far; and at what rate it went."""
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


def _text_begins_with_the_branch(branches: list[Path]) -> None:
    for folder in branches:
        told = json.loads((folder / "achieved.json").read_text())
        read = sum(rows for name, rows in told["rows"].items() if name.startswith("text"))
        assert told["text_rows_seen"] == read and told["text_seed"] == 1


def test_rows_of_a_donor_s_branch_can_be_previewed_before_anything_runs(
    given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    code, words = given.say(capsys, "preview", "--arm", "start-040", "--rows", "4")
    assert code == 0, words
    assert (given.root / "runs" / "preview-start-040.s1-midtrain.html").is_file()


def _respelled(given: Given) -> None:
    spec = given.data / "donor-40" / "spec.json"
    spec.write_text(spec.read_text().replace('"eps": 1e-05', '"eps": 1e-06'))


def _renumbered(given: Given) -> None:
    """Two tokens of the checkpoint's tokenizer change places."""
    file = given.data / "donor-40" / "tokenizer.json"
    body: dict[str, Any] = json.loads(file.read_text())
    words = body["model"]["vocab"]
    first, second = sorted(words, key=words.get)[100:102]
    words[first], words[second] = words[second], words[first]
    file.write_text(json.dumps(body))


def _sharded(given: Given) -> None:
    index = {"metadata": {}, "weight_map": {"lm.norm.weight": "model-00002-of-00002.safetensors"}}
    (given.data / "donor-40" / "model.safetensors.index.json").write_text(json.dumps(index))


REFUSED: list[tuple[Callable[[Given], object], str]] = [
    (_respelled, r"donor-40: eps wanted 1e-05, got 1e-06, says .*donor-40/spec\.json\. Declare the donor's model"),
    (_renumbered, r"my-tokenizer: wanted the tokens of donor-40 under their own numbers\. Got 2 of 320 under others"),
    (_sharded, r"no model-00002-of-00002\.safetensors .*Download it again to the end"),
    (lambda one: (one.data / "donor-40" / "model.safetensors").unlink(), r"Got spec\.json, tokenizer\.json\. Write"),
    (lambda one: shutil.rmtree(one.data / "donor-40"), r"donor-40: .*donor-40 does not exist"),
    (
        lambda one: one.swap("mine.py", ('moments="fresh"', 'moments="carried"')),
        r"wanted optimizer\.safetensors in .*donor-40, since the branch carries its donor's moments\. Got none\. "
        r'Say moments="fresh" in the study, or import donor-40 with its optimizer file',
    ),
    (
        lambda one: one.swap("mine.py", ("branch_at(own, Share(2, 5))", "branch_at(own, Share(3, 5))")),
        "wanted a donor with a checkpoint at 60 % of its run. Got 40 %, 80 %",
    ),
]


@pytest.mark.parametrize(
    ("spoil", "words"), REFUSED, ids=["spec", "tokenizer", "shard", "weights", "folder", "moments", "share"]
)
def test_a_donor_that_does_not_fit_is_refused_at_the_door(
    given: Given, capsys: pytest.CaptureFixture[str], spoil: Callable[[Given], object], words: str
) -> None:
    spoil(given)
    code, told = given.say(capsys, "run")
    assert code == 2 and re.search(words, told), told
    assert not (given.root / "runs").exists()


def test_moments_that_came_with_a_donor_may_be_carried(given: Given) -> None:
    given.swap("mine.py", ('moments="fresh"', 'moments="carried"'))
    steps = build_graph(given.study())
    with pytest.raises(RequestError, match="donor-40"):
        check_models(steps.steps, current_site())
    for name in ("donor-40", "donor-80"):
        save_file({"lm.norm.weight.step": torch.zeros(())}, given.data / name / "optimizer.safetensors")
    check_models(steps.steps, current_site())


def test_the_doctor_knows_a_checkpoint_and_what_waits_on_the_hub(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(given.root / "hub"))
    there = f'\n[sources.far]\npath = "hf://someone/model-{given.root.name}@main"\n'
    there += '[sources.odd]\npath = "hf://a/b/c"\n'
    (given.root / "site.toml").write_text((given.root / "site.toml").read_text() + there)
    found = {finding.topic: finding for finding in machine_findings(given.root / "runs")}
    assert found["donor-40"].value == "checkpoint: 2 layers, width 32, vocabulary 512, without moments"
    assert "not on this machine yet" in found["far"].value and "let path name the folder" in found["far"].advice
    assert found["odd"].state == "missing" and "hf://OWNER/NAME" in found["odd"].advice


def test_a_hub_name_without_network_says_how_to_point_to_a_folder(
    given: Given, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    given.swap("site.toml", ("data/siglip", "hf://someone/siglip-that-is-nowhere"))
    code, told = given.say(capsys, "run")
    assert code == 2 and "someone/siglip-that-is-nowhere" in told and "--local-dir" in told, told
    assert not (given.root / "runs").exists()


def test_a_hub_name_is_a_local_folder_to_all_that_comes_after(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub brings stands in the site of every step, so that addresses hang on its bytes."""

    def fetched(name: str, **_: Any) -> str:
        assert name == "someone/siglip"
        return str(given.data / "siglip")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    steps, plain = build_graph(given.study()), current_site()
    given.swap("site.toml", ("data/siglip", "hf://someone/siglip@main"))
    there = download_models(external_sources(steps), current_site())
    assert current_site().sources["my-siglip"].path == "hf://someone/siglip@main"
    assert there.sources == plain.sources
    given.swap("site.toml", ("data/dclm", "hf://someone/text"))
    with pytest.raises(RequestError, match=r"my-dclm: wanted text at hf://someone/text\. .*hf://datasets/OWNER/NAME"):
        download_models(external_sources(steps), current_site())
