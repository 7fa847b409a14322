"""One compiled block for all layers of a decoder, its kernels kept in the site's cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache

import torch

from firstsight.model.layers import block
from firstsight.model.lm import LM, Run
from firstsight.site import Site

WORTH = 100
"""Fewest steps for which compiling saves more than the time it takes."""


def settle(site: Site) -> None:
    """Make torch use the site's threads; one process works for one step at a time."""
    torch.set_num_threads(site.threads)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(site.cache / "kernels")


def speed_up(lm: LM, site: Site, *, steps: int) -> None:
    """Run the decoder's blocks compiled where the site asks for it, has a compiler (said aloud if not) and it pays."""
    if site.compile and steps >= WORTH and (site.device != "cpu" or _has_compiler()):
        lm.run = _compiled()


@cache
def _compiled() -> Run:
    return torch.compile(block, fullgraph=True, dynamic=False)


@cache
def _has_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    find: Callable[[], str] = get_cpp_compiler
    try:
        return bool(find())
    except InvalidCxxCompiler:
        sys.stderr.write("no C++ compiler found (g++ or clang++): blocks run uncompiled, at about half the speed.\n")
        return False
