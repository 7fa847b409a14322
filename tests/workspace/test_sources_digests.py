"""Which files identify a tokenizer, an encoder, a checkpoint and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from firstsight.errors import RequestError
from firstsight.files import FileDigests
from firstsight.recipe.mixture import External, ExternalForm
from firstsight.site import Location, Site
from firstsight.units import Tokens
from firstsight.workspace.doctor import prepared_names
from firstsight.workspace.sources import content_digest

FILES: dict[ExternalForm, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "tokenizer": (("tokenizer.json",), ("README.md",)),
    "encoder": (("config.json", "model.safetensors"), ("README.md", ".gitattributes")),
    "checkpoint": (("spec.json", "tokenizer.json", "model.safetensors"), ("log.jsonl",)),
    "benchmarks": (("pope/a.jsonl", "vqav2/b.json"), ()),
}
"""Of each form, files that identify it, and files that do not."""


@pytest.fixture(params=FILES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ExternalForm, Path, Callable[[], str]]:
    """A form, its folder, and a function that computes the digest."""
    form, folder = request.param, tmp_path / "source"
    for name in (*FILES[form][0], *FILES[form][1]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    source, site = External(name="it", form=form, tokens=Tokens(0)), Site(sources={"it": Location(path=str(folder))})
    return form, folder, lambda: content_digest(source, site, FileDigests(tmp_path / "cache"))


def test_the_digest_covers_what_identifies_a_source_and_nothing_else(
    case: tuple[ExternalForm, Path, Callable[[], str]],
) -> None:
    form, folder, digest = case
    identifying, others = FILES[form]
    before = digest()
    for name in others:
        (folder / name).write_text("changed")
    assert digest() == before
    for name in identifying:
        (folder / name).write_text("changed")
        after = digest()
        assert after != before, name
        before = after


def test_a_source_without_its_files_is_refused(case: tuple[ExternalForm, Path, Callable[[], str]]) -> None:
    form, folder, digest = case
    for name in FILES[form][0]:
        (folder / name).unlink()
    for name in FILES[form][1]:
        (folder / name).unlink()
    with pytest.raises(RequestError, match=r"it: wanted a "):
        digest()


def test_nothing_is_prepared_in_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "sources" / "half" / "parts").mkdir(parents=True)
    assert prepared_names(tmp_path) == set()
