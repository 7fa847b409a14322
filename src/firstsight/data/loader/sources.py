"""A source ready to be drawn from: its index, its rows, and its pictures as pixels or as features.

Legend: N pictures asked for, of I tokens of width W, or of S x S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Int64, UInt8

from firstsight.data.image_reader import ImageReader
from firstsight.data.images import SIGLIP_PAD_COLOR, decode_image_fast
from firstsight.data.index import Index
from firstsight.data.packing import PackedRows
from firstsight.recipe.vision import ImageFit, RGBBytes
from firstsight.site import Location


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecomputedFeatures:
    """Pictures as what the frozen encoder made of them, in the order of the index."""

    array: Float16[np.ndarray, "pictures I W"]

    @classmethod
    def open(cls, folder: Path) -> PrecomputedFeatures:
        """The output of an encode step, memory-mapped."""
        return cls(array=np.load(folder / "features.npy", mmap_mode="r").view(np.ndarray))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    def take(self, image_ids: Int64[np.ndarray, "N"]) -> Float16[np.ndarray, "N I W"]:
        return self.array[image_ids]


class DecodedImages:
    """Pictures fetched and decoded when they are needed, for a model without features of a frozen encoder."""

    def __init__(
        self,
        *,
        index: Index,
        location: Location,
        size: int,
        cache: Path | None,
        fit: ImageFit = "resize",
        pad_color: RGBBytes = SIGLIP_PAD_COLOR,
    ) -> None:
        self._image_reader, self._size = ImageReader(index, location, cache), size
        self._fit: ImageFit = fit
        self._pad_color = pad_color

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._size, self._size, 3)

    def take(self, image_ids: Int64[np.ndarray, "N"]) -> UInt8[np.ndarray, "N S S 3"]:
        """Pixels of the pictures `numbers` of the index, as `pictures.quick` makes them; for any thread."""
        pixels = np.empty((len(image_ids), *self.shape), dtype=np.uint8)
        for position, data in enumerate(self._image_reader.read_images(image_ids)):
            pixels[position] = decode_image_fast(data, self._size, self._fit, pad_color=self._pad_color)
        return pixels


ImageInputs = PrecomputedFeatures | DecodedImages


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderSource:
    """One source ready to be drawn from."""

    name: str
    index: Index
    packed_rows: PackedRows
    images: ImageInputs | None
    """None for text."""
    answers_only: bool
    """Fine-tuning: questions carry no loss."""
    group_size: int = 1
    """How many consecutive rows are drawn together: a text table that was cut from longer rows."""
