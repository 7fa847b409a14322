"""Streams of training steps: prepared sources, packed and mixed as the spec says, from where the text was left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from firstsight.data.index import Index
from firstsight.data.loader import BatchStream, DecodedImages, LoaderMixture, LoaderSource, PrecomputedFeatures
from firstsight.data.packing import pack
from firstsight.data.readers import locate_source
from firstsight.data.source_check import check_source_unchanged
from firstsight.errors import MixError
from firstsight.recipe.mixture import DataSource, External, Mixture, PackingMode, Recaptioned, SyntheticCaptions
from firstsight.recipe.stages import Finetune, Midtrain, RowShape, TrunkSegment
from firstsight.recipe.vision import VisionSpec
from firstsight.site import Location, Site
from firstsight.train.loop import NUM_LOSS_GROUPS
from firstsight.units import Share

StepInputs = Mapping[str, Path]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamPosition:
    """How far the stages before have read the text: in rows of `length`, cut from rows `cut` times as long.

    The text goes on in the order of the seed that it was begun with.
    """

    rows_read: int
    row_length: int
    cuts_per_packed_row: int
    seed: int

    @classmethod
    def from_checkpoint(cls, inputs: StepInputs, row_shape: RowShape, seed: int) -> StreamPosition:
        """What the checkpoint that a stage goes on from says; the beginning where there is none."""
        folder = inputs.get("trunk", inputs.get("previous"))
        record_path = None if folder is None else folder / "achieved.json"
        if record_path is None or not record_path.is_file():
            return cls(rows_read=0, row_length=row_shape.length, cuts_per_packed_row=1, seed=seed)
        record = json.loads(record_path.read_text())
        keys = ("text_rows_seen", "text_row_length", "text_cut", "text_seed")
        if not all(name in record for name in keys):
            raise MixError(
                f"{record_path}: wanted {', '.join(keys)}. Got a note of an older firstsight. Train it again."
            )
        return cls(
            **{
                name: record[key]
                for name, key in zip(("rows_read", "row_length", "cuts_per_packed_row", "seed"), keys, strict=True)
            }
        )

    def rescale(self, row_shape: RowShape, seed: int) -> StreamPosition:
        """The same place in rows of another length; raises MixError where no such row begins there."""
        if not self.rows_read:
            return StreamPosition(rows_read=0, row_length=row_shape.length, cuts_per_packed_row=1, seed=seed)
        packed_length, tokens_read = self.row_length * self.cuts_per_packed_row, self.row_length * self.rows_read
        if packed_length % row_shape.length or tokens_read % row_shape.length:
            raise MixError(
                f"wanted rows that divide the {packed_length} tokens in which the text was packed, and the {tokens_read:,} that were "
                f"read. Got rows of {row_shape.length}. Choose a length that does, or mix no text in."
            )
        return replace(
            self,
            rows_read=tokens_read // row_shape.length,
            row_length=row_shape.length,
            cuts_per_packed_row=packed_length // row_shape.length,
        )

    def to_record(self) -> dict[str, int]:
        """As it stands in achieved.json."""
        return {
            "text_rows_seen": self.rows_read,
            "text_row_length": self.row_length,
            "text_cut": self.cuts_per_packed_row,
            "text_seed": self.seed,
        }


def trunk_stream(spec: TrunkSegment, *, inputs: StepInputs, site: Site) -> BatchStream:
    """The text of a trunk from its beginning to the end of a segment."""
    trunk = spec.pretrain
    steps = trunk.row_shape.steps(trunk.tokens_at(spec.end))
    position = StreamPosition(rows_read=0, row_length=trunk.row_shape.length, cuts_per_packed_row=1, seed=trunk.seed)
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
    """The mix of a stage; its text goes on behind that of the stages before, row for row."""
    mix, is_finetune = spec.mix, isinstance(spec, Finetune)
    steps, repeats = spec.row_shape.steps(spec.tokens), spec.epochs if isinstance(spec, Finetune) else 1
    spans = mix.spans(steps * spec.row_shape.batch_size)
    position = StreamPosition.from_checkpoint(inputs, spec.row_shape, spec.seed)
    images_only = all(share == 1 for rows, share in spans if rows)
    position = (
        StreamPosition(rows_read=0, row_length=spec.row_shape.length, cuts_per_packed_row=1, seed=spec.seed)
        if images_only
        else position.rescale(spec.row_shape, spec.seed)
    )
    names = _unique_source_names(mix.images.sources)
    images = [
        _image_source(spec, inputs, site, source_index=source_index, name=name)
        for source_index, name in enumerate(names)
    ]
    text = _text_mixture(mix.text, inputs, position, packing=mix.packing, site=site)
    if len(text.sources) + len(images) > NUM_LOSS_GROUPS:
        raise MixError(
            f"a mix holds at most {NUM_LOSS_GROUPS} sources. Got {len(text.sources) + len(images)}. Take some out."
        )
    return BatchStream(
        text_mixture=replace(
            text,
            sources=tuple(replace(source, answers_only=is_finetune) for source in text.sources),
            epochs=tuple(epochs * repeats for epochs in text.epochs),
        ),
        image_mixture=_mixture_sampler(mix.images, images, repeats=repeats),
        spans=spans,
        counted_in=mix.share_unit,
        row_shape=spec.row_shape,
        seed=spec.seed,
        text_seed=position.seed,
        text_row_offset=position.rows_read,
        steps=steps,
    )


def achieved_record(stream: BatchStream, inputs: StepInputs) -> dict[str, object]:
    """What a run holds; where it reads no text, the text goes on later from where the stage before left it."""
    achieved_mix = stream.achieved_mix(stream.steps)
    if any(achieved_mix.rows[name] for name in achieved_mix.text_sources):
        return achieved_mix.to_dict()
    return achieved_mix.to_dict() | StreamPosition.from_checkpoint(inputs, stream.row_shape, stream.seed).to_record()


def _mixture_sampler(mixture: Mixture, sources: Sequence[LoaderSource], *, repeats: int) -> LoaderMixture:
    return LoaderMixture(
        sources=tuple(sources),
        shares=tuple(component.share for component in mixture.components),
        epochs=tuple(component.max_epochs * repeats for component in mixture.components),
        counted_in=mixture.share_unit,
    )


def _text_mixture(
    mixture: Mixture, inputs: StepInputs, position: StreamPosition, *, packing: PackingMode, site: Site
) -> LoaderMixture:
    """Text sources, packed at the length that the first stage had and cut to this one's."""
    names = (
        ["text"] if len(mixture.components) == 1 else [f"text-{name}" for name in _unique_source_names(mixture.sources)]
    )
    sources = list[LoaderSource]()
    for source_index, name in enumerate(names):
        index = Index.open(inputs[f"text{source_index}"])
        packed_rows = pack(
            index,
            length=position.row_length * position.cuts_per_packed_row,
            image_tokens=0,
            packing=packing,
            cache=site.cache,
        )
        packed_rows = packed_rows.split_rows(position.cuts_per_packed_row)
        sources.append(
            LoaderSource(
                name=name,
                index=index,
                packed_rows=packed_rows,
                images=None,
                answers_only=False,
                group_size=position.cuts_per_packed_row,
            )
        )
    return _mixture_sampler(mixture, sources, repeats=1)


