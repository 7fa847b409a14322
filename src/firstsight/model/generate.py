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
from firstsight.model.cache import Cache, Reader, empty, reader
from firstsight.model.vlm import VLM
from firstsight.recipe.model import VLMSpec

ROWS = 64
"""Most rows read at once."""
COLUMNS = 1 << 16
"""Most tokens of all rows read at once, those to come included; a single prompt may have more."""
STATES = 512
"""Hidden states whose logits are held at once."""

Images = Sequence[Tensor | None] | None
"""One entry a prompt: features [I, W] or pixels uint8 [S, S, 3], or None; None alone for prompts without any."""
Pick = Callable[[Float[Tensor, "B V"], Int[Tensor, " B"], int], Int[Tensor, " B"]]
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
    first: int = 0
    """Number of the call's first prompt, where one list of prompts is asked in several calls."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise QuantityError(f"temperature: wanted more than 0. Got {self.temperature}. For 0 give no sampling.")
        if self.top_k is not None and self.top_k < 1:
            raise QuantityError(f"top_k: wanted at least 1 token. Got {self.top_k}. Give None to keep all.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise QuantityError(f"top_p: wanted a share above 0, up to 1. Got {self.top_p}. Give None to keep all.")
        if self.first < 0:
            raise QuantityError(f"first: wanted a prompt's number, from 0. Got {self.first}. Count from the first one.")


class Likelihood(NamedTuple):
    """Log-likelihood of a continuation, summed over its tokens, and how many they are."""

    total: float
    tokens: int
    greedy: bool
    """Whether greedy decoding would say it."""


@torch.inference_mode()
def generate(
    model: VLM,
    prompts: Sequence[Sequence[int]],
    images: Images = None,
    *,
    stop: Collection[int | Sequence[int]],
    limit: int,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """An answer a prompt, in order: the likeliest token again and again, or drawn ones, up to `limit` or a stop.

    A stop is an id or a sequence of generated ids; it is left out of the answer, the longest where several end.
    """
    asked, stops = _asked(model, prompts, images), _Stops(stop)
    answers: list[list[int]] = [[] for _ in prompts]
    if limit < 0:
        raise QuantityError(f"limit: wanted 0 or more tokens. Got {limit}. Give the most tokens of an answer.")
    if not prompts or not limit:
        return answers
    ready, eyes = reader(model.lm, max(map(len, prompts)) + limit), _Eyes(model, asked.pictures)
    for units in asked.batches(limit):
        begun = _begin(ready, eyes, asked, units, more=limit)
        rows = [row for unit in units for row in unit.rows]
        begun = begun.take([at for at, unit in enumerate(units) for _ in unit.rows])
        pick = _likeliest if sampling is None else _draws(sampling, rows, limit, begun.last.device)
        for row, answer in zip(rows, _decode(ready, begun, stops, pick=pick, limit=limit), strict=True):
            answers[row] = answer
    return answers


@torch.inference_mode()
def choices(
    model: VLM,
    contexts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[int]],
    images: Images = None,
) -> list[Likelihood]:
    """How likely each context makes its continuation; repeat a context for each of its choices: it is read once.

    Choices of a context that differ in their last token alone are read once, too.
    """
    asked = _asked(model, contexts, images)
    if not contexts:
        return []
    more = max(len(continuation) for continuation in continuations)
    ready, eyes = reader(model.lm, max(map(len, contexts)) + more), _Eyes(model, asked.pictures)
    totals, greedy = [0.0] * len(contexts), [True] * len(contexts)
    for units in asked.batches(more):
        begun = _begin(ready, eyes, asked, units, more=0)
        pairs = [(at, row) for at, unit in enumerate(units) for row in unit.rows]
        states, wanted = _branch(ready, begun, pairs, continuations)
        for row, likely, best in _likely(ready, states, wanted):
            totals[row] += likely
            greedy[row] &= best
    lengths = [len(continuation) for continuation in continuations]
    return [Likelihood(*found) for found in zip(totals, lengths, greedy, strict=True)]


class _Unit(NamedTuple):
    """A distinct prompt and some of the rows that asked for it."""

    prompt: int
    rows: list[int]


class _Asked(NamedTuple):
    """Prompts with everything that is said twice said once."""

    pictures: list[Tensor]
    places: int
    """Tokens that a picture takes."""
    prompts: list[tuple[int, tuple[int, ...]]]
    """Number of the picture, -1 for none, and the text behind it."""
    rows: list[list[int]]
    """Which of the caller's rows ask for each."""

    def batches(self, more: int) -> Iterator[list[_Unit]]:
        """Units that are read at once: alike in length, those of one picture side by side, the blind ones first."""
        often = [0] * (len(self.pictures) + 1)
        for picture, _ in self.prompts:
            often[picture] += 1
        keys = [(picture >= 0, picture if often[picture] > 1 else -1, len(text)) for picture, text in self.prompts]
        batch: list[_Unit] = []
        rows = longest = 0
        for number in sorted(range(len(keys)), key=keys.__getitem__):
            picture, text = self.prompts[number]
            for start in range(0, len(self.rows[number]), ROWS):
                unit = _Unit(number, self.rows[number][start : start + ROWS])
                length = len(text) + more + (self.places if picture >= 0 else 0)
                full = rows + len(unit.rows) > ROWS or (rows + len(unit.rows)) * max(longest, length) > COLUMNS
                if batch and (full or (self.prompts[batch[0].prompt][0] >= 0) != (picture >= 0)):
                    yield batch
                    batch, rows, longest = [], 0, 0
                batch.append(unit)
                rows, longest = rows + len(unit.rows), max(longest, length)
        yield batch


