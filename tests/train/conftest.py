"""The inputs of every training step, made once by the real handlers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstsight.data.prepare import prepare
from firstsight.recipe.stages import Encode, Prepare
from firstsight.site import Site
from firstsight.train.handlers import encode_features, train_contrastive
from tests.train import small


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
        "tokenizer": small.write_tokenizer(root),
        "texts": small.write_texts(root, rng),
        "captions": small.write_captions(root, rng),
    }
    for role, source, spec in (("text0", "texts", small.TEXTS), ("image0", "captions", small.CAPTIONS)):
        needs = {"source": made[source], "tokenizer": made["tokenizer"]}
        made[role] = small.ran(
            prepare, Prepare(source=spec, tokenizer=small.VOCABULARY), needs, root / f"{role}-index", site
        )
    made["image0.source"] = made["captions"]
    made["encoder0"] = small.ran(
        train_contrastive, small.SIGLIP, {"captions": made["captions"]}, root / "encoder", site
    )
    needs = {"source": made["captions"], "index": made["image0"], "encoder0": made["encoder0"]}
    made["image0.features"] = small.ran(
        encode_features, Encode(source=small.CAPTIONS, vision=small.SEES.vision), needs, root / "features", site
    )
    return made
