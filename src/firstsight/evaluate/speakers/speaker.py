"""What a model must be able to do to be judged; nothing here knows which answer is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A wording and, unless it is asked blind, what `see` gave for its picture."""

    text: str
    picture: object | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Offered:
    """A wording, its picture as in Asked, and the answers to choose from."""

    text: str
    picture: object | None
    choices: tuple[str, ...]
    turn: bool
    """Whether a choice answers a dialogue's turn (vision tasks), or goes on with a text after a space (text tasks)."""


@runtime_checkable
class Speaker(Protocol):
    """A model that can be asked."""

    @property
    def sees(self) -> bool:
        """Whether it can look at pictures."""
        ...

    @property
    def held(self) -> int:
        """How many pictures to hold at once."""
        ...

    def refuse_unknown(self, texts: Sequence[str], *, where: str) -> None:
        """RequestError that names words which the model cannot read."""
        ...

    def see(self, encoded: Sequence[tuple[str, bytes]]) -> list[object]:
        """One thing to ask about for each (name, encoded picture); DataError for what is no picture."""
        ...

    def say(self, asked: Sequence[Asked], *, limit: int) -> Iterator[str]:
        """Greedy answers in order, of at most `limit` tokens."""
        ...

    def choose(self, offered: Sequence[Offered]) -> Iterator[int]:
        """The number of the likeliest choice of each, in order; the first one where two are equal."""
        ...