def _asked(model: VLM, prompts: Sequence[Sequence[int]], images: Images) -> _Asked:
    places = model.spec.image_tokens if isinstance(model.spec, VLMSpec) else 0
    pictures: list[Tensor] = []
    numbers: dict[int, int] = {}
    rows: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    shown = [None] * len(prompts) if images is None else images
    for row, (prompt, image) in enumerate(zip(prompts, shown, strict=True)):
        taken = 0 if image is None else places
        if len(prompt) < max(taken, 1):
            raise ModelError(
                f"prompt {row}: wanted its image's {taken} places or, without an image, a token. Got {len(prompt)} "
                "tokens. Begin it with them, a text with <|endoftext|>."
            )
        number = -1
        if image is not None:
            number = numbers.setdefault(id(image), len(pictures))
            if number == len(pictures):
                pictures.append(image)
        rows.setdefault((number, tuple(prompt[taken:])), []).append(row)
    return _Asked(pictures, places, list(rows), list(rows.values()))


class _Eyes:
    """Image vectors, held as long as the batch that asked for them last."""

    def __init__(self, model: VLM, pictures: list[Tensor]) -> None:
        self._model, self._pictures = model, pictures
        self._held: dict[int, Tensor] = {}
        self.ahead = isinstance(model.spec, VLMSpec) and model.spec.attention == "prefix"
        """Whether an image's tokens see each other in both directions."""

    def vectors(self, numbers: list[int]) -> Float[Tensor, "n I D"]:
        """Of these images; what was seen for the batch before is not seen again."""
        new = [number for number in numbers if number not in self._held]
        held = {number: self._held[number] for number in numbers if number in self._held}
        if new:
            weight = self._model.lm.tok_embeddings.weight
            seen = self._model.see(torch.stack([self._pictures[number] for number in new]).to(weight.device))
            held.update(zip(new, seen.to(weight.dtype).unflatten(0, (len(new), -1)), strict=True))
        self._held = held
        return torch.stack([held[number] for number in numbers])


class _Begun(NamedTuple):
    """Rows that were read: what the cache holds, and each one's last hidden state."""

    cache: Cache
    last: Float[Tensor, "B D"]

    def take(self, rows: list[int]) -> _Begun:
        """These rows, as often as named."""
        return _Begun(self.cache.take(rows, self.cache.room), self.last[rows])


