"""Features of external encoders that are stored once for all arms: how large they are, and whether the site has room.

Paths and sizes of a site enter no address, so a stage whose features have no room has the address of one whose
features are stored: training computes the same ones (`model.vision.extract_fixed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from firstsight.plan.step import Step
from firstsight.recipe.mixture import (
    DataSource,
    External,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticInterleaved,
    SyntheticMultitask,
    base_source,
)
from firstsight.recipe.stages import Encode

FEATURE_NUMBER_BYTES = 2
"""Of a float16."""


def image_count(source: DataSource) -> int:
    """The images of a source; 0 where they are unknown."""
    match base_source(source):
        case SyntheticCaptions(images=count) | SyntheticDialogues(images=count) | SyntheticMultitask(images=count):
            return count
        case SyntheticInterleaved(images=count):
            return count
        case External(form="captions" | "dialogues", records=count):
            return count
        case _:
            return 0


def encoded_bytes(spec: Encode) -> int:
    """Bytes of the features that an encode step stores; 0 where its images are unknown."""
    return FEATURE_NUMBER_BYTES * image_count(spec.source) * spec.vision.tokens * spec.vision.width


@dataclass(slots=True)
class FeatureRoom:
    """How much room there is for features; those that are stored take none."""

    free_bytes: int | None = None
    """None: no limit."""
    stored: Mapping[str, int] = field(default_factory=dict[str, int])
    """Bytes of the stored encode steps by address; `free_bytes` is without them."""
    _admitted: set[str] = field(default_factory=set[str])

    def admit(self, steps: Sequence[Step]) -> bool:
        """Whether the features of all sources of a stage have room, which they then take.

        Those of unknown size have room; their step refuses to store more than the site allows.
        """
        if self.free_bytes is None:
            return True
        taken = {*self.stored, *self._admitted}
        size = sum({step.address: encoded_bytes(step.spec) for step in steps if step.address not in taken}.values())
        if size > self.free_bytes:
            return False
        self.free_bytes -= size
        self._admitted.update(step.address for step in steps)
        return True
