"""The built-in picture world: real drawings in small scenes with exact truth, and text about the same things.

Handlers of steps: vocabulary, texts, captions, dialogues, benchmarks. `scene` and `draw` show single pictures.
"""

from __future__ import annotations

from firstsight.data.world.draw import ATTRIBUTION, draw, studio
from firstsight.data.world.exam.files import benchmarks
from firstsight.data.world.scene import Scene, scene
from firstsight.data.world.words import vocabulary
from firstsight.data.world.write import captions, dialogues, texts

__all__ = [
    "ATTRIBUTION",
    "Scene",
    "benchmarks",
    "captions",
    "dialogues",
    "draw",
    "scene",
    "studio",
    "texts",
    "vocabulary",
]
