"""Generation, greedy or sampled, and log-likelihoods of continuations, for batches of prompts of any lengths.

An image belongs to a prompt and replaces the prompt's first I tokens, as in training rows; the ids there are ignored.
The same tensor object for several prompts is one image: it is encoded and prefilled once, like repeated prompts.
Shapes: I tokens per image, W vision width, S pixels per side, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, groupby, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstsight.errors import ModelError, QuantityError
from firstsight.model.inference import InferenceDecoder, KVCache, empty_cache, inference_decoder
from firstsight.model.sampling import (
    UNCHANGED,
    Sampling,
    TokenSampler,
    argmax_sampler,
    inverse_cdf_sampler,
    non_finite_error,
)
from firstsight.model.vlm import VLM
from firstsight.recipe.model import VLMSpec

MAX_ROWS = 64
MAX_BATCH_TOKENS = 1 << 16
"""Maximum number of tokens in a batch, new ones included; a single prompt may have more."""
MAX_LOGIT_STATES = 512
"""Maximum number of hidden states with logits in memory at once."""

PromptImages = Sequence[Tensor | None] | None
"""For each prompt features [I, W], pixels uint8 [S, S, 3] or None; None if no prompt has an image."""


class Likelihood(NamedTuple):
    """Log-likelihood of a continuation, summed over its tokens."""

    log_likelihood: float
    token_count: int
    is_greedy: bool


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
    """The generated tokens of each prompt, in order: greedy without `sampling`, up to `max_new_tokens` or a stop.

    A stop is an id or a sequence of generated ids; it is cut off, the longest if several match. ModelError if logits
    are not finite.
    """
    unique, stops = _deduplicate(model, prompts, images), _stop_sequences(stop)
    answers: list[list[int]] = [[] for _ in prompts]
    if max_new_tokens < 0:
        raise QuantityError(f"max_new_tokens: wanted 0 or more. Got {max_new_tokens}. Give the most new tokens.")
    if not prompts or not max_new_tokens:
        return answers
    decoder = inference_decoder(model.lm, max(map(len, prompts)) + max_new_tokens)
    embeddings = _ImageEmbeddingCache(model, unique.images)
    for groups in unique.batches(max_new_tokens):
        prefill = _prefill(decoder, embeddings, unique, groups, extra_tokens=max_new_tokens)
        prompts_of_rows = [index for index, group in enumerate(groups) for _ in group.rows]
        rows, sampler = [row for group in groups for row in group.rows], argmax_sampler
        if sampling is not None:
            sampler = inverse_cdf_sampler(sampling, rows, max_new_tokens, prefill.last_hidden.device)
        decoded = _decode(decoder, prefill, prompts_of_rows, stops, sampler=sampler, max_new_tokens=max_new_tokens)
        for row, answer in zip(rows, decoded, strict=True):
            answers[row] = answer
    return answers


class ScoredGeneration(NamedTuple):
    """What a model says to one prompt."""

    tokens: list[int]
    """The greedy answer."""
    log_likelihoods: list[float]
    """Of each given continuation followed by any one of the stop tokens, summed over tokens."""
    samples: list[list[int]]
    """For each given key an answer sampled at temperature 1."""


@torch.inference_mode()
def generate_and_score(
    model: VLM,
    prompts: Sequence[Sequence[int]],
    images: PromptImages = None,
    *,
    continuations: Sequence[Sequence[Sequence[int]]],
    sample_keys: Sequence[Sequence[int]],
    stop: Collection[int],
    max_new_tokens: int,
) -> list[ScoredGeneration]:
    """Greedy answers as from `generate`, with the likelihoods of each prompt's continuations and sampled answers.

    All three continue one prefill of the prompt. `sample_keys`: for each prompt, the keys of its samples' random
    streams; a sample depends on its prompt and key only. ModelError if logits are not finite.
    """
    if not prompts:
        return []
    unique, stops = _deduplicate(model, prompts, images), _stop_sequences(stop)
    endings = [[[[*text, token] for token in stop] for text in texts] for texts in continuations]
    extra_tokens = max([max_new_tokens, *(len(ends[0]) for texts in endings for ends in texts)])
    decoder = inference_decoder(model.lm, max(map(len, prompts)) + extra_tokens)
    embeddings = _ImageEmbeddingCache(model, unique.images)
    results = [ScoredGeneration([], [], []) for _ in prompts]
    for groups in unique.batches(extra_tokens):
        prefill = _prefill(decoder, embeddings, unique, groups, extra_tokens=extra_tokens)
        pairs = [(index, row) for index, group in enumerate(groups) for row in group.rows]
        closed = [(index, row, ends) for index, row in pairs for ends in endings[row]]
        for (_, row, _), value in zip(closed, _sums_over_endings(decoder, prefill, closed), strict=True):
            results[row].log_likelihoods.append(value)
        keyed = [(index, row, key) for index, row in pairs for key in (None, *sample_keys[row])]
        for batch in prefill.row_batches(keyed):
            first = batch[0][0]
            branch = prefill if len(batch) == len(keyed) else prefill.copy_rows(list(range(first, batch[-1][0] + 1)))
            sampler = inverse_cdf_sampler(
                UNCHANGED, [key for *_, key in batch], max_new_tokens, prefill.last_hidden.device
            )
            parents = [index - first for index, *_ in batch]
            answers = _decode(decoder, branch, parents, stops, sampler=sampler, max_new_tokens=max_new_tokens)
            for (_, row, key), tokens in zip(batch, answers, strict=True):
                (results[row].tokens.extend if key is None else results[row].samples.append)(tokens)
    return results


def _sums_over_endings(
    decoder: InferenceDecoder, prefill: _Prefill, closed: Sequence[tuple[int, int, list[list[int]]]]
) -> Iterator[float]:
    """For each (prefilled prompt, row, continuations): the logarithm of the continuations' summed likelihood."""
    for batch in prefill.row_batches(closed):
        continuations = [ending for *_, endings in batch for ending in endings]
        contexts = [index for index, _, endings in batch for _ in endings]
        pairs = list(zip(contexts, range(len(continuations)), strict=True))
        totals = [0.0] * len(continuations)
        for position, log_likelihood, _ in _token_log_likelihoods(
            decoder, *_branch_states(decoder, prefill, pairs, continuations)
        ):
            totals[position] += log_likelihood
        remaining = iter(totals)
        yield from (float(np.logaddexp.reduce([next(remaining) for _ in endings])) for *_, endings in batch)


