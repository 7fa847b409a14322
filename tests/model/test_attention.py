"""Attention in squares (what a GPU runs) against the mask that is written out, and against each document alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import config
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention.flex_attention import create_block_mask

from firstsight.model import layers
from firstsight.model.vlm import VLM
from firstsight.recipe.lm import LMSpec
from tests.model.rows import PLAIN, SHIFTED, Rows, grown, packed

RAGGED = [[1, 1, 130, 3, 40], [300], [128, 128, 1, 43], [], [5], [256, 44]]
"""Documents of six rows of 300: single tokens, whole rows, borders on the squares' edges and inside, only padding."""

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let flex attention's plain operations run with gradients: torch refuses because its CPU kernel has none."""
    monkeypatch.setattr(
        sys.modules["torch.nn.attention.flex_attention"], "_validate_device", lambda query, key, value: None
    )


@pytest.fixture
def traceable() -> Iterator[None]:
    """Take the type checks off for a while: torch cannot compile them."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def rows_of(lengths: Sequence[Sequence[int]], length: int) -> Rows:
    generator = torch.Generator().manual_seed(4)
    texts = [[torch.randint(20, (n,), generator=generator).tolist() for n in row] for row in lengths]
    return packed(texts, length=length)


def outcome(model: VLM, rows: Rows, mask: layers.Mask) -> list[Tensor]:
    """Hidden states that are not padding, and all gradients of a sum that weighs each of them differently."""
    frame = replace(model.lm.frame(rows.docs, rows.positions), mask=mask)
    hidden = model.lm(model.lm.embed(rows.tokens), frame)
    assert hidden.isfinite().all(), "padding must stay finite"
    real = hidden[rows.docs >= 0]
    weights = torch.randn(real.shape, dtype=real.dtype, generator=torch.Generator().manual_seed(9))
    parts = [*model.lm.layers.parameters(), model.lm.tok_embeddings.weight]
    found = torch.autograd.grad((real * weights.to(real.device)).sum(), parts)
    assert all(each.isfinite().all() for each in found)
    return [real, *found]


@st.composite
def documents(draw: st.DrawFn, lengths: Sequence[int] = (1, 7, 127, 128, 129, 256, 300), rows: int = 3) -> Tensor:
    """Rows of documents in order, of any lengths, with padding or without."""
    length = draw(st.sampled_from(lengths))
    docs = torch.full((rows, length), -1, dtype=torch.int32)
    for row in docs:
        borders = draw(st.lists(st.one_of(st.integers(0, length), st.sampled_from([128, 256])), max_size=6))
        for number, (start, stop) in enumerate(zip([0, *sorted(borders)], sorted(borders), strict=False)):
            row[start:stop] = number
    return docs


@settings(max_examples=40, deadline=None)
@given(docs=documents())
def test_squares_are_those_that_torch_finds_by_looking_at_every_pair(docs: Tensor) -> None:
    rows, length = docs.shape
    wanted = create_block_mask(
        lambda row, head, here, there: layers.visible(docs)[row, 0, here, there], rows, None, length, length, "cpu"
    )
    found = layers.blocks(docs)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    assert torch.equal(found.to_dense(), wanted.to_dense())
    for kind in ("", "full_"):
        count = getattr(found, f"{kind}kv_num_blocks")[..., None]
        listed = torch.arange(getattr(found, f"{kind}kv_indices").shape[-1]) < count
        one, other = (getattr(each, f"{kind}kv_indices")[listed] for each in (found, wanted))
        assert torch.equal(one, other)


@settings(max_examples=20, deadline=None)
@given(docs=documents(lengths=(1, 300), rows=2))
def test_squares_give_what_the_written_mask_gives(docs: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (docs.shape[0], 2, docs.shape[1], 8)
    q, k, v = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(3))
    written = layers.additive(layers.visible(docs), torch.float64)
    torch.testing.assert_close(layers.attend(q, k, v, layers.blocks(docs)), layers.attend(q, k, v, written))


@pytest.mark.usefixtures("gradients")
@pytest.mark.parametrize(("spec", "dtype"), [(SHIFTED, torch.float64), (PLAIN, torch.float32)])
def test_a_model_in_squares_is_the_model_with_its_gradients(spec: LMSpec, dtype: torch.dtype) -> None:
    model, rows = grown(spec, dtype=dtype), rows_of(RAGGED, 300)
    written = outcome(model, rows, layers.additive(layers.visible(rows.docs), dtype))
    squares = outcome(model, rows, layers.blocks(rows.docs))
    near = {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-3}
    for one, other in zip(squares, written, strict=True):
        torch.testing.assert_close(one, other, **near)


@pytest.mark.parametrize("squares", [False, True])
def test_documents_in_a_row_are_as_alone_and_deaf_to_each_other(squares: bool) -> None:
    model = grown(SHIFTED)
    lengths = [1, 130, 2]
    rows = rows_of([lengths], 150)

    @torch.no_grad()
    def logits(read: Rows) -> Tensor:
        frame = model.lm.frame(read.docs, read.positions)
        frame = replace(frame, mask=layers.blocks(read.docs)) if squares else frame
        return model.lm.logits(model.lm(model.lm.embed(read.tokens), frame))[0]

    together, ends = logits(rows), torch.tensor([0, *lengths]).cumsum(0).tolist()
    for number, (start, stop) in enumerate(pairwise(ends)):
        alone = packed([[rows.tokens[0, start:stop].tolist()]], length=stop - start)
        torch.testing.assert_close(together[start:stop], logits(alone))
        others = torch.where(rows.docs == number, rows.tokens, (rows.tokens + 7) % 20)
        changed = logits(replace(rows, tokens=others))
        assert torch.equal(changed[start:stop], together[start:stop]), "not a bit of a neighbour comes through"


@pytest.mark.slow
@pytest.mark.usefixtures("gradients", "traceable")
def test_squares_go_through_a_compiled_block_without_compiling_again() -> None:
    model, counter = grown(PLAIN), CompileCounterWithBackend("aot_eager")
    rows = rows_of(RAGGED, 300)
    wanted = outcome(model, rows, layers.blocks(rows.docs))
    torch._dynamo.reset()
    model.lm.run = torch.compile(layers.block, fullgraph=True, dynamic=False, backend=counter)
    for order in (slice(0, 6), slice(0, 6)):
        again = rows.docs[order].clone()
        for one, other in zip(outcome(model, rows, layers.blocks(again)), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    assert counter.frame_count == 1, "one graph for all layers and batches"


def test_a_cpu_is_given_the_written_mask_and_its_bits() -> None:
    model, rows = grown(PLAIN, dtype=torch.float32), rows_of([[3, 4], [9]], 9)
    frame = model.lm.frame(rows.docs, rows.positions)
    nobody, allowed = float("-inf"), torch.zeros(2, 1, 9, 9)
    for row, here, there in torch.cartesian_prod(torch.arange(2), torch.arange(9), torch.arange(9)).tolist():
        if there > here or rows.docs[row, here] != rows.docs[row, there]:
            allowed[row, 0, here, there] = nobody
    assert isinstance(frame.mask, Tensor)
    assert torch.equal(frame.mask, allowed)


@pytest.mark.gpu
@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_runs_the_kernel_and_agrees_with_the_written_mask(compiled: bool, dtype: torch.dtype) -> None:
    spec = replace(PLAIN, width=64)
    model = grown(spec, dtype=torch.float32).cuda()
    model.lm.compute = dtype
    rows = rows_of(RAGGED, 300)
    rows = replace(rows, **{name: getattr(rows, name).cuda() for name in ("tokens", "docs", "positions", "slots")})
    written = outcome(model, rows, layers.additive(layers.visible(rows.docs), torch.float32))
    frame = model.lm.frame(rows.docs, rows.positions)
    assert not isinstance(frame.mask, Tensor), "a GPU is given squares"
    if compiled:
        model.lm.run = torch.compile(layers.block, fullgraph=True, dynamic=False)
    for one, other in zip(outcome(model, rows, frame.mask), written, strict=True):
        scale = other.float().abs().max()
        assert (one - other).float().abs().max() <= scale * (0.05 if dtype == torch.bfloat16 else 0.002)
