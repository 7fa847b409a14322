"""Attention in squares (what a GPU runs) against the mask that is written out, and against each document alone."""

from __future__ import annotations

import math
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
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from firstsight.model import attention, layers
from firstsight.model.vlm import VLM
from firstsight.recipe.lm import LMSpec, Rope
from tests.conftest import DEVICE
from tests.model.tiny_models import PLAIN, SHIFTED, Rows, cpu_only, grown, packed

RAGGED = [[1, 1, 130, 3, 40], [300], [128, 128, 1, 43], [], [5], [256, 44]]
"""Documents of six rows of 300: single tokens, whole rows, borders on the squares' edges and inside, only padding."""
ROOMY = replace(PLAIN, head_dim=32)
"""Heads that a GPU's kernel takes."""
LONG = [[700, 400], [1100], [3, 500, 130, 129, 1, 200], [64] * 17]
"""Documents of rows of 1,100, in nine squares each way."""
NEAR = {torch.float64: {"rtol": 1e-9, "atol": 1e-10}, torch.float32: {"rtol": 2e-4, "atol": 2e-3}}

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
    torch._dynamo.reset()  # past eight shapes it would give up compiling
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def rows_of(lengths: Sequence[Sequence[int]], length: int) -> Rows:
    generator = torch.Generator().manual_seed(4)
    texts = [[torch.randint(20, (n,), generator=generator).tolist() for n in row] for row in lengths]
    return packed(texts, length=length)


def outcome(model: VLM, rows: Rows, mask: attention.AttentionMask) -> list[Tensor]:
    """Hidden states that are not padding, and all gradients of a sum that weighs each of them differently."""
    frame = replace(model.lm.attention_inputs(rows.docs, rows.positions), mask=mask)
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
        lambda row, head, here, there: attention.boolean_mask(docs)[row, 0, here, there],
        rows,
        None,
        length,
        length,
        "cpu",
    )
    found = attention.block_mask(docs)
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
    written = attention.additive_mask(attention.boolean_mask(docs), torch.float64)
    torch.testing.assert_close(
        attention.masked_attention(q, k, v, attention.block_mask(docs)), attention.masked_attention(q, k, v, written)
    )


@pytest.mark.usefixtures("gradients")
@pytest.mark.parametrize(
    ("spec", "dtype"),
    [pytest.param(SHIFTED, torch.float64, marks=cpu_only), (ROOMY, torch.float32)],
    ids=["float64", "float32"],
)
def test_a_model_in_squares_is_the_model_with_its_gradients(spec: LMSpec, dtype: torch.dtype) -> None:
    model, rows = grown(spec, dtype=dtype), rows_of(RAGGED, 300)
    written = outcome(model, rows, attention.additive_mask(attention.boolean_mask(rows.docs), dtype))
    squares = outcome(model, rows, attention.block_mask(rows.docs))
    for one, other in zip(squares, written, strict=True):
        torch.testing.assert_close(one, other, **NEAR[dtype])


@pytest.mark.parametrize("squares", [False, True])
def test_documents_in_a_row_are_as_alone_and_deaf_to_each_other(squares: bool) -> None:
    dtype = torch.float32 if squares and DEVICE != "cpu" else torch.float64  # a GPU's kernel has no float64
    model = grown(replace(ROOMY, token_shift=3), dtype=dtype)
    lengths = [1, 130, 2]
    rows = rows_of([lengths], 150)

    @torch.no_grad()
    def logits(read: Rows) -> Tensor:
        frame = model.lm.attention_inputs(read.docs, read.positions)
        frame = replace(frame, mask=attention.block_mask(read.docs)) if squares else frame
        return model.lm.logits(model.lm(model.lm.embed(read.tokens), frame))[0]

    together, ends = logits(rows), torch.tensor([0, *lengths]).cumsum(0).tolist()
    for number, (start, stop) in enumerate(pairwise(ends)):
        alone = packed([[rows.tokens[0, start:stop].tolist()]], length=stop - start)
        torch.testing.assert_close(together[start:stop], logits(alone), **NEAR[dtype])
        others = torch.where(rows.docs == number, rows.tokens, (rows.tokens + 7) % 20)
        changed = logits(replace(rows, tokens=others))
        assert torch.equal(changed[start:stop], together[start:stop]), "not a bit of a neighbour comes through"


