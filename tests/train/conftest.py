"""The inputs of every training step, made once by the real handlers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstsight.data.prepare import prepare
from firstsight.recipe.stages import Encode, Prepare
from firstsight.site import Site
from firstsight.train.contrastive import train_contrastive
from firstsight.train.encode import encode_features
from tests.train import tiny_study


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One thread, nothing compiled."""
    return Site(compile=False, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, site: Site) -> dict[str, Path]:
    """Every role that a training step may read, small and real."""
    root = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    made = {
        "tokenizer": tiny_study.write_tokenizer(root),
        "texts": tiny_study.write_texts(root, rng),
        "captions": tiny_study.write_captions(root, rng),
    }
    for role, source, spec in (("text0", "texts", tiny_study.TEXTS), ("image0", "captions", tiny_study.CAPTIONS)):
        needs = {"source": made[source], "tokenizer": made["tokenizer"]}
        made[role] = tiny_study.ran(
            prepare, Prepare(source=spec, tokenizer=tiny_study.VOCABULARY), needs, root / f"{role}-index", site
        )
    made["image0.source"] = made["captions"]
    made["encoder0"] = tiny_study.ran(
        train_contrastive, tiny_study.SIGLIP, {"captions": made["captions"]}, root / "encoder", site
    )
    needs = {"source": made["captions"], "index": made["image0"], "encoder0": made["encoder0"]}
    made["image0.features"] = tiny_study.ran(
        encode_features,
        Encode(source=tiny_study.CAPTIONS, vision=tiny_study.SEES.vision),
        needs,
        root / "features",
        site,
    )
    return made
