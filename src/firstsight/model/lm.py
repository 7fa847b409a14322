"""The decoder-only language model. Names and initial values are open_lm's (paper section 1.2).

A model is built empty: `initialise` or a checkpoint gives every parameter its values, nothing is drawn twice. On the
meta device it costs no memory; `allocate` gives it memory, and what comes after is the same bit for bit.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from firstsight.errors import ModelError
from firstsight.model import layers
from firstsight.model.layers import AttentionInputs, BlockConfig, BlockWeights, decoder_block, norm
from firstsight.recipe.lm import LMSpec

BlockFn = Callable[[Tensor, BlockWeights, AttentionInputs, BlockConfig], Tensor]
HiddenStates = Float[Tensor, "B T D"]


class NormWeight(nn.Module):
    """The gain of a norm without bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))


class WeightMatrix(nn.Module):
    """The weights of a linear map without bias, or of a table of vectors."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))


class Attention(nn.Module):
    """Weights of attention; the arithmetic stands in `layers`."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        query_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.in_proj = WeightMatrix(query_width + 2 * kv_width, spec.width)
        self.q_norm = NormWeight(query_width) if spec.qk_norm else None
        self.k_norm = NormWeight(kv_width) if spec.qk_norm else None
        self.out_proj = WeightMatrix(spec.width, query_width)
        self.shift = nn.Parameter(torch.empty(spec.token_shift, spec.width)) if spec.token_shift > 1 else None


class FeedForward(nn.Module):
    """Weights of SwiGLU: `w12` makes gate and value, `w3` comes back."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.w12 = WeightMatrix(2 * spec.mlp_width, spec.width)
        self.w3 = WeightMatrix(spec.width, spec.mlp_width)


class Block(nn.Module):
    """Weights of one pre-norm block."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = NormWeight(spec.width), NormWeight(spec.width)
        self.attention = Attention(spec)
        self.feed_forward = FeedForward(spec)

    def weights(self) -> BlockWeights:
        attention, feed_forward = self.attention, self.feed_forward
        return BlockWeights(
            attention_norm=self.attention_norm.weight,
            in_proj=attention.in_proj.weight,
            q_norm=None if attention.q_norm is None else attention.q_norm.weight,
            k_norm=None if attention.k_norm is None else attention.k_norm.weight,
            out_proj=attention.out_proj.weight,
            ffn_norm=self.ffn_norm.weight,
            w12=feed_forward.w12.weight,
            w3=feed_forward.w3.weight,
            shift=attention.shift,
        )


