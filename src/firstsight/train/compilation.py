"""Settings of torch for a step: threads, memory, and one compiled block for all layers."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from functools import cache

import torch

from firstsight.model.layers import BlockFn, decoder_block
from firstsight.model.lm import LM
from firstsight.model.loss import compiled_loss, liger_loss
from firstsight.site import Site

MIN_COMPILE_STEPS = 100
"""Minimum number of steps for which compilation saves more time than it takes."""
MAX_COMPILED_SHAPES = 4096
"""Maximum number of shapes of rows and models that a process compiles for; a worker process runs many steps."""
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # parameters of glibc's mallopt


def configure_torch(site: Site) -> None:
    """Set torch's threads and kernel cache, and make this process keep freed memory."""
    torch.set_num_threads(site.threads)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(site.cache / "kernels")
    if site.device == "cpu":
        _disable_malloc_trim()


@cache
def _disable_malloc_trim() -> None:
    """Reuse freed memory: glibc maps every large tensor again, and page faults take a fifth of a small model's step."""
    if (libc := _glibc()) is None:
        return
    mallopt = libc.mallopt
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 * 2**20)


def release_free_memory() -> None:
    """Give freed memory back to the system; only glibc keeps any.

    Batches differ in images and loss tokens. Tensors of ever new sizes leave gaps between each other, so that the
    process would grow with each record of a size or of a resume point, although what it uses stays the same.
    """
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def compile_decoder(lm: LM, site: Site, *, steps: int) -> None:
    """Set the decoder's recomputation, block and loss functions as the site file specifies.

    Block and loss are compiled if there are enough steps and a compiler; a line on stderr says if there is none.
    """
    lm.recompute = site.recompute
    should_compile = site.compile and steps >= MIN_COMPILE_STEPS and (site.device != "cpu" or _has_compiler())
    if should_compile or site.device != "cpu":  # flex attention is always compiled on a GPU
        from torch._dynamo import config

        config.recompile_limit = config.accumulated_recompile_limit = MAX_COMPILED_SHAPES
    if should_compile:
        for block in lm.blocks:
            block.block_fn = _compiled_block()
    if site.loss == "liger":
        lm.loss_fn = liger_loss
    elif should_compile:
        lm.loss_fn = compiled_loss


@cache
def _compiled_block() -> BlockFn:
    return torch.compile(decoder_block, fullgraph=True, dynamic=False)


@cache
def _has_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    find_compiler: Callable[[], str] = get_cpp_compiler
    try:
        return bool(find_compiler())
    except InvalidCxxCompiler:
        sys.stderr.write("no C++ compiler found (g++ or clang++): blocks run uncompiled, at about half the speed.\n")
        return False
