"""Block masks (used on a GPU) against additive masks, and packed documents against single ones."""

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
from firstsight.recipe.model import LMSpec, Rope
from tests.conftest import DEVICE
from tests.model.tiny_models import PLAIN_LM, SHIFTED_LM, PackedRows, cpu_only, pack_rows, random_model

RAGGED = [[1, 1, 130, 3, 40], [300], [128, 128, 1, 43], [], [5], [256, 44]]
"""Document lengths of six rows of 300: single tokens, whole rows, borders on and between block edges, only padding."""
WIDE_HEADS = replace(PLAIN_LM, head_dim=32)
"""Heads that the GPU kernel supports."""
LONG = [[700, 400], [1100], [3, 500, 130, 129, 1, 200], [64] * 17]
"""Document lengths of rows of 1,100 tokens, nine blocks a side."""
TOLERANCES = {torch.float64: {"rtol": 1e-9, "atol": 1e-10}, torch.float32: {"rtol": 2e-4, "atol": 2e-3}}

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow gradients in flex attention's plain operations, which torch forbids on a CPU."""
    monkeypatch.setattr(
        sys.modules["torch.nn.attention.flex_attention"], "_validate_device", lambda query, key, value: None
    )


@pytest.fixture
def traceable() -> Iterator[None]:
    """Switch the type checks off: torch cannot compile them."""
    torch._dynamo.reset()  # past eight shapes it would give up compiling
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def random_rows(lengths: Sequence[Sequence[int]], length: int) -> PackedRows:
    generator = torch.Generator().manual_seed(4)
    texts = [[torch.randint(20, (n,), generator=generator).tolist() for n in row] for row in lengths]
    return pack_rows(texts, length=length)


def states_and_gradients(model: VLM, rows: PackedRows, mask: attention.AttentionMask) -> list[Tensor]:
    """Hidden states without padding, and all gradients of their sum with random weights."""
    frame = replace(model.lm.attention_inputs(rows.docs, rows.positions), mask=mask)
    hidden = model.lm(model.lm.embed(rows.tokens), frame)
    assert hidden.isfinite().all(), "padding must stay finite"
    real = hidden[rows.docs >= 0]
    weights = torch.randn(real.shape, dtype=real.dtype, generator=torch.Generator().manual_seed(9))
    parts = [*model.lm.layers.parameters(), model.lm.tok_embeddings.weight]
    actual = torch.autograd.grad((real * weights.to(real.device)).sum(), parts)
    assert all(item.isfinite().all() for item in actual)
    return [real, *actual]


@st.composite
def documents(draw: st.DrawFn, lengths: Sequence[int] = (1, 7, 127, 128, 129, 256, 300), rows: int = 3) -> Tensor:
    """Rows of ascending document ids, with or without padding."""
    length = draw(st.sampled_from(lengths))
    docs = torch.full((rows, length), -1, dtype=torch.int32)
    for row in docs:
        borders = draw(st.lists(st.one_of(st.integers(0, length), st.sampled_from([128, 256])), max_size=6))
        for number, (start, stop) in enumerate(zip([0, *sorted(borders)], sorted(borders), strict=False)):
            row[start:stop] = number
    return docs


@settings(max_examples=40, deadline=None)
@given(docs=documents())
def test_block_mask_equals_create_block_mask_of_every_pair(docs: Tensor) -> None:
    rows, length = docs.shape
    expected = create_block_mask(
        lambda row, head, q_index, kv_index: attention.boolean_mask(docs)[row, 0, q_index, kv_index],
        rows,
        None,
        length,
        length,
        "cpu",
    )
    actual = attention.block_mask(docs)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    assert torch.equal(actual.to_dense(), expected.to_dense())
    for kind in ("", "full_"):
        count = getattr(actual, f"{kind}kv_num_blocks")[..., None]
        listed = torch.arange(getattr(actual, f"{kind}kv_indices").shape[-1]) < count
        first, second = (getattr(item, f"{kind}kv_indices")[listed] for item in (actual, expected))
        assert torch.equal(first, second)


@settings(max_examples=20, deadline=None)
@given(docs=documents(lengths=(1, 300), rows=2))
def test_flex_attention_equals_additive_mask(docs: Tensor) -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (docs.shape[0], 2, docs.shape[1], 8)
    q, k, v = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(3))
    dense = attention.additive_mask(attention.boolean_mask(docs), torch.float64)
    torch.testing.assert_close(
        attention.masked_attention(q, k, v, attention.block_mask(docs)), attention.masked_attention(q, k, v, dense)
    )


