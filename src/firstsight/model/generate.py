"""Answers to prompts, greedy or sampled, and the log-likelihood of given continuations; prompts may be ragged.

An image belongs to a prompt and takes the places of that prompt's first I tokens, as in training rows; which ids
stand there does not matter. The same tensor given for several prompts is one image: it is encoded and read once, and
so is a prompt that is given several times.
Shapes: I tokens an image, W vision width, S pixels a side, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstsight.errors import ModelError, QuantityError
from firstsight.model.inference import InferenceDecoder, KVCache, empty_cache, inference_decoder
from firstsight.model.vlm import VLM
from firstsight.recipe.model import VLMSpec

MAX_ROWS = 64
"""Most rows read at once."""
MAX_BATCH_TOKENS = 1 << 16
"""Most tokens of all rows read at once, those to come included; a single prompt may have more."""
MAX_LOGIT_STATES = 512
"""Hidden states whose logits are held at once."""

PromptImages = Sequence[Tensor | None] | None
"""One entry a prompt: features [I, W] or pixels uint8 [S, S, 3], or None; None alone for prompts without any."""
TokenSampler = Callable[[Float[Tensor, "B V"], Int[Tensor, " B"], int], Int[Tensor, " B"]]
"""(logits, the rows they are of, step): the next token of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn from softmax(logits / temperature), cut to the likeliest.

    What prompt n draws hangs on (seed, first + n) and the step alone, not on what else is asked with it.
    """

    temperature: float
    top_k: int | None = None
    """Only the k likeliest tokens."""
    top_p: float | None = None
    """Only the fewest likeliest tokens that hold this share, of what top_k left."""
    seed: int
    first_index: int = 0
    """Number of the call's first prompt, where one list of prompts is asked in several calls."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise QuantityError(f"temperature: wanted more than 0. Got {self.temperature}. For 0 give no sampling.")
        if self.top_k is not None and self.top_k < 1:
            raise QuantityError(f"top_k: wanted at least 1 token. Got {self.top_k}. Give None to keep all.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise QuantityError(f"top_p: wanted a share above 0, up to 1. Got {self.top_p}. Give None to keep all.")
        if self.first_index < 0:
            raise QuantityError(
                f"first_index: wanted a prompt's number, from 0. Got {self.first_index}. Count from the first one."
            )


class Likelihood(NamedTuple):
    """Log-likelihood of a continuation, summed over its tokens, and how many they are."""

    log_likelihood: float
    token_count: int
    is_greedy: bool
    """Whether greedy decoding would say it."""


@torch.inference_mode()
def generate(
    model: VLM,
    prompts: Sequence[Sequence[int]],
    images: PromptImages = None,
    *,
    stop: Collection[int | Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """An answer a prompt, in order: the likeliest token again and again, or drawn ones, up to `limit` or a stop.

    A stop is an id or a sequence of generated ids; it is left out of the answer, the longest where several end.
    """
    unique_prompts, stops = _deduplicate(model, prompts, images), _StopSequences(stop)
    answers: list[list[int]] = [[] for _ in prompts]
    if max_new_tokens < 0:
        raise QuantityError(f"limit: wanted 0 or more tokens. Got {max_new_tokens}. Give the most tokens of an answer.")
    if not prompts or not max_new_tokens:
        return answers
    decoder, image_embeddings = (
        inference_decoder(model.lm, max(map(len, prompts)) + max_new_tokens),
        _ImageEmbeddingCache(model, unique_prompts.images),
    )
    for groups in unique_prompts.batches(max_new_tokens):
        prefill = _prefill(decoder, image_embeddings, unique_prompts, groups, extra_tokens=max_new_tokens)
        rows = [row for group in groups for row in group.rows]
        prefill = prefill.select_rows([index for index, group in enumerate(groups) for _ in group.rows])
        sampler = (
            _argmax_sampler
            if sampling is None
            else _inverse_cdf_sampler(sampling, rows, max_new_tokens, prefill.last_hidden.device)
        )
        for row, answer in zip(
            rows, _decode(decoder, prefill, stops, sampler=sampler, max_new_tokens=max_new_tokens), strict=True
        ):
            answers[row] = answer
    return answers


@torch.inference_mode()
def continuation_likelihoods(
    model: VLM,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    images: PromptImages = None,
) -> list[Likelihood]:
    """How likely each context makes its continuation; repeat a context for each of its choices: it is read once.

    Choices of a context that differ in their last token alone are read once, too.
    """
    unique_prompts = _deduplicate(model, contexts, images)
    if not contexts:
        return []
    longest_continuation = max(len(continuation) for continuation in continuations)
    decoder, image_embeddings = (
        inference_decoder(model.lm, max(map(len, contexts)) + longest_continuation),
        _ImageEmbeddingCache(model, unique_prompts.images),
    )
    totals, all_greedy = [0.0] * len(contexts), [True] * len(contexts)
    for groups in unique_prompts.batches(longest_continuation):
        prefill = _prefill(decoder, image_embeddings, unique_prompts, groups, extra_tokens=0)
        pairs = [(index, row) for index, group in enumerate(groups) for row in group.rows]
        states, queries = _branch_states(decoder, prefill, pairs, continuations)
        for row, log_likelihood, is_greedy in _token_log_likelihoods(decoder, states, queries):
            totals[row] += log_likelihood
            all_greedy[row] &= is_greedy
    lengths = [len(continuation) for continuation in continuations]
    return [Likelihood(*fields) for fields in zip(totals, lengths, all_greedy, strict=True)]


class _PromptGroup(NamedTuple):
    """A distinct prompt and some of the rows that asked for it."""

    prompt_index: int
    rows: list[int]


class _UniquePrompts(NamedTuple):
    """Prompts with everything that is said twice said once."""

    images: list[Tensor]
    image_tokens: int
    """Tokens that a picture takes."""
    prompts: list[tuple[int, tuple[int, ...]]]
    """Number of the picture, -1 for none, and the text behind it."""
    prompt_rows: list[list[int]]
    """Which of the caller's rows ask for each."""

    def batches(self, extra_tokens: int) -> Iterator[list[_PromptGroup]]:
        """Units that are read at once: alike in length, those of one picture side by side, the blind ones first."""
        image_uses = [0] * (len(self.images) + 1)
        for image_index, _ in self.prompts:
            image_uses[image_index] += 1
        sort_keys = [
            (image_index >= 0, image_index if image_uses[image_index] > 1 else -1, len(text))
            for image_index, text in self.prompts
        ]
        batch: list[_PromptGroup] = []
        num_rows = max_length = 0
        for prompt_index in sorted(range(len(sort_keys)), key=sort_keys.__getitem__):
            image_index, text = self.prompts[prompt_index]
            for start in range(0, len(self.prompt_rows[prompt_index]), MAX_ROWS):
                group = _PromptGroup(prompt_index, self.prompt_rows[prompt_index][start : start + MAX_ROWS])
                length = len(text) + extra_tokens + (self.image_tokens if image_index >= 0 else 0)
                is_full = (
                    num_rows + len(group.rows) > MAX_ROWS
                    or (num_rows + len(group.rows)) * max(max_length, length) > MAX_BATCH_TOKENS
                )
                if batch and (is_full or (self.prompts[batch[0].prompt_index][0] >= 0) != (image_index >= 0)):
                    yield batch
                    batch, num_rows, max_length = [], 0, 0
                batch.append(group)
                num_rows, max_length = num_rows + len(group.rows), max(max_length, length)
        yield batch


def _deduplicate(model: VLM, prompts: Sequence[Sequence[int]], images: PromptImages) -> _UniquePrompts:
    image_tokens = model.spec.image_tokens if isinstance(model.spec, VLMSpec) else 0
    unique_images: list[Tensor] = []
    image_indices: dict[int, int] = {}
    rows_by_prompt: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    row_images = [None] * len(prompts) if images is None else images
    for row, (prompt, image) in enumerate(zip(prompts, row_images, strict=True)):
        image_length = 0 if image is None else image_tokens
        if len(prompt) < max(image_length, 1):
            raise ModelError(
                f"prompt {row}: wanted its image's {image_length} places or, without an image, a token. Got {len(prompt)} "
                "tokens. Begin it with them, a text with <|endoftext|>."
            )
        image_index = -1
        if image is not None:
            image_index = image_indices.setdefault(id(image), len(unique_images))
            if image_index == len(unique_images):
                unique_images.append(image)
        rows_by_prompt.setdefault((image_index, tuple(prompt[image_length:])), []).append(row)
    return _UniquePrompts(unique_images, image_tokens, list(rows_by_prompt), list(rows_by_prompt.values()))


class _ImageEmbeddingCache:
    """Image vectors, held as long as the batch that asked for them last."""

    def __init__(self, model: VLM, images: list[Tensor]) -> None:
        self._model, self._images = model, images
        self._embeddings: dict[int, Tensor] = {}
        self.is_bidirectional = isinstance(model.spec, VLMSpec) and model.spec.attention == "prefix"
        """Whether an image's tokens see each other in both directions."""

    def embeddings(self, image_indices: list[int]) -> Float[Tensor, "n I D"]:
        """Of these images; what was seen for the batch before is not seen again."""
        missing_indices = [index for index in image_indices if index not in self._embeddings]
        embeddings = {index: self._embeddings[index] for index in image_indices if index in self._embeddings}
        if missing_indices:
            weight = self._model.lm.tok_embeddings.weight
            new_embeddings = self._model.encode_images(
                torch.stack([self._images[index] for index in missing_indices]).to(weight.device)
            )
            embeddings.update(
                zip(
                    missing_indices,
                    new_embeddings.to(weight.dtype).unflatten(0, (len(missing_indices), -1)),
                    strict=True,
                )
            )
        self._embeddings = embeddings
        return torch.stack([embeddings[index] for index in image_indices])


class _Prefill(NamedTuple):
    """Rows that were read: what the cache holds, and each one's last hidden state."""

    cache: KVCache
    last_hidden: Float[Tensor, "B D"]

    def select_rows(self, rows: list[int]) -> _Prefill:
        """These rows, as often as named."""
        return _Prefill(self.cache.select_rows(rows, self.cache.capacity), self.last_hidden[rows])


def _prefill(
    decoder: InferenceDecoder,
    image_embeddings: _ImageEmbeddingCache,
    unique_prompts: _UniquePrompts,
    groups: list[_PromptGroup],
    *,
    extra_tokens: int,
) -> _Prefill:
    """The units' prompts, each distinct image read once, with room for `more` tokens."""
    prompts = [unique_prompts.prompts[group.prompt_index] for group in groups]
    texts = [text for _, text in prompts]
    capacity = max(map(len, texts)) + extra_tokens
    image_indices = sorted({image_index for image_index, _ in prompts if image_index >= 0})
    if not image_indices:
        cache = empty_cache(decoder.lm, len(groups), capacity)
        return _Prefill(cache, _select_columns(_extend_texts(decoder, texts, cache), [len(text) - 1 for text in texts]))
    cache = empty_cache(decoder.lm, len(image_indices), unique_prompts.image_tokens)
    image_states = decoder.extend(
        image_embeddings.embeddings(image_indices), None, cache, is_bidirectional=image_embeddings.is_bidirectional
    )[:, -1:]
    image_rows = [image_indices.index(image_index) for image_index, _ in prompts]
    cache, hidden = cache.select_rows(image_rows, unique_prompts.image_tokens + capacity), image_states[image_rows]
    if any(texts):
        hidden = torch.cat((hidden, _extend_texts(decoder, texts, cache)), dim=1)
    return _Prefill(cache, _select_columns(hidden, [len(text) for text in texts]))


def _extend_texts(decoder: InferenceDecoder, texts: Sequence[Sequence[int]], cache: KVCache) -> Float[Tensor, "B T D"]:
    """Texts of any lengths, padded on the right, after what the cache holds."""
    lengths = [len(text) for text in texts]
    padded_texts = [[*text, *[0] * (max(lengths) - len(text))] for text in texts]
    tokens = torch.tensor(padded_texts, dtype=torch.int64, device=cache.row_lengths.device)
    return decoder.extend(decoder.lm.embed(tokens), lengths if min(lengths) < max(lengths) else None, cache)


def _select_columns(hidden: Float[Tensor, "B T D"], columns: list[int]) -> Float[Tensor, "B D"]:
    return hidden[range(len(columns)), columns]


class _StopSequences:
    """What ends an answer."""

    def __init__(self, stop: Collection[int | Sequence[int]]) -> None:
        self._by_last: dict[int, list[list[int]]] = {}
        for entry in stop:
            ids = [entry] if isinstance(entry, int) else list(entry)
            if not ids:
                raise ModelError("stop: wanted ids or sequences of ids. Got an empty sequence. Leave it out.")
            self._by_last.setdefault(ids[-1], []).append(ids)
        for sequences in self._by_last.values():
            sequences.sort(key=len, reverse=True)

    def strip_stop(self, answer: list[int]) -> bool:
        """Whether the answer ends in a stop, which is then cut off."""
        for ids in self._by_last.get(answer[-1], ()):
            if answer[-len(ids) :] == ids:
                del answer[-len(ids) :]
                return True
        return False


def _decode(
    decoder: InferenceDecoder, prefill: _Prefill, stops: _StopSequences, *, sampler: TokenSampler, max_new_tokens: int
) -> list[list[int]]:
    """The rows' answers; rows that ended leave the batch when half of it has."""
    cache, hidden = prefill
    answers: list[list[int]] = [[] for _ in hidden]
    rows, unfinished = list(range(len(answers))), set(range(len(answers)))
    prompt_indices = torch.arange(len(rows), device=hidden.device)
    for step in range(max_new_tokens):
        tokens = sampler(decoder.logits(hidden), prompt_indices, step)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if row in unfinished:
                answers[row].append(token)
                if stops.strip_stop(answers[row]):
                    unfinished.discard(row)
        if not unfinished or step + 1 == max_new_tokens:
            break
        if 2 * len(unfinished) <= len(rows):
            remaining = [index for index, row in enumerate(rows) if row in unfinished]
            cache, rows = cache.select_rows(remaining, cache.capacity), [rows[index] for index in remaining]
            tokens, prompt_indices = tokens[remaining], prompt_indices[remaining]
        hidden = decoder.extend(decoder.lm.embed(tokens[:, None]), None, cache)[:, 0]
    return answers


def _argmax_sampler(logits: Tensor, prompt_indices: Tensor, step: int) -> Tensor:
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(axis=-1))  # nine times as fast as torch's at 50,000 words
    return logits.argmax(dim=-1)


def _inverse_cdf_sampler(
    sampling: Sampling, prompt_rows: list[int], max_new_tokens: int, device: torch.device
) -> TokenSampler:
    """Picks by inverse distribution: each row's uniform numbers come from a counter keyed by seed and prompt number."""
    keys = [[sampling.seed % 2**64, sampling.first_index + prompt_row] for prompt_row in prompt_rows]
    row_uniforms = [
        np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64))).random(max_new_tokens) for key in keys
    ]
    uniform = torch.from_numpy(np.stack(row_uniforms, axis=1)).to(device)

    def sample(logits: Tensor, prompt_indices: Tensor, step: int) -> Tensor:
        probabilities, ids = sampling_distribution(logits, sampling)
        cumulative = probabilities.cumsum(dim=-1)
        thresholds = uniform[step, prompt_indices][:, None] * cumulative[:, -1:]
        columns = torch.searchsorted(cumulative, thresholds, right=True).clamp(max=cumulative.shape[-1] - 1)
        return columns[:, 0] if ids is None else ids.gather(1, columns)[:, 0]

    return sample


