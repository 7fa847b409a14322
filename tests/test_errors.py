"""The tree of errors, and names that are nearly right."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from firstsight import errors
from firstsight.errors import FirstsightError, RequestError, UnknownName, describe_error


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    depths = {name: len(indent) // 4 - 1 for indent, name in re.findall(r"^([│├└─ ]*)(\w+)", errors.__doc__, re.M)[1:]}
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert depths == {item.__name__: item.__mro__.index(FirstsightError) for item in classes}


def test_nearest_names_are_suggested_and_all_are_listed_without_one() -> None:
    known = ["start-020", "start-040", "trunk"]
    nearest = "no arm is called 'start-02'. Nearest: start-020, start-040."
    assert str(UnknownName("arm", "start-02", known)) == f"{nearest} All: start-020, start-040, trunk."
    assert str(UnknownName("arm", "start-02", [*known, *map(str, range(6))])) == nearest
    assert str(UnknownName("arm", "start-02", known[:2])) == nearest
    assert str(UnknownName("arm", "zzz", known)) == "no arm is called 'zzz'. Known: start-020, start-040, trunk."


FULL = "No space left on device. Free disk space"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RequestError("it is wrong"), "it is wrong"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/runs/a.npy"), f"/runs/a.npy: {FULL}"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), f"/runs: {FULL}"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "/runs: Disk quota exceeded. Free disk space"),
        (OSError(errno.EFBIG, os.strerror(errno.EFBIG)), "/runs: File too large. Free disk space"),
        (OSError("100 requested and 32 written"), "/runs: 100 requested and 32 written. Free disk space"),
        (ValueError("I/O error: No space left on device (os error 28)"), f"/runs: {FULL}"),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), b"/a"),
            "/a: Permission denied. Give this user access",
        ),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/a"), "/a: Read-only file system. Give this user access"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/a"), "/a: No such file or directory. Correct"),
        (MemoryError(), "MemoryError: memory ran out. Give fewer --jobs"),
        (RuntimeError("CUDA out of memory. Tried ...\nmore"), "RuntimeError: CUDA out of memory. Tried"),
        (KeyError("x"), "KeyError: 'x'"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_faults_of_disk_and_memory_say_where_and_what_to_do(error: BaseException, message: str) -> None:
    assert describe_error(error, place=Path("/runs")).startswith(message)


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_error_of_the_system_is_one_line_with_its_path(code: int) -> None:
    message = describe_error(OSError(code, os.strerror(code), "/a/b"))
    assert message.startswith("/a/b: ") and os.strerror(code) in message and "\n" not in message
    assert "same command" in message
