"""A checkpoint of firstsight as a model of lm-eval's: text alone, without a picture, as the paper asks.

Whatever is read begins with <|endoftext|>, as every training row without a picture does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from os import sched_getaffinity
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from firstsight.errors import DataError, RequestError
from firstsight.evaluate.models.native import NativeModel, load_native_model
from firstsight.model.generate import Sampling, continuation_likelihoods, generate
from firstsight.model.vlm import VLM
from firstsight.site import Progress, ProgressCallback, Site

MODEL_NAME = "firstsight"
_REQUEST_SOURCE = "lm-eval's requests"
DEFAULT_MAX_LENGTH = 2048
"""Most tokens that are read; what stands further left is cut off. Source: the paper's fine-tuning length."""
_BATCH_CONTEXTS = 256
"""Contexts between reports of progress, where no batch size is asked for."""
_DEFAULT_MAX_GEN_TOKS = 256
"""Most tokens of a generated answer where the task does not say, as in lm-eval's own models."""
_MAX_TOKENS_KEYS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the most tokens of an answer; the first that is told counts, as in lm-eval's own models."""
_GENERATION_KEYS = {*_MAX_TOKENS_KEYS, "until", "do_sample", "temperature", "top_k", "top_p", "num_beams"}

TokenIds = list[int]


class _Pair(NamedTuple):
    context: str
    continuation: str


class _GenerationArgs(NamedTuple):
    context: str
    gen_kwargs: Mapping[str, Any]