def _begin(reader: Reader, eyes: _Eyes, asked: _Asked, units: list[_Unit], *, more: int) -> _Begun:
    """The units' prompts, each distinct image read once, with room for `more` tokens."""
    prompts = [asked.prompts[unit.prompt] for unit in units]
    texts = [text for _, text in prompts]
    room = max(map(len, texts)) + more
    shown = sorted({picture for picture, _ in prompts if picture >= 0})
    if not shown:
        cache = empty(reader.lm, len(units), room)
        return _Begun(cache, _ends(_read(reader, texts, cache), [len(text) - 1 for text in texts]))
    cache = empty(reader.lm, len(shown), asked.places)
    heads = reader.extend(eyes.vectors(shown), None, cache, ahead=eyes.ahead)[:, -1:]
    which = [shown.index(picture) for picture, _ in prompts]
    cache, hidden = cache.take(which, asked.places + room), heads[which]
    if any(texts):
        hidden = torch.cat((hidden, _read(reader, texts, cache)), dim=1)
    return _Begun(cache, _ends(hidden, [len(text) for text in texts]))


def _read(reader: Reader, texts: Sequence[Sequence[int]], cache: Cache) -> Float[Tensor, "B T D"]:
    """Texts of any lengths, padded on the right, after what the cache holds."""
    counts = [len(text) for text in texts]
    padded = [[*text, *[0] * (max(counts) - len(text))] for text in texts]
    tokens = torch.tensor(padded, dtype=torch.int64, device=cache.tokens.device)
    return reader.extend(reader.lm.embed(tokens), counts if min(counts) < max(counts) else None, cache)


def _ends(hidden: Float[Tensor, "B T D"], columns: list[int]) -> Float[Tensor, "B D"]:
    return hidden[range(len(columns)), columns]


class _Stops:
    """What ends an answer."""

    def __init__(self, stop: Collection[int | Sequence[int]]) -> None:
        self._by_last: dict[int, list[list[int]]] = {}
        for one in stop:
            ids = [one] if isinstance(one, int) else list(one)
            if not ids:
                raise ModelError("stop: wanted ids or sequences of ids. Got an empty sequence. Leave it out.")
            self._by_last.setdefault(ids[-1], []).append(ids)
        for sequences in self._by_last.values():
            sequences.sort(key=len, reverse=True)

    def end(self, answer: list[int]) -> bool:
        """Whether the answer ends in a stop, which is then cut off."""
        for ids in self._by_last.get(answer[-1], ()):
            if answer[-len(ids) :] == ids:
                del answer[-len(ids) :]
                return True
        return False


def _decode(reader: Reader, begun: _Begun, stops: _Stops, *, pick: Pick, limit: int) -> list[list[int]]:
    """The rows' answers; rows that ended leave the batch when half of it has."""
    cache, hidden = begun
    answers: list[list[int]] = [[] for _ in hidden]
    rows, waiting = list(range(len(answers))), set(range(len(answers)))
    places = torch.arange(len(rows), device=hidden.device)
    for step in range(limit):
        tokens = pick(reader.logits(hidden), places, step)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if row in waiting:
                answers[row].append(token)
                if stops.end(answers[row]):
                    waiting.discard(row)
        if not waiting or step + 1 == limit:
            break
        if 2 * len(waiting) <= len(rows):
            staying = [at for at, row in enumerate(rows) if row in waiting]
            cache, rows = cache.take(staying, cache.room), [rows[at] for at in staying]
            tokens, places = tokens[staying], places[staying]
        hidden = reader.extend(reader.lm.embed(tokens[:, None]), None, cache)[:, 0]
    return answers


def _likeliest(logits: Tensor, places: Tensor, step: int) -> Tensor:
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(axis=-1))  # nine times as fast as torch's at 50,000 words
    return logits.argmax(dim=-1)


