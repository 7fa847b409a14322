"""What this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from firstsight.errors import MissingPackage, RequestError

GB = 10**9
OPTIONAL = {
    "lm_eval": ("eval", "text tasks at the paper's scale"),
    "ray": ("ray", "steps on several machines"),
    "tensorboard": ("track", "TensorBoard beside the logs"),
    "s3fs": ("s3", "data on s3://"),
}
"""Module, the extra that installs it, and what it is for."""

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    state: State
    """`note`: works, with less; `missing`: firstsight cannot run without."""
    advice: str = ""


def missing(error: ModuleNotFoundError) -> MissingPackage | None:
    """What to tell a user who lacks an optional package; None where the module is none of ours."""
    module = (error.name or "").partition(".")[0]
    if module not in OPTIONAL:
        return None
    extra, use = OPTIONAL[module]
    return MissingPackage(f"{module} is not installed; it is for {use}. Install it: pip install 'firstsight[{extra}]'")


def examine(out: Path) -> Iterator[Finding]:
    """Look at everything that a run under `out` depends on."""
    yield _python()
    yield from _packages()
    yield _device()
    yield _compiler()
    yield _headers()
    yield _cores()
    yield _memory()
    yield _waiting()
    yield _disk(out)
    yield from _site(out)
    for module, (extra, use) in OPTIONAL.items():
        yield _optional(module, extra, use)


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    advice = "" if ok else "Install Python 3.11 or newer and make the environment anew."
    return Finding(what="Python", found=platform.python_version(), state="ok" if ok else "missing", advice=advice)


def _packages() -> Iterator[Finding]:
    """torch, and in one line whatever else firstsight declares and this environment lacks."""
    needed = [line.split(";")[0].strip() for line in _declared() if "extra ==" not in line]
    names = [re.split(r"[<>=!~\[ ]", line)[0] for line in needed]
    absent = [name for name in names if _version(name) is None]
    yield Finding(
        what="packages",
        found=f"{len(names) - len(absent)} of {len(names)}" + (f", without {', '.join(absent)}" if absent else ""),
        state="missing" if absent else "ok",
        advice=f"pip install {' '.join(absent)}" if absent else "",
    )
    torch = _version("torch")
    yield Finding(
        what="torch",
        found=torch or "none",
        state="ok" if torch else "missing",
        advice="" if torch else "pip install 'torch>=2.9,<2.14'",
    )


def _declared() -> list[str]:
    try:
        return requires("firstsight") or []
    except PackageNotFoundError:
        return []


def _device() -> Finding:
    if find_spec("torch") is None:
        return Finding(what="device", found="unknown without torch", state="note")
    import torch

    if not torch.cuda.is_available():
        return Finding(what="device", found="cpu", state="ok", advice="Enough for the scales smoke and cpu.")
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return Finding(what="device", found=f"{len(names)} x {names[0]}", state="ok")


def _compiler() -> Finding:
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    advice = "" if found else "apt-get install g++. Without it blocks are not compiled and training is slower."
    return Finding(what="C++ compiler", found=found or "none", state="ok" if found else "note", advice=advice)


def _headers() -> Finding:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    ok = header.is_file()
    advice = "" if ok else "apt-get install python3-dev. torch.compile needs it; without it training is slower."
    return Finding(what="Python.h", found=str(header) if ok else "none", state="ok" if ok else "note", advice=advice)


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0))
    advice = "" if count > 1 else "Arms run one after the other."
    return Finding(what="cores", found=str(count), state="ok" if count > 1 else "note", advice=advice)


def _memory() -> Finding:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wanted = 2 * GB * len(os.sched_getaffinity(0))
    advice = "" if size >= wanted else f"A worker takes up to 2 GB: use --jobs {max(1, size // (2 * GB))}."
    return Finding(what="memory", found=f"{size / GB:.1f} GB", state="ok" if size >= wanted else "note", advice=advice)


def _waiting() -> Finding:
    found = os.environ.get("OMP_WAIT_POLICY", "unset")
    return Finding(what="OMP_WAIT_POLICY", found=found, state="ok", advice="Workers get PASSIVE whatever stands here.")


def _disk(out: Path) -> Finding:
    """Free space where results would lie, and whether they may."""
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            what="disk",
            found=f"{out} cannot be written",
            state="missing",
            advice="Choose another folder with --out.",
        )
    state: State = "ok" if free > 2 * GB else "note"
    advice = "" if state == "ok" else "The study at cpu scale stores up to 2 GB."
    return Finding(what="disk", found=f"{free / GB:.0f} GB free at {there}", state=state, advice=advice)


def _site(out: Path) -> Iterator[Finding]:
    """The site file, and what lies at each of its places."""
    from firstsight.workspace.run import site, site_file

    file = site_file()
    if file is None:
        advice = "Only for data of your own: see 'Bring your own data' in the documentation."
        yield Finding(what="site file", found="none", state="ok", advice=advice)
        return
    try:
        place = site()
    except RequestError as error:
        yield Finding(what="site file", found=str(file), state="missing", advice=str(error))
        return
    yield Finding(what="site file", found=f"{file}: {len(place.sources)} sources", state="ok")
    from firstsight.workspace.check_sources import examine_sources

    yield from examine_sources(place, out)


def _optional(module: str, extra: str, use: str) -> Finding:
    there = find_spec(module) is not None
    advice = f"For {use}." if there else f"For {use}: pip install 'firstsight[{extra}]'"
    return Finding(what=f"[{extra}]", found=module if there else "not installed", state="ok", advice=advice)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
