"""A source of the loader: its index, its packed rows, and its images as pixels or as encoder features.

Legend: N images of I tokens of width W, or of S x S pixels; n rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float16, Int64, UInt8

from firstsight.data.image_reader import ImageReader
from firstsight.data.images import SIGLIP_PAD_COLOR, decode_image_fast
from firstsight.data.index import Index
from firstsight.data.packing import PackedRows
from firstsight.data.sampling import Indices
from firstsight.errors import MixError
from firstsight.recipe.mixture import ShareUnit
from firstsight.recipe.vision import ImageFit, RGBBytes


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecomputedFeatures:
    """The features that a frozen encoder computed of an index's images, in the order of the index."""

    array: Float16[np.ndarray, "images I W"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    def take(self, image_ids: Int64[np.ndarray, "N"]) -> Float16[np.ndarray, "N I W"]:
        return self.array[image_ids]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImages:
    """Images that are read and decoded when they are needed, for a model without precomputed features."""

    reader: ImageReader
    size: int
    fit: ImageFit = "resize"
    pad_color: RGBBytes = SIGLIP_PAD_COLOR

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    def take(self, image_ids: Int64[np.ndarray, "N"]) -> UInt8[np.ndarray, "N S S 3"]:
        """Pixels of images of the index, decoded by `images.decode_image_fast`; thread-safe."""
        pixels = np.empty((len(image_ids), *self.shape), dtype=np.uint8)
        for position, data in enumerate(self.reader.read_images(image_ids)):
            pixels[position] = decode_image_fast(data, self.size, self.fit, pad_color=self.pad_color)
        return pixels


ImageInputs = PrecomputedFeatures | DecodedImages


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderSource:
    """A source that rows are drawn from."""

    name: str
    index: Index
    packed_rows: PackedRows
    images: ImageInputs | None
    """None for text."""
    answers_only: bool
    """Fine-tuning: questions carry no loss."""
    group_size: int = 1
    """How many consecutive rows are drawn together: the parts of one longer row that the text was packed into."""

    def units(self, rows: Indices, unit: ShareUnit) -> Int64[np.ndarray, "n"]:
        """What each of `rows` counts for in `unit`."""
        packed = self.packed_rows
        match unit:
            case "rows":
                return np.ones_like(rows)
            case "tokens":
                return packed.filled[rows].astype(np.int64)
            case "loss_tokens":
                always = packed.loss_always[rows].astype(np.int64)
                return always if self.answers_only else always + packed.loss_before_finetuning[rows]

    def max_units(self, unit: ShareUnit, *, group_size: int = 1) -> int:
        """The most that `group_size` consecutive rows count for."""
        units = self.units(np.arange(self.packed_rows.row_count), unit)
        return int(units.reshape(-1, group_size).sum(axis=1).max(initial=0))

    def check_countable(self, share: Fraction, unit: ShareUnit) -> None:
        """Raise MixError if no row counts for anything in `unit`: a share of it could never be reached."""
        if share and unit != "rows" and not self.max_units(unit):
            raise MixError(
                f"{self.name}: wanted {share} of the {unit.replace('_', ' ')}. Got a source without any, "
                f"{self.index.path}. Count rows, or take the source out."
            )
