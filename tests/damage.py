"""Damage to files, as disks, power losses and people do it."""

from __future__ import annotations

import shutil
from pathlib import Path

DAMAGES = ("flipped", "cut", "padded", "emptied", "deleted", "folder", "link")


def damage_file(path: Path, kind: str, *, at: float = 0.5, elsewhere: Path | None = None) -> None:
    """Damage a file in one of DAMAGES; `at`: where, as a fraction of its size.

    `elsewhere`: the folder of a link's target; by default the third one above the file.
    """
    data = path.read_bytes()
    middle = min(int(len(data) * at), max(len(data) - 1, 0))
    match kind:
        case "flipped":
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        case "cut":
            path.write_bytes(data[:middle])
        case "padded":  # a power loss: the size is on the disk, the end of the content is not
            path.write_bytes(data[:middle].ljust(len(data) + 1, b"\0"))
        case "emptied":
            path.write_bytes(b"")
        case "deleted":
            path.unlink()
        case "folder":
            path.unlink()
            (path / "something").mkdir(parents=True)
        case "link":  # to a copy, which must not be written to
            copy = (elsewhere or path.parent.parent.parent) / f"{path.name}.elsewhere"
            shutil.move(path, copy)
            path.symlink_to(copy)
        case _:
            raise ValueError(kind)
