"""What this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from firstsight.errors import MissingPackage, RequestError
from firstsight.workspace.source_findings import Finding, check_finding, existing_parent, source_findings
from firstsight.workspace.sources import current_site, find_site_file

GB = 10**9
EXTRAS = {"lm_eval": ("eval", "text tasks at the paper's scale"), "s3fs": ("s3", "data on s3://")}
"""Optional modules: the extra that installs each, and what it is for."""


def missing_package(error: ModuleNotFoundError) -> MissingPackage | None:
    """The error that names the extra to install; None where the module belongs to none."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    extra, use = EXTRAS[module]
    return MissingPackage(f"{module} is not installed; it is for {use}. Install it: pip install 'firstsight[{extra}]'")


def machine_findings(out: Path) -> Iterator[Finding]:
    """A finding for everything that a run with results under `out` depends on."""
    yield from _packages()
    yield _device()
    yield from _compiler()
    yield from _cores_and_memory()
    policy = os.environ.get("OMP_WAIT_POLICY", "unset")
    yield Finding(topic="OMP_WAIT_POLICY", value=policy, state="ok", advice="Workers always get PASSIVE.")
    yield _disk(out)
    yield from _site_findings(out)
    for module, (extra, use) in EXTRAS.items():
        is_installed = find_spec(module) is not None
        advice = f"For {use}." if is_installed else f"For {use}: pip install 'firstsight[{extra}]'"
        value = module if is_installed else "not installed"
        yield Finding(topic=f"[{extra}]", value=value, state="ok", advice=advice)


def _packages() -> Iterator[Finding]:
    """Python, the declared dependencies with those that are not installed, and torch."""
    advice = "Install Python 3.11 or newer and make the environment anew."
    is_supported = sys.version_info >= (3, 11)
    yield check_finding("Python", platform.python_version(), ok=is_supported, advice=advice, otherwise="missing")
    names = [re.split(r"[<>=!~;\[ ]", line)[0] for line in _requirements() if "extra ==" not in line]
    absent = [name for name in names if _version(name) is None]
    value = f"{len(names) - len(absent)} of {len(names)}" + (f", without {', '.join(absent)}" if absent else "")
    yield check_finding("packages", value, ok=not absent, advice=f"pip install {' '.join(absent)}", otherwise="missing")
    torch, advice = _version("torch"), "pip install 'torch>=2.9,<2.14'"
    yield check_finding("torch", torch or "none", ok=torch is not None, advice=advice, otherwise="missing")


def _requirements() -> list[str]:
    try:
        return requires("firstsight") or []
    except PackageNotFoundError:
        return []


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> Finding:
    if find_spec("torch") is None:
        return Finding(topic="device", value="unknown without torch", state="note")
    import torch

    if not torch.cuda.is_available():
        return Finding(topic="device", value="cpu", state="ok", advice="Enough for the scales smoke and cpu.")
    count = torch.cuda.device_count()
    return Finding(topic="device", value=f"{count} x {torch.cuda.get_device_name(0)}", state="ok")


def _compiler() -> Iterator[Finding]:
    """What torch.compile needs."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    advice = "apt-get install g++. Without it blocks are not compiled and training is slower."
    yield check_finding("C++ compiler", compiler or "none", ok=compiler is not None, advice=advice)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    advice = "apt-get install python3-dev. torch.compile needs it; without it training is slower."
    yield check_finding("Python.h", str(header) if header.is_file() else "none", ok=header.is_file(), advice=advice)


def _cores_and_memory() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    yield check_finding("cores", str(cores), ok=cores > 1, advice="Arms run one after the other.")
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    advice = f"A worker takes up to 2 GB: use --jobs {max(1, size // (2 * GB))}."
    yield check_finding("memory", f"{size / GB:.1f} GB", ok=size >= 2 * GB * cores, advice=advice)


def _disk(out: Path) -> Finding:
    """Free space at the output folder, and whether it can be written."""
    folder = existing_parent(out)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        advice = "Choose another folder with --out."
        return Finding(topic="disk", value=f"{out} cannot be written", state="missing", advice=advice)
    free = shutil.disk_usage(folder).free
    advice = "The study at cpu scale stores up to 2 GB."
    return check_finding("disk", f"{free / GB:.0f} GB free at {folder}", ok=free > 2 * GB, advice=advice)


def _site_findings(out: Path) -> Iterator[Finding]:
    """The site file and each of its sources."""
    path = find_site_file()
    if path is None:
        advice = "Only for data of your own: see 'Bring your own data' in the documentation."
        yield Finding(topic="site file", value="none", state="ok", advice=advice)
        return
    try:
        site = current_site()
    except RequestError as error:
        yield Finding(topic="site file", value=str(path), state="missing", advice=str(error))
        return
    yield Finding(topic="site file", value=f"{path}: {len(site.sources)} sources", state="ok")
    yield from source_findings(site, out)
