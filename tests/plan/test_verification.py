"""Published results against their records: what is damage, what is read again, what is remembered."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstsight.errors import DamagedResult, DataError
from firstsight.plan import verification
from firstsight.plan.step import Step
from firstsight.plan.step_handler import StepHandler
from firstsight.plan.store import Store
from firstsight.plan.verification import ResultCheck, check_record, check_stored_folder, digest_files, read_record
from firstsight.recipe.mixture import External
from firstsight.units import Tokens

ANY_FILES = StepHandler(function="", outputs=("**",))
FILES = {"a.txt": b"one", "deep/b.txt": b"two", "deep/c.bin": bytes(range(256)) * 50}


@pytest.fixture
def check(tmp_path: Path) -> ResultCheck:
    """The check of a published result with FILES."""
    return ResultCheck(tmp_path, publish(tmp_path, FILES).address)


@pytest.fixture(scope="module")
def shared_check(tmp_path_factory: pytest.TempPathFactory) -> ResultCheck:
    """As `check`; tests restore what they change."""
    root = tmp_path_factory.mktemp("store")
    return ResultCheck(root, publish(root, FILES).address)


def publish(root: Path, files: dict[str, bytes], **needs: Step) -> Step:
    spec = External(name="thing", form="text", tokens=Tokens(0))
    step = Step(kind="named", spec=spec, needs=tuple(needs.items()), version=1)
    store = Store(root)
    with store.lock(step.address) as lease:
        assert lease
        work = store.work_folder(lease, step.address)
        for name, content in files.items():
            (work / name).parent.mkdir(exist_ok=True)
            (work / name).write_bytes(content)
        store.publish(lease, step, ANY_FILES, started=datetime.now(UTC))
    return step


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose digests are computed."""
    names: list[str] = []
    digest = verification.file_sha256

    def recorded_digest(path: Path) -> str:
        names.append(path.name)
        return digest(path)

    monkeypatch.setattr(verification, "file_sha256", recorded_digest)
    return names


def test_the_memory_is_read_once_for_each_check(check: ResultCheck, monkeypatch: pytest.MonkeyPatch) -> None:
    names, read_bytes = list[str](), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (names.append(path.parent.name), read_bytes(path))[1])
    for change in (lambda: None, lambda: os.utime(check.folder / "a.txt"), check.memory_path.unlink):
        change()
        names.clear()
        assert check.problems() == () and names.count("verified") == 1


def test_a_published_result_is_not_read_again_until_it_changes(check: ResultCheck, read_files: list[str]) -> None:
    assert check.problems() == check.problems() == () and read_files == []
    os.utime(check.folder / "a.txt")
    assert check.problems() == check.problems() == () and read_files == ["a.txt"]
    check.memory_path.unlink()
    assert check.problems() == check.problems() == () and sorted(read_files[1:]) == ["a.txt", "b.txt", "c.bin"]
    read_files.clear()
    assert check.problems(full=True) == () and sorted(read_files) == ["a.txt", "b.txt", "c.bin"]


def test_only_the_named_files_of_a_copy_are_read(check: ResultCheck, tmp_path: Path, read_files: list[str]) -> None:
    shutil.copytree(tmp_path, tmp_path / "copy")
    copy = ResultCheck(tmp_path / "copy", check.address)
    assert copy.problems(("a.txt",)) == copy.problems(("a.txt",)) == () and read_files == ["a.txt"]
    (copy.folder / "deep" / "b.txt").write_bytes(b"twp")
    (copy.folder / "a.txt").write_bytes(b"onf")
    assert copy.problems(()) == ("a.txt: changed",)
    (copy.folder / "deep" / "b.txt").write_bytes(b"tw")
    (copy.folder / "deep" / "c.bin").unlink()
    assert copy.problems(()) == ("deep/c.bin: missing", "a.txt: changed", "deep/b.txt: changed")


def test_without_memory_only_the_named_files_are_read(check: ResultCheck, read_files: list[str]) -> None:
    check.forget()
    (check.folder / "deep" / "b.txt").write_bytes(b"twp")
    assert check.problems(()) == () and read_files == []
    assert check.problems(("deep/b.txt",)) == check.problems(()) == ("deep/b.txt: changed",)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", FILES)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_every_flipped_bit_is_found(shared_check: ResultCheck, name: str, full: bool, position: int, bit: int) -> None:
    path, content = shared_check.folder / name, bytearray(FILES[name])
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(content)
    assert shared_check.problems(full=full) == (f"{name}: changed",)
    path.write_bytes(FILES[name])
    assert shared_check.problems(full=full) == ()


def test_a_change_that_keeps_size_times_and_inode_is_found_by_a_full_check_and_then_by_every_check(
    check: ResultCheck,
) -> None:
    """The change time cannot be set back, so what is remembered is set to it, as a disk would flip a bit."""
    (check.folder / "a.txt").write_bytes(b"onf")
    memory = json.loads(check.memory_path.read_text())
    status = (check.folder / "a.txt").stat()
    memory["states"]["a.txt"] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    check.memory_path.write_text(json.dumps(memory))
    assert check.problems() == ()
    assert check.problems(full=True) == check.problems() == ("a.txt: changed",)


