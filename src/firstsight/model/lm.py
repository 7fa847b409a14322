"""The decoder-only language model, with the parameter names and initial values of open_lm (paper section 1.2).

A model is built with uninitialised parameters; `initialise` or a checkpoint sets their values. Built on the meta device
it takes no memory (see `tensors.meta_init` and `tensors.allocate_parameters`), and the values are the same bits.
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

from firstsight.model import layers
from firstsight.model.attention import attention_mask
from firstsight.model.layers import AttentionInputs, BlockConfig, BlockWeights, HiddenStates, decoder_block, norm
from firstsight.recipe.model import LMSpec

BlockFn = Callable[[Tensor, BlockWeights, AttentionInputs, BlockConfig], Tensor]


class Weight(nn.Module):
    """The weight of a norm or linear map without bias, or of an embedding."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))


class Attention(nn.Module):
    """The weights of attention; `layers` contains the arithmetic."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        query_width, kv_width = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.in_proj = Weight(query_width + 2 * kv_width, spec.width)
        self.q_norm = Weight(query_width) if spec.qk_norm else None
        self.k_norm = Weight(kv_width) if spec.qk_norm else None
        self.out_proj = Weight(spec.width, query_width)
        self.shift = nn.Parameter(torch.empty(spec.token_shift, spec.width)) if spec.token_shift > 1 else None


class FeedForward(nn.Module):
    """The weights of SwiGLU: `w12` for gate and value, `w3` for the output."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.w12 = Weight(2 * spec.mlp_width, spec.width)
        self.w3 = Weight(spec.width, spec.mlp_width)


class Block(nn.Module):
    """The weights of one pre-norm block."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = Weight(spec.width), Weight(spec.width)
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
    """Embedding, blocks, last norm and head; `forward` stops before the norm, so that the loss can select tokens."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.spec = spec
        self.compute_dtype: torch.dtype = torch.float32
        self.block_fn: BlockFn = decoder_block
        self.loss_fn: Callable[[Any], tuple[Tensor, Tensor]] | None = None
        """The implementation that `loss.lm_loss` uses; None is `loss.chunked_loss`."""
        self.cached_decoder: Any = None
        """The last result of `inference.inference_decoder`, valid until a weight changes."""
        self.recompute = False
        """Store only each block's input for the backward pass and compute the rest again: less memory, same bits."""
        self.tok_embeddings = Weight(spec.vocab_size, spec.width)
        self.layers = nn.ModuleList([Block(spec) for _ in range(spec.layers)])
        self.norm = Weight(spec.width)
        self.output = None if spec.ties_embeddings else Weight(spec.vocab_size, spec.width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """open_lm's initialisation: normal values truncated at three standard deviations; norm weights are one.

        The standard deviation is fan-in ** -0.5 (the fan-in of `out_proj` is heads x head_dim), times
        (2 * depth) ** -0.5 for the matrices that write to the residual stream of the block at `depth`, from 1.
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
        for parameter in self.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1)

    def embed(self, tokens: Int[Tensor, "B T"]) -> HiddenStates:
        """Word embeddings times `spec.embedding_scale`: the input of the first block."""
        vectors = nn.functional.embedding(tokens, self.tok_embeddings.weight)
        return vectors if self.spec.embedding_scale == 1 else vectors * self.spec.embedding_scale

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        """The weight that maps normed hidden states to logits."""
        return self.tok_embeddings.weight if self.output is None else self.output.weight

    @property
    def block_config(self) -> BlockConfig:
        """The settings of every block's arithmetic."""
        spec, is_rms_norm = self.spec, self.spec.norm == "rms"
        return BlockConfig(spec.heads, spec.kv_heads, is_rms_norm=is_rms_norm, eps=spec.eps, dtype=self.compute_dtype)

    def attention_inputs(
        self, docs: Int[Tensor, "B T"], positions: Int[Tensor, "B T"], image_ids: Int[Tensor, "B T"] | None = None
    ) -> AttentionInputs:
        """The tensors that all layers share; `docs` ascend within a row, -1 is padding and comes last.

        `image_ids` numbers each row's images, -1 for text; an image's tokens attend to each other in both directions.
        None makes all tokens causal. Angles and masks are float32, or float64 if the products are.
        """
        head_dim, dtype = self.spec.head_dim, self.compute_dtype
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        mask = attention_mask(docs, image_ids, dtype, head_dim=head_dim)
        cos, sin = layers.rotary_cos_sin(positions, self.spec.rope, head_dim=head_dim, dtype=dtype)
        return AttentionInputs(cos=cos, sin=sin, mask=mask, positions=positions)

    def forward(self, x: HiddenStates, inputs: AttentionInputs) -> HiddenStates:
        """Hidden states after all blocks, before the last norm."""
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