class LM(nn.Module):
    """Token ids in, hidden states out; the head is called apart, on the tokens that need it."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.spec = spec
        self.compute_dtype: torch.dtype = torch.float32
        self.block_fn: BlockFn = decoder_block
        self.loss_fn: Callable[[Any], tuple[Tensor, Tensor]] | None = None
        """How `loss` works its sums out, where it is another way than plain chunks."""
        self.cached_decoder: Any = None
        """What `cache.reader` made ready of the weights, for as long as they stay as they are."""
        self.recompute = False
        """Keep one stream a block for the backward pass and work the rest out again: less memory, the same bits."""
        self.tok_embeddings = WeightMatrix(spec.vocab_size, spec.width)
        self.layers = nn.ModuleList([Block(spec) for _ in range(spec.layers)])
        self.norm = NormWeight(spec.width)
        self.output = None if spec.ties_embeddings else WeightMatrix(spec.vocab_size, spec.width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """open_lm's start: normal values cut at three deviations, smaller where a deeper block writes to the stream.

        The deviation is one over the root of the fan-in, which for `out_proj` is heads x head; gains are one.
        """

        def init_weight(weight: Tensor, std: float) -> None:
            nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std, generator=generator)

        input_std, hidden_std = self.spec.width**-0.5, self.spec.mlp_width**-0.5
        attention_std = (self.spec.heads * self.spec.head_dim) ** -0.5
        init_weight(self.tok_embeddings.weight, input_std)
        if self.output is not None:
            init_weight(self.output.weight, input_std)
        for depth, layer in enumerate(self.layers):
            w, depth_scale = layer.weights(), 1 / math.sqrt(2 * (depth + 1))  # pyright: ignore[reportCallIssue]
            init_weight(w.in_proj, input_std)
            init_weight(w.out_proj, attention_std * depth_scale)
            init_weight(w.w12, input_std)
            init_weight(w.w3, hidden_std * depth_scale)
            if w.shift is not None:
                init_weight(w.shift, 1.0)
                w.shift[0] += 1
        for module in self.modules():
            if isinstance(module, NormWeight):
                module.weight.fill_(1)

    def embed(self, tokens: Int[Tensor, "B T"]) -> HiddenStates:
        """The stream that the blocks read."""
        vectors = nn.functional.embedding(tokens, self.tok_embeddings.weight)
        return vectors if self.spec.embedding_scale == 1 else vectors * self.spec.embedding_scale

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        """The weights that turn states into logits."""
        return self.tok_embeddings.weight if self.output is None else self.output.weight

    @property
    def block_config(self) -> BlockConfig:
        """What the arithmetic of every block hangs on."""
        spec = self.spec
        return BlockConfig(
            heads=spec.heads,
            kv_heads=spec.kv_heads,
            is_rms_norm=spec.norm == "rms",
            eps=spec.eps,
            dtype=self.compute_dtype,
        )

    def attention_inputs(
        self, docs: Int[Tensor, "B T"], positions: Int[Tensor, "B T"], image_ids: Int[Tensor, "B T"] | None = None
    ) -> AttentionInputs:
        """What every layer needs to know about the rows; documents stand in order, -1 is padding and comes last.

        `pictures` numbers each row's pictures, -1 for words: their tokens see each other. Without it all is causal.
        """
        return self._inputs_with_mask(
            layers.attention_mask(docs, image_ids, self._angle_dtype, head_dim=self.spec.head_dim), positions
        )

    def forward(self, x: HiddenStates, inputs: AttentionInputs) -> HiddenStates:
        """The stream through all blocks, before the last norm."""
        for layer in self.layers:
            weights: BlockWeights = layer.weights()  # pyright: ignore[reportCallIssue]
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(self.block_fn, x, weights, inputs, self.block_config, use_reentrant=False)
            else:
                x = self.block_fn(x, weights, inputs, self.block_config)
        return x

    def logits(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        """Float32 logits of hidden states: last norm, then the head."""
        h = norm(hidden, self.norm.weight, self.block_config)
        logits = nn.functional.linear(h, self.head_weight.to(h.dtype))
        return logits if logits.dtype == torch.float64 else logits.float()

    @property
    def _angle_dtype(self) -> torch.dtype:
        """Of angles and masks: float32, whatever the products are computed in (float64 stays float64)."""
        return torch.float64 if self.compute_dtype == torch.float64 else torch.float32

    def _inputs_with_mask(self, mask: layers.AttentionMask, positions: Int[Tensor, "B T"]) -> AttentionInputs:
        cos, sin = layers.rotary_cos_sin(
            positions, self.spec.rope, head_dim=self.spec.head_dim, dtype=self._angle_dtype
        )
        return AttentionInputs(cos=cos, sin=sin, mask=mask, positions=positions)


@torch.no_grad()
def allocate_parameters(model: nn.Module, *, device: str = "cpu") -> None:
    """Memory for all that a model built on the meta device lacks; its parameters have no values until they get some.

    The one kind of buffer, the count of positions in transformers' encoders, has its values; ModelError for others.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                empty_parameter = torch.empty_like(parameter, device=device)
                setattr(module, name, nn.Parameter(empty_parameter, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta and name != "position_ids":
                raise ModelError(
                    f"{type(module).__name__}: wanted parameters alone. Got buffer {name}. Build it plainly."
                )
            if buffer.is_meta:
                setattr(module, name, torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))
