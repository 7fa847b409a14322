"""Locations of weights: local folders unchanged, hub names from the cache, and what each error advises.

No test here has network; the cache is laid out as huggingface_hub lays it out: refs, snapshots, blobs, trees.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import save_file

from firstsight.errors import ModelError
from firstsight.hub.download import resolve_hub_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


NAME = "owner/run-1b"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network even on a machine that has one."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def write_snapshot(cache: Path, *files: str, revision: str = "main", listed: tuple[str, ...] = ()) -> Path:
    """A snapshot in the cache: files are links to blobs; `listed` is what the hub said the commit holds."""
    repository = cache / "models--owner--run-1b"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (repository / "refs", repository / "blobs", repository / "trees", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(COMMIT)
    for number, name in enumerate(files):
        blob = repository / "blobs" / f"{number:040d}"
        if name.endswith(".safetensors"):
            save_file({"one": torch.ones(1)}, blob)
        else:
            blob.write_text("{}")
        (snapshot / name).symlink_to(blob)
    if listed:
        expected = {name: {"size": 1, "blob_id": "0"} for name in listed}
        (repository / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": expected}))
    return snapshot


def test_local_paths_are_returned_unchanged(tmp_path: Path) -> None:
    (tmp_path / "owner" / "run-1b").mkdir(parents=True)
    (tmp_path / "epoch_3.pt").write_text("")
    assert resolve_hub_path(NAME) == Path(NAME)
    assert resolve_hub_path(str(tmp_path / "epoch_3.pt")) == tmp_path / "epoch_3.pt"
    assert resolve_hub_path(str(tmp_path)) == tmp_path
    with pytest.raises(ModelError, match="a revision belongs to a hub name"):
        resolve_hub_path(NAME, revision="main")


@pytest.mark.parametrize("location", [NAME, f"hf://{NAME}", f"{NAME}@main", f"hf://{NAME}@{COMMIT}"])
def test_a_hub_name_is_resolved_in_the_cache_without_network(cache: Path, location: str) -> None:
    snapshot = write_snapshot(cache, "config.json", "model.safetensors")
    assert resolve_hub_path(location) == snapshot


def test_a_revision_of_a_run_is_its_own_folder(cache: Path) -> None:
    snapshot = write_snapshot(cache, "config.json", "model.safetensors", revision="step-1000")
    assert (
        resolve_hub_path(NAME, revision="step-1000")
        == resolve_hub_path(f"{NAME}@step-1000", revision="step-1000")
        == snapshot
    )
    with pytest.raises(ModelError, match=r"owner/run-1b: wanted a hub folder\. Got no network"):
        resolve_hub_path(NAME)
    with pytest.raises(ModelError, match="wanted one revision"):
        resolve_hub_path(f"{NAME}@step-1000", revision="step-2000")


@pytest.mark.parametrize("offline", [True, False])
def test_a_name_without_network_says_how_to_point_to_a_folder(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # refuses at once, wherever the test runs
    with pytest.raises(ModelError) as caught:
        resolve_hub_path(NAME, revision="step-1000")
    expected = str(caught.value)
    assert expected.startswith("owner/run-1b@step-1000: wanted a hub folder. Got no network")
    assert "hf download owner/run-1b --revision step-1000 --local-dir FOLDER; then name that folder" in expected


@pytest.mark.parametrize("location", ["nowhere", "./owner/run", "/none/at/all", "a/b/c", "hf://one", "owner/ru n", ""])
def test_a_location_that_is_no_path_and_no_hub_name_is_refused(location: str) -> None:
    with pytest.raises(ModelError, match="wanted a folder, a file or a hub name"):
        resolve_hub_path(location)


@pytest.mark.parametrize(
    ("error_class", "status", "expected"),
    [
        (GatedRepoError, 403, "consent"),
        (RepositoryNotFoundError, 404, "has no such name"),
        (RevisionNotFoundError, 404, "no such revision"),
    ],
)
def test_errors_of_the_hub_are_explained(
    monkeypatch: pytest.MonkeyPatch, error_class: Callable[..., Exception], status: int, expected: str
) -> None:
    """The hub's answers as huggingface_hub raises them."""

    def refuse(*_: object, **__: object) -> str:
        raise error_class("no", response=httpx2.Response(status, request=httpx2.Request("GET", "https://hub")))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=expected):
        resolve_hub_path(NAME)


