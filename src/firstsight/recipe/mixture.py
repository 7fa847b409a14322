"""Which data, in what share, counted in what, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import ClassVar, Literal

from firstsight.errors import QuantityError
from firstsight.units import Share, Tokens

PackingMode = Literal["one_image_per_row", "best_fit"]
ShareUnit = Literal["rows", "tokens", "loss_tokens"]
"""What a share counts: rows (the paper), tokens that are not padding, or tokens that carry loss."""
ExternalForm = Literal[
    "text", "captions", "interleaved", "dialogues", "benchmarks", "tokenizer", "encoder", "checkpoint"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticWorld:
    """The built-in picture world: real drawings in small scenes with exact truth."""

    TAG: ClassVar = "synthetic_world"
    objects: int
    kinds: int
    image_size: int
    """Side of a square scene in pixels; scenes have 2 x 2 cells."""
    max_objects: int
    """Most objects in one scene, 1 to 4."""
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticVocabulary:
    """The world's words as a tokenizer."""

    TAG: ClassVar = "vocabulary"
    world: SyntheticWorld


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticTexts:
    """Documents about the world, in words alone: the only place where kinds are told."""

    TAG: ClassVar = "texts"
    world: SyntheticWorld
    documents: int
    loss_mask: Literal["determined", "all"]
    """Which words of told scenes carry loss: those that the telling determines, or all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticCaptions:
    """Pictures with captions: complete and true, or partial and sometimes wrong like alt-text."""

    TAG: ClassVar = "captions"
    world: SyntheticWorld
    images: int
    quality: Literal["rich", "noisy"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticDialogues:
    """Pictures with question-and-answer turns, in LLaVA's format."""

    TAG: ClassVar = "dialogues"
    world: SyntheticWorld
    images: int
    turns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticBenchmarks:
    """The small twins of the paper's vision and text tasks, in the benchmarks' own formats."""

    TAG: ClassVar = "benchmarks"
    world: SyntheticWorld
    questions: int
    """Questions per task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class External:
    """Data or weights that the user has: a name that the site file maps to a place."""

    TAG: ClassVar = "external"
    name: str
    form: ExternalForm
    tokens: Tokens
    """Tokens in one pass as published; 0 where the form has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recaptioned:
    """Captioned pictures that the user has, with a real and a synthetic caption each, as in DataComp-DR."""

    TAG: ClassVar = "recaptioned"
    external: External
    synthetic_share: Share
    """Of the pictures, how many are told by a synthetic caption; which ones is a function of key and seed."""
    seed: int

    def __post_init__(self) -> None:
        if self.external.form != "captions":
            raise QuantityError(f"{self.external.name}: only captions can be recaptioned. Got {self.external.form}.")


DataSource = SyntheticTexts | SyntheticCaptions | SyntheticDialogues | External | Recaptioned


def source_label(source: DataSource) -> str:
    """What a person calls a source: the user's own name, or what the built-in world makes."""
    match source:
        case External():
            return source.name
        case Recaptioned():
            return f"{source.external.name} ({source.synthetic_share} synthetic captions)"
        case SyntheticCaptions():
            return f"{source.quality} captions"
        case _:
            return source.TAG


_UNIT_LABELS: dict[ShareUnit, str] = {"rows": "rows", "tokens": "tokens", "loss_tokens": "loss tokens"}


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedSource:
    """One source of a blend, its share of the blend, and how often a stage may go through it."""

    TAG: ClassVar = "weighted_source"
    source: DataSource
    share: Share
    max_epochs: int
    """Passes at most; a fine-tuning stage multiplies them by its own epochs."""

    def __post_init__(self) -> None:
        if self.max_epochs < 1:
            raise QuantityError(f"a source is gone through at least once. Got epochs={self.max_epochs}.")

    def __str__(self) -> str:
        return source_label(self.source) + (f" (up to {self.max_epochs} epochs)" if self.max_epochs > 1 else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Sources of one part of a mix side by side, in exact shares on every prefix."""

    TAG: ClassVar = "mixture"
    components: tuple[WeightedSource, ...]
    share_unit: ShareUnit

    def __post_init__(self) -> None:
        total = sum((component.share for component in self.components), Fraction(0))
        if total != 1:
            raise QuantityError(f"shares of a blend must sum to 1. Got {total} from {len(self.components)} parts.")

    @property
    def sources(self) -> tuple[DataSource, ...]:
        return tuple(component.source for component in self.components)

    def __str__(self) -> str:
        """75 % dclm + 25 % notes (up to 2 epochs), of tokens."""
        if len(self.components) == 1:
            return str(self.components[0])
        return f"{' + '.join(f'{component.share} {component}' for component in self.components)}, of {_UNIT_LABELS[self.share_unit]}"


def single_source(source: DataSource, *, max_epochs: int = 1) -> Mixture:
    """A blend of one source."""
    return Mixture(
        components=(WeightedSource(source=source, share=Share(1), max_epochs=max_epochs),), share_unit="rows"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShareSpan:
    """A stretch of a stage with one image share."""

    TAG: ClassVar = "share_span"
    end: Share
    """Of the stage's rows, where the stretch ends; the last one's is 1."""
    share: Share


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTextMix:
    """Text beside images: `share` of it is image rows, exactly, on every prefix. Source: paper section 3."""

    TAG: ClassVar = "image_text_mix"
    text: Mixture
    images: Mixture
    image_share: Share | tuple[ShareSpan, ...]
    """One share, or stretches with one each, in order."""
    share_unit: ShareUnit
    packing: PackingMode

    def __post_init__(self) -> None:
        ends = [span.end for span in self.image_share] if isinstance(self.image_share, tuple) else [Share(1)]
        if not ends or ends[-1] != 1 or any(start >= end for start, end in pairwise([Share(0), *ends])):
            raise QuantityError(f"stretches of a mix must end one after the other, the last at 1. Got {ends}.")

    def __str__(self) -> str:
        """25 % images to 50 %, then 75 % to the end, of rows; images: ...; text: ..."""
        if isinstance(self.image_share, tuple):
            ends = [f"{span.end}" for span in self.image_share[:-1]] + ["the end"]
            shares = ", then ".join(
                f"{span.share} images to {end}" for span, end in zip(self.image_share, ends, strict=True)
            )
        else:
            shares = f"{self.image_share} images"
        descriptions = [f"{shares}, of {_UNIT_LABELS[self.share_unit]}"]
        distinct_shares = (
            {span.share for span in self.image_share} if isinstance(self.image_share, tuple) else {self.image_share}
        )
        descriptions += [f"images: {self.images}"] if distinct_shares != {0} else []
        descriptions += [f"text: {self.text}"] if distinct_shares != {1} else []
        return "; ".join(descriptions)

    def spans(self, rows: int) -> tuple[tuple[int, Share], ...]:
        """(rows, image share) of each stretch of a stage of `rows` rows, in order."""
        if not isinstance(self.image_share, tuple):
            return ((rows, self.image_share),)
        ends = [0, *(rows * span.end.numerator // span.end.denominator for span in self.image_share)]
        return tuple(
            (stop - start, span.share) for (start, stop), span in zip(pairwise(ends), self.image_share, strict=True)
        )

    def image_rows(self, rows: int) -> int:
        """Image rows among `rows`, where shares count rows; about as many where they count tokens."""
        return sum(row_count * share.numerator // share.denominator for row_count, share in self.spans(rows))