def _image_source(
    spec: Midtrain | Finetune, inputs: StepInputs, site: Site, *, source_index: int, name: str
) -> LoaderSource:
    """An image source, as features for a frozen encoder; pictures that are read again are still those prepared."""
    role, vision, source = f"image{source_index}", spec.model.vision, spec.mix.images.sources[source_index]
    index = Index.open(inputs[role])
    if spec.model.encoder == "frozen" and f"{role}.features" in inputs:
        images = PrecomputedFeatures.open(inputs[f"{role}.features"])
    else:
        location = locate_source(source, inputs.get(f"{role}.source"), site)
        check_source_unchanged(index, location)
        images = source_pixels(index, location, vision, cache=site.cache)
    tokens, rows = spec.model.image_tokens, spec.row_shape
    packed_rows = pack(index, length=rows.length, image_tokens=tokens, packing=spec.mix.packing, cache=site.cache)
    return LoaderSource(
        name=name, index=index, packed_rows=packed_rows, images=images, answers_only=isinstance(spec, Finetune)
    )


def source_pixels(index: Index, location: Location, vision: VisionSpec, *, cache: Path | None) -> DecodedImages:
    """A source's pictures in the form that an encoder or patches take."""
    return DecodedImages(
        index=index, location=location, size=vision.image_size, cache=cache, fit=vision.fit, pad_color=vision.pad_color
    )


def _unique_source_names(sources: Sequence[DataSource]) -> list[str]:
    """What each part is called in logs; parts of one name are numbered."""
    base_names = [_source_name(source) for source in sources]
    name_counts, used_counts = Counter(base_names), Counter[str]()
    names: list[str] = []
    for name in base_names:
        used_counts[name] += 1
        names.append(f"{name}-{used_counts[name]}" if name_counts[name] > 1 else name)
    return names


def _source_name(source: DataSource) -> str:
    match source:
        case External():
            return source.name
        case Recaptioned():
            return source.external.name
        case SyntheticCaptions():
            return f"captions-{source.quality}"
        case _:
            return source.TAG
