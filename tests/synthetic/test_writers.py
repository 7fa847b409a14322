"""Written sources: archives that tarfile reads, fields of records, and equal bytes of repeated runs."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from firstsight import synthetic
from firstsight.recipe.mixture import (
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticTexts,
    SyntheticVocabulary,
)
from firstsight.synthetic.writers import tar_writer
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


@pytest.mark.parametrize(
    ("write", "spec"),
    [
        (synthetic.write_vocabulary, SyntheticVocabulary(world=WORLD)),
        (synthetic.write_texts, SyntheticTexts(world=WORLD, documents=200, loss_mask="determined")),
        (synthetic.write_captions, SyntheticCaptions(world=WORLD, images=60, quality="rich")),
        (synthetic.write_captions, SyntheticCaptions(world=WORLD, images=60, quality="noisy")),
        (synthetic.write_dialogues, SyntheticDialogues(world=WORLD, images=60, turns=2)),
        (synthetic.write_benchmarks, SyntheticBenchmarks(world=WORLD, questions=12)),
    ],
    ids=["vocabulary", "texts", "rich", "noisy", "dialogues", "benchmarks"],
)
def test_files_have_the_same_bytes_every_time(write: Any, spec: Any, tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        out = tmp_path / name
        out.mkdir()
        write(spec, inputs={}, out=out, site=SITE, on_progress=lambda _: None)
        files = sorted(path for path in out.rglob("*") if path.is_file())
        digests.append([(path.relative_to(out), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1]
