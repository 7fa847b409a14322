"""Which source, tokenizer and benchmark a request names, and where its prepared form is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import QuantityError, RequestError, UnknownName
from firstsight.limits import Limits
from firstsight.recipe.mixture import External, Recaptioned, SyntheticTexts
from firstsight.recipe.scales import get_scale
from firstsight.site import Location, Site
from firstsight.units import Share, Tokens
from firstsight.workspace import prepare
from firstsight.workspace.workspace import Workspace
from tests.evaluate.conftest import tokenizer

__all__ = ["tokenizer"]

SITE = Site(sources={"mine": Location(path="/data/mine")})


def test_paths_and_urls_are_sources_of_their_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    names = ["mine", "texts", "s3://bucket/a.tar"]
    site = prepare.site_with_paths(names, SITE, jobs=None)
    assert [site.sources[name].path for name in names] == ["/data/mine", str(tmp_path / "texts"), "s3://bucket/a.tar"]
    assert site.readers == len(os.sched_getaffinity(0)) and prepare.site_with_paths([], SITE, jobs=3).readers == 3


def test_names_that_are_neither_are_refused() -> None:
    with pytest.raises(UnknownName, match="Nearest: mine"):
        prepare.site_with_paths(["mien"], SITE, jobs=None)
    with pytest.raises(RequestError, match="mien: wanted a path, or a name of a site file"):
        prepare.site_with_paths(["mien"], Site(), jobs=None)
    with pytest.raises(QuantityError, match="--jobs: wanted at least 1"):
        prepare.site_with_paths(["mine"], SITE, jobs=0)
    with pytest.raises(RequestError, match="--tokenizer: wanted a name of the site file or the path"):
        prepare.find_tokenizer("nosuch", SITE)
    with pytest.raises(RequestError, match="--against: wanted a name of the site file or a path"):
        prepare.find_benchmarks("nosuch", SITE)


def test_a_request_names_a_source_with_its_form() -> None:
    text = prepare.requested_source("mine", form="text", synthetic="", seed=None)
    assert text == External(name="mine", form="text", tokens=Tokens(0))
    captions = prepare.requested_source("mine", form="captions", synthetic="1/2", seed=3)
    assert isinstance(captions, Recaptioned)
    assert (captions.external.form, captions.synthetic_share, captions.seed) == ("captions", Share(1, 2), 3)
    published = prepare.requested_source("dclm-mix", form="", synthetic="", seed=None)
    assert isinstance(published, External) and published.form == "text"
    for form in ("", "tokenizer"):
        with pytest.raises(RequestError, match="mine: wanted --form, one of text, captions, interleaved, dialogues"):
            prepare.requested_source("mine", form=form, synthetic="", seed=None)


def test_different_requests_have_different_folders(tokenizer: Path, tmp_path: Path) -> None:
    def folder(name: str, site: Site = SITE, **kinds: object) -> str:
        source = External(name=name, form="captions", tokens=Tokens(0))
        spec = Recaptioned(external=source, **kinds) if kinds else source  # type: ignore[arg-type]
        path = prepare.prepared_folder(spec, tokenizer_path=tokenizer.parent, out=tmp_path, site=site)
        assert path.parent == tmp_path / "sources"
        return path.name

    names = [folder("cc12m"), folder("a/cc12m"), folder("cc 12m"), folder("cc12m", synthetic_share=Share(1, 2), seed=1)]
    assert len(set(names)) == 4 and names[0].startswith("cc12m-captions-")
    assert names[3].startswith("cc12m-captions-synthetic-1-2-seed-1-")
    assert names[0].rpartition("-")[2] == names[3].rpartition("-")[2]  # of the tokenizer's digest
    assert folder("cc12m", Site(limits=Limits(pixels=1))).startswith("cc12m-captions-limits-")
    assert folder("cc12m", Site(limits=Limits(layers=1))) == names[0]  # rejects no record


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_raised_limit_of_the_site_file_accepts_what_was_rejected(
    tokenizer: Path, tmp_path: Path, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process and in workers; the digest of the source, which enters addresses, is another."""
    data = tmp_path / "data"
    data.mkdir()
    for name in "ab":
        (data / f"{name}.jsonl").write_text(f'{{"text": "red"}}\n{{"text": "{" red" * 30}"}}\n')
    site_file, manifests = tmp_path / "site.toml", list[Mapping[str, Any]]()
    monkeypatch.setenv("FIRSTSIGHT_SITE", str(site_file))
    for record in ("100 B", "1 kB"):
        source = f'[sources.mine]\npath = "{data}"\nmost_bad = "50%"'
        site_file.write_text(f'[limits]\nrecord = "{record}"\n{source}\n')
        workspace = Workspace(tmp_path / "runs")
        prepared = workspace.prepare("mine", tokenizer=str(tokenizer), form="text", jobs=jobs)
        manifests.append(prepared.manifest)
    assert [manifest["counts"]["samples"] for manifest in manifests] == [2, 4]
    assert [manifest["refused"] for manifest in manifests] == [{"too many bytes": 2}, {}]
    assert manifests[0]["source"] != manifests[1]["source"]


def test_built_in_sources_have_no_folder_of_their_own(tokenizer: Path, tmp_path: Path) -> None:
    texts = next(part.source for part in get_scale("smoke").base.pretrain.text.components)  # type: ignore[union-attr]
    assert isinstance(texts, SyntheticTexts)
    with pytest.raises(RequestError, match="only sources of the site file"):
        prepare.prepared_folder(texts, tokenizer_path=tokenizer.parent, out=tmp_path, site=SITE)
