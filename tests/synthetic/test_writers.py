"""Written sources: archives that tarfile reads, fields of records, equal bytes of repeated runs and of prefixes."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from firstsight import synthetic
from firstsight.recipe.mixture import (
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticInterleaved,
    SyntheticMultitask,
    SyntheticTexts,
    SyntheticVocabulary,
)
from firstsight.synthetic import writers
from firstsight.synthetic.writers import tar_writer
from firstsight.units import Share
from tests.synthetic.world_reader import SITE, WORLD


def test_archives_are_read_by_tarfile(tmp_path: Path) -> None:
    files = {"a.txt": b"", "b.png": bytes(range(256)) * 3, "folder/c.json": b"x" * 512}
    with tar_writer(tmp_path / "a.tar") as add:
        for name, content in files.items():
            add(name, content)
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
        assert {member.name: tar.extractfile(member).read() for member in members} == files  # type: ignore[union-attr]
        assert {(m.mtime, m.uid, m.gid, m.mode, m.isfile()) for m in members} == {(0, 0, 0, 0o644, True)}


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in zstandard.open(path, "rt", encoding="utf-8")]


def test_text_records_have_loss_spans_only_with_a_mask(sources_folder: Path) -> None:
    masked = read_rows(sources_folder / "texts/text-00000.jsonl.zst")
    plain = read_rows(sources_folder / "plain/text-00000.jsonl.zst")
    assert len(masked) == 300 and all(set(row) == {"id", "text", "loss"} for row in masked)
    assert all(set(row) == {"id", "text"} for row in plain)
    assert [row["text"] for row in masked[:20]] == [row["text"] for row in plain]


SHARES = {"captions": Share(1, 3), "words": Share(1, 6), "boxes": Share(1, 4), "dialogues": Share(1, 4)}
WRITERS: dict[str, tuple[Any, Any]] = {
    "vocabulary": (synthetic.write_vocabulary, SyntheticVocabulary(world=WORLD)),
    "texts": (synthetic.write_texts, SyntheticTexts(world=WORLD, documents=200, loss_mask="determined")),
    "rich": (synthetic.write_captions, SyntheticCaptions(world=WORLD, images=60, quality="rich")),
    "noisy": (synthetic.write_captions, SyntheticCaptions(world=WORLD, images=60, quality="noisy")),
    "dialogues": (synthetic.write_dialogues, SyntheticDialogues(world=WORLD, images=60, turns=2)),
    "interleaved": (synthetic.write_interleaved, SyntheticInterleaved(world=WORLD, documents=30, max_images=3)),
    "multitask": (synthetic.write_multitask, SyntheticMultitask(world=WORLD, images=60, turns=2, **SHARES)),
    "benchmarks": (synthetic.write_benchmarks, SyntheticBenchmarks(world=WORLD, questions=12)),
}


def written_files(name: str, out: Path, **changes: Any) -> dict[str, bytes]:
    """The content of each file of a source whose spec has `changes`."""
    write, spec = WRITERS[name]
    out.mkdir()
    write(replace(spec, **changes), inputs={}, out=out, site=SITE, on_progress=lambda _: None)
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", WRITERS)
def test_files_have_the_same_bytes_every_time(name: str, tmp_path: Path) -> None:
    assert written_files(name, tmp_path / "first") == written_files(name, tmp_path / "second")


def without_end(name: str, content: bytes) -> bytes:
    """A file's bytes without what closes it: two empty blocks of a tar, the bracket of a JSON list."""
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return content[:-1024] if name.endswith(".tar") else content.removesuffix(b"[]\n").removesuffix(b"\n]\n")


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("vocabulary", "benchmarks")])
@pytest.mark.parametrize("count", [1, 17])
def test_a_source_begins_with_the_bytes_of_a_smaller_one(name: str, count: int, tmp_path: Path) -> None:
    """So a source may grow with the need of a study, and every record that was there before stays as it was."""
    size = "documents" if name in ("texts", "interleaved") else "images"
    small, large = written_files(name, tmp_path / "small", **{size: count}), written_files(name, tmp_path / "large")
    assert set(small) == set(large)
    for file, content in small.items():
        assert without_end(file, large[file]).startswith(without_end(file, content))
        assert without_end(file, content)


@pytest.mark.parametrize(("name", "size", "files"), [("rich", "images", 1), ("interleaved", "documents", 2)])
def test_shards_of_a_smaller_source_are_those_of_a_larger_one(
    name: str, size: str, files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "_IMAGES_PER_SHARD", 8)
    small, large = (written_files(name, tmp_path / str(count), **{size: count}) for count in (16, 21))
    assert (len(small), len(large)) == (2 * files, 3 * files)
    assert small.items() <= large.items()