@pytest.mark.slow
@pytest.mark.usefixtures("gradients", "traceable")
def test_squares_go_through_a_compiled_block_without_compiling_again() -> None:
    model, counter = grown(PLAIN), CompileCounterWithBackend("aot_eager")
    rows = rows_of(RAGGED, 300)
    wanted = outcome(model, rows, attention.additive_mask(attention.boolean_mask(rows.docs), torch.float64))
    model.lm.block_fn = torch.compile(layers.decoder_block, fullgraph=True, dynamic=False, backend=counter)
    for order in (slice(0, 6), slice(0, 6)):
        again = rows.docs[order].clone()
        for one, other in zip(outcome(model, rows, attention.block_mask(again)), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    assert counter.frame_count == 1, "one graph for all layers and batches"


@pytest.mark.parametrize("head", [8, pytest.param(32, marks=cpu_only)])
def test_a_cpu_is_given_the_written_mask_and_a_gpu_for_narrow_heads(head: int) -> None:
    model, rows = grown(replace(PLAIN, head_dim=head), dtype=torch.float32), rows_of([[3, 4], [9]], 9)
    frame = model.lm.attention_inputs(rows.docs, rows.positions)
    nobody, allowed = float("-inf"), torch.zeros(2, 1, 9, 9)
    for row, here, there in torch.cartesian_prod(torch.arange(2), torch.arange(9), torch.arange(9)).tolist():
        if there > here or rows.docs[row, here] != rows.docs[row, there]:
            allowed[row, 0, here, there] = nobody
    assert isinstance(frame.mask, Tensor)
    assert torch.equal(frame.mask.cpu(), allowed)


@st.composite
def with_pictures(draw: st.DrawFn, lengths: Sequence[int] = (1, 129, 300, 600), rows: int = 2) -> tuple[Tensor, Tensor]:
    """Documents, and pictures that lie in them: their numbers count up within a row."""
    docs = draw(documents(lengths=lengths, rows=rows))
    pictures = torch.full_like(docs, -1)
    for row in range(rows):
        number = 0
        for document in docs[row][docs[row] >= 0].unique().tolist():
            places = (docs[row] == document).nonzero()[:, 0]
            borders = sorted(draw(st.lists(st.integers(0, len(places)), max_size=4)))
            for start, stop in zip(borders[::2], borders[1::2], strict=False):
                pictures[row, places[start:stop]] = number
                number += 1
    return docs, pictures


def written_down(squares: BlockMask, rows: int, length: int) -> Tensor:
    """What a kernel may look at: all of the full squares, and of the others what their rule lets through."""
    count = -(-length // attention.ATTENTION_BLOCK)
    here = torch.arange(length)
    rule = squares.mask_mod(torch.arange(rows)[:, None, None], torch.tensor(0), here[:, None], here[None, :])
    seen = torch.zeros(rows, length, length, dtype=torch.bool)
    for row, square in torch.cartesian_prod(torch.arange(rows), torch.arange(count)).tolist():
        down = slice(square * attention.ATTENTION_BLOCK, (square + 1) * attention.ATTENTION_BLOCK)
        for kind in ("kv", "full_kv"):
            listed = getattr(squares, f"{kind}_indices")[row, 0, square]
            for other in listed[: int(getattr(squares, f"{kind}_num_blocks")[row, 0, square])].tolist():
                across = slice(other * attention.ATTENTION_BLOCK, (other + 1) * attention.ATTENTION_BLOCK)
                seen[row, down, across] = True if kind == "full_kv" else rule[row, down, across]
    return seen


@settings(max_examples=30, deadline=None)
@given(drawn=with_pictures())
def test_squares_let_words_look_back_and_pictures_into_themselves(drawn: tuple[Tensor, Tensor]) -> None:
    docs, pictures = drawn
    allowed = attention.boolean_mask(docs, pictures)[:, 0]
    assert torch.equal(written_down(attention.block_mask(docs, pictures), *docs.shape), allowed)
    here = torch.arange(docs.shape[1])
    ahead = allowed & (here[None, :] > here[:, None])
    assert torch.equal(allowed & ~ahead, attention.boolean_mask(docs)[:, 0]), "words look as they always do"
    assert torch.equal(ahead.any(dim=2), _not_last(pictures)), "each token of a picture but its last looks ahead"


def _not_last(pictures: Tensor) -> Tensor:
    after = torch.cat((pictures[:, 1:], torch.full_like(pictures[:, :1], -1)), dim=1)
    return (pictures >= 0) & (after == pictures)


@settings(max_examples=12, deadline=None)
@given(drawn=with_pictures(lengths=(257, 300, 600)), seeing=st.booleans())
def test_stripes_are_the_whole_mask(drawn: tuple[Tensor, Tensor], seeing: bool) -> None:
    docs, pictures = drawn[0], drawn[1] if seeing else None
    stripes = attention.attention_mask(docs, pictures, torch.float64, head_dim=8)
    assert isinstance(stripes, tuple) and len(stripes) > 1
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 2, docs.shape[1], 8, dtype=torch.float64, generator=generator) for _ in range(3))
    allowed = attention.boolean_mask(docs, pictures)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    torch.testing.assert_close(attention.masked_attention(q, k, v, stripes), wanted)


