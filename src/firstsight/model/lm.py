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
from firstsight.model.attention import AttentionMask, attention_mask
from firstsight.model.layers import AttentionInputs, Block, HiddenStates, Norm, Weight
from firstsight.recipe.model import LMSpec


class LM(nn.Module):
    """Embedding, blocks, last norm and head; `forward` stops before the norm, so that the loss can select tokens."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.spec = spec
        self.compute_dtype: torch.dtype = torch.float32
        self.loss_fn: Callable[[Any], tuple[Tensor, Tensor]] | None = None
        """The implementation that `loss.lm_loss` uses; None is `loss.chunked_loss`."""
        self.cached_decoder: Any = None
        """The last result of `inference.inference_decoder`, valid until a weight changes."""
        self.recompute = False
        """Store only each block's input for the backward pass and compute the rest again: less memory, same bits."""
        self.tok_embeddings = Weight(spec.vocab_size, spec.width)
        self.layers = nn.ModuleList([Block(spec, layer) for layer in range(spec.layers)])
        self.norm = Norm(spec.width, spec, has_bias=spec.has_biases)
        self.output = None if spec.ties_embeddings else Weight(spec.vocab_size, spec.width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """open_lm's initialisation: normal values truncated at three standard deviations; norm weights are one.

        Biases are zero.

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
        for depth, block in enumerate(self.blocks):
            attention, feed_forward, depth_scale = block.attention, block.feed_forward, 1 / math.sqrt(2 * (depth + 1))
            init_weight(attention.in_proj.weight, input_std)
            init_weight(attention.out_proj.weight, attention_std * depth_scale)
            init_weight(feed_forward.w12.weight, input_std)
            init_weight(feed_forward.w3.weight, hidden_std * depth_scale)
            if attention.shift is not None:
                attention.shift.copy_(one_hot_taps(*attention.shift.shape))
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(0 if name.endswith(".bias") else 1)

    def embed(self, tokens: Int[Tensor, "B T"]) -> HiddenStates:
        """Word embeddings times `spec.embedding_scale`: the input of the first block."""
        vectors = nn.functional.embedding(tokens, self.tok_embeddings.weight)
        return vectors if self.spec.embedding_scale == 1 else vectors * self.spec.embedding_scale

    @property
    def blocks(self) -> list[Block]:
        """The blocks of `layers`, also of layers in a wrapper of torch's."""
        return [module for module in self.layers.modules() if isinstance(module, Block)]

    @property
    def head_weight(self) -> Float[Tensor, "V D"]:
        """The weight that maps normed hidden states to logits."""
        return self.tok_embeddings.weight if self.output is None else self.output.weight

    def attention_inputs(
        self, docs: Int[Tensor, "B T"], positions: Int[Tensor, "B T"], image_ids: Int[Tensor, "B T"] | None = None
    ) -> AttentionInputs:
        """The tensors that all layers share; `docs` ascend within a row, -1 is padding and comes last.

        `image_ids` numbers each row's images, -1 for text; an image's tokens attend to each other in both directions.
        None makes all tokens causal. Angles and masks are float32, or float64 if the products are.
        """
        head_dim, window, windowed_mask = self.spec.head_dim, self.spec.window, None
        mask = attention_mask(docs, image_ids, self.wide_dtype, head_dim=head_dim)
        if 0 < window < docs.shape[1]:
            windowed_mask = attention_mask(docs, image_ids, self.wide_dtype, head_dim=head_dim, window=window)
        return self.masked_inputs(positions, mask, windowed_mask)

    def masked_inputs(
        self, positions: Int[Tensor, "B T"], mask: AttentionMask, windowed_mask: AttentionMask | None
    ) -> AttentionInputs:
        """`attention_inputs` with given masks."""
        rope, head_dim = self.spec.rope, self.spec.head_dim
        cos, sin = layers.rotary_cos_sin(positions, rope, head_dim=head_dim, dtype=self.wide_dtype)
        return AttentionInputs(
            cos=cos,
            sin=sin,
            mask=mask,
            positions=positions,
            dtype=self.compute_dtype,
            windowed_mask=windowed_mask,
        )

    @property
    def wide_dtype(self) -> torch.dtype:
        """The dtype of angles and masks: float32, or float64 if the products are float64."""
        return torch.promote_types(self.compute_dtype, torch.float32)

    def forward(self, x: HiddenStates, inputs: AttentionInputs) -> HiddenStates:
        """Hidden states after all blocks, before the last norm."""
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, inputs, use_reentrant=False)
            else:
                x = layer(x, inputs)
        return x

    def final_norm(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        """The last norm, the input of the head, in `compute_dtype`."""
        return self.norm(hidden.to(self.compute_dtype))

    def logits(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        """Float32 logits of hidden states: last norm, then the head."""
        h = self.final_norm(hidden)
        logits = nn.functional.linear(h, self.head_weight.to(h.dtype))
        return logits if logits.dtype == torch.float64 else logits.float()


def one_hot_taps(taps: int, width: int) -> Float[Tensor, "taps D"]:
    """One tap a channel: half of the channels start with the token itself, half of the rest with the token before, ...

    No token starts mixed with its neighbours, so that no seed tells them apart worse than another.
    """
    shares = torch.tensor([*(2 ** (taps - 2 - lag) for lag in range(taps - 1)), 1])
    lags = torch.arange(taps).repeat_interleave(shares)
    channel_lags = lags.repeat(-(-width // len(lags)))[:width]
    return (torch.arange(taps)[:, None] == channel_lags).float()
