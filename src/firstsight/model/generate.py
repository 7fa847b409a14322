"""Batched greedy decoding with a cache, and the log-likelihood of given continuations; prompts may be ragged.

An image belongs to one prompt and takes the places of that prompt's first I tokens, as in training rows; which ids
stand there does not matter.
Shapes: n prompts, P longest prompt, I tokens an image, W vision width, S pixels a side, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import torch
from torch import Tensor

from firstsight.errors import ModelError
from firstsight.model.layers import visible
from firstsight.model.lm import LM, Cache
from firstsight.model.vlm import VLM

Images = Sequence[Tensor | None] | None
"""One entry a prompt: features [I, W] or pixels uint8 [S, S, 3], or None; None alone for prompts without any."""


class Likelihood(NamedTuple):
    """Log-likelihood of a continuation, summed over its tokens, and how many they are."""

    total: float
    tokens: int


@torch.no_grad()
def greedy(
    model: VLM,
    prompts: Sequence[Sequence[int]],
    images: Images = None,
    *,
    stop: AbstractSet[int],
    limit: int,
    batch: int = 64,
) -> list[list[int]]:
    """The likeliest next token again and again, up to `limit` or a stop id (left out); an answer a prompt, in order."""
    answers: list[list[int]] = [[] for _ in prompts]
    for chosen in _groups([len(prompt) for prompt in prompts], images, batch):
        rows = _rows(model, [prompts[i] for i in chosen], [None if images is None else images[i] for i in chosen])
        for i, answer in zip(chosen, _decode(model.lm, rows, stop=stop, limit=limit), strict=True):
            answers[i] = answer
    return answers


@torch.no_grad()
def choices(
    model: VLM,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    images: Images = None,
    *,
    batch: int = 64,
) -> list[Likelihood]:
    """How likely each context makes its continuation; repeat a context for each of its choices.

    Choices that differ in their last token alone are read once.
    """
    shown = images or [None] * len(contexts)
    sharing: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for i, (context, more, image) in enumerate(zip(contexts, continuations, shown, strict=True)):
        if not context:
            raise ModelError("choices: a context needs at least one token. Got none. Begin it with <|endoftext|>.")
        sharing.setdefault(((*context, *more[:-1]), id(image)), []).append(i)
    read, asking = [row for row, _ in sharing], list(sharing.values())
    seen = [shown[some[0]] for some in asking]
    found = [Likelihood(0.0, 0) for _ in contexts]
    for chosen in _groups([len(row) for row in read], seen, batch):
        rows = _rows(model, [read[n] for n in chosen], [seen[n] for n in chosen])
        hidden = model.lm(rows.x, model.lm.frame(rows.docs, rows.positions))
        for at, n in enumerate(chosen):
            states = hidden[at, : int(rows.lengths[at])]
            for i in asking[n]:
                found[i] = _likelihood(model.lm, states, continuations[i])
    return found


def _likelihood(lm: LM, states: Tensor, continuation: Sequence[int]) -> Likelihood:
    """Of a continuation whose tokens are predicted by the last of a row's states [T, D]."""
    count = len(continuation)
    likely = lm.logits(states[len(states) - count :]).log_softmax(dim=-1)
    wanted = torch.tensor(list(continuation), dtype=torch.int64, device=likely.device)
    return Likelihood(float(likely.gather(1, wanted[:, None]).sum()), count)


class _Rows(NamedTuple):
    """Prompts side by side, padded on the right."""

    x: Tensor  # [n, P, D] embedded, images in place
    docs: Tensor  # [n, P] 0, padding -1
    positions: Tensor  # [n, P], padding -1
    lengths: Tensor  # [n]


def _groups(lengths: list[int], images: Images, batch: int) -> list[list[int]]:
    """Indices in groups of at most `batch`, alike in length, those without an image first."""
    seeing = [images is not None and images[i] is not None for i in range(len(lengths))]
    order = sorted(range(len(lengths)), key=lambda i: (seeing[i], lengths[i], i))
    return [order[start : start + batch] for start in range(0, len(order), batch)]


def _rows(model: VLM, prompts: Sequence[Sequence[int]], images: Sequence[Tensor | None]) -> _Rows:
    device = model.lm.norm.weight.device
    seen = [image for image in images if image is not None]
    vectors = model.see(torch.stack(seen).to(device)) if seen else None
    each = 0 if vectors is None else len(vectors) // len(seen)
    for prompt, image in zip(prompts, images, strict=True):
        if len(prompt) < (each if image is not None else 1):
            raise ModelError(f"a prompt begins with its image's {each} places, or a token. Got {len(prompt)} tokens.")
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    columns = torch.arange(int(lengths.max()), device=device)
    real = columns < lengths[:, None]
    padded = [[*prompt, *[0] * (len(columns) - len(prompt))] for prompt in prompts]
    tokens = torch.tensor(padded, dtype=torch.int64, device=device)
    x = model.lm.embed(tokens)
    if vectors is not None:
        first = torch.tensor([image is not None for image in images], device=device)
        nth = (first.cumsum(0) - 1) * each
        x = model.lay(x, vectors, torch.where(first[:, None] & (columns < each), nth[:, None] + columns, -1))
    return _Rows(x, torch.where(real, 0, -1), torch.where(real, columns, -1), lengths)


def _decode(lm: LM, rows: _Rows, *, stop: AbstractSet[int], limit: int) -> list[list[int]]:
    (count, width), real = rows.docs.shape, rows.docs == 0
    cache = Cache(lm.spec, count, width + limit, rows.x.new_zeros((), dtype=lm.compute))
    hidden = lm.extend(rows.x, rows.positions, visible(rows.docs), cache)
    hidden = hidden[torch.arange(count, device=hidden.device), rows.lengths - 1]
    answers: list[list[int]] = [[] for _ in range(count)]
    waiting = set(range(count))
    for step in range(limit):
        tokens = lm.logits(hidden).argmax(dim=-1)
        for row, token in enumerate(tokens.tolist()):
            if row in waiting and token in stop:
                waiting.discard(row)
            elif row in waiting:
                answers[row].append(token)
        if not waiting or step + 1 == limit:
            break
        real = torch.cat((real, real.new_ones(count, 1)), dim=1)
        hidden = lm.extend(lm.embed(tokens[:, None]), (rows.lengths + step)[:, None], real[:, None, None], cache)[:, 0]
    return answers
