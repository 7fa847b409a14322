"""The next token of each answer in a batch: the likeliest, or a sample from the model's distribution.

Shapes: S hidden states of a batch, B answers that continue them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstsight.errors import ModelError, QuantityError

TokenSampler = Callable[[Float[Tensor, "S V"], Int[Tensor, " B"], list[int], int], Int[Tensor, " B"]]
"""(logits of S states, the state of each of B answers, their indices in the batch, step): the next token of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Sampling from softmax(logits / temperature), restricted to the likeliest tokens.

    The tokens of prompt n depend on (seed, first_index + n) and the step only, not on the other prompts of the call.
    """

    temperature: float
    top_k: int | None = None
    top_p: float | None = None
    """Nucleus sampling after `top_k`: the fewest tokens that have at least this probability in total."""
    seed: int
    first_index: int = 0
    """Index of the call's first prompt in a list that is generated in several calls."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise QuantityError(f"temperature: wanted more than 0. Got {self.temperature}. For 0 give no sampling.")
        if self.top_k is not None and self.top_k < 1:
            raise QuantityError(f"top_k: wanted at least 1 token. Got {self.top_k}. Give None for all.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise QuantityError(f"top_p: wanted a share above 0, up to 1. Got {self.top_p}. Give None for all.")
        if self.first_index < 0:
            raise QuantityError(f"first_index: wanted 0 or more. Got {self.first_index}. Count from the first prompt.")


UNCHANGED = Sampling(temperature=1.0, seed=0)
"""Sampling from the model's own distribution."""


def non_finite_error() -> ModelError:
    """The error of logits that are not finite."""
    return ModelError(
        "the model's logits: wanted finite numbers. Got NaN or infinity. Its training diverged, or an image's features "
        "are not finite: use an earlier checkpoint, or train it with a lower learning rate."
    )


def argmax_sampler(logits: Tensor, states: Tensor, answers: list[int], step: int) -> Tensor:
    """The likeliest token of each answer; a TokenSampler."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(axis=-1))[states]  # nine times torch's speed at 50,000 words
    return logits.argmax(dim=-1)[states]


def inverse_cdf_sampler(
    sampling: Sampling, keys: Sequence[int | None], num_steps: int, device: torch.device
) -> TokenSampler:
    """Inverse transform sampling; the uniform numbers of an answer are a Philox stream keyed by seed and its key.

    Answers without a key are greedy.
    """
    uniform = np.zeros((num_steps, len(keys)))
    for answer, key in enumerate(keys):
        if key is not None:
            words = np.array([sampling.seed % 2**64, sampling.first_index + key], dtype=np.uint64)
            uniform[:, answer] = np.random.Generator(np.random.Philox(key=words)).random(num_steps)

    def sample(logits: Tensor, states: Tensor, answers: list[int], step: int) -> Tensor:
        tokens = argmax_sampler(logits, states, answers, step)
        sampled = [position for position, answer in enumerate(answers) if keys[answer] is not None]
        if sampled:
            columns, inverse = states[sampled].unique(return_inverse=True)
            probabilities, ids = sampling_distribution(logits[columns], sampling)
            cumulative = probabilities.cumsum(dim=-1)
            if not cumulative[:, -1].isfinite().all():
                raise non_finite_error()
            shares = torch.from_numpy(uniform[step, [answers[position] for position in sampled]]).to(device)
            thresholds = shares[:, None] * cumulative[inverse, -1:]
            chosen = torch.searchsorted(cumulative[inverse], thresholds, right=True).clamp(max=cumulative.shape[-1] - 1)
            tokens[sampled] = chosen[:, 0] if ids is None else ids[inverse].gather(1, chosen)[:, 0]
        return tokens

    return sample


def sampling_distribution(
    logits: Float[Tensor, "B V"], sampling: Sampling
) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"] | None]:
    """Unnormalised probabilities, and the token ids of the columns, likeliest first; ids None if all V are in order."""
    scaled = logits.double() / sampling.temperature
    if sampling.top_k is None and sampling.top_p is None:
        return scaled.softmax(dim=-1), None
    vocabulary = scaled.shape[-1]
    scaled, ids = scaled.topk(min(sampling.top_k or vocabulary, vocabulary), dim=-1)
    probabilities = scaled.softmax(dim=-1)
    if sampling.top_p is not None:
        probabilities = probabilities * (probabilities.cumsum(dim=-1) - probabilities < sampling.top_p)
    return probabilities, ids
