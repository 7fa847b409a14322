"""Which data, in what share, counted in what, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from firstsight.errors import QuantityError
from firstsight.units import Share, Tokens

Packing = Literal["one_image_per_row", "best_fit"]
Unit = Literal["rows", "tokens", "loss_tokens"]
"""What a share counts: rows (the paper), tokens that are not padding, or tokens that carry loss."""
Form = Literal["text", "captions", "interleaved", "dialogues", "benchmarks", "tokenizer", "encoder", "checkpoint"]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Recaptioned:
    """Captioned pictures that the user has, with a real and a synthetic caption each, as in DataComp-DR."""

    named: Named
    synthetic: Share
    """Of the pictures, how many are told by a synthetic caption; which ones is a function of key and seed."""
    seed: int

    def __post_init__(self) -> None:
        if self.named.form != "captions":
            raise QuantityError(f"{self.named.name}: only captions can be recaptioned. Got {self.named.form}.")


Source = Texts | Captions | Dialogues | Named | Recaptioned


def called(source: Source) -> str:
    """What a person calls a source: the user's own name, or what the built-in world makes."""
    match source:
        case Named():
            return source.name
        case Recaptioned():
            return f"{source.named.name} ({source.synthetic} synthetic captions)"
        case Captions():
            return f"{source.quality} captions"
        case _:
            return type(source).__name__.lower()


_COUNTED: dict[Unit, str] = {"rows": "rows", "tokens": "tokens", "loss_tokens": "loss tokens"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One source of a blend, its share of the blend, and how often a stage may go through it."""

    source: Source
    share: Share
    epochs: int
    """Passes at most; a fine-tuning stage multiplies them by its own epochs."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise QuantityError(f"a source is gone through at least once. Got epochs={self.epochs}.")

    def __str__(self) -> str:
        return called(self.source) + (f" (up to {self.epochs} epochs)" if self.epochs > 1 else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Blend:
    """Sources of one part of a mix side by side, in exact shares on every prefix."""

    parts: tuple[Part, ...]
    counted_in: Unit

    def __post_init__(self) -> None:
        total = sum((part.share for part in self.parts), Fraction(0))
        if total != 1:
            raise QuantityError(f"shares of a blend must sum to 1. Got {total} from {len(self.parts)} parts.")

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(part.source for part in self.parts)

    def __str__(self) -> str:
        """75 % dclm + 25 % notes (up to 2 epochs), of tokens."""
        if len(self.parts) == 1:
            return str(self.parts[0])
        return f"{' + '.join(f'{part.share} {part}' for part in self.parts)}, of {_COUNTED[self.counted_in]}"


def alone(source: Source, *, epochs: int = 1) -> Blend:
    """A blend of one source."""
    return Blend(parts=(Part(source=source, share=Share(1), epochs=epochs),), counted_in="rows")


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A stretch of a stage with one image share."""

    until: Share
    """Of the stage's rows, where the stretch ends; the last one's is 1."""
    share: Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Mix:
    """Text beside images: `share` of it is image rows, exactly, on every prefix. Source: paper section 3."""

    text: Blend
    images: Blend
    share: Share | tuple[Span, ...]
    """One share, or stretches with one each, in order."""
    counted_in: Unit
    packing: Packing

    def __post_init__(self) -> None:
        ends = [span.until for span in self.share] if isinstance(self.share, tuple) else [Share(1)]
        if not ends or ends[-1] != 1 or any(first >= then for first, then in pairwise([Share(0), *ends])):
            raise QuantityError(f"stretches of a mix must end one after the other, the last at 1. Got {ends}.")

    def __str__(self) -> str:
        """25 % images to 50 %, then 75 % to the end, of rows; images: ...; text: ..."""
        if isinstance(self.share, tuple):
            ends = [f"{span.until}" for span in self.share[:-1]] + ["the end"]
            shares = ", then ".join(f"{span.share} images to {end}" for span, end in zip(self.share, ends, strict=True))
        else:
            shares = f"{self.share} images"
        read = [f"{shares}, of {_COUNTED[self.counted_in]}"]
        every = {span.share for span in self.share} if isinstance(self.share, tuple) else {self.share}
        read += [f"images: {self.images}"] if every != {0} else []
        read += [f"text: {self.text}"] if every != {1} else []
        return "; ".join(read)

    def spans(self, rows: int) -> tuple[tuple[int, Share], ...]:
        """(rows, image share) of each stretch of a stage of `rows` rows, in order."""
        if not isinstance(self.share, tuple):
            return ((rows, self.share),)
        ends = [0, *(rows * span.until.numerator // span.until.denominator for span in self.share)]
        return tuple((stop - start, span.share) for (start, stop), span in zip(pairwise(ends), self.share, strict=True))

    def image_rows(self, rows: int) -> int:
        """Image rows among `rows`, where shares count rows; about as many where they count tokens."""
        return sum(count * share.numerator // share.denominator for count, share in self.spans(rows))
