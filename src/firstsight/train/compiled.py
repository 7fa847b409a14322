"""How the machine runs a decoder: one compiled block for all layers, its kernels kept in the site's cache."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from functools import cache

import torch

from firstsight.model.layers import block
from firstsight.model.lm import LM, Run
from firstsight.model.loss import compiled, liger
from firstsight.site import Site

WORTH = 100
"""Fewest steps for which compiling saves more than the time it takes."""
SHAPES = 4096
"""Most shapes of rows and models that one process compiles for: a worker stays warm for as many steps as there are."""


def settle(site: Site) -> None:
    """Make torch use the site's threads and this process keep its memory; it works for one step at a time."""
    torch.set_num_threads(site.threads)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(site.cache / "kernels")
    if site.device == "cpu" and platform.libc_ver()[0] == "glibc":
        _keep_memory()


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of glibc's malloc.h."""


@cache
def _keep_memory() -> None:
    """Let freed tensors be used again instead of given back to the system.

    By default glibc maps every large tensor anew, and a training step of a small model spends a fifth of its time in
    the page faults of that.
    """
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)


def speed_up(lm: LM, site: Site, *, steps: int) -> None:
    """Run the decoder as the site asks.

    Blocks and loss are compiled where there is a compiler (said aloud if not) and it pays.
    """
    lm.recompute = site.recompute
    compiles = site.compile and steps >= WORTH and (site.device != "cpu" or _has_compiler())
    if compiles or site.device != "cpu":  # a GPU's attention is compiled even where nothing else is
        _allow_shapes()
    if compiles:
        lm.run = _compiled()
    if site.loss == "liger":
        lm.score = liger
    elif compiles:
        lm.score = compiled


@cache
def _allow_shapes() -> None:
    from torch._dynamo import config

    config.recompile_limit = config.accumulated_recompile_limit = SHAPES


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