@torch.inference_mode()
def continuation_likelihoods(
    model: VLM, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], images: PromptImages = None
) -> list[Likelihood]:
    """The log-likelihood of each continuation after its context.

    Repeat a context for each of its choices: it is prefilled once, like choices that differ only in the last token.
    ModelError if logits are not finite.
    """
    unique = _deduplicate(model, contexts, images)
    if not contexts:
        return []
    lengths = [len(continuation) for continuation in continuations]
    decoder = inference_decoder(model.lm, max(map(len, contexts)) + max(lengths))
    embeddings = _ImageEmbeddingCache(model, unique.images)
    totals, all_greedy = [0.0] * len(contexts), [True] * len(contexts)
    for groups in unique.batches(max(lengths)):
        prefill = _prefill(decoder, embeddings, unique, groups, extra_tokens=0)
        pairs = [(index, row) for index, group in enumerate(groups) for row in group.rows]
        states, queries = _branch_states(decoder, prefill, pairs, continuations)
        for row, log_likelihood, is_greedy in _token_log_likelihoods(decoder, states, queries):
            totals[row] += log_likelihood
            all_greedy[row] &= is_greedy
    return [Likelihood(*fields) for fields in zip(totals, lengths, all_greedy, strict=True)]


class _PromptGroup(NamedTuple):
    """A distinct prompt and some of the rows of the call that contain it."""

    prompt_index: int
    rows: list[int]