class LmEvalAdapter(TemplateLM):
    """An `Own` that lm-eval asks. `batch` contexts are read at once (None: what fits), each with all its choices."""

    def __init__(
        self,
        native_model: NativeModel,
        *,
        batch_contexts: int | None,
        max_length: int,
        on_progress: ProgressCallback,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._device = native_model.device
        self._native_model, self._batch_contexts, self._max_length, self._on_progress, self._seed = (
            native_model,
            batch_contexts,
            max_length,
            on_progress,
            seed,
        )

    @property
    def eot_token_id(self) -> int:
        """The id of what ends and begins a text."""
        return self._native_model.tokenizer.special_ids.end

    @property
    def max_length(self) -> int:
        """Most tokens that are read."""
        return self._max_length

    @property
    def max_gen_toks(self) -> int:
        """Most tokens of an answer, where the task does not say."""
        return _DEFAULT_MAX_GEN_TOKS

    @property
    def tokenizer_name(self) -> str:
        """Empty: texts go in as they are, there is no chat template."""
        return ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> TokenIds:
        """Ids of a text, <|endoftext|> before them unless `add_special_tokens` is False."""
        [ids] = self._native_model.tokenizer.encode([string])
        return ids if add_special_tokens is False else [self.eot_token_id, *ids]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would say it.

        Split as lm-eval splits: spaces that end a context belong to the continuation, and both are encoded as one.
        Raises RequestError for words outside a small vocabulary.
        """
        pairs = [_Pair(*request.args) for request in requests]
        split_pairs = [_split_trailing_spaces(pair) for pair in pairs]
        full_texts = [context + continuation for context, continuation in split_pairs]
        self._native_model.check_vocabulary(full_texts, location=_REQUEST_SOURCE)
        texts = list(dict.fromkeys([*(context for context, _ in split_pairs), *full_texts]))
        ids_by_text = dict(zip(texts, self._native_model.tokenizer.encode(texts), strict=True))
        context_ids = [[self.eot_token_id, *ids_by_text[context]] for context, _ in split_pairs]
        continuation_ids = [
            ids_by_text[full_text][len(prefix_ids) - 1 :]
            for full_text, prefix_ids in zip(full_texts, context_ids, strict=True)
        ]
        return self._loglikelihood_tokens(list(zip(pairs, context_ids, continuation_ids, strict=True)))

    def _loglikelihood_tokens(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, requests: Sequence[tuple[_Pair | None, TokenIds, TokenIds]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Equal contexts are read once, together with others of about their length."""
        rows = [
            (self._truncate_context(context_ids, continuation_ids), continuation_ids)
            for _, context_ids, continuation_ids in requests
        ]
        likelihoods: dict[int, tuple[float, bool]] = {}
        for batch in self._batches([context_ids for context_ids, _ in rows]):
            batch_likelihoods = _score_continuations(
                self._native_model.checkpoint.model, [rows[position] for position in batch]
            )
            likelihoods.update(zip(batch, batch_likelihoods, strict=True))
            for position in batch:
                if (pair := requests[position][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", tuple(pair), likelihoods[position])
            self._on_progress(Progress(done=len(likelihoods), total=len(rows), unit="choices"))
        return [likelihoods[position] for position in range(len(rows))]

    def _truncate_context(self, context_ids: TokenIds, continuation_ids: TokenIds) -> TokenIds:
        """The end of a context that still fits; the continuation's last token need not be read."""
        if not continuation_ids:
            raise DataError("a continuation without tokens has no likelihood. Give each choice at least a letter.")
        if len(continuation_ids) > self._max_length:
            raise DataError(
                f"a continuation of {len(continuation_ids)} tokens: wanted at most {self._max_length}. Raise max_length."
            )
        return context_ids[-(self._max_length + 1 - len(continuation_ids)) :]

    def _batches(self, contexts: Sequence[TokenIds]) -> Iterator[list[int]]:
        """Places of contexts, the longest first: what is made ready for them serves the rest. Equal ones together."""
        order = sorted(range(len(contexts)), key=lambda position: (-len(contexts[position]), contexts[position]))
        groups = [list(group) for _, group in groupby(order, key=lambda position: contexts[position])]
        step = self._batch_contexts or _BATCH_CONTEXTS
        for start in range(0, len(groups), step):
            yield [position for group in groups[start : start + step] for position in group]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text, read in windows where it is longer than `max_length`."""
        self._native_model.check_vocabulary(
            [_request_context(request) for request in requests], location=_REQUEST_SOURCE
        )
        windows: list[tuple[None, TokenIds, TokenIds]] = []
        counts: list[int] = []
        for request in requests:
            ids = self.tok_encode(_request_context(request), add_special_tokens=False)
            request_windows = get_rolling_token_windows(ids, self.prefix_token_id, self._max_length, context_len=1)
            windows += [(None, *make_disjoint_window(window)) for window in request_windows]
            counts.append(len(windows) - sum(counts))
        totals = iter([total for total, _ in self._loglikelihood_tokens(windows)])
        return [sum(next(totals) for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model says after each context, up to one of the texts in `until`, which is left out."""
        self._native_model.check_vocabulary(
            [_request_context(request) for request in requests], location=_REQUEST_SOURCE
        )
        answers: dict[int, str] = {}
        request_options = [_GenerationOptions(_GenerationArgs(*request.args).gen_kwargs) for request in requests]
        for _, group in groupby(
            sorted(range(len(request_options)), key=lambda position: request_options[position].group_key),
            lambda position: request_options[position].group_key,
        ):
            positions = list(group)
            group_options = request_options[positions[0]]
            max_tokens = min(group_options.max_tokens, self._max_length - 1)
            prompts = [
                self.tok_encode(_request_context(requests[position]))[-(self._max_length - max_tokens) :]
                for position in positions
            ]
            stops = [
                self.eot_token_id,
                self._native_model.tokenizer.special_ids.answer,
                *self._stop_sequences(group_options.until),
            ]
            generated_ids = generate(
                self._native_model.checkpoint.model,
                prompts,
                stop=stops,
                max_new_tokens=max_tokens,
                sampling=group_options.sampling(self._seed, positions[0]),
            )
            answers.update(
                (position, _truncate_at_stop(self._native_model.tokenizer.decode(ids), group_options.until))
                for position, ids in zip(positions, generated_ids, strict=True)
            )
            self._on_progress(Progress(done=len(answers), total=len(request_options), unit="answers"))
        return [answers[position] for position in range(len(request_options))]

    def _stop_sequences(self, until: Sequence[str]) -> list[TokenIds]:
        """Ids that certainly spell a stop: saying them ends an answer early, the text decides in any case."""
        pairs = zip(until, self._native_model.tokenizer.encode(until), strict=True)
        return [ids for text, ids in pairs if ids and self._native_model.tokenizer.decode(ids) == text]


class _GenerationOptions:
    """How an answer is to be generated, as a task of lm-eval says it; told as its own models understand it."""

    def __init__(self, gen_kwargs: Mapping[str, Any]) -> None:
        until = gen_kwargs.get("until") or []
        self.until = [until] if isinstance(until, str) else [text for text in until if text]
        self.max_tokens = int(
            next(
                (gen_kwargs[key] for key in _MAX_TOKENS_KEYS if gen_kwargs.get(key) is not None), _DEFAULT_MAX_GEN_TOKS
            )
        )
        # A temperature alone asks for sampling, too.
        self._temperature = 0.0 if gen_kwargs.get("do_sample") is False else float(gen_kwargs.get("temperature") or 0.0)
        self._top_k, self._top_p = gen_kwargs.get("top_k") or None, gen_kwargs.get("top_p")
        unknown_keys = gen_kwargs.keys() - _GENERATION_KEYS
        if gen_kwargs.get("num_beams") not in (None, 1):
            unknown_keys |= {"num_beams"}
        if unknown_keys:
            raise RequestError(
                f"generation: wanted until, max_gen_toks and sampling. Got {', '.join(sorted(unknown_keys))}. "
                "Leave it out of the task or of --gen_kwargs."
            )

    @property
    def group_key(self) -> tuple[Any, ...]:
        """Equal for what can be generated together."""
        return repr(self.until), self.max_tokens, self._temperature, repr(self._top_k), repr(self._top_p)

    def sampling(self, seed: int, first: int) -> Sampling | None:
        """None says the likeliest token again and again."""
        if self._temperature == 0:
            return None
        return Sampling(
            temperature=self._temperature, top_k=self._top_k, top_p=self._top_p, seed=seed, first_index=first
        )


@register_model(MODEL_NAME)
class Firstsight(LmEvalAdapter):
    """`lm_eval --model firstsight --model_args path=FOLDER`: a checkpoint that a step of firstsight left."""

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
                "--model_args: wanted path, and max_length and seed if you like. "
                f"Got {', '.join(sorted(unknown_args)) or 'no path'}. Write --model_args path=FOLDER."
            )
        if max_length < 2:
            raise RequestError(
                f"max_length: wanted at least 2 tokens. Got {max_length}. Leave it out for {DEFAULT_MAX_LENGTH}."
            )
        batch_contexts = _parse_batch_size(batch_size)
        site = Site(device=_available_device(device), threads=len(sched_getaffinity(0)))
        super().__init__(
            load_native_model(Path(path), site=site),
            batch_contexts=batch_contexts,
            max_length=max_length,
            on_progress=_ignore_progress,
            seed=seed,
        )


def _parse_batch_size(size: int | str | None) -> int | None:
    """How many contexts are read at once; None is what fits."""
    if size is None or str(size).startswith("auto"):
        return None
    if not str(size).isdecimal() or int(size) == 0:
        raise RequestError(f"--batch_size: wanted auto or a number from 1. Got {size}. Leave it out or write auto.")
    return int(size)


def _available_device(device: str) -> str:
    """`lm_eval` asks for a GPU unless it is told otherwise; where there is none its own models take the CPU, too."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("no GPU here: %s becomes cpu", device)
        return "cpu"
    return device


def _ignore_progress(_: Progress) -> None:
    """lm-eval shows progress of its own."""


def _request_context(request: Instance) -> str:
    [text, *_] = request.args
    return text


def _split_trailing_spaces(pair: _Pair) -> tuple[str, str]:
    context, continuation = pair
    spaces = len(context) - len(context.rstrip())
    return (context[:-spaces], context[-spaces:] + continuation) if spaces else (context, continuation)


def _score_continuations(model: VLM, rows: Sequence[tuple[TokenIds, TokenIds]]) -> list[tuple[float, bool]]:
    likelihoods = continuation_likelihoods(
        model, [context_ids for context_ids, _ in rows], [continuation_ids for _, continuation_ids in rows]
    )
    return [(likelihood.log_likelihood, likelihood.is_greedy) for likelihood in likelihoods]


def _truncate_at_stop(text: str, until: Iterable[str]) -> str:
    for stop in until:
        text = text.split(stop)[0]
    return text
