"""Which data, in what share, counted in what."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from firstsight.errors import QuantityError
from firstsight.units import Share, Tokens

Packing = Literal["one_image_per_row", "best_fit"]
Unit = Literal["rows"]
Form = Literal["text", "captions", "dialogues", "benchmarks", "tokenizer", "encoder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The built-in picture world: real drawings in small scenes with exact truth."""

    objects: int
    kinds: int
    picture: int
    """Side of a square scene in pixels; scenes have 2 x 2 cells."""
    crowd: int
    """Most objects in one scene, 1 to 4."""
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """The world's words as a tokenizer."""

    world: World


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """Documents about the world, in words alone: the only place where kinds are told."""

    world: World
    documents: int
    mask: Literal["determined", "all"]
    """Which words of told scenes carry loss: those that the telling determines, or all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Captions:
    """Pictures with captions: complete and true, or partial and sometimes wrong like alt-text."""

    world: World
    pictures: int
    quality: Literal["rich", "noisy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogues:
    """Pictures with question-and-answer turns, in LLaVA's format."""

    world: World
    pictures: int
    turns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmarks:
    """The small twins of the paper's vision and text tasks, in the benchmarks' own formats."""

    world: World
    questions: int
    """Questions per task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """Data or weights that the user has: a name that the site file maps to a place."""

    name: str
    form: Form
    tokens: Tokens
    """Tokens in one pass as published; 0 where the form has none."""


Source = Texts | Captions | Dialogues | Named


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One source inside the image part of a mix, with its share of that part."""

    source: Source
    share: Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Text beside image rows: `share` of the rows are image rows, exactly, on every prefix. Source: paper section 3."""

    text: Source
    images: tuple[Part, ...]
    share: Share
    counted_in: Unit
    packing: Packing

    def __post_init__(self) -> None:
        total = sum((part.share for part in self.images), Fraction(0))
        if total != 1:
            raise QuantityError(
                f"shares inside the image part must sum to 1. Got {total} from {len(self.images)} parts."
            )
