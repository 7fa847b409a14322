"""Where named sources are: the site file, missing paths, and models on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import RequestError
from firstsight.plan.graph import build_graph
from firstsight.workspace.sources import current_site, download_models, external_sources, find_site_file
from tests.workspace.projects import DonorProject


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


def test_a_hub_name_without_network_is_refused_with_advice(
    donor: DonorProject, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    donor.replace("site.toml", ("data/siglip", "hf://someone/siglip-that-is-nowhere"))
    code, output = donor.run(capsys, "run")
    assert code == 2 and "someone/siglip-that-is-nowhere" in output and "--local-dir" in output, output
    assert not (donor.root / "runs").exists()


def test_a_hub_model_is_downloaded_to_a_local_folder(donor: DonorProject, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub brings stands in the site of every step, so that addresses hang on its bytes."""

    def fetched(name: str, **_: Any) -> str:
        assert name == "someone/siglip"
        return str(donor.data / "siglip")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    steps, plain = build_graph(donor.study()), current_site()
    donor.replace("site.toml", ("data/siglip", "hf://someone/siglip@main"))
    there = download_models(external_sources(steps), current_site())
    assert current_site().sources["my-siglip"].path == "hf://someone/siglip@main"
    assert there.sources == plain.sources
    donor.replace("site.toml", ("data/dclm", "hf://someone/text"))
    with pytest.raises(RequestError, match=r"my-dclm: wanted text at hf://someone/text\. .*hf://datasets/OWNER/NAME"):
        download_models(external_sources(steps), current_site())
