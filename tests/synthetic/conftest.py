"""Small written sources and benchmarks of the synthetic world, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight import synthetic
from firstsight.recipe.mixture import (
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticInterleaved,
    SyntheticMultitask,
    SyntheticTexts,
    SyntheticVocabulary,
)
from firstsight.units import Share
from tests.synthetic.world_reader import SITE, WORLD


@pytest.fixture(scope="session")
def sources_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every source in a folder of its name."""
    out = tmp_path_factory.mktemp("sources")
    quarters = dict.fromkeys(("captions", "words", "boxes", "dialogues"), Share(1, 4))
    sources = {
        "texts": (synthetic.write_texts, SyntheticTexts(world=WORLD, documents=300, loss_mask="determined")),
        "plain": (synthetic.write_texts, SyntheticTexts(world=WORLD, documents=20, loss_mask="all")),
        "rich": (synthetic.write_captions, SyntheticCaptions(world=WORLD, images=200, quality="rich")),
        "noisy": (synthetic.write_captions, SyntheticCaptions(world=WORLD, images=200, quality="noisy")),
        "dialogues": (synthetic.write_dialogues, SyntheticDialogues(world=WORLD, images=600, turns=3)),
        "interleaved": (synthetic.write_interleaved, SyntheticInterleaved(world=WORLD, documents=120, max_images=3)),
        "multitask": (synthetic.write_multitask, SyntheticMultitask(world=WORLD, images=400, turns=3, **quarters)),
        "vocabulary": (synthetic.write_vocabulary, SyntheticVocabulary(world=WORLD)),
    }
    for name, (write, spec) in sources.items():
        (out / name).mkdir()
        write(spec, inputs={}, out=out / name, site=SITE, on_progress=lambda _: None)  # type: ignore[arg-type]
    return out


@pytest.fixture(scope="session")
def benchmarks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmarks")
    spec = SyntheticBenchmarks(world=WORLD, questions=96)
    synthetic.write_benchmarks(spec, inputs={}, out=out, site=SITE, on_progress=lambda _: None)
    return out