class _UniquePrompts(NamedTuple):
    """The distinct prompts and images of a call."""

    images: list[Tensor]
    image_tokens: int
    prompts: list[tuple[int, tuple[int, ...]]]
    """Index of the image, -1 for none, and the ids after it."""
    prompt_rows: list[list[int]]
    """The rows of the call that contain each prompt."""

    def batches(self, extra_tokens: int) -> Iterator[list[_PromptGroup]]:
        """Groups that are prefilled together: text-only ones first, then by shared image, then by length."""
        uses = [0] * (len(self.images) + 1)
        for image, _ in self.prompts:
            uses[image] += 1
        keys = [(image >= 0, image if uses[image] > 1 else -1, len(text)) for image, text in self.prompts]
        batch: list[_PromptGroup] = []
        num_rows = max_length = 0
        for prompt_index in sorted(range(len(keys)), key=keys.__getitem__):
            image, text = self.prompts[prompt_index]
            length = len(text) + extra_tokens + (self.image_tokens if image >= 0 else 0)
            for start in range(0, len(self.prompt_rows[prompt_index]), MAX_ROWS):
                group = _PromptGroup(prompt_index, self.prompt_rows[prompt_index][start : start + MAX_ROWS])
                rows = num_rows + len(group.rows)
                is_full = rows > MAX_ROWS or rows * max(max_length, length) > MAX_BATCH_TOKENS
                if batch and (is_full or (self.prompts[batch[0].prompt_index][0] >= 0) != (image >= 0)):
                    yield batch
                    batch, num_rows, max_length = [], 0, 0
                batch.append(group)
                num_rows, max_length = num_rows + len(group.rows), max(max_length, length)
        yield batch


def _deduplicate(model: VLM, prompts: Sequence[Sequence[int]], images: PromptImages) -> _UniquePrompts:
    image_tokens = model.spec.image_tokens if isinstance(model.spec, VLMSpec) else 0
    unique_images: dict[int, tuple[int, Tensor]] = {}
    prompt_rows: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    row_images = [None] * len(prompts) if images is None else images
    for row, (prompt, image) in enumerate(zip(prompts, row_images, strict=True)):
        length = 0 if image is None else image_tokens
        if len(prompt) < max(length, 1):
            raise ModelError(
                f"prompt {row}: wanted its image's {length} tokens or, without an image, at least one. "
                f"Got {len(prompt)} tokens. Start it with an id per image token, or a text with <|endoftext|>."
            )
        index = -1 if image is None else unique_images.setdefault(id(image), (len(unique_images), image))[0]
        prompt_rows.setdefault((index, tuple(prompt[length:])), []).append(row)
    distinct = [image for _, image in unique_images.values()]
    return _UniquePrompts(distinct, image_tokens, list(prompt_rows), list(prompt_rows.values()))


class _ImageEmbeddingCache:
    """Embeddings of the last batch's images."""

    def __init__(self, model: VLM, images: list[Tensor]) -> None:
        self._model, self._images, self._embeddings = model, images, dict[int, Tensor]()
        self.is_bidirectional = isinstance(model.spec, VLMSpec) and model.spec.attention == "prefix"

    def embeddings(self, indices: list[int]) -> Float[Tensor, "n I D"]:
        """Embeddings of these images, those of the last batch from the cache."""
        cached = {index: self._embeddings[index] for index in indices if index in self._embeddings}
        if missing := [index for index in indices if index not in cached]:
            weight = self._model.lm.tok_embeddings.weight
            images = torch.stack([self._images[index] for index in missing])
            encoded = self._model.encode_images(images.to(weight.device))
            cached |= zip(missing, encoded.to(weight.dtype).unflatten(0, (len(missing), -1)), strict=True)
        self._embeddings = cached
        return torch.stack([cached[index] for index in indices])


