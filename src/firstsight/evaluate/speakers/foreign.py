"""Other people's models as ones who are asked: any folder that transformers loads, with its own processor.

Every answer is greedy, whatever the folder's generation settings draw or penalise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from firstsight.data import pictures
from firstsight.data.records import Refused
from firstsight.errors import DataError, ModelError
from firstsight.evaluate.speakers.foreign_folder import Parts, parts
from firstsight.evaluate.speakers.foreign_turn import Turn, marks, turn_of
from firstsight.evaluate.speakers.speaker import Asked, Offered
from firstsight.site import Site

_ROWS = 16
"""Questions read at once."""
_HELD = 1 << 28
_PICTURE = 1 << 22
"""Bytes of pictures held at once, and of a large one."""


class _Row(NamedTuple):
    """Choices of one question that are read together."""

    asked: int
    laid: str
    picture: object | None
    stem: tuple[int, ...]
    """All tokens but the last."""
    lasts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """A model of transformers that can be asked; see Speaker. Pictures keep their size: its processor scales them."""

    parts: Parts
    turn: Turn

    @property
    def sees(self) -> bool:
        """Whether it has eyes."""
        return self.parts.processor is not None

    @property
    def held(self) -> int:
        """How many pictures to hold at once."""
        return _HELD // _PICTURE

    def refuse_unknown(self, texts: Sequence[str], *, where: str) -> None:
        """Nothing: their tokenizers read everything."""

    def see(self, encoded: Sequence[tuple[str, bytes]]) -> list[object]:
        """One upright RGB picture of Pillow's a (name, bytes), as large as it is."""
        if not self.sees:
            raise ModelError("a text model cannot look at pictures. Judge it blind, or name a model that sees.")
        return [_opened(name, data) for name, data in encoded]

    @torch.no_grad()
    def say(self, asked: Sequence[Asked], *, limit: int) -> Iterator[str]:
        """Greedy answers in order, up to the model's own end token."""
        for sees, group in groupby(asked, key=lambda one: one.picture is not None):
            for some in _portions(list(group)):
                laid = [self.turn.lay(one.text, sees=sees) for one in some]
                inputs = self._inputs(laid, [one.picture for one in some])
                found = self.parts.model.generate(**inputs, generation_config=self._greedy(limit))
                for ids in found[:, inputs["input_ids"].shape[1] :].tolist():
                    said = self.parts.words.decode(_cut(ids, self._ends()), skip_special_tokens=True)
                    yield self.turn.heard(said.strip())

    def choose(self, offered: Sequence[Offered]) -> Iterator[int]:
        """The number of the likeliest choice of each, in order; the first one where two are equal.

        Log-likelihoods summed over tokens, a space before a choice unless a mark or white space stands there.
        """
        for totals in self.likelihoods(offered):
            yield max(range(len(totals)), key=totals.__getitem__)

    def likelihoods(self, offered: Sequence[Offered]) -> Iterator[list[float]]:
        """Of each choice of each, as `generate` would have said it: its own steps, with the choice's tokens forced."""
        for sees, group in groupby(offered, key=lambda one: one.picture is not None):
            for asked in _portions(list(group)):
                rows = [row for one in asked for row in self._rows(one, sees=sees)]
                found = (likely for some in _portions(rows) for likely in self._forced(some))
                likely = dict(zip(((row.asked, row.stem) for row in rows), found, strict=True))
                for one in asked:
                    yield [likely[id(one), form[:-1]][form[-1]] for form in self._forms(one, sees=sees)]

    def _rows(self, one: Offered, *, sees: bool) -> list[_Row]:
        """Choices that differ in their last token alone are read once."""
        lasts: dict[tuple[int, ...], list[int]] = {}
        for form in self._forms(one, sees=sees):
            lasts.setdefault(form[:-1], []).append(form[-1])
        laid = self._laid(one, sees=sees)
        return [
            _Row(asked=id(one), laid=laid, picture=one.picture, stem=stem, lasts=tuple(last))
            for stem, last in lasts.items()
        ]

    def _forms(self, one: Offered, *, sees: bool) -> list[tuple[int, ...]]:
        laid = self._laid(one, sees=sees)
        return [self._more(laid, choice, turn=one.turn) for choice in one.choices]

    def _laid(self, one: Offered, *, sees: bool) -> str:
        if one.turn:
            return self.turn.lay(one.text, sees=sees)
        if sees:
            raise ModelError("wanted a text to go on with. Got a picture beside it. Ask it as a turn.")
        return self.parts.begins + one.text

    def _more(self, laid: str, choice: str, *, turn: bool) -> tuple[int, ...]:
        """A choice's tokens behind what is laid out."""
        words = self.parts.words
        marked = laid.endswith(tuple(marks(self.parts)))
        choice = choice if turn and (marked or laid[-1:].isspace()) else f" {choice}"
        begun, whole = (words(text, add_special_tokens=False)["input_ids"] for text in (laid, laid + choice))
        if whole[: len(begun)] == begun and len(whole) > len(begun):
            return tuple(whole[len(begun) :])
        return tuple(words(choice, add_special_tokens=False)["input_ids"])

    @torch.no_grad()
    def _forced(self, rows: Sequence[_Row]) -> list[dict[int, float]]:
        """For each row the log-likelihood of its stem with each of its last tokens."""
        from transformers import LogitsProcessorList

        inputs = self._inputs([row.laid for row in rows], [row.picture for row in rows])
        forced = _Forced(rows, end=self._ends()[0])
        settings = self._greedy(max(len(row.stem) for row in rows) + 1)
        self.parts.model.generate(**inputs, generation_config=settings, logits_processor=LogitsProcessorList([forced]))
        return forced.found

    def _inputs(self, laid: Sequence[str], shown: Sequence[object | None]) -> Any:
        seen = [one for one in shown if isinstance(one, Image.Image)]
        model = self.parts.model
        try:
            made = self.turn.inputs(laid, seen or None)
        except ValueError as error:  # Qwen2-VL's of a picture 1,500 times as wide as high
            raise DataError(
                f"{self.parts.kind}'s processor: wanted pictures that it takes. Got {error}. Leave those questions out."
            ) from error
        # pictures in the weights' own numbers; ids and masks stay whole numbers
        return {
            name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
            if isinstance(value, Tensor)
            else value
            for name, value in made.items()
        }

    def _ends(self) -> list[int]:
        """The model's own end tokens."""
        found = self.parts.model.generation_config.eos_token_id
        found = self.parts.words.eos_token_id if found is None else found
        if found is None:
            raise ModelError("generation_config.json: wanted eos_token_id, where an answer ends. Got none. Add it.")
        return [found] if isinstance(found, int) else list(found)

    def _greedy(self, limit: int) -> Any:
        """Settings that leave nothing of the folder's own but its ends."""
        from transformers import GenerationConfig

        pad = self.parts.words.pad_token_id
        ends = self._ends()
        return GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=limit,
            eos_token_id=ends,
            pad_token_id=ends[0] if pad is None else pad,
        )


