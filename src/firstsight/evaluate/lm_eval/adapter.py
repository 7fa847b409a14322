"""A firstsight checkpoint as an lm-eval model for text tasks; it gets no images, as in the paper.

Every input begins with <|endoftext|>, as every training row without an image does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from os import sched_getaffinity
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from firstsight.errors import DataError, RequestError
from firstsight.evaluate.models.native import NativeModel, load_native_model
from firstsight.model.generate import continuation_likelihoods, generate
from firstsight.model.sampling import Sampling
from firstsight.plan.verification import check_stored_folder
from firstsight.site import Progress, ProgressCallback, Site

MODEL_NAME = "firstsight"
DEFAULT_MAX_LENGTH = 2048
"""Tokens of an input; longer inputs are truncated at the left. Source: the paper's fine-tuning length."""
_DEFAULT_BATCH_CONTEXTS = 256
"""Distinct contexts in a call of the model if no batch size is given."""
_DEFAULT_MAX_GEN_TOKS = 256
"""Tokens of a generated answer if the task has no limit, as in lm-eval's own models."""
_GENERATION_KEYS = frozenset(("until", "max_gen_toks", "do_sample", "temperature", "top_k", "top_p", "num_beams"))

TokenIds = list[int]


class LmEvalAdapter(TemplateLM):
    """A NativeModel behind lm-eval's interface.

    `batch_contexts` distinct contexts are computed in a call, each with all its choices; the model may split the call.
    """

    def __init__(
        self,
        native_model: NativeModel,
        *,
        on_progress: ProgressCallback,
        batch_contexts: int | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._device = native_model.device
        self._native_model, self._tokenizer = native_model, native_model.tokenizer
        self._batch_contexts, self._on_progress = batch_contexts, on_progress
        self.max_length, self._seed = max_length, seed

    @property
    def eot_token_id(self) -> int:
        """The id of <|endoftext|>."""
        return self._tokenizer.special_ids.end

    @property
    def tokenizer_name(self) -> str:
        """Empty, since there is no chat template."""
        return ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> TokenIds:
        """Token ids of a text, after <|endoftext|> unless `add_special_tokens` is False."""
        [ids] = self._tokenizer.encode([string])
        return ids if add_special_tokens is False else [self.eot_token_id, *ids]

    def _check_vocabulary(self, texts: Sequence[str]) -> None:
        self._native_model.check_vocabulary(texts, location="lm-eval's requests")

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding would produce it) of each request's continuation.

        Texts are split as in lm-eval: context and continuation are encoded together, and white space at the end of the
        context belongs to the continuation. Raises RequestError for words outside a small vocabulary.
        """
        pairs: list[tuple[str, str]] = [request.args for request in requests]  # pyright: ignore[reportAssignmentType]
        full_texts = [context + continuation for context, continuation in pairs]
        self._check_vocabulary(full_texts)
        texts = list(dict.fromkeys([*(context.rstrip() for context, _ in pairs), *full_texts]))
        ids = dict(zip(texts, self._tokenizer.encode(texts), strict=True))
        contexts = [ids[context.rstrip()] for context, _ in pairs]
        rows = zip(pairs, contexts, full_texts, strict=True)
        token_requests = [(pair, [self.eot_token_id, *start], ids[text][len(start) :]) for pair, start, text in rows]
        return self._loglikelihood_tokens(token_requests)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str] | None, TokenIds, TokenIds]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Equal contexts are computed once, in batches of contexts of similar length."""
        contexts = [self._truncate_context(context, continuation) for _, context, continuation in requests]
        results: dict[int, tuple[float, bool]] = {}
        for batch in self._batches(contexts):
            inputs, continuations = [contexts[index] for index in batch], [requests[index][2] for index in batch]
            likelihoods = continuation_likelihoods(self._native_model.checkpoint.model, inputs, continuations)
            for position, likelihood in zip(batch, likelihoods, strict=True):
                results[position] = (likelihood.log_likelihood, likelihood.is_greedy)
                if (pair := requests[position][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", pair, results[position])
            self._on_progress(Progress(done=len(results), total=len(requests), unit="choices"))
        return [results[position] for position in range(len(requests))]

    def _truncate_context(self, context: TokenIds, continuation: TokenIds) -> TokenIds:
        """The last tokens of a context that fit before the continuation, whose last token is not an input."""
        count, limit = len(continuation), self.max_length
        if not count:
            raise DataError("a continuation without tokens has no likelihood. Give each choice at least a letter.")
        if count > limit:
            raise DataError(f"a continuation of {count} tokens: wanted at most {limit}. Raise max_length.")
        return context[-(limit + 1 - count) :]

    def _batches(self, contexts: Sequence[TokenIds]) -> Iterator[list[int]]:
        """Positions of contexts, equal ones together; the longest first, so that buffers fit all later batches."""
        order = sorted(range(len(contexts)), key=lambda position: (-len(contexts[position]), contexts[position]))
        groups = [list(group) for _, group in groupby(order, key=lambda position: contexts[position])]
        step = self._batch_contexts or _DEFAULT_BATCH_CONTEXTS
        for start in range(0, len(groups), step):
            yield [position for group in groups[start : start + step] for position in group]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text, in windows if it is longer than `max_length`."""
        texts = [str(request.args[0]) for request in requests]
        self._check_vocabulary(texts)
        windows: list[tuple[None, TokenIds, TokenIds]] = []
        owners: list[int] = []
        for position, text in enumerate(texts):
            ids = self.tok_encode(text, add_special_tokens=False)
            text_windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1)
            windows += [(None, *make_disjoint_window(window)) for window in text_windows]
            owners += [position] * (len(windows) - len(owners))
        totals = [0.0] * len(texts)
        for position, (log_likelihood, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[position] += log_likelihood
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """A generated answer for each context, cut before the first of the texts in `until`."""
        contexts = [str(request.args[0]) for request in requests]
        self._check_vocabulary(contexts)
        groups: dict[tuple[tuple[str, ...], int, Sampling | None], list[int]] = {}  # requests with equal options
        for position, request in enumerate(requests):
            _, gen_kwargs = request.args  # pyright: ignore[reportAssignmentType]
            groups.setdefault(_generation_options(gen_kwargs, seed=self._seed), []).append(position)
        answers: dict[int, str] = {}
        for (until, max_tokens, sampling), positions in groups.items():
            max_tokens = min(max_tokens, self.max_length - 1)
            limit = self.max_length - max_tokens
            generated = generate(
                self._native_model.checkpoint.model,
                [self.tok_encode(contexts[position])[-limit:] for position in positions],
                stop=self._stop_tokens(until),
                max_new_tokens=max_tokens,
                sampling=sampling and replace(sampling, first_index=positions[0]),
            )
            for position, ids in zip(positions, generated, strict=True):
                text = self._tokenizer.decode(ids)
                for stop in until:
                    text = text.split(stop)[0]
                answers[position] = text
            self._on_progress(Progress(done=len(answers), total=len(requests), unit="answers"))
        return [answers[position] for position in range(len(requests))]

    def _stop_tokens(self, until: Sequence[str]) -> list[int | TokenIds]:
        """Tokens and token sequences that end generation early; the text is cut at `until` in any case."""
        pairs = zip(until, self._tokenizer.encode(until), strict=True)
        sequences = [ids for text, ids in pairs if ids and self._tokenizer.decode(ids) == text]
        return [self.eot_token_id, self._tokenizer.special_ids.answer, *sequences]


def _generation_options(gen_kwargs: Mapping[str, Any], *, seed: int) -> tuple[tuple[str, ...], int, Sampling | None]:
    """(until, maximum tokens, sampling or None for greedy decoding), as in lm-eval; RequestError for other options."""
    present = {key: value for key, value in gen_kwargs.items() if value is not None}
    options: dict[str, Any] = dict(normalize_gen_kwargs(present, default_max_gen_toks=_DEFAULT_MAX_GEN_TOKS))
    unknown = options.keys() - _GENERATION_KEYS
    if options.get("num_beams", 1) != 1:
        unknown |= {"num_beams"}
    if unknown:
        raise RequestError(
            f"generation: wanted until, max_gen_toks and sampling options. Got {', '.join(sorted(unknown))}. "
            "Leave it out of the task or of --gen_kwargs."
        )
    sampling = None
    if options["do_sample"] and (temperature := options.get("temperature", 0.0)) != 0:
        top_k, top_p = options.get("top_k") or None, options.get("top_p")
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return tuple(text for text in options["until"] if text), options["max_gen_toks"], sampling


@register_model(MODEL_NAME)
class Firstsight(LmEvalAdapter):
    """`lm_eval --model firstsight --model_args path=FOLDER`: the checkpoint in a training step's output folder.

    DamagedResult where it is one of a store and not as it was published.
    """

    def __init__(
        self,
        path: str | Path = "",
        *,
        device: str = "cpu",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        seed: int = 0,
        **unknown_args: object,
    ) -> None:
        if unknown_args or not path:
            raise RequestError(
                "--model_args: wanted path, and optionally max_length and seed. "
                f"Got {', '.join(sorted(unknown_args)) or 'no path'}. Write --model_args path=FOLDER."
            )
        if max_length < 2:
            remedy = f"Leave it out to use {DEFAULT_MAX_LENGTH}."
            raise RequestError(f"max_length: wanted at least 2 tokens. Got {max_length}. {remedy}")
        batch_contexts = _parse_batch_size(batch_size)
        if device.startswith("cuda") and not torch.cuda.is_available():
            # `lm_eval` requests a GPU by default; its own models fall back to the CPU too
            logging.getLogger(__name__).warning("no GPU on this machine: using cpu instead of %s", device)
            device = "cpu"
        super().__init__(
            load_native_model(
                check_stored_folder(Path(path)), site=Site(device=device, threads=len(sched_getaffinity(0)))
            ),
            batch_contexts=batch_contexts,
            max_length=max_length,
            on_progress=lambda _: None,  # lm-eval has its own progress bars
            seed=seed,
        )


def _parse_batch_size(size: int | str | None) -> int | None:
    if size is None or str(size).startswith("auto"):
        return None
    if not str(size).isdecimal() or int(size) == 0:
        raise RequestError(f"--batch_size: wanted auto or a number from 1. Got {size}. Leave it out or use auto.")
    return int(size)