def _draws(sampling: Sampling, numbers: list[int], limit: int, device: torch.device) -> Pick:
    """Picks by inverse distribution: each row's uniform numbers come from a counter keyed by seed and prompt number."""
    keys = [[sampling.seed % 2**64, sampling.first + number] for number in numbers]
    drawn = [np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64))).random(limit) for key in keys]
    uniform = torch.from_numpy(np.stack(drawn, axis=1)).to(device)

    def pick(logits: Tensor, places: Tensor, step: int) -> Tensor:
        shares, ids = distribution(logits, sampling)
        reach = shares.cumsum(dim=-1)
        at = uniform[step, places][:, None] * reach[:, -1:]
        chosen = torch.searchsorted(reach, at, right=True).clamp(max=reach.shape[-1] - 1)
        return chosen[:, 0] if ids is None else ids.gather(1, chosen)[:, 0]

    return pick


def distribution(
    logits: Float[Tensor, "B V"], sampling: Sampling
) -> tuple[Float[Tensor, "B kept"], Int[Tensor, "B kept"] | None]:
    """What tokens are drawn by, up to a factor, and their ids, likeliest first; ids None where they stand in order."""
    scaled = logits.double() / sampling.temperature
    if sampling.top_k is None and sampling.top_p is None:
        return scaled.softmax(dim=-1), None
    scaled, ids = scaled.topk(min(sampling.top_k or scaled.shape[-1], scaled.shape[-1]), dim=-1)
    shares = scaled.softmax(dim=-1)
    if sampling.top_p is not None:
        shares = shares * (shares.cumsum(dim=-1) - shares < sampling.top_p)
    return shares, ids


class _Wanted(NamedTuple):
    """A token whose log-likelihood is asked for."""

    row: int
    state: int
    """Which hidden state predicts it."""
    token: int


def _branch(
    reader: Reader, begun: _Begun, pairs: list[tuple[int, int]], continuations: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, "states D"], list[_Wanted]]:
    """States that predict the continuations' tokens; a pair is a read context and a row that continues it."""
    branches: dict[tuple[int, tuple[int, ...]], int] = {}
    wanted: list[_Wanted] = []
    longest = max(len(continuations[row]) for _, row in pairs) - 1
    for at, row in pairs:
        continuation = continuations[row]
        begin = len(begun.last)
        if len(continuation) > 1:
            begin += longest * branches.setdefault((at, tuple(continuation[:-1])), len(branches))
        for n, token in enumerate(continuation):
            wanted.append(_Wanted(row, at if n == 0 else begin + n - 1, token))
    if not branches:
        return begun.last, wanted
    cache = begun.cache.take([at for at, _ in branches], begun.cache.read + longest)
    return torch.cat((begun.last, _read(reader, [text for _, text in branches], cache).flatten(0, 1))), wanted


def _likely(
    reader: Reader, states: Float[Tensor, "states D"], wanted: list[_Wanted]
) -> Iterator[tuple[int, float, bool]]:
    """Row and log-likelihood of every wanted token, and if it is the likeliest; logits of `STATES` states at a time."""
    for some in _runs(sorted(wanted, key=lambda one: one.state)):
        numbers = sorted({one.state for one in some})
        slot = {number: place for place, number in enumerate(numbers)}
        logits = reader.logits(states[numbers])
        at, tokens = [slot[one.state] for one in some], [one.token for one in some]
        likely = logits[at, tokens] - logits.logsumexp(dim=-1)[at]
        best = logits.argmax(dim=-1)[at].tolist()
        yield from zip(
            (one.row for one in some), likely.tolist(), [a == b for a, b in zip(best, tokens, strict=True)], strict=True
        )


def _runs(wanted: list[_Wanted]) -> Iterator[list[_Wanted]]:
    """Cut where a new state would be one too many."""
    some: list[_Wanted] = []
    states = 0
    for one in wanted:
        new = not some or one.state != some[-1].state
        if new and states == STATES:
            yield some
            some, states = [], 0
        states += new
        some.append(one)
    if some:
        yield some