@pytest.mark.parametrize("length", [9, 300])
def test_shared_heads_are_heads_repeated(length: int) -> None:
    shared = replace(PLAIN, heads=4, kv_heads=2, head_dim=4)
    few, many = grown(shared), grown(replace(shared, kv_heads=4))
    twice = torch.tensor([0, 0, 1, 1])
    tensors = dict(few.state_dict())
    for name, tensor in few.state_dict().items():
        if name.endswith("in_proj.weight"):
            queries, keys, values = tensor.split([16, 8, 8])
            repeated = [each.view(2, 4, -1)[twice].flatten(0, 1) for each in (keys, values)]
            tensors[name] = torch.cat((queries, *repeated))
        elif name.endswith("k_norm.weight"):
            tensors[name] = tensor.view(2, 4)[twice].flatten()
    many.load_state_dict(tensors)
    rows = rows_of([[length - 3], [length]], length)
    torch.testing.assert_close(few(rows), many(rows))


def test_recomputed_blocks_keep_less_and_change_no_bit() -> None:
    rows = rows_of([[200, 100], [300]], 300)

    def learnt(recompute: bool) -> tuple[int, list[Tensor]]:
        model, kept = grown(SHIFTED, dtype=torch.float32), dict[int, int]()
        model.lm.compute_dtype, model.lm.recompute = torch.bfloat16, recompute

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model(rows)
            held = sum(kept.values())
        hidden.square().sum().backward()
        return held, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    (plain, wanted), (less, found) = learnt(False), learnt(True)
    assert len(found) == len(wanted) > 10
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert less < plain / 4


@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float32])
def test_angles_and_logits_are_float32_whatever_products_are(compute: torch.dtype) -> None:
    model = grown(replace(PLAIN, rope=Rope(base=10_000.0), head_dim=64, heads=1, kv_heads=1), dtype=torch.float32)
    model.lm.compute_dtype = compute
    positions = torch.tensor([[0, 1, 511, 1023, 8191, 32767]], device=DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16, enabled=compute == torch.bfloat16):
        frame = model.lm.attention_inputs(torch.zeros_like(positions), positions)
        logits = model.lm.logits(torch.randn(1, 6, 16, device=DEVICE))
    assert (frame.cos.dtype, frame.sin.dtype, logits.dtype) == (torch.float32,) * 3
    for column, position in enumerate(positions[0].tolist()):
        angles = [position * 10_000.0 ** (-pair / 32) for pair in range(32)]
        near = 1e-3 if position < 1024 else 1e-2
        for table, wave in ((frame.cos, math.cos), (frame.sin, math.sin)):
            wanted = torch.tensor([wave(angle) for angle in angles], dtype=torch.float64)
            assert (table[0, 0, column].double().cpu() - wanted).abs().max() < near


SHARED = replace(ROOMY, heads=4, kv_heads=2)
KERNELS = {
    "plain": (ROOMY, RAGGED, 300, False),
    "shared heads": (SHARED, RAGGED, 300, False),
    "pictures": (ROOMY, RAGGED, 300, True),
    "pictures, shared heads, many squares": (SHARED, LONG, 1100, True),
    "many squares": (ROOMY, LONG, 1100, False),
    "short rows": (ROOMY, [[40, 60], [100], [3, 90]], 100, False),
}
"""Decoder, lengths of documents, length of rows, and whether their words stand among pictures."""


def among_words(rows: Rows) -> Tensor:
    """Pictures of up to 50 tokens, after 20 words of a document and after each other's 20."""
    inside = (rows.positions % 70 >= 20) & (rows.docs >= 0)
    return torch.where(inside, (rows.positions % 70 == 20).cumsum(dim=1) - 1, -1)


@pytest.mark.gpu
@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize(
    ("dtype", "compiled"), [(torch.float32, False), (torch.bfloat16, True)], ids=["alone", "block"]
)
@pytest.mark.parametrize(("spec", "lengths", "length", "seeing"), KERNELS.values(), ids=KERNELS)
def test_a_gpu_runs_the_kernel_and_agrees_with_the_written_mask(
    spec: LMSpec, lengths: list[list[int]], length: int, seeing: bool, dtype: torch.dtype, compiled: bool
) -> None:
    """In bf16 both round, the kernel no more than three times as far as the written mask does."""
    model, rows = grown(spec, dtype=torch.float32).cuda(), rows_of(lengths, length)
    rows = replace(rows, **{name: getattr(rows, name).cuda() for name in ("tokens", "docs", "positions", "slots")})
    pictures = among_words(rows) if seeing else None
    mask = attention.additive_mask(attention.boolean_mask(rows.docs, pictures), torch.float32)
    exact = outcome(model, rows, mask)
    model.lm.compute_dtype = dtype
    written = outcome(model, rows, mask)
    squares = model.lm.attention_inputs(rows.docs, rows.positions, pictures).mask
    assert isinstance(squares, BlockMask), "a GPU is given squares"
    if compiled:
        model.lm.block_fn = torch.compile(layers.decoder_block, fullgraph=True, dynamic=False)
    for found, plain, wanted in zip(outcome(model, rows, squares), written, exact, strict=True):
        rounding = (plain - wanted).abs().max()
        assert (found - wanted).abs().max() <= 3 * rounding + 0.002 * wanted.abs().max()
