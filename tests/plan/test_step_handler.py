"""Which files of a step's folder are cleared, published or refused."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import StepFailed
from firstsight.plan.step_handler import StepHandler

HANDLER = StepHandler(
    function="module:train",
    outputs=("model*.safetensors", "log.jsonl"),
    optional=("encoder*/**",),
    unfinished=("resume/**", "part.json"),
)
NAMES = st.sampled_from(
    (
        *("log.jsonl", "model.safetensors", "model-00001-of-00002.safetensors", "part.json", "resume", "encoder0"),
        *("notes", ".tmpAb3x", ".log.jsonl.0a1b2c3d.tmp"),
    )
)


def make_files(folder: Path, names: Iterable[str]) -> set[str]:
    for name in names:
        path = folder / name
        if not any(parent.is_file() for parent in path.parents) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    return files_in(folder)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def glob_files(folder: Path, patterns: Iterable[str]) -> set[str]:
    """As `pathlib` matches them, which needs `**/*` for all files below; without names that begin with a full stop."""
    paths = (path for pattern in patterns for path in folder.glob(pattern.replace("**", "**/*")) if path.is_file())
    return {name for path in paths if "/." not in f"/{(name := path.relative_to(folder).as_posix())}"}


@given(paths=st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=8))
def test_clearing_leaves_unfinished_files(tmp_path_factory: pytest.TempPathFactory, paths: list[str]) -> None:
    folder = tmp_path_factory.mktemp("work")
    make_files(folder, paths)
    continued = glob_files(folder, HANDLER.unfinished)
    HANDLER.clear(folder)
    assert files_in(folder) == continued
    assert all(any(path.iterdir()) for path in folder.rglob("*") if path.is_dir())


@given(paths=st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=8))
def test_a_folder_is_finished_if_it_has_all_outputs_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("work")
    names = make_files(folder, paths)
    published, unfinished = (glob_files(folder, p) for p in ((*HANDLER.outputs, *HANDLER.optional), HANDLER.unfinished))
    is_complete = all(glob_files(folder, (pattern,)) for pattern in HANDLER.outputs)
    if names <= published | unfinished and is_complete:
        HANDLER.check(folder)
        assert set(HANDLER.published_files(folder)) == published
        HANDLER.move_unfinished(folder, folder.with_name(f"{folder.name}-moved"))
        assert files_in(folder) == published
        assert files_in(folder.with_name(f"{folder.name}-moved")) == unfinished
    else:
        with pytest.raises(StepFailed, match="Nothing was published"):
            HANDLER.check(folder)


def test_links_and_pipes_are_neither_continued_from_nor_published(tmp_path: Path) -> None:
    target, folder = tmp_path / "target", tmp_path / "work"
    make_files(target, ["point.json"])
    for make in (lambda path: path.symlink_to(target), lambda path: path.symlink_to(target / "point.json"), os.mkfifo):
        make_files(folder, ["log.jsonl", "model.safetensors"])
        make(folder / "encoder0")
        (folder / "resume").symlink_to(target)
        with pytest.raises(StepFailed, match=r"Got encoder0, resume too\. Nothing was published"):
            HANDLER.check(folder)
        assert HANDLER.published_files(folder) == ["log.jsonl", "model.safetensors"]
        HANDLER.clear(folder)
        assert files_in(folder) == set()
    assert files_in(target) == {"point.json"}


def test_an_output_that_is_missing_is_named(tmp_path: Path) -> None:
    make_files(tmp_path, ["log.jsonl", "resume/point.json"])
    with pytest.raises(StepFailed, match=r"wanted all outputs of module:train\. Got no model\*\.safetensors\."):
        HANDLER.check(tmp_path)
