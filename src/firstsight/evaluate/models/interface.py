"""What a model must be able to do to be judged; nothing here knows which answer is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """A wording and, unless it is asked blind, what `see` gave for its picture."""

    text: str
    image: object | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceRequest:
    """A wording, its picture as in Asked, and the answers to choose from."""

    text: str
    image: object | None
    choices: tuple[str, ...]
    is_chat_turn: bool
    """Whether a choice answers a dialogue's turn (vision tasks), or goes on with a text after a space (text tasks)."""


@runtime_checkable
class EvalModel(Protocol):
    """A model that can be asked."""

    @property
    def has_vision(self) -> bool:
        """Whether it can look at pictures."""
        ...

    @property
    def image_batch(self) -> int:
        """How many pictures to hold at once."""
        ...

    def check_vocabulary(self, texts: Sequence[str], *, location: str) -> None:
        """RequestError that names words which the model cannot read."""
        ...

    def encode_images(self, named_images: Sequence[tuple[str, bytes]]) -> list[object]:
        """One thing to ask about for each (name, encoded picture); DataError for what is no picture."""
        ...

    def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[str]:
        """Greedy answers in order, of at most `limit` tokens."""
        ...

    def rank_choices(self, requests: Sequence[ChoiceRequest]) -> Iterator[int]:
        """The number of the likeliest choice of each, in order; the first one where two are equal."""
        ...
