"""The data of a stage: sources, their shares, the unit of the shares, and the most epochs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from math import floor
from typing import ClassVar, Literal, TypeVar

from firstsight.errors import QuantityError
from firstsight.recipe.spec import check_positive, spec
from firstsight.units import Share, Tokens

PackingMode = Literal["one_image_per_row", "best_fit"]
ShareUnit = Literal["rows", "tokens", "loss_tokens"]
"""What a share counts: rows (the paper), tokens without padding, or tokens that have loss."""
ExternalForm = Literal[
    "text", "captions", "interleaved", "dialogues", "benchmarks", "tokenizer", "encoder", "checkpoint", "model"
]


MAX_SOURCES = 8
"""The most sources of a stage, each of which has its own loss in the log."""
MAX_SHARE_DENOMINATOR = 1 << 26
"""Of shares that count tokens: up to here different fractions differ as float64, and equal ones are equal."""
DRAWINGS_PER_KIND = (16, 36, 21, 24, 27, 31, 28, 16, 25, 24, 24, 21, 21, 14)
"""How many drawings the built-in world has of each kind, in its order."""


@spec
class SyntheticWorld:
    """The built-in synthetic world: real drawings in small scenes whose content is known exactly."""

    TAG: ClassVar = "synthetic_world"
    objects: int
    kinds: int
    image_size: int
    """Side of a square scene in pixels; a scene has 2 x 2 cells."""
    max_objects: int
    """The most objects in one scene, 1 to 4."""
    seed: int

    def check(self) -> None:
        """Raise QuantityError, with the field named, where there are no such drawings or scenes."""
        if not 2 <= self.kinds <= len(DRAWINGS_PER_KIND):
            raise QuantityError(f"the world has 2 to {len(DRAWINGS_PER_KIND)} kinds. Got kinds={self.kinds}.")
        least, largest = max(2 * self.kinds, 8), sum(DRAWINGS_PER_KIND[: self.kinds])
        if not least <= self.objects <= largest:
            raise QuantityError(
                f"{self.kinds} kinds have {least} to {largest} objects. Got objects={self.objects}. Change either."
            )
        if self.image_size < 32 or self.image_size % 2 or not 1 <= self.max_objects <= 4:
            raise QuantityError(
                f"a scene has an even side of at least 32 pixels and 1 to 4 objects. "
                f"Got image_size={self.image_size}, max_objects={self.max_objects}."
            )
        if self.seed < 0:
            raise QuantityError(f"the seed of a world is 0 or above. Got {self.seed}.")


@spec
class SyntheticVocabulary:
    """A tokenizer with a token for each word of the world."""

    TAG: ClassVar = "vocabulary"
    world: SyntheticWorld


@spec
class SyntheticTexts:
    """Text documents about the world, the only source that names the kinds of all objects; dialogues name half."""

    TAG: ClassVar = "texts"
    world: SyntheticWorld
    documents: int
    loss_mask: Literal["determined", "all"]
    """Which words of a description of a scene have loss: those that the text before determines, or all."""

    def __post_init__(self) -> None:
        check_positive(self, ("documents",))


@spec
class SyntheticCaptions:
    """Images with captions: `rich` are complete and true, `noisy` are partial and sometimes wrong, like alt text."""

    TAG: ClassVar = "captions"
    world: SyntheticWorld
    images: int
    quality: Literal["rich", "noisy"]
    pairs: Literal["training", "all"] = "training"
    """Which (object, place) pairs the images show: those of all training data, or also the held-out ones, as the images
    of a published encoder may."""

    def __post_init__(self) -> None:
        check_positive(self, ("images",))


@spec
class SyntheticDialogues:
    """Images with question-and-answer turns, in LLaVA's format."""

    TAG: ClassVar = "dialogues"
    world: SyntheticWorld
    images: int
    turns: int
    """The most questions about an image."""

    def __post_init__(self) -> None:
        check_positive(self, ("images", "turns"))


@spec
class SyntheticInterleaved:
    """Documents of images with a true passage about each, in OBELICS' layout; some passages recall an earlier image."""

    TAG: ClassVar = "interleaved"
    world: SyntheticWorld
    documents: int
    max_images: int
    """The most images of a document: the first document has 1, the next 2, and so on up to this number, again and
    again, so that every number is equally frequent."""

    def __post_init__(self) -> None:
        check_positive(self, ("documents", "max_images"))

    def images_of(self, document: int) -> int:
        """The number of images of document number `document`, counted from 0."""
        return 1 + document % self.max_images

    @property
    def images(self) -> int:
        """The images of all documents."""
        rounds, rest = divmod(self.documents, self.max_images)
        return (rounds * self.max_images * (self.max_images + 1) + rest * (rest + 1)) // 2