@pytest.mark.usefixtures("gradients")
@pytest.mark.parametrize(
    ("spec", "dtype"),
    [pytest.param(SHIFTED_LM, torch.float64, marks=cpu_only), (WIDE_HEADS, torch.float32)],
    ids=["float64", "float32"],
)
def test_model_and_gradients_are_equal_under_block_mask_and_additive_mask(spec: LMSpec, dtype: torch.dtype) -> None:
    model, rows = random_model(spec, dtype=dtype), random_rows(RAGGED, 300)
    dense = states_and_gradients(model, rows, attention.additive_mask(attention.boolean_mask(rows.docs), dtype))
    sparse = states_and_gradients(model, rows, attention.block_mask(rows.docs))
    for first, second in zip(sparse, dense, strict=True):
        torch.testing.assert_close(first, second, **TOLERANCES[dtype])


@pytest.mark.parametrize("sparse", [False, True])
def test_packed_documents_do_not_attend_to_each_other(sparse: bool) -> None:
    dtype = torch.float32 if sparse and DEVICE != "cpu" else torch.float64  # a GPU's kernel has no float64
    model = random_model(replace(WIDE_HEADS, token_shift=3), dtype=dtype)
    lengths = [1, 130, 2]
    rows = random_rows([lengths], 150)

    @torch.no_grad()
    def logits(read: PackedRows) -> Tensor:
        frame = model.lm.attention_inputs(read.docs, read.positions)
        frame = replace(frame, mask=attention.block_mask(read.docs)) if sparse else frame
        return model.lm.logits(model.lm(model.lm.embed(read.tokens), frame))[0]

    together, ends = logits(rows), torch.tensor([0, *lengths]).cumsum(0).tolist()
    for number, (start, stop) in enumerate(pairwise(ends)):
        alone = pack_rows([[rows.tokens[0, start:stop].tolist()]], length=stop - start)
        torch.testing.assert_close(together[start:stop], logits(alone), **TOLERANCES[dtype])
        others = torch.where(rows.docs == number, rows.tokens, (rows.tokens + 7) % 20)
        changed = logits(replace(rows, tokens=others))
        assert torch.equal(changed[start:stop], together[start:stop]), "other documents change no bit"


@pytest.mark.slow
@pytest.mark.usefixtures("gradients", "traceable")
def test_block_masks_do_not_recompile_a_compiled_block() -> None:
    model, counter = random_model(PLAIN_LM), CompileCounterWithBackend("aot_eager")
    rows = random_rows(RAGGED, 300)
    expected = states_and_gradients(
        model, rows, attention.additive_mask(attention.boolean_mask(rows.docs), torch.float64)
    )
    compiled_block = torch.compile(layers.decoder_block, fullgraph=True, dynamic=False, backend=counter)
    for block in model.lm.blocks:
        block.block_fn = compiled_block
    for order in (slice(0, 6), slice(0, 6)):
        again = rows.docs[order].clone()
        for first, second in zip(states_and_gradients(model, rows, attention.block_mask(again)), expected, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-10)
    assert counter.frame_count == 1, "one graph for all layers and batches"


@pytest.mark.parametrize("head", [8, pytest.param(32, marks=cpu_only)])
def test_mask_is_additive_on_a_cpu_and_for_narrow_heads(head: int) -> None:
    model, rows = random_model(replace(PLAIN_LM, head_dim=head), dtype=torch.float32), random_rows([[3, 4], [9]], 9)
    frame = model.lm.attention_inputs(rows.docs, rows.positions)
    minus_infinity, allowed = float("-inf"), torch.zeros(2, 1, 9, 9)
    for row, q_index, kv_index in torch.cartesian_prod(torch.arange(2), torch.arange(9), torch.arange(9)).tolist():
        if kv_index > q_index or rows.docs[row, q_index] != rows.docs[row, kv_index]:
            allowed[row, 0, q_index, kv_index] = minus_infinity
    assert isinstance(frame.mask, Tensor)
    assert torch.equal(frame.mask.cpu(), allowed)


@st.composite
def docs_and_image_ids(
    draw: st.DrawFn, lengths: Sequence[int] = (1, 129, 300, 600), rows: int = 2
) -> tuple[Tensor, Tensor]:
    """Documents, and images within them, numbered within a row."""
    docs = draw(documents(lengths=lengths, rows=rows))
    image_ids = torch.full_like(docs, -1)
    for row in range(rows):
        number = 0
        for document in docs[row][docs[row] >= 0].unique().tolist():
            positions = (docs[row] == document).nonzero()[:, 0]
            borders = sorted(draw(st.lists(st.integers(0, len(positions)), max_size=4)))
            for start, stop in zip(borders[::2], borders[1::2], strict=False):
                image_ids[row, positions[start:stop]] = number
                number += 1
    return docs, image_ids


