"""Stored answers survive an interruption at any byte; a checkpoint is identified by the bytes of its model files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from firstsight.errors import DataError, RequestError
from firstsight.evaluate import answer_cache
from firstsight.evaluate.answer_cache import AnswerCache, DamagedAnswers, checkpoint_digest, evaluation_folder
from firstsight.evaluate.models.interface import RawAnswer

Checkpoint = Callable[[str], Path]
HEADER = {"task": "pope", "version": 1, "style": "paper", "questions": "0123456789abcdef"}
ANSWERS = {
    ("1", False): RawAnswer("yes", (-0.25, None), ()),
    ("1", True): RawAnswer("no\nor so", (), ("yes", "é")),
    ("é", False): RawAnswer('"\u2028"'),
}


def write_answers(folder: Path) -> Path:
    """The file of a cache with ANSWERS."""
    cache = AnswerCache(folder=folder, header=HEADER)
    with cache.appender() as append:
        for key, answer in ANSWERS.items():
            append(key, answer)
    assert cache.file is not None
    return cache.file


def test_answers_are_read_back(tmp_path: Path) -> None:
    assert write_answers(tmp_path).name == "pope-v1-paper-0123456789ab.jsonl"
    assert AnswerCache(folder=tmp_path, header=HEADER).read() == ANSWERS


def test_a_file_cut_at_any_byte_can_be_continued(tmp_path: Path) -> None:
    complete = write_answers(tmp_path / "complete").read_bytes()
    for cut in range(len(complete) + 1):
        file = tmp_path / str(cut) / "pope-v1-paper-0123456789ab.jsonl"
        file.parent.mkdir()
        file.write_bytes(complete[:cut])
        cache = AnswerCache(folder=file.parent, header=HEADER)
        stored = cache.read()
        assert list(stored.items()) == list(ANSWERS.items())[: len(stored)]
        assert len(stored) == max(complete[:cut].count(b"\n") - 1, 0)
        with cache.appender() as append:
            for key in list(ANSWERS)[len(stored) :]:
                append(key, ANSWERS[key])
        assert file.read_bytes() == complete


def test_answers_are_flushed_one_by_one(tmp_path: Path) -> None:
    cache = AnswerCache(folder=tmp_path, header=HEADER)
    with cache.appender() as append:
        for key, answer in ANSWERS.items():
            append(key, answer)
            assert cache.read()[key] == answer


def test_two_processes_do_not_append_to_one_file(tmp_path: Path) -> None:
    with (
        AnswerCache(folder=tmp_path, header=HEADER).appender(),
        pytest.raises(RequestError, match="another run"),
        AnswerCache(folder=tmp_path, header=HEADER).appender(),
    ):
        pass
    with AnswerCache(folder=tmp_path, header=HEADER).appender() as append:
        append(("1", False), RawAnswer("yes"))


def test_a_cache_without_a_folder_stores_nothing() -> None:
    cache = AnswerCache(folder=None, header=HEADER)
    with cache.appender() as append:
        append(("1", False), RawAnswer("yes"))
    assert cache.file is None and cache.read() == {}


@pytest.mark.parametrize("line", ["{", "7", '{"id": "1"}', "\x00" * 9])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    file = write_answers(tmp_path)
    first, *rest = file.read_text().splitlines(keepends=True)
    file.write_text("".join([first, line + "\n", *rest]))
    with pytest.raises(DataError, match=r"pope-v1-paper.*Delete the file"):
        AnswerCache(folder=tmp_path, header=HEADER).read()


@pytest.mark.parametrize(
    ("old", "new"), [("yes", "yet"), ('"1", "blind": false', '"7", "blind": false'), ("true", "false")]
)
def test_a_changed_answer_is_found(old: str, new: str, tmp_path: Path) -> None:
    file = write_answers(tmp_path)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(DamagedAnswers, match=r"a line is not as it was stored: .*Delete the file"):
        AnswerCache(folder=tmp_path, header=HEADER).read()


def test_a_line_of_another_file_is_found(tmp_path: Path) -> None:
    other = AnswerCache(folder=tmp_path, header=HEADER | {"task": "gqa"})
    other.write({("2", False): RawAnswer("no")})
    assert other.file is not None
    file = write_answers(tmp_path)
    file.write_text(file.read_text() + other.file.read_text().splitlines(keepends=True)[1])
    with pytest.raises(DamagedAnswers, match="not as it was stored"):
        AnswerCache(folder=tmp_path, header=HEADER).read()


def test_answers_to_other_questions_are_refused(tmp_path: Path) -> None:
    write_answers(tmp_path)
    with pytest.raises(DataError, match="wanted answers to"):
        AnswerCache(folder=tmp_path, header=HEADER | {"questions": "0123456789ab0000"}).read()
    assert AnswerCache(folder=tmp_path, header=HEADER | {"version": 2}).read() == {}


def test_answers_in_an_older_format_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format is part of the digest of the questions, which names the file."""
    digests = set()
    for version in (1, 2, 3):
        monkeypatch.setattr(answer_cache, "CACHE_FORMAT", version)
        digests.add(answer_cache.questions_digest(["what is it ?"]))
    assert len(digests) == 3


def test_a_checkpoint_is_identified_by_its_bytes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    first, digests_folder = Path(shutil.copytree(checkpoint("patches"), tmp_path / "first")), tmp_path / "digests"
    (first / "encoder0").mkdir()
    (first / "encoder0" / "model.safetensors").write_bytes(b"an encoder")
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    digest = checkpoint_digest(first, digests_folder=digests_folder)
    assert (
        digest
        == checkpoint_digest(copy, digests_folder=digests_folder)
        != checkpoint_digest(checkpoint("lm"), digests_folder=digests_folder)
    )
    (copy / "optimizer.safetensors").write_bytes(b"moments")
    (copy / "log.jsonl").write_text("{}")
    assert checkpoint_digest(copy, digests_folder=digests_folder) == digest
    for name in ("model.safetensors", "spec.json", "tokenizer.json", "encoder0/model.safetensors"):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before[:-1] + b"~")
        assert checkpoint_digest(copy, digests_folder=digests_folder) != digest, name
        (copy / name).write_bytes(before)
    assert evaluation_folder(tmp_path / "out", copy) == tmp_path / "out" / "judged" / digest[:12]


def test_weights_are_read_once(checkpoint: Checkpoint, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(checkpoint("lm"), tmp_path / "copy"))
    digest, weights = checkpoint_digest(copy, digests_folder=tmp_path), copy / "model.safetensors"
    stat, data = weights.stat(), weights.read_bytes()
    weights.write_bytes(data[:-1] + b"~")
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert checkpoint_digest(copy, digests_folder=tmp_path) == digest  # same path, size and time: not read
    os.utime(weights)
    assert checkpoint_digest(copy, digests_folder=tmp_path) != digest
