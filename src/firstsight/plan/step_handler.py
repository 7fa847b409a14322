"""The handler of a kind of step: its function, and the files that it may leave in a step's folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from firstsight.errors import StepFailed


@dataclass(frozen=True, kw_only=True, slots=True)
class StepHandler:
    """The function that does a kind of step, and the files of its folder as patterns.

    A pattern is a path relative to the folder: `*` stands for any characters of a name, `**` also for folders. A name
    that begins with a full stop matches none: it is the temporary file of a writer, in this package or in a library.
    """

    function: str
    """`module:function`, imported in the worker."""
    outputs: tuple[str, ...]
    """Each of these patterns matches at least one published file."""
    optional: tuple[str, ...] = ()
    """What may be published besides `outputs`."""
    unfinished: tuple[str, ...] = ()
    """What the next attempt continues from. Unless it is an output too, it is removed before publishing."""

    def clear(self, folder: Path) -> None:
        """Remove what an attempt that was killed left behind: all but `unfinished`, and all links and special files."""
        for name, path in _list_files(folder):
            if not _is_regular(path) or not _matches(name, self.unfinished):
                path.unlink()
        _remove_empty_folders(folder)

    def published_files(self, folder: Path) -> list[str]:
        """The names of what is to be published, in order."""
        patterns = (*self.outputs, *self.optional)
        return [name for name, path in _list_files(folder) if _is_regular(path) and _matches(name, patterns)]

    def check(self, folder: Path) -> None:
        """StepFailed with the names if an output is missing, or if there is a file that is not declared."""
        declared = (*self.outputs, *self.optional, *self.unfinished)
        files = _list_files(folder)
        if undeclared := [name for name, path in files if not _is_regular(path) or not _matches(name, declared)]:
            raise StepFailed(
                f"{folder}: wanted no files but those that {self.function} declares: {', '.join(declared)}. Got "
                f"{', '.join(undeclared[:3])} too. Nothing was published. Declare them, or write them elsewhere."
            )
        names = self.published_files(folder)
        if missing := [pattern for pattern in self.outputs if not any(_matches(name, (pattern,)) for name in names)]:
            raise StepFailed(
                f"{folder}: wanted all outputs of {self.function}. Got no {', '.join(missing)}. Nothing was published. "
                "Run the same command again."
            )

    def move_unfinished(self, folder: Path, target: Path) -> None:
        """Move all but what is published into a new folder `target`, in a moment: a kill leaves hardly ever a part."""
        published = {name.partition("/")[0] for name in self.published_files(folder)}
        target.mkdir()
        for path in sorted(folder.iterdir()):
            if path.name not in published:
                path.rename(target / path.name)


def _list_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name relative to the folder, path) of everything but folders; links to folders are not followed."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from ((f"{path.name}/{name}", file) for name, file in _list_files(path))
        else:
            yield path.name, path


def _is_regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    if "/." in f"/{name}":
        return False
    expressions = (re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*") for pattern in patterns)
    return any(re.fullmatch(expression, name, re.DOTALL) for expression in expressions)


def _remove_empty_folders(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _remove_empty_folders(path)
            if not any(path.iterdir()):
                path.rmdir()