def dense_from_blocks(sparse: BlockMask, rows: int, length: int) -> Tensor:
    """The boolean mask that a block mask stands for: full blocks, and partial blocks under the mask function."""
    count = -(-length // attention.ATTENTION_BLOCK)
    q_index = torch.arange(length)
    rule = sparse.mask_mod(torch.arange(rows)[:, None, None], torch.tensor(0), q_index[:, None], q_index[None, :])
    visible = torch.zeros(rows, length, length, dtype=torch.bool)
    for row, square in torch.cartesian_prod(torch.arange(rows), torch.arange(count)).tolist():
        down = slice(square * attention.ATTENTION_BLOCK, (square + 1) * attention.ATTENTION_BLOCK)
        for kind in ("kv", "full_kv"):
            listed = getattr(sparse, f"{kind}_indices")[row, 0, square]
            for second in listed[: int(getattr(sparse, f"{kind}_num_blocks")[row, 0, square])].tolist():
                across = slice(second * attention.ATTENTION_BLOCK, (second + 1) * attention.ATTENTION_BLOCK)
                visible[row, down, across] = True if kind == "full_kv" else rule[row, down, across]
    return visible


@settings(max_examples=30, deadline=None)
@given(drawn=docs_and_image_ids())
def test_block_mask_is_causal_for_text_and_bidirectional_within_images(drawn: tuple[Tensor, Tensor]) -> None:
    docs, image_ids = drawn
    allowed = attention.boolean_mask(docs, image_ids)[:, 0]
    assert torch.equal(dense_from_blocks(attention.block_mask(docs, image_ids), *docs.shape), allowed)
    q_index = torch.arange(docs.shape[1])
    ahead = allowed & (q_index[None, :] > q_index[:, None])
    assert torch.equal(allowed & ~ahead, attention.boolean_mask(docs)[:, 0]), "text is causal"
    assert torch.equal(ahead.any(dim=2), _not_last(image_ids)), "each token of an image but the last attends ahead"


@settings(max_examples=30, deadline=None)
@given(
    drawn=docs_and_image_ids(), window=st.sampled_from((1, 40, 128, 129, 255, 256, 257, 500)), has_images=st.booleans()
)
def test_windows_limit_the_past_of_a_document_but_not_an_image(
    drawn: tuple[Tensor, Tensor], window: int, has_images: bool
) -> None:
    docs, image_ids = drawn[0], drawn[1] if has_images else None
    allowed = attention.boolean_mask(docs, image_ids, window=window)[:, 0]
    index = torch.arange(docs.shape[1])
    near = index[:, None] - index[None, :] < window
    expected = attention.boolean_mask(docs)[:, 0] & near
    if image_ids is not None:
        expected |= (image_ids[:, :, None] == image_ids[:, None, :]) & (image_ids >= 0)[:, None, :]
    assert torch.equal(allowed, expected)
    assert torch.equal(dense_from_blocks(attention.block_mask(docs, image_ids, window=window), *docs.shape), allowed)


def _not_last(image_ids: Tensor) -> Tensor:
    after = torch.cat((image_ids[:, 1:], torch.full_like(image_ids[:, :1], -1)), dim=1)
    return (image_ids >= 0) & (after == image_ids)


@settings(max_examples=12, deadline=None)
@given(drawn=docs_and_image_ids(lengths=(257, 300, 600)), has_images=st.booleans())
def test_striped_attention_equals_the_whole_mask(drawn: tuple[Tensor, Tensor], has_images: bool) -> None:
    docs, image_ids = drawn[0], drawn[1] if has_images else None
    stripes = attention.attention_mask(docs, image_ids, torch.float64, head_dim=8)
    assert isinstance(stripes, tuple) and len(stripes) > 1
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 2, docs.shape[1], 8, dtype=torch.float64, generator=generator) for _ in range(3))
    allowed = attention.boolean_mask(docs, image_ids)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    torch.testing.assert_close(attention.masked_attention(q, k, v, stripes), expected)