class _Prefill(NamedTuple):
    """The cache of prefilled rows, and the last hidden state of each."""

    cache: KVCache
    last_hidden: Float[Tensor, "B D"]

    def row_batches(self, branches: Sequence[Any]) -> Iterator[Sequence[Any]]:
        """As many branches at a time as may be continued together."""
        size = max(MAX_BATCH_TOKENS // self.cache.capacity, 1)
        return (branches[start : start + size] for start in range(0, len(branches), size))

    def copy_rows(self, rows: list[int]) -> _Prefill:
        """A copy of these rows, which may repeat."""
        return _Prefill(self.cache.copy_rows(rows, self.cache.capacity), self.last_hidden[rows])


def _prefill(
    decoder: InferenceDecoder,
    image_embeddings: _ImageEmbeddingCache,
    unique: _UniquePrompts,
    groups: list[_PromptGroup],
    *,
    extra_tokens: int,
) -> _Prefill:
    """Prefill the groups' prompts, each distinct image once, in a cache with room for `extra_tokens`."""
    prompts = [unique.prompts[group.prompt_index] for group in groups]
    texts = [text for _, text in prompts]
    capacity = max(map(len, texts)) + extra_tokens
    images = sorted({image for image, _ in prompts if image >= 0})
    if not images:
        cache = empty_cache(decoder.lm, len(groups), capacity)
        return _Prefill(cache, _select_columns(_extend_texts(decoder, texts, cache), [len(text) - 1 for text in texts]))
    cache = empty_cache(decoder.lm, len(images), unique.image_tokens)
    x, is_bidirectional = image_embeddings.embeddings(images), image_embeddings.is_bidirectional
    image_states = decoder.extend(x, None, cache, is_bidirectional=is_bidirectional)[:, -1:]
    rows = [images.index(image) for image, _ in prompts]
    cache, hidden = cache.select_rows(rows, unique.image_tokens + capacity), image_states[rows]
    if any(texts):
        hidden = torch.cat((hidden, _extend_texts(decoder, texts, cache)), dim=1)
    return _Prefill(cache, _select_columns(hidden, [len(text) for text in texts]))


def _extend_texts(decoder: InferenceDecoder, texts: Sequence[Sequence[int]], cache: KVCache) -> Float[Tensor, "B T D"]:
    """Hidden states of texts of any lengths, padded on the right, after the cached tokens."""
    lengths = [len(text) for text in texts]
    padded = [[*text, *[0] * (max(lengths) - len(text))] for text in texts]
    tokens = torch.tensor(padded, dtype=torch.int64, device=cache.row_lengths.device)
    return decoder.extend(decoder.lm.embed(tokens), lengths if min(lengths) < max(lengths) else None, cache)


def _select_columns(hidden: Float[Tensor, "B T D"], columns: list[int]) -> Float[Tensor, "B D"]:
    return hidden[range(len(columns)), columns]


def _stop_sequences(stop: Collection[int | Sequence[int]]) -> list[list[int]]:
    sequences = [[entry] if isinstance(entry, int) else list(entry) for entry in stop]
    if not all(sequences):
        raise ModelError("stop: wanted ids or sequences of ids. Got an empty sequence. Leave it out.")
    return sorted(sequences, key=len, reverse=True)


def _strip_stop(answer: list[int], stops: list[list[int]]) -> bool:
    for ids in stops:
        if answer[-1] == ids[-1] and answer[-len(ids) :] == ids:
            del answer[-len(ids) :]
            return True
    return False


def _decode(
    decoder: InferenceDecoder,
    prefill: _Prefill,
    prompts: list[int],
    stops: list[list[int]],
    *,
    sampler: TokenSampler,
    max_new_tokens: int,
) -> list[list[int]]:
    """An answer for each entry of `prompts`, the prefilled row that it continues; answers of one row may differ.

    Equal beginnings of answers to one prompt are one state, which is computed once. `prefill` is overwritten.
    """
    cache, hidden = prefill
    answers: list[list[int]] = [[] for _ in prompts]
    unfinished, states = list(range(len(prompts))), prompts
    is_finite = torch.ones((), dtype=torch.bool)
    for step in range(max_new_tokens):
        logits = decoder.logits(hidden)
        rows = torch.tensor(states, device=hidden.device)
        tokens = sampler(logits, rows, unfinished, step)
        # the greatest logit is NaN if any is
        is_finite = is_finite.to(logits.device) & logits[rows, tokens].isfinite().all()
        branches: dict[tuple[int, int], list[int]] = {}
        for answer, state, token in zip(unfinished, states, tokens.tolist(), strict=True):
            answers[answer].append(token)
            if not _strip_stop(answers[answer], stops):
                branches.setdefault((state, token), []).append(answer)
        if not branches or step + 1 == max_new_tokens:
            break
        cache, next_tokens, next_states = _extend_branches(cache, len(hidden), list(branches))
        unfinished = [answer for group in branches.values() for answer in group]
        states = [state for state, group in zip(next_states, branches.values(), strict=True) for _ in group]
        column = torch.tensor(next_tokens, device=hidden.device)[:, None]
        hidden = decoder.extend(decoder.lm.embed(column), None, cache)[:, 0]
    if not is_finite:
        raise non_finite_error()
    return answers


def _extend_branches(
    cache: KVCache, num_rows: int, branches: list[tuple[int, int]]
) -> tuple[KVCache, list[int], list[int]]:
    """The cache with a row for each branch (row of `cache`, next token), its rows' next tokens, each branch's row.

    Rows that end stay, with any token, until half of the rows ended or one divides, because removing them copies all.
    """
    parents = [row for row, _ in branches]
    if len(set(parents)) < len(parents) or 2 * len(parents) <= num_rows:
        return cache.select_rows(parents, cache.capacity), [token for _, token in branches], list(range(len(parents)))
    tokens = [0] * num_rows
    for row, token in branches:
        tokens[row] = token
    return cache, tokens, parents


class _TokenQuery(NamedTuple):
    """A token whose log-likelihood is needed."""

    row: int
    state_index: int
    """The hidden state that predicts it."""
    token: int


def _branch_states(
    decoder: InferenceDecoder, prefill: _Prefill, pairs: list[tuple[int, int]], continuations: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "states D"], list[_TokenQuery]]:
    """States that predict the continuations' tokens; `pairs`: (index of a prefilled context, row that continues it)."""
    branches: dict[tuple[int, tuple[int, ...]], int] = {}
    queries: list[_TokenQuery] = []
    longest = max(len(continuations[row]) for _, row in pairs) - 1
    for context, row in pairs:
        continuation, first_state = continuations[row], len(prefill.last_hidden)
        if len(continuation) > 1:
            first_state += longest * branches.setdefault((context, tuple(continuation[:-1])), len(branches))
        for position, token in enumerate(continuation):
            queries.append(_TokenQuery(row, context if position == 0 else first_state + position - 1, token))
    if not branches:
        return prefill.last_hidden, queries
    cache = prefill.cache.copy_rows([context for context, _ in branches], prefill.cache.length + longest)
    branch_states = _extend_texts(decoder, [text for _, text in branches], cache).flatten(0, 1)
    return torch.cat((prefill.last_hidden, branch_states)), queries


