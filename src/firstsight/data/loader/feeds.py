"""A source ready to be drawn from: its index, its rows, and its pictures as pixels or as features.

Legend: N pictures asked for, of I tokens of width W, or of S x S pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Int64, UInt8

from firstsight.data.fetch import Fetch
from firstsight.data.index import Index
from firstsight.data.pack import RowTable
from firstsight.data.pictures import GREY, quick
from firstsight.recipe.vision import Fit, Ground
from firstsight.site import Location


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Pictures as what the frozen encoder made of them, in the order of the index."""

    array: Float16[np.ndarray, "pictures I W"]

    @classmethod
    def open(cls, folder: Path) -> Features:
        """The output of an encode step, memory-mapped."""
        return cls(array=np.load(folder / "features.npy", mmap_mode="r").view(np.ndarray))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    def take(self, numbers: Int64[np.ndarray, "N"]) -> Float16[np.ndarray, "N I W"]:
        return self.array[numbers]


class Pixels:
    """Pictures fetched and decoded when they are needed, for a model without features of a frozen encoder."""

    def __init__(
        self,
        *,
        index: Index,
        location: Location,
        size: int,
        cache: Path | None,
        fit: Fit = "resize",
        ground: Ground = GREY,
    ) -> None:
        self._fetch, self._size = Fetch(index, location, cache), size
        self._fit: Fit = fit
        self._ground = ground

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._size, self._size, 3)

    def take(self, numbers: Int64[np.ndarray, "N"]) -> UInt8[np.ndarray, "N S S 3"]:
        """Pixels of the pictures `numbers` of the index, as `pictures.quick` makes them; for any thread."""
        found = np.empty((len(numbers), *self.shape), dtype=np.uint8)
        for place, data in enumerate(self._fetch.take(numbers)):
            found[place] = quick(data, self._size, self._fit, ground=self._ground)
        return found


Pictures = Features | Pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """One source ready to be drawn from."""

    name: str
    index: Index
    table: RowTable
    pictures: Pictures | None
    """None for text."""
    answers_only: bool
    """Fine-tuning: questions carry no loss."""
    cut: int = 1
    """How many consecutive rows are drawn together: a text table that was cut from longer rows."""
