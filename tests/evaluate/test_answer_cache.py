"""Kept answers: whatever a kill leaves is a beginning of what was answered, and a checkpoint is known by its bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from firstsight.errors import DataError, ModelError, RequestError
from firstsight.evaluate.answer_cache import AnswerCache, checkpoint_digest, evaluation_folder
from firstsight.evaluate.models.interface import list_checkpoint_files

Checkpoint = Callable[[str], Path]
HEAD = {"task": "pope", "version": 1, "style": "paper", "questions": "0123456789abcdef"}
ANSWERS = {("1", False): "yes", ("1", True): "no\nor so", ("é", False): '"\u2028"'}


def kept(folder: Path) -> Path:
    """A sheet with ANSWERS."""
    sheet = AnswerCache(folder=folder, header=HEAD)
    with sheet.appender() as keep:
        for key, answer in ANSWERS.items():
            keep(key, answer)
    assert sheet.file is not None
    return sheet.file


def test_a_sheet_gives_back_what_was_kept(tmp_path: Path) -> None:
    assert kept(tmp_path).name == "pope-v1-paper-0123456789ab.jsonl"
    assert AnswerCache(folder=tmp_path, header=HEAD).read() == ANSWERS


def test_a_sheet_cut_anywhere_is_a_beginning_that_can_be_gone_on_from(tmp_path: Path) -> None:
    whole = kept(tmp_path / "whole").read_bytes()
    for cut in range(len(whole) + 1):
        file = tmp_path / str(cut) / "pope-v1-paper-0123456789ab.jsonl"
        file.parent.mkdir()
        file.write_bytes(whole[:cut])
        sheet = AnswerCache(folder=file.parent, header=HEAD)
        found = sheet.read()
        assert list(found.items()) == list(ANSWERS.items())[: len(found)]
        assert len(found) == max(whole[:cut].count(b"\n") - 1, 0)
        with sheet.appender() as keep:
            for key in list(ANSWERS)[len(found) :]:
                keep(key, ANSWERS[key])
        assert file.read_bytes() == whole


def test_answers_are_there_as_soon_as_they_are_kept(tmp_path: Path) -> None:
    sheet = AnswerCache(folder=tmp_path, header=HEAD)
    with sheet.appender() as keep:
        for key, answer in ANSWERS.items():
            keep(key, answer)
            assert sheet.read()[key] == answer


def test_two_who_ask_the_same_do_not_write_into_one_another(tmp_path: Path) -> None:
    with (
        AnswerCache(folder=tmp_path, header=HEAD).appender(),
        pytest.raises(RequestError, match="another run"),
        AnswerCache(folder=tmp_path, header=HEAD).appender(),
    ):
        pass
    with AnswerCache(folder=tmp_path, header=HEAD).appender() as keep:
        keep(("1", False), "yes")


def test_a_sheet_without_a_folder_keeps_nothing() -> None:
    sheet = AnswerCache(folder=None, header=HEAD)
    with sheet.appender() as keep:
        keep(("1", False), "yes")
    assert sheet.file is None and sheet.read() == {}


@pytest.mark.parametrize("line", ["{", "7", '{"id": "1"}', "\x00" * 9])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    file = kept(tmp_path)
    first, *rest = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first, line + "\n", *rest]))
    with pytest.raises(DataError, match=r"pope-v1-paper.*Delete the file"):
        AnswerCache(folder=tmp_path, header=HEAD).read()


def test_a_sheet_of_other_questions_is_not_taken_for_this_one(tmp_path: Path) -> None:
    kept(tmp_path)
    with pytest.raises(DataError, match="wanted answers to"):
        AnswerCache(folder=tmp_path, header=HEAD | {"questions": "0123456789ab0000"}).read()
    assert AnswerCache(folder=tmp_path, header=HEAD | {"version": 2}).read() == {}


def test_a_checkpoint_is_known_by_its_bytes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    first, memory = Path(shutil.copytree(checkpoint("patches"), tmp_path / "first")), tmp_path / "memory"
    (first / "encoder0").mkdir()
    (first / "encoder0" / "model.safetensors").write_bytes(b"an encoder")
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    known = checkpoint_digest(first, digests_folder=memory)
    assert (
        known
        == checkpoint_digest(copy, digests_folder=memory)
        != checkpoint_digest(checkpoint("lm"), digests_folder=memory)
    )
    (copy / "optimizer.safetensors").write_bytes(b"moments")
    (copy / "log.jsonl").write_text("{}")
    assert checkpoint_digest(copy, digests_folder=memory) == known
    for name in ("model.safetensors", "spec.json", "tokenizer.json", "encoder0/model.safetensors"):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before[:-1] + b"~")
        assert checkpoint_digest(copy, digests_folder=memory) != known, name
        (copy / name).write_bytes(before)
    assert evaluation_folder(tmp_path / "out", copy) == tmp_path / "out" / "judged" / known[:12]


def test_weights_are_read_once(checkpoint: Checkpoint, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint("lm"), tmp_path / "copy"))
    known, weights = checkpoint_digest(copy, digests_folder=tmp_path), copy / "model.safetensors"
    stat, data = weights.stat(), weights.read_bytes()
    weights.write_bytes(data[:-1] + b"~")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert checkpoint_digest(copy, digests_folder=tmp_path) == known  # same place, size and time: not read
    os.utime(weights)
    assert checkpoint_digest(copy, digests_folder=tmp_path) != known


def test_a_folder_of_transformers_is_known_by_what_it_is_made_of(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "chat_template.jinja", "README.md", "optimizer.bin", "a.gguf"):
        (tmp_path / name).write_text(name)
    assert [file.name for file in list_checkpoint_files(tmp_path)] == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
    ]


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"spec\.json \(firstsight\) or config\.json \(transformers\). Got notes\.txt"):
        list_checkpoint_files(tmp_path)
    with pytest.raises(ModelError, match="Got nothing"):
        list_checkpoint_files(tmp_path / "none")
