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
from firstsight.evaluate.speakers.own import Own, own
from firstsight.model.generate import Sampling, choices, generate
from firstsight.model.vlm import VLM
from firstsight.site import Progress, Site, Tell

NAME = "firstsight"
_ASKED = "lm-eval's requests"
LONGEST = 2048
"""Most tokens that are read; what stands further left is cut off. Source: the paper's fine-tuning length."""
_PORTION = 256
"""Contexts between reports of progress, where no batch size is asked for."""
_ANSWER = 256
"""Most tokens of a generated answer where the task does not say, as in lm-eval's own models."""
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the most tokens of an answer; the first that is told counts, as in lm-eval's own models."""
_SAYING = {*_LIMITS, "until", "do_sample", "temperature", "top_k", "top_p", "num_beams"}

Ids = list[int]


class _Pair(NamedTuple):
    context: str
    continuation: str


class _Told(NamedTuple):
    context: str
    how: Mapping[str, Any]


class Adapter(TemplateLM):
    """An `Own` that lm-eval asks. `batch` contexts are read at once (None: what fits), each with all its choices."""

    def __init__(self, who: Own, *, batch: int | None, longest: int, tell: Tell, seed: int = 0) -> None:
        super().__init__()
        self._device = who.device
        self._who, self._batch, self._longest, self._tell, self._seed = who, batch, longest, tell, seed

    @property
    def eot_token_id(self) -> int:
        """The id of what ends and begins a text."""
        return self._who.words.special.end

    @property
    def max_length(self) -> int:
        """Most tokens that are read."""
        return self._longest

    @property
    def max_gen_toks(self) -> int:
        """Most tokens of an answer, where the task does not say."""
        return _ANSWER

    @property
    def tokenizer_name(self) -> str:
        """Empty: texts go in as they are, there is no chat template."""
        return ""

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> Ids:
        """Ids of a text, <|endoftext|> before them unless `add_special_tokens` is False."""
        [ids] = self._who.words.encode([string])
        return ids if add_special_tokens is False else [self.eot_token_id, *ids]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would say it.

        Split as lm-eval splits: spaces that end a context belong to the continuation, and both are encoded as one.
        Raises RequestError for words outside a small vocabulary.
        """
        asked = [_Pair(*request.args) for request in requests]
        parted = [_parted(pair) for pair in asked]
        wholes = [context + continuation for context, continuation in parted]
        self._who.refuse_unknown(wholes, where=_ASKED)
        texts = list(dict.fromkeys([*(context for context, _ in parted), *wholes]))
        ids = dict(zip(texts, self._who.words.encode(texts), strict=True))
        begun = [[self.eot_token_id, *ids[context]] for context, _ in parted]
        more = [ids[whole][len(before) - 1 :] for whole, before in zip(wholes, begun, strict=True)]
        return self._loglikelihood_tokens(list(zip(asked, begun, more, strict=True)))

    def _loglikelihood_tokens(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, requests: Sequence[tuple[_Pair | None, Ids, Ids]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Equal contexts are read once, together with others of about their length."""
        rows = [(self._cut(begun, more), more) for _, begun, more in requests]
        found: dict[int, tuple[float, bool]] = {}
        for portion in self._portions([begun for begun, _ in rows]):
            scored = _scored(self._who.loaded.model, [rows[at] for at in portion])
            found.update(zip(portion, scored, strict=True))
            for at in portion:
                if (pair := requests[at][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", tuple(pair), found[at])
            self._tell(Progress(done=len(found), total=len(rows), unit="choices"))
        return [found[at] for at in range(len(rows))]

    def _cut(self, begun: Ids, more: Ids) -> Ids:
        """The end of a context that still fits; the continuation's last token need not be read."""
        if not more:
            raise DataError("a continuation without tokens has no likelihood. Give each choice at least a letter.")
        if len(more) > self._longest:
            raise DataError(f"a continuation of {len(more)} tokens: wanted at most {self._longest}. Raise max_length.")
        return begun[-(self._longest + 1 - len(more)) :]

    def _portions(self, contexts: Sequence[Ids]) -> Iterator[list[int]]:
        """Places of contexts, the longest first: what is made ready for them serves the rest. Equal ones together."""
        order = sorted(range(len(contexts)), key=lambda at: (-len(contexts[at]), contexts[at]))
        alike = [list(some) for _, some in groupby(order, key=lambda at: contexts[at])]
        step = self._batch or _PORTION
        for start in range(0, len(alike), step):
            yield [at for some in alike[start : start + step] for at in some]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text, read in windows where it is longer than `max_length`."""
        self._who.refuse_unknown([_text(request) for request in requests], where=_ASKED)
        windows: list[tuple[None, Ids, Ids]] = []
        counts: list[int] = []
        for request in requests:
            ids = self.tok_encode(_text(request), add_special_tokens=False)
            some = get_rolling_token_windows(ids, self.prefix_token_id, self._longest, context_len=1)
            windows += [(None, *make_disjoint_window(window)) for window in some]
            counts.append(len(windows) - sum(counts))
        totals = iter([total for total, _ in self._loglikelihood_tokens(windows)])
        return [sum(next(totals) for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model says after each context, up to one of the texts in `until`, which is left out."""
        self._who.refuse_unknown([_text(request) for request in requests], where=_ASKED)
        answers: dict[int, str] = {}
        asked = [_Saying(_Told(*request.args).how) for request in requests]
        for _, some in groupby(sorted(range(len(asked)), key=lambda at: asked[at].key), lambda at: asked[at].key):
            places = list(some)
            how = asked[places[0]]
            limit = min(how.limit, self._longest - 1)
            prompts = [self.tok_encode(_text(requests[at]))[-(self._longest - limit) :] for at in places]
            stops = [self.eot_token_id, self._who.words.special.answer, *self._spelt(how.until)]
            said = generate(
                self._who.loaded.model, prompts, stop=stops, limit=limit, sampling=how.sampling(self._seed, places[0])
            )
            answers.update(
                (at, _until(self._who.words.decode(ids), how.until)) for at, ids in zip(places, said, strict=True)
            )
            self._tell(Progress(done=len(answers), total=len(asked), unit="answers"))
        return [answers[at] for at in range(len(asked))]

    def _spelt(self, until: Sequence[str]) -> list[Ids]:
        """Ids that certainly spell a stop: saying them ends an answer early, the text decides in any case."""
        pairs = zip(until, self._who.words.encode(until), strict=True)
        return [ids for text, ids in pairs if ids and self._who.words.decode(ids) == text]


class _Saying:
    """How an answer is to be generated, as a task of lm-eval says it; told as its own models understand it."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        until = told.get("until") or []
        self.until = [until] if isinstance(until, str) else [text for text in until if text]
        self.limit = int(next((told[key] for key in _LIMITS if told.get(key) is not None), _ANSWER))
        # A temperature alone asks for sampling, too.
        self._temperature = 0.0 if told.get("do_sample") is False else float(told.get("temperature") or 0.0)
        self._top_k, self._top_p = told.get("top_k") or None, told.get("top_p")
        strange = told.keys() - _SAYING
        if told.get("num_beams") not in (None, 1):
            strange |= {"num_beams"}
        if strange:
            raise RequestError(
                f"generation: wanted until, max_gen_toks and sampling. Got {', '.join(sorted(strange))}. "
                "Leave it out of the task or of --gen_kwargs."
            )

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for what can be generated together."""
        return repr(self.until), self.limit, self._temperature, repr(self._top_k), repr(self._top_p)

    def sampling(self, seed: int, first: int) -> Sampling | None:
        """None says the likeliest token again and again."""
        if self._temperature == 0:
            return None
        return Sampling(temperature=self._temperature, top_k=self._top_k, top_p=self._top_p, seed=seed, first=first)


@register_model(NAME)
class Firstsight(Adapter):
    """`lm_eval --model firstsight --model_args path=FOLDER`: a checkpoint that a step of firstsight left."""

    def __init__(
        self,
        path: str | Path = "",
        *,
        device: str = "cpu",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_length: int = LONGEST,
        seed: int = 0,
        **others: object,
    ) -> None:
        if others or not path:
            raise RequestError(
                "--model_args: wanted path, and max_length and seed if you like. "
                f"Got {', '.join(sorted(others)) or 'no path'}. Write --model_args path=FOLDER."
            )
        if max_length < 2:
            raise RequestError(f"max_length: wanted at least 2 tokens. Got {max_length}. Leave it out for {LONGEST}.")
        batch = _batch(batch_size)
        site = Site(device=_there(device), threads=len(sched_getaffinity(0)))
        super().__init__(own(Path(path), site=site), batch=batch, longest=max_length, tell=_silent, seed=seed)


def _batch(size: int | str | None) -> int | None:
    """How many contexts are read at once; None is what fits."""
    if size is None or str(size).startswith("auto"):
        return None
    if not str(size).isdecimal() or int(size) == 0:
        raise RequestError(f"--batch_size: wanted auto or a number from 1. Got {size}. Leave it out or write auto.")
    return int(size)


def _there(device: str) -> str:
    """`lm_eval` asks for a GPU unless it is told otherwise; where there is none its own models take the CPU, too."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("no GPU here: %s becomes cpu", device)
        return "cpu"
    return device


def _silent(_: Progress) -> None:
    """lm-eval shows progress of its own."""


def _text(request: Instance) -> str:
    [text, *_] = request.args
    return text


def _parted(pair: _Pair) -> tuple[str, str]:
    context, continuation = pair
    spaces = len(context) - len(context.rstrip())
    return (context[:-spaces], context[-spaces:] + continuation) if spaces else (context, continuation)


def _scored(model: VLM, rows: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
    found = choices(model, [begun for begun, _ in rows], [more for _, more in rows])
    return [(likelihood.total, likelihood.greedy) for likelihood in found]


def _until(text: str, until: Iterable[str]) -> str:
    for stop in until:
        text = text.split(stop)[0]
    return text