@pytest.mark.parametrize("has_memory", [True, False])
def test_damage_is_found_again_by_every_later_check(check: ResultCheck, has_memory: bool) -> None:
    (check.folder / "a.txt").unlink()
    (check.folder / "notes.txt").write_text("mine")
    (check.folder / "deep" / "b.txt").write_bytes(b"twp")
    if not has_memory:
        check.forget()
    problems = ("a.txt: missing", "notes.txt: unexpected", "deep/b.txt: changed")
    assert check.problems() == check.problems() == check.problems(full=True) == check.problems() == problems
    (check.folder / "a.txt").write_bytes(FILES["a.txt"])
    (check.folder / "notes.txt").unlink()
    (check.folder / "deep" / "b.txt").write_bytes(FILES["deep/b.txt"])
    assert check.problems() == check.problems() == ()


def test_links_folders_and_pipes_in_a_result_are_damage(check: ResultCheck, tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(FILES["a.txt"])
    (check.folder / "a.txt").unlink()
    (check.folder / "a.txt").symlink_to(tmp_path / "copy")
    os.mkfifo(check.folder / "pipe")
    (check.folder / "deep" / "b.txt").unlink()
    (check.folder / "deep" / "b.txt").mkdir()
    assert check.problems() == ("deep/b.txt: missing", "a.txt: a link", "pipe: a special file")


@pytest.mark.parametrize("kind", ["a file", "a link", "no such file or directory"])
def test_something_else_than_a_folder_is_damage(check: ResultCheck, kind: str) -> None:
    check.folder.rename(check.root / "elsewhere")
    if kind == "a file":
        check.folder.write_text("")
    if kind == "a link":
        check.folder.symlink_to(check.root / "elsewhere")
    assert check.problems() == check.problems(full=True) == (f"{check.folder}: {kind} instead of a folder",)


def test_an_edited_record_is_damage_until_its_copy_is_lost(check: ResultCheck) -> None:
    record = json.loads(check.record_path.read_text())
    check.record_path.write_text(json.dumps(record | {"host": "another"}))
    assert check.problems() == check.problems(()) == (f"provenance/{check.address}.json: changed",)
    with pytest.raises(DamagedResult, match=r"json: changed\. Compute it again"):
        check.record()
    assert check.remembered_record() == record
    check.forget()
    assert check.problems() == () and check.remembered_record() == record | {"host": "another"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"needs": {"source": "other-0123456789ab"}}, "wanted the record of named-thing-.*Got that of named-thing"),
        ({"version": 2}, "Got that of"),
        ({"spec": {"type": "no-such-spec"}}, "no-such-spec"),
        ({"files": []}, "Got files"),
        ({"ended": "yesterday"}, "yesterday"),
        ({"code": {}}, "commit, python and packages"),
    ],
)
def test_a_record_of_another_step_is_refused(check: ResultCheck, change: dict[str, object], message: str) -> None:
    record = json.loads(check.record_path.read_text())
    assert check_record(record, check.address) == record
    check.record_path.write_text(json.dumps(record | change))
    with pytest.raises(DataError, match=message):
        read_record(check.record_path, check.address)
    with pytest.raises(DamagedResult, match=message):
        check.record()
    check.record_path.unlink()
    with pytest.raises(DataError, match="No such file"):
        read_record(check.record_path, check.address)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(share=st.floats(0, 1), other=st.sampled_from([None, b"", b"[]", b"null", b'{"states": {"a.txt": []}}', b"\xff"]))
def test_a_damaged_memory_is_no_damage(shared_check: ResultCheck, share: float, other: bytes | None) -> None:
    content = shared_check.memory_path.read_bytes()
    memory = content[: round(share * len(content))] if other is None else other
    shared_check.memory_path.write_bytes(memory)
    assert shared_check.problems() == shared_check.problems() == ()


def test_a_store_that_cannot_be_written_is_checked_as_well(check: ResultCheck) -> None:
    check.forget()
    check.memory_path.parent.rmdir()
    check.memory_path.parent.write_text("")
    assert check.problems() == ()
    (check.folder / "a.txt").write_bytes(b"onf")
    assert check.problems() == ("a.txt: changed",)


def test_only_folders_of_a_store_are_checked(
    check: ResultCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_stored_folder(check.folder) == check.folder
    assert check_stored_folder(tmp_path / "no-such-folder") == tmp_path / "no-such-folder"
    (check.folder / "a.txt").write_bytes(b"onf")
    monkeypatch.chdir(check.folder)
    for folder in (check.folder, Path(), Path("../../steps") / check.address, Path("deep")):
        with pytest.raises(DamagedResult, match="changed"):
            check_stored_folder(folder)
    (tmp_path / "store.json").unlink()
    assert check_stored_folder(check.folder) == check.folder


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(contents=st.lists(st.binary(max_size=50), max_size=9))
def test_digests_are_in_the_order_of_the_files(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / str(number) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert digest_files(paths) == [hashlib.sha256(content).hexdigest() for content in contents]