class _Forced:
    """A logits processor that makes each row say its stem and then end, and adds up how likely that was."""

    def __init__(self, rows: Sequence[_Row], *, end: int) -> None:
        self._rows, self._end = rows, end
        self._step = 0
        self._stems = [0.0] * len(rows)
        self.found: list[dict[int, float]] = [{} for _ in rows]

    def __call__(self, input_ids: Int[Tensor, "B S"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Only the forced token of each row is left."""
        likely, places = scores.float().log_softmax(dim=-1), range(len(self._rows))
        forced = [(*row.stem, self._end)[min(self._step, len(row.stem))] for row in self._rows]
        said = likely[places, forced].tolist()  # of all rows at once: a GPU is waited for once a step
        for number, row in enumerate(self._rows):
            if self._step < len(row.stem):
                self._stems[number] += said[number]
            elif self._step == len(row.stem):
                ends = likely[number, list(row.lasts)].tolist()
                self.found[number] = {t: self._stems[number] + end for t, end in zip(row.lasts, ends, strict=True)}
        self._step += 1
        only = torch.full_like(scores, float("-inf"))
        only[places, forced] = 0.0
        return only


def foreign(folder: Path, *, site: Site) -> Foreign:
    """The model of a folder in transformers' layout, on the site's device and threads; see foreign_folder.parts."""
    torch.set_num_threads(site.threads)
    found = parts(folder, site=site)
    one = Foreign(parts=found, turn=turn_of(found))
    # what a folder's generation settings draw, penalise or forbid is no part of a greedy answer
    found.model.generation_config = one._greedy(1)
    return one


def _portions(of: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(of), _ROWS):
        yield of[start : start + _ROWS]


def _cut(ids: list[int], ends: Sequence[int]) -> list[int]:
    """What stands before the first end."""
    return ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]


def _opened(name: str, data: bytes) -> Image.Image:
    try:
        return pictures.upright(data)
    except Refused as refused:
        raise DataError(f"{name}: wanted a picture. Got {refused.detail}. Give a PNG, JPEG or WebP file.") from refused