def _token_log_likelihoods(
    decoder: InferenceDecoder, states: Float[Tensor, "states D"], queries: list[_TokenQuery]
) -> Iterator[tuple[int, float, bool]]:
    """Row, log-likelihood and whether it is the likeliest token, for each query; logits in batches of states."""
    for batch in _query_batches(sorted(queries, key=lambda query: query.state_index)):
        state_indices = sorted({query.state_index for query in batch})
        logit_rows = {state_index: row for row, state_index in enumerate(state_indices)}
        logits = decoder.logits(states[state_indices])
        query_rows, tokens = [logit_rows[query.state_index] for query in batch], [query.token for query in batch]
        log_likelihoods = (logits[query_rows, tokens] - logits.logsumexp(dim=-1)[query_rows]).tolist()
        if not all(map(math.isfinite, log_likelihoods)):
            raise non_finite_error()
        likeliest = logits.argmax(dim=-1)[query_rows].tolist()
        for query, log_likelihood, token in zip(batch, log_likelihoods, likeliest, strict=True):
            yield query.row, log_likelihood, token == query.token


def _query_batches(queries: list[_TokenQuery]) -> Iterator[list[_TokenQuery]]:
    by_state = groupby(queries, key=lambda query: query.state_index)
    while groups := [list(group) for _, group in islice(by_state, MAX_LOGIT_STATES)]:
        yield list(chain.from_iterable(groups))
