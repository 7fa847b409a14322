"""Batch streams of training steps: prepared sources, packed and mixed by the spec, from a position in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from firstsight.data.image_reader import ImageReader
from firstsight.data.index import Index
from firstsight.data.loader import BatchStream, DecodedImages, LoaderMixture, LoaderSource, PrecomputedFeatures
from firstsight.data.loader.achieved_mix import AchievedMix
from firstsight.data.packing import pack
from firstsight.data.readers import locate_source
from firstsight.data.readers.source_reader import check_source_unchanged
from firstsight.errors import MixError
from firstsight.files import read_json
from firstsight.recipe.mixture import MAX_SOURCES, Mixture, PackingMode, image_source_names, text_source_names
from firstsight.recipe.stages import Finetune, Midtrain, RowShape, TrunkSegment
from firstsight.recipe.vision import VisionSpec
from firstsight.site import Location, Site
from firstsight.units import Share

StepInputs = Mapping[str, Path]
_POSITION_KEYS = {
    "rows_read": "text_rows_seen",
    "row_length": "text_row_length",
    "cuts_per_packed_row": "text_cut",
    "seed": "text_seed",
}
"""Key of each field of StreamPosition in achieved.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamPosition:
    """How many text rows the stages so far have read, in the order given by `seed`, the first stage's seed.

    A row of `row_length` tokens is one of `cuts_per_packed_row` parts of a row as it was packed.
    """

    rows_read: int
    row_length: int
    cuts_per_packed_row: int
    seed: int

    @classmethod
    def beginning(cls, row_shape: RowShape, seed: int) -> StreamPosition:
        """The position before the first row."""
        return cls(rows_read=0, row_length=row_shape.length, cuts_per_packed_row=1, seed=seed)

    @classmethod
    def from_checkpoint(cls, inputs: StepInputs, row_shape: RowShape, seed: int) -> StreamPosition:
        """The position in achieved.json of the checkpoint that a stage starts from; the beginning if there is none."""
        folder = inputs.get("trunk", inputs.get("previous"))
        path = None if folder is None else folder / "achieved.json"
        if path is None or not path.is_file():
            return cls.beginning(row_shape, seed)
        record = read_json(path, advice="Train the checkpoint again.")
        if not record.keys() >= set(_POSITION_KEYS.values()):
            keys = ", ".join(_POSITION_KEYS.values())
            raise MixError(f"{path}: wanted {keys}. Got a file of an older firstsight. Train the checkpoint again.")
        return cls(**{name: record[key] for name, key in _POSITION_KEYS.items()})

    def rescale(self, row_shape: RowShape, seed: int) -> StreamPosition:
        """The same position in rows of another length; MixError if no such row starts there."""
        if not self.rows_read:
            return StreamPosition.beginning(row_shape, seed)
        length, tokens_read = row_shape.length, self.row_length * self.rows_read
        packed_length = self.row_length * self.cuts_per_packed_row
        if packed_length % length or tokens_read % length:
            raise MixError(
                f"wanted rows that divide the {packed_length} tokens of a packed row of text, and the "
                f"{tokens_read:,} that were read. Got rows of {length}. Choose a length that does, or mix no text in."
            )
        cuts = packed_length // length
        return replace(self, rows_read=tokens_read // length, row_length=length, cuts_per_packed_row=cuts)


def trunk_stream(spec: TrunkSegment, *, inputs: StepInputs, site: Site) -> BatchStream:
    """The text of a trunk from its beginning to the end of a segment."""
    trunk = spec.pretrain
    steps = trunk.row_shape.steps(trunk.tokens_at(spec.end))
    position = StreamPosition.beginning(trunk.row_shape, trunk.seed)
    return BatchStream(
        text_mixture=_text_mixture(trunk.text, inputs, position, packing=trunk.packing, site=site),
        image_mixture=None,
        spans=((steps * trunk.row_shape.batch_size, Share(0)),),
        counted_in="rows",
        row_shape=trunk.row_shape,
        seed=trunk.seed,
        text_seed=position.seed,
        text_row_offset=0,
        steps=steps,
    )


def stage_stream(spec: Midtrain | Finetune, *, inputs: StepInputs, site: Site) -> BatchStream:
    """The mix of a stage; its text continues that of the stages before, row for row."""
    mix, row_shape, is_finetune = spec.mix, spec.row_shape, isinstance(spec, Finetune)
    steps, repeats = row_shape.steps(spec.tokens), spec.epochs if isinstance(spec, Finetune) else 1
    spans = mix.spans(steps * row_shape.batch_size)
    position = StreamPosition.from_checkpoint(inputs, row_shape, spec.seed)
    if all(share == 1 for rows, share in spans if rows):
        position = StreamPosition.beginning(row_shape, spec.seed)
    else:
        position = position.rescale(row_shape, spec.seed)
    names = image_source_names(mix.images)
    images = [_image_source(spec, inputs, site, index=index, name=name) for index, name in enumerate(names)]
    text = _text_mixture(mix.text, inputs, position, packing=mix.packing, site=site)
    if (count := len(text.sources) + len(images)) > MAX_SOURCES:
        raise MixError(f"a mix has at most {MAX_SOURCES} sources. Got {count}. Take some out.")
    return BatchStream(
        text_mixture=replace(
            text,
            sources=tuple(replace(source, answers_only=is_finetune) for source in text.sources),
            epochs=tuple(epochs * repeats for epochs in text.epochs),
        ),
        image_mixture=_loader_mixture(mix.images, images, repeats=repeats),
        spans=spans,
        counted_in=mix.share_unit,
        row_shape=row_shape,
        seed=spec.seed,
        text_seed=position.seed,
        text_row_offset=position.rows_read,
        steps=steps,
    )


def achieved_record(stream: BatchStream, inputs: StepInputs) -> dict[str, object]:
    """The content of achieved.json: what a run reads; a run without text keeps the text position that it started at."""
    achieved = AchievedMix(stream, stream.steps)
    if achieved.text_rows_read > stream.text_row_offset:
        return achieved.to_dict()
    position = StreamPosition.from_checkpoint(inputs, stream.row_shape, stream.seed)
    return achieved.to_dict() | {key: getattr(position, name) for name, key in _POSITION_KEYS.items()}


def _loader_mixture(mixture: Mixture, sources: Sequence[LoaderSource], *, repeats: int) -> LoaderMixture:
    return LoaderMixture(
        sources=tuple(sources),
        shares=tuple(component.share for component in mixture.components),
        epochs=tuple(component.max_epochs * repeats for component in mixture.components),
        counted_in=mixture.share_unit,
    )


def _text_mixture(
    mixture: Mixture, inputs: StepInputs, position: StreamPosition, *, packing: PackingMode, site: Site
) -> LoaderMixture:
    """Text sources, packed in the first stage's row length and cut to this stage's."""
    sources, cuts = list[LoaderSource](), position.cuts_per_packed_row
    for number, name in enumerate(text_source_names(mixture)):
        data = Index.open(inputs[f"text{number}"])
        packed = pack(data, length=position.row_length * cuts, image_tokens=0, packing=packing, cache=site.cache)
        rows = packed.split_rows(cuts)
        source = LoaderSource(name=name, index=data, packed_rows=rows, images=None, answers_only=False, group_size=cuts)
        sources.append(source)
    return _loader_mixture(mixture, sources, repeats=1)


def _image_source(spec: Midtrain | Finetune, inputs: StepInputs, site: Site, *, index: int, name: str) -> LoaderSource:
    """An image source with precomputed features where the step has them, else with pixels of the unchanged source."""
    role, source = f"image{index}", spec.mix.images.sources[index]
    source_index = Index.open(inputs[role])
    if spec.model.encoder == "external" and f"{role}.features" in inputs:
        images = PrecomputedFeatures.open(inputs[f"{role}.features"])
    else:
        location = locate_source(source, inputs.get(f"{role}.source"), site)
        check_source_unchanged(source_index, location, cache=site.cache)
        images = source_pixels(source_index, location, spec.model.vision, cache=site.cache)
    tokens, length = spec.model.image_tokens, spec.row_shape.length
    rows = pack(source_index, length=length, image_tokens=tokens, packing=spec.mix.packing, cache=site.cache)
    answers_only = isinstance(spec, Finetune)
    return LoaderSource(name=name, index=source_index, packed_rows=rows, images=images, answers_only=answers_only)


def source_pixels(index: Index, location: Location, vision: VisionSpec, *, cache: Path | None) -> DecodedImages:
    """A source's images, decoded to the size, fit and padding colour of the vision spec."""
    reader = ImageReader(index, location, cache)
    return DecodedImages(reader=reader, size=vision.image_size, fit=vision.fit, pad_color=vision.pad_color)