def test_only_data_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the patterns let through of a folder that holds everything, by huggingface_hub's own filter."""
    from huggingface_hub.utils import filter_repo_objects

    calls: list[dict[str, object]] = []

    def fetch(*_: object, **options: object) -> str:
        calls.append(options)
        save_file({"one": torch.ones(1)}, tmp_path / "model.safetensors")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    resolve_hub_path(NAME)
    resolve_hub_path(NAME, needs_weights=False)
    repository = [
        "config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "merges.txt", "chat_template.jinja",
        "modeling_openlm.py", "pytorch_model.bin", "epoch_1.pt", "model.pkl", "consolidated.safetensors",
        "original/params.json", "README.md", "model.gguf", "flax_model.msgpack",
    ]  # fmt: skip
    downloaded = [
        set(
            filter_repo_objects(
                repository, allow_patterns=call["allow_patterns"], ignore_patterns=call["ignore_patterns"]
            )
        )
        for call in calls
    ]
    assert downloaded[0] == set(repository[:9])
    assert downloaded[1] == {name for name in repository[:9] if not name.endswith(".safetensors")}


def test_a_half_downloaded_folder_names_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    index = {"weight_map": {f"tensor{n}": shard for n, shard in enumerate(shards)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"tensor1": torch.ones(1)}, folder / shards[1])
    with pytest.raises(ModelError) as caught:
        resolve_hub_path(str(folder))
    expected = str(caught.value)
    assert expected.startswith(
        f"{folder}: wanted all of its weights. Got no {shards[0]} (named by model.safetensors.index"
    )
    assert shards[2] in expected and shards[1] not in expected
    assert resolve_hub_path(str(folder), needs_weights=False) == folder
    for shard in shards:
        save_file({"one": torch.ones(1)}, folder / shard)
    assert resolve_hub_path(str(folder)) == folder
    unfinished = folder / ".cache" / "huggingface" / "download" / "x.safetensors.abc.incomplete"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_text("")
    with pytest.raises(ModelError, match=r"unfinished download of x\.safetensors\.abc\.incomplete"):
        resolve_hub_path(str(folder))


def test_a_clone_without_lfs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ModelError, match=r"a Git LFS pointer in place of model\.safetensors"):
        resolve_hub_path(str(tmp_path))


def test_a_half_fetched_snapshot_is_refused(cache: Path) -> None:
    write_snapshot(cache, "config.json", listed=("config.json", "model.safetensors", "README.md"))
    with pytest.raises(ModelError, match=r"Got a part of it in the cache.*model\.safetensors.*hf download"):
        resolve_hub_path(NAME)
    assert resolve_hub_path(NAME, needs_weights=False).name == COMMIT


def test_a_snapshot_without_safetensors_is_refused(cache: Path) -> None:
    write_snapshot(cache, "config.json", "pytorch_model.bin")
    with pytest.raises(ModelError, match="wanted safetensors"):
        resolve_hub_path(NAME)


def test_broken_links_shards_without_index_and_lfs_pointers_are_named(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(ModelError, match=r"Got no model\.safetensors \(a broken link\)"):
        resolve_hub_path(str(tmp_path))
    weights.unlink()
    save_file({"one": torch.ones(1)}, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"Got no model\.safetensors\.index\.json \(its shards are present\)"):
        resolve_hub_path(str(tmp_path))
    (tmp_path / "model-00001-of-00002.safetensors").rename(weights)
    (tmp_path / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ModelError, match=r"a Git LFS pointer in place of tokenizer\.json"):
        resolve_hub_path(str(tmp_path))