@pytest.mark.parametrize("length", [9, 300])
def test_grouped_heads_equal_repeated_heads(length: int) -> None:
    grouped_spec = replace(PLAIN_LM, heads=4, kv_heads=2, head_dim=4)
    grouped_model, full_model = random_model(grouped_spec), random_model(replace(grouped_spec, kv_heads=4))
    twice = torch.tensor([0, 0, 1, 1])
    tensors = dict(grouped_model.state_dict())
    for name, tensor in grouped_model.state_dict().items():
        if name.endswith("in_proj.weight"):
            queries, keys, values = tensor.split([16, 8, 8])
            repeated = [item.view(2, 4, -1)[twice].flatten(0, 1) for item in (keys, values)]
            tensors[name] = torch.cat((queries, *repeated))
        elif name.endswith("k_norm.weight"):
            tensors[name] = tensor.view(2, 4)[twice].flatten()
    full_model.load_state_dict(tensors)
    rows = random_rows([[length - 3], [length]], length)
    torch.testing.assert_close(grouped_model(rows), full_model(rows))


def test_recompute_saves_memory_and_gives_the_same_gradients() -> None:
    rows = random_rows([[200, 100], [300]], 300)

    def train_once(recompute: bool) -> tuple[int, list[Tensor]]:
        model, saved = random_model(SHIFTED_LM, dtype=torch.float32), dict[int, int]()
        model.lm.compute_dtype, model.lm.recompute = torch.bfloat16, recompute

        def keep(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model(rows)
            total = sum(saved.values())
        hidden.square().sum().backward()
        return total, [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    (plain, expected), (less, actual) = train_once(False), train_once(True)
    assert len(actual) == len(expected) > 10
    assert all(torch.equal(first, second) for first, second in zip(actual, expected, strict=True))
    assert less < plain / 4


@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float32])
def test_angles_and_logits_are_float32_for_any_compute_dtype(compute: torch.dtype) -> None:
    model = random_model(
        replace(PLAIN_LM, rope=Rope(base=10_000.0), head_dim=64, heads=1, kv_heads=1), dtype=torch.float32
    )
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
            expected = torch.tensor([wave(angle) for angle in angles], dtype=torch.float64)
            assert (table[0, 0, column].double().cpu() - expected).abs().max() < near


SHARED = replace(WIDE_HEADS, heads=4, kv_heads=2)
KERNELS = {
    "plain": (WIDE_HEADS, RAGGED, 300, False),
    "shared heads": (SHARED, RAGGED, 300, False),
    "images": (WIDE_HEADS, RAGGED, 300, True),
    "images, shared heads, many blocks": (SHARED, LONG, 1100, True),
    "many blocks": (WIDE_HEADS, LONG, 1100, False),
    "short rows": (WIDE_HEADS, [[40, 60], [100], [3, 90]], 100, False),
}
"""Decoder, document lengths, row length, and whether there are images."""


def image_ids_between_text(rows: PackedRows) -> Tensor:
    """Images of up to 50 tokens, each after 20 tokens of text."""
    inside = (rows.positions % 70 >= 20) & (rows.docs >= 0)
    return torch.where(inside, (rows.positions % 70 == 20).cumsum(dim=1) - 1, -1)


@pytest.mark.gpu
@pytest.mark.usefixtures("traceable")
@pytest.mark.parametrize(
    ("dtype", "compiled"), [(torch.float32, False), (torch.bfloat16, True)], ids=["alone", "block"]
)
@pytest.mark.parametrize(("spec", "lengths", "length", "has_images"), KERNELS.values(), ids=KERNELS)
def test_gpu_kernel_agrees_with_additive_mask(
    spec: LMSpec, lengths: list[list[int]], length: int, has_images: bool, dtype: torch.dtype, compiled: bool
) -> None:
    """In bf16 the kernel's error is at most three times that of the additive mask."""
    model, rows = random_model(spec, dtype=torch.float32).cuda(), random_rows(lengths, length)
    rows = replace(rows, **{name: getattr(rows, name).cuda() for name in ("tokens", "docs", "positions", "slots")})
    image_ids = image_ids_between_text(rows) if has_images else None
    mask = attention.additive_mask(attention.boolean_mask(rows.docs, image_ids), torch.float32)
    exact = states_and_gradients(model, rows, mask)
    model.lm.compute_dtype = dtype
    dense = states_and_gradients(model, rows, mask)
    sparse = model.lm.attention_inputs(rows.docs, rows.positions, image_ids).mask
    assert isinstance(sparse, BlockMask), "a GPU uses a block mask"
    if compiled:
        compiled_block = torch.compile(layers.decoder_block, fullgraph=True, dynamic=False)
        for block in model.lm.blocks:
            block.block_fn = compiled_block
    for actual, plain, expected in zip(states_and_gradients(model, rows, sparse), dense, exact, strict=True):
        rounding = (plain - expected).abs().max()
        assert (actual - expected).abs().max() <= 3 * rounding + 0.002 * expected.abs().max()