@spec
class SyntheticMultitask:
    """Images with one of four tasks each, in exact shares of every prefix, as one list in LLaVA's format.

    No task teaches what another does: only `words` name the words on signs, only `boxes` have boxes, and none names the
    kinds of objects. Sources that differ in their shares have their records of a task in common.
    """

    TAG: ClassVar = "multitask"
    world: SyntheticWorld
    images: int
    turns: int
    """The most questions about an image; a caption is one answer."""
    captions: Share
    """The share of images with a complete caption: names, places and ground."""
    words: Share
    """The share of images with words to read."""
    boxes: Share
    """The share of images with boxes: the box of an object, or the object in a box."""
    dialogues: Share
    """The share of images with other questions: names, places, relations, presence, count and ground."""

    def __post_init__(self) -> None:
        check_positive(self, ("images", "turns"))
        if sum(self.shares.values()) != 1:
            shares = ", ".join(f"{task} {share}" for task, share in self.shares.items())
            raise QuantityError(f"the shares of multitask data sum to 1. Got {shares}. Change one of them.")

    @property
    def shares(self) -> dict[str, Share]:
        """The share of each task, by name."""
        tasks = {"captions": self.captions, "words": self.words, "boxes": self.boxes}
        return {**tasks, "dialogues": self.dialogues}


@spec
class SyntheticBenchmarks:
    """Small versions of the paper's vision and text tasks, in the benchmarks' own formats."""

    TAG: ClassVar = "benchmarks"
    world: SyntheticWorld
    questions: int

    def __post_init__(self) -> None:
        check_positive(self, ("questions",))


@spec
class External:
    """Data or weights of the user: a name that the site file maps to a path.

    Declared sizes are for plans; `run` compares with those that it counts. They never enter an address of a run.
    """

    TAG: ClassVar = "external"
    name: str
    form: ExternalForm
    tokens: Tokens
    """Declared text tokens of one pass; 0: unknown, or the form has none."""
    records: int = 0
    """Declared documents, captioned images or dialogues of one pass, or questions of each vision task at the most; 0:
    unknown, or the form has none."""


@spec
class Recaptioned:
    """Captioned images of the user, with a real and a synthetic caption each, as in DataComp-DR."""

    TAG: ClassVar = "recaptioned"
    external: External
    synthetic_share: Share
    """The share of images that get their synthetic caption; which ones is a function of record key and seed."""
    seed: int

    def __post_init__(self) -> None:
        if self.external.form != "captions":
            raise QuantityError(f"{self.external.name}: only captions can be recaptioned. Got {self.external.form}.")


BaseSource = (
    SyntheticTexts | SyntheticCaptions | SyntheticDialogues | SyntheticInterleaved | SyntheticMultitask | External
)
DataSource = BaseSource | Recaptioned


S = TypeVar("S", bound=BaseSource)


def base_source(source: S | Recaptioned) -> S | External:
    """The external source whose captions a Recaptioned chooses; every other source is its own."""
    return source.external if isinstance(source, Recaptioned) else source


def source_label(source: DataSource) -> str:
    """A source's name for output: that in the site file, or the kind of synthetic data."""
    match source:
        case External():
            return source.name
        case Recaptioned():
            return f"{source.external.name} ({source.synthetic_share} synthetic captions)"
        case SyntheticCaptions():
            return f"{source.quality} captions"
        case SyntheticInterleaved():
            return f"interleaved documents of up to {source.max_images} images"
        case SyntheticMultitask():
            shares = ", ".join(f"{share} {task}" for task, share in source.shares.items() if share)
            return f"multitask ({shares})"
        case _:
            return source.TAG


def text_source_names(mixture: Mixture) -> list[str]:
    """The names of text sources in logs and ledgers."""
    names = [f"text-{name}" for name in _unique_names(mixture.sources)]
    return names if len(names) > 1 else ["text"]


def image_source_names(mixture: Mixture) -> list[str]:
    """The names of image sources in logs and ledgers."""
    return _unique_names(mixture.sources)


