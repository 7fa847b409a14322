"""The built-in synthetic world: real drawings in small scenes with exact truth, and text about the same things.

Handlers of steps: vocabulary, texts, captions, dialogues, interleaved, multitask, benchmarks.
`render_scene` makes single images.
"""

from __future__ import annotations

from firstsight.synthetic.benchmarks import write_benchmarks
from firstsight.synthetic.rendering import ATTRIBUTION, cached_renderer, render_scene
from firstsight.synthetic.scenes import Scene, sample_scene
from firstsight.synthetic.vocabulary import write_vocabulary
from firstsight.synthetic.writers import (
    write_captions,
    write_dialogues,
    write_interleaved,
    write_multitask,
    write_texts,
)

__all__ = [
    "ATTRIBUTION",
    "Scene",
    "cached_renderer",
    "render_scene",
    "sample_scene",
    "write_benchmarks",
    "write_captions",
    "write_dialogues",
    "write_interleaved",
    "write_multitask",
    "write_texts",
    "write_vocabulary",
]
