"""Inputs of all training steps, made once by the handlers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from firstsight.data.prepare import prepare
from firstsight.recipe.stages import Encode, Prepare
from firstsight.site import Site
from firstsight.train.encoder import encode_features, train_contrastive
from firstsight.train.handlers import pretrain
from tests.train import tiny_study


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site with one thread, without compilation."""
    return Site(compile=False, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, site: Site) -> dict[str, Path]:
    """Paths of all input roles of training steps."""
    root = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    paths = {
        "tokenizer": tiny_study.write_tokenizer(root),
        "texts": tiny_study.write_texts(root, rng),
        "captions": tiny_study.write_captions(root, rng),
    }
    for role, source, spec in (("text0", "texts", tiny_study.TEXTS), ("image0", "captions", tiny_study.CAPTIONS)):
        prepare_inputs = {"source": paths[source], "tokenizer": paths["tokenizer"]}
        paths[role] = tiny_study.run_handler(
            prepare, Prepare(source=spec, tokenizer=tiny_study.VOCABULARY), prepare_inputs, root / f"{role}-index", site
        )
    paths["image0.source"] = paths["captions"]
    paths["encoder0"] = tiny_study.run_handler(
        train_contrastive, tiny_study.SIGLIP, {"captions": paths["captions"]}, root / "encoder", site
    )
    prepare_inputs = {"source": paths["captions"], "index": paths["image0"], "encoder0": paths["encoder0"]}
    paths["image0.features"] = tiny_study.run_handler(
        encode_features,
        Encode(source=tiny_study.CAPTIONS, vision=tiny_study.FEATURE_VLM.vision),
        prepare_inputs,
        root / "features",
        site,
    )
    return paths


@pytest.fixture(scope="session")
def trunk(inputs: dict[str, Path], site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after two fifths of a trunk of ten steps."""
    return tiny_study.run_handler(
        pretrain, tiny_study.segment_spec(10, "0", "2/5"), inputs, tmp_path_factory.mktemp("run") / "trunk", site
    )