def _unique_names(sources: Sequence[DataSource]) -> list[str]:
    names = [_log_name(source) for source in sources]
    numbers = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [f"{name}-{n}" if names.count(name) > 1 else name for name, n in zip(names, numbers, strict=True)]


def _log_name(source: DataSource) -> str:
    match source:
        case External():
            return source.name
        case Recaptioned():
            return source.external.name
        case SyntheticCaptions():
            return f"captions-{source.quality}"
        case _:
            return source.TAG


@spec
class WeightedSource:
    """One source of a mixture, its share of the mixture, and the most epochs a stage may read it."""

    TAG: ClassVar = "weighted_source"
    source: DataSource
    share: Share
    max_epochs: int
    """The most passes; a fine-tuning stage multiplies them by its own epochs."""

    def __post_init__(self) -> None:
        if self.max_epochs < 1:
            raise QuantityError(f"a source is read at least once. Got max_epochs={self.max_epochs}.")

    def __str__(self) -> str:
        return source_label(self.source) + (f" (up to {self.max_epochs} epochs)" if self.max_epochs > 1 else "")


@spec
class Mixture:
    """Text or image sources in exact shares, which hold on every prefix of the rows."""

    TAG: ClassVar = "mixture"
    components: tuple[WeightedSource, ...]
    share_unit: ShareUnit

    def __post_init__(self) -> None:
        total = sum((component.share for component in self.components), Fraction(0))
        if total != 1:
            count = len(self.components)
            raise QuantityError(f"shares of a mixture must sum to 1. Got {total} from {count} components.")

    @property
    def sources(self) -> tuple[DataSource, ...]:
        return tuple(component.source for component in self.components)

    def __str__(self) -> str:
        """75 % dclm + 25 % notes (up to 2 epochs), as shares of tokens."""
        if len(self.components) == 1:
            return str(self.components[0])
        components = " + ".join(f"{component.share} {component}" for component in self.components)
        return f"{components}, as shares of {self.share_unit.replace('_', ' ')}"


def single_source(source: DataSource, *, max_epochs: int = 1) -> Mixture:
    """A mixture of one source."""
    component = WeightedSource(source=source, share=Share(1), max_epochs=max_epochs)
    return Mixture(components=(component,), share_unit="rows")


@spec
class ShareSpan:
    """A part of a stage with one image share."""

    TAG: ClassVar = "share_span"
    end: Share
    """The share of the stage's rows at which the span ends; 1 for the last one."""
    share: Share


@spec
class ImageTextMix:
    """Text and image rows, in exact shares on every prefix. Source: paper section 3."""

    TAG: ClassVar = "image_text_mix"
    text: Mixture
    images: Mixture
    image_share: Share | tuple[ShareSpan, ...]
    """One share, or consecutive spans with a share each."""
    share_unit: ShareUnit
    packing: PackingMode

    def __post_init__(self) -> None:
        ends = [span.end for span in self._share_spans]
        if ends[-1:] != [1] or any(start >= end for start, end in pairwise([Share(0), *ends])):
            raise QuantityError(f"spans of a mix must end one after the other, the last at 1. Got {ends}.")

    @property
    def _share_spans(self) -> tuple[ShareSpan, ...]:
        share = self.image_share
        return share if isinstance(share, tuple) else (ShareSpan(end=Share(1), share=share),)

    def __str__(self) -> str:
        """25 % images to 50 %, then 75 % images to the end, as shares of rows; images: ...; text: ..."""
        *first, last = self._share_spans
        spans = [f"{span.share} images to {span.end}" for span in first]
        spans.append(f"{last.share} images to the end" if first else f"{last.share} images")
        parts = [f"{', then '.join(spans)}, as shares of {self.share_unit.replace('_', ' ')}"]
        parts += [f"images: {self.images}"] if any(span.share != 0 for span in self._share_spans) else []
        parts += [f"text: {self.text}"] if any(span.share != 1 for span in self._share_spans) else []
        return "; ".join(parts)

    def spans(self, rows: int) -> tuple[tuple[int, Share], ...]:
        """(rows, image share) of each span of a stage of `rows` rows, in order."""
        ends = pairwise([0, *(floor(rows * span.end) for span in self._share_spans)])
        return tuple((end - start, span.share) for (start, end), span in zip(ends, self._share_spans, strict=True))

    def image_rows(self, rows: int) -> int:
        """Image rows among `rows` where shares count rows; an estimate where they count tokens."""
        return sum(floor(count * share) for count, share in self.spans(rows))
