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
from firstsight.model.layers import Frame, Shape, Weights, block, norm
from firstsight.recipe.lm import LMSpec

Run = Callable[[Tensor, Weights, Frame, Shape], Tensor]
Stream = Float[Tensor, "B T D"]


class Gain(nn.Module):
    """The gain of a norm without bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))


class Matrix(nn.Module):
    """The weights of a linear map without bias, or of a table of vectors."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))


class Attention(nn.Module):
    """Weights of attention; the arithmetic stands in `layers`."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        asked, kept = spec.heads * spec.head, spec.kv_heads * spec.head
        self.in_proj = Matrix(asked + 2 * kept, spec.width)
        self.q_norm = Gain(asked) if spec.qk_norm else None
        self.k_norm = Gain(kept) if spec.qk_norm else None
        self.out_proj = Matrix(spec.width, asked)
        self.shift = nn.Parameter(torch.empty(spec.token_shift, spec.width)) if spec.token_shift > 1 else None


class FeedForward(nn.Module):
    """Weights of SwiGLU: `w12` makes gate and value, `w3` comes back."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.w12 = Matrix(2 * spec.hidden, spec.width)
        self.w3 = Matrix(spec.width, spec.hidden)


class Block(nn.Module):
    """Weights of one pre-norm block."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = Gain(spec.width), Gain(spec.width)
        self.attention = Attention(spec)
        self.feed_forward = FeedForward(spec)

    def weights(self) -> Weights:
        attention, feed = self.attention, self.feed_forward
        return Weights(
            attention_norm=self.attention_norm.weight,
            in_proj=attention.in_proj.weight,
            q_norm=None if attention.q_norm is None else attention.q_norm.weight,
            k_norm=None if attention.k_norm is None else attention.k_norm.weight,
            out_proj=attention.out_proj.weight,
            ffn_norm=self.ffn_norm.weight,
            w12=feed.w12.weight,
            w3=feed.w3.weight,
            shift=attention.shift,
        )


class LM(nn.Module):
    """Token ids in, hidden states out; the head is called apart, on the tokens that need it."""

    def __init__(self, spec: LMSpec) -> None:
        super().__init__()
        self.spec = spec
        self.compute: torch.dtype = torch.float32
        self.run: Run = block
        self.score: Callable[[Any], tuple[Tensor, Tensor]] | None = None
        """How `loss` works its sums out, where it is another way than plain chunks."""
        self.ready: Any = None
        """What `cache.reader` made ready of the weights, for as long as they stay as they are."""
        self.recompute = False
        """Keep one stream a block for the backward pass and work the rest out again: less memory, the same bits."""
        self.tok_embeddings = Matrix(spec.vocabulary, spec.width)
        self.layers = nn.ModuleList([Block(spec) for _ in range(spec.layers)])
        self.norm = Gain(spec.width)
        self.output = None if spec.tied else Matrix(spec.vocabulary, spec.width)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """open_lm's start: normal values cut at three deviations, smaller where a deeper block writes to the stream.

        The deviation is one over the root of the fan-in, which for `out_proj` is heads x head; gains are one.
        """

        def draw(weight: Tensor, deviation: float) -> None:
            nn.init.trunc_normal_(weight, std=deviation, a=-3 * deviation, b=3 * deviation, generator=generator)

        wide, hidden = self.spec.width**-0.5, self.spec.hidden**-0.5
        attended = (self.spec.heads * self.spec.head) ** -0.5
        draw(self.tok_embeddings.weight, wide)
        if self.output is not None:
            draw(self.output.weight, wide)
        for depth, layer in enumerate(self.layers):
            w, shrink = layer.weights(), 1 / math.sqrt(2 * (depth + 1))  # pyright: ignore[reportCallIssue]
            draw(w.in_proj, wide)
            draw(w.out_proj, attended * shrink)
            draw(w.w12, wide)
            draw(w.w3, hidden * shrink)
            if w.shift is not None:
                draw(w.shift, 1.0)
                w.shift[0] += 1
        for part in self.modules():
            if isinstance(part, Gain):
                part.weight.fill_(1)

    def embed(self, tokens: Int[Tensor, "B T"]) -> Stream:
        """The stream that the blocks read."""
        vectors = nn.functional.embedding(tokens, self.tok_embeddings.weight)
        return vectors if self.spec.embedding_scale == 1 else vectors * self.spec.embedding_scale

    @property
    def head(self) -> Float[Tensor, "V D"]:
        """The weights that turn states into logits."""
        return self.tok_embeddings.weight if self.output is None else self.output.weight

    @property
    def shape(self) -> Shape:
        """What the arithmetic of every block hangs on."""
        spec = self.spec
        return Shape(heads=spec.heads, kv_heads=spec.kv_heads, rms=spec.norm == "rms", eps=spec.eps, dtype=self.compute)

    def frame(
        self, docs: Int[Tensor, "B T"], positions: Int[Tensor, "B T"], pictures: Int[Tensor, "B T"] | None = None
    ) -> Frame:
        """What every layer needs to know about the rows; documents stand in order, -1 is padding and comes last.

        `pictures` numbers each row's pictures, -1 for words: their tokens see each other. Without it all is causal.
        """
        return self._frame(layers.sight(docs, pictures, self._wide, head=self.spec.head), positions)

    def forward(self, x: Stream, frame: Frame) -> Stream:
        """The stream through all blocks, before the last norm."""
        for layer in self.layers:
            weights: Weights = layer.weights()  # pyright: ignore[reportCallIssue]
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(self.run, x, weights, frame, self.shape, use_reentrant=False)
            else:
                x = self.run(x, weights, frame, self.shape)
        return x

    def logits(self, hidden: Float[Tensor, "*any D"]) -> Float[Tensor, "*any V"]:
        """Float32 logits of hidden states: last norm, then the head."""
        h = norm(hidden, self.norm.weight, self.shape)
        logits = nn.functional.linear(h, self.head.to(h.dtype))
        return logits if logits.dtype == torch.float64 else logits.float()

    @property
    def _wide(self) -> torch.dtype:
        """Of angles and masks: float32, whatever the products are computed in (float64 stays float64)."""
        return torch.float64 if self.compute == torch.float64 else torch.float32

    def _frame(self, mask: layers.Mask, positions: Int[Tensor, "B T"]) -> Frame:
        cos, sin = layers.rotations(positions, self.spec.rope, head=self.spec.head, dtype=self._wide)
        return Frame(cos=cos, sin=sin, mask=mask, positions=positions)


@torch.no_grad()
def allocate(model: nn.Module, *, device: str = "cpu") -> None:
    """Memory for all that a model built on the meta device lacks; its parameters have no values until they get some.

    The one kind of buffer, the count of positions in transformers' encoders, has its values; ModelError for others.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                real = torch.empty_like(parameter, device=device)
                setattr(module, name, nn.Parameter(real, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta and name != "position_ids":
                raise ModelError(
                    f"{type(module).__name__}: wanted parameters alone. Got buffer {name}. Build it plainly."
                )
            if buffer.is_meta:
                setattr(module, name, torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))
