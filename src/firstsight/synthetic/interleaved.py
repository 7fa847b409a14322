"""Interleaved documents: images in reading order, each with a true passage about it.

Some begin with a line that names an object of each image, and some end with a second description of one of their
images, which has to be looked up by its objects, as in the text documents that describe a scene twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from firstsight.recipe.mixture import SyntheticWorld
from firstsight.synthetic.captions import complete_caption, partial_caption, photo_of
from firstsight.synthetic.catalog import uniform_choice, world_rng
from firstsight.synthetic.scenes import Scene, sample_scene
from firstsight.synthetic.vocabulary import SENTENCE_TEMPLATES

_OPENING_RATE = 0.3
"""Rate of documents that begin with text."""
_COMPLETE_RATE = 0.6
"""Rate of passages that describe all of their image; the others name some of its objects."""
_RECALL_RATE = 0.5
"""Rate of documents of several images that describe one of them again at the end."""


def sample_interleaved(world: SyntheticWorld, index: int, *, images: int) -> tuple[Scene | str, ...]:
    """The parts of document number `index` with `images` images, in reading order: a pure function of its arguments.

    The scenes do not depend on `images`: a document of two images begins with the image of one with a single image.
    """
    scenes = [sample_scene(world, f"interleaved {position}", index) for position in range(images)]
    rng = world_rng(world, "interleaved words", index)
    parts: list[Scene | str] = [_opening(scenes, rng)] if rng.random() < _OPENING_RATE else []
    passages = [_passage(scene, rng) for scene in scenes]
    if images > 1 and rng.random() < _RECALL_RATE:
        recalled = complete_caption(uniform_choice(scenes, rng), rng)
        passages[-1] = f"{passages[-1].removesuffix(' .')} {SENTENCE_TEMPLATES['again']} {recalled}"
    for scene, passage in zip(scenes, passages, strict=True):
        parts += [scene, passage]
    return tuple(parts)


def _opening(scenes: Sequence[Scene], rng: np.random.Generator) -> str:
    """An object of each image, in the order of the images."""
    return photo_of([uniform_choice(scene.objects, rng).name for scene in scenes]) + " ."


def _passage(scene: Scene, rng: np.random.Generator) -> str:
    """A complete or a partial description with a full stop."""
    return complete_caption(scene, rng) if rng.random() < _COMPLETE_RATE else partial_caption(scene, rng) + " ."