def sampling_distribution(
    logits: Float[Tensor, "B V"], sampling: Sampling
) -> tuple[Float[Tensor, "B kept"], Int[Tensor, "B kept"] | None]:
    """What tokens are drawn by, up to a factor, and their ids, likeliest first; ids None where they stand in order."""
    scaled_logits = logits.double() / sampling.temperature
    if sampling.top_k is None and sampling.top_p is None:
        return scaled_logits.softmax(dim=-1), None
    scaled_logits, ids = scaled_logits.topk(
        min(sampling.top_k or scaled_logits.shape[-1], scaled_logits.shape[-1]), dim=-1
    )
    probabilities = scaled_logits.softmax(dim=-1)
    if sampling.top_p is not None:
        probabilities = probabilities * (probabilities.cumsum(dim=-1) - probabilities < sampling.top_p)
    return probabilities, ids


class _TokenQuery(NamedTuple):
    """A token whose log-likelihood is asked for."""

    row: int
    state_index: int
    """Which hidden state predicts it."""
    token: int


def _branch_states(
    decoder: InferenceDecoder, prefill: _Prefill, pairs: list[tuple[int, int]], continuations: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "states D"], list[_TokenQuery]]:
    """States that predict the continuations' tokens; a pair is a read context and a row that continues it."""
    branches: dict[tuple[int, tuple[int, ...]], int] = {}
    queries: list[_TokenQuery] = []
    longest = max(len(continuations[row]) for _, row in pairs) - 1
    for context_index, row in pairs:
        continuation = continuations[row]
        first_state = len(prefill.last_hidden)
        if len(continuation) > 1:
            first_state += longest * branches.setdefault((context_index, tuple(continuation[:-1])), len(branches))
        for position, token in enumerate(continuation):
            queries.append(_TokenQuery(row, context_index if position == 0 else first_state + position - 1, token))
    if not branches:
        return prefill.last_hidden, queries
    cache = prefill.cache.select_rows([context_index for context_index, _ in branches], prefill.cache.length + longest)
    return torch.cat(
        (prefill.last_hidden, _extend_texts(decoder, [text for _, text in branches], cache).flatten(0, 1))
    ), queries


def _token_log_likelihoods(
    decoder: InferenceDecoder, states: Float[Tensor, "states D"], queries: list[_TokenQuery]
) -> Iterator[tuple[int, float, bool]]:
    """Row and log-likelihood of every wanted token, and if it is the likeliest; logits of `STATES` states at a time."""
    for batch in _query_batches(sorted(queries, key=lambda query: query.state_index)):
        state_indices = sorted({query.state_index for query in batch})
        logit_rows = {state_index: logit_row for logit_row, state_index in enumerate(state_indices)}
        logits = decoder.logits(states[state_indices])
        query_rows, tokens = [logit_rows[query.state_index] for query in batch], [query.token for query in batch]
        log_likelihoods = logits[query_rows, tokens] - logits.logsumexp(dim=-1)[query_rows]
        argmax_tokens = logits.argmax(dim=-1)[query_rows].tolist()
        yield from zip(
            (query.row for query in batch),
            log_likelihoods.tolist(),
            [
                predicted_token == target_token
                for predicted_token, target_token in zip(argmax_tokens, tokens, strict=True)
            ],
            strict=True,
        )


def _query_batches(queries: list[_TokenQuery]) -> Iterator[list[_TokenQuery]]:
    """Cut where a new state would be one too many."""
    batch: list[_TokenQuery] = []
    num_states = 0
    for query in queries:
        is_new_state = not batch or query.state_index != batch[-1].state_index
        if is_new_state and num_states == MAX_LOGIT_STATES:
            yield batch
            batch, num_states = [], 0
        num_states += is_new_state
        batch.append(query)
    if batch:
        yield batch
