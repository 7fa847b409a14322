"""The declared sizes of built-in records, and the rows that follow from them, against records that were really made."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstsight import synthetic
from firstsight.data.index import Index
from firstsight.data.packing import pack
from firstsight.data.packing.bins import best_fit
from firstsight.data.prepare import prepare
from firstsight.recipe.mixture import (
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticInterleaved,
    SyntheticMultitask,
    SyntheticTexts,
    SyntheticVocabulary,
    SyntheticWorld,
)
from firstsight.recipe.stages import Prepare
from firstsight.recipe.synthetic_sizes import (
    LARGEST_TURNS,
    SyntheticSource,
    doubled,
    guaranteed_rows,
    record_sizes,
    records,
)
from firstsight.site import Site
from firstsight.synthetic import writers
from firstsight.synthetic.rendering import Renderer, encode_png
from firstsight.units import Share

COUNT = 200
QUARTERS = dict.fromkeys(("captions", "words", "boxes", "dialogues"), Share(1, 4))
WRITERS = {
    "texts": synthetic.write_texts,
    "captions": synthetic.write_captions,
    "dialogues": synthetic.write_dialogues,
    "interleaved": synthetic.write_interleaved,
    "multitask": synthetic.write_multitask,
}


def sources(max_objects: int) -> dict[str, SyntheticSource]:
    world = SyntheticWorld(objects=16, kinds=4, image_size=48, max_objects=max_objects, seed=max_objects)
    return {
        "texts": SyntheticTexts(world=world, documents=COUNT, loss_mask="determined"),
        "rich": SyntheticCaptions(world=world, images=COUNT, quality="rich"),
        "noisy": SyntheticCaptions(world=world, images=COUNT, quality="noisy"),
        "1 turn": SyntheticDialogues(world=world, images=COUNT, turns=1),
        "2 turns": SyntheticDialogues(world=world, images=COUNT, turns=2),
        "9 turns": SyntheticDialogues(world=world, images=COUNT, turns=9),
        "1 image": SyntheticInterleaved(world=world, documents=COUNT, max_images=1),
        "4 images": SyntheticInterleaved(world=world, documents=COUNT // 2, max_images=4),
        "multitask 1": SyntheticMultitask(world=world, images=COUNT, turns=1, **QUARTERS),
        "multitask 2": SyntheticMultitask(world=world, images=COUNT, turns=2, **QUARTERS),
    }


NAMES = tuple(sources(1))


@pytest.fixture(
    scope="module",
    params=[1, 4, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)],
    ids=lambda number: f"{number}-objects",
)
def prepared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[SyntheticSource, Index]]:
    """The sources of a world, prepared with the same blank picture for every image: only texts count here."""
    root, blank = tmp_path_factory.mktemp("sizes"), encode_png(np.zeros((48, 48, 3), dtype=np.uint8))
    site = Site(cache=root / "cache")
    settings: dict[str, Any] = {"site": site, "on_progress": lambda _: None}
    specs = sources(request.param)
    vocabulary = SyntheticVocabulary(world=specs["texts"].world)
    (root / "words").mkdir()
    synthetic.write_vocabulary(vocabulary, inputs={}, out=root / "words", **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, "encode_png", lambda _: blank)
        patch.setattr(Renderer, "render", lambda *_: None)
        return {name: (spec, prepare_source(spec, vocabulary, root / name, settings)) for name, spec in specs.items()}


def prepare_source(spec: SyntheticSource, vocabulary: SyntheticVocabulary, root: Path, settings: Any) -> Index:
    for folder in (root, root / "source", root / "index"):
        folder.mkdir()
    WRITERS[spec.TAG](spec, inputs={}, out=root / "source", **settings)
    inputs = {"source": root / "source", "tokenizer": root.parent / "words"}
    prepare(Prepare(source=spec, tokenizer=vocabulary), inputs=inputs, out=root / "index", **settings)
    return Index.open(root / "index")


@pytest.mark.parametrize("name", NAMES)
def test_records_have_the_declared_sizes(prepared: dict[str, tuple[SyntheticSource, Index]], name: str) -> None:
    source, index = prepared[name]
    declared, sizes = record_sizes(source), index.samples["tokens_count"].astype(float)
    images = max(1, len(index.images))
    if isinstance(source, SyntheticInterleaved):
        assert sizes.sum() / images >= declared.mean and sizes.min() >= declared.least
        return
    assert (sizes < declared.least).sum() + records(source) - len(sizes) <= declared.irregular * COUNT / 100
    assert sizes.max() <= declared.largest
    error = 3 * sizes.std() / len(sizes) ** 0.5
    assert sizes.mean() >= declared.mean - error and sizes.std() <= declared.deviation


SHAPES = [(64, 12), (64, 3), (33, 12), (128, 40), (20, 12)]


@pytest.mark.parametrize("name", NAMES)
def test_no_source_fills_fewer_rows_than_it_is_sure_to(
    prepared: dict[str, tuple[SyntheticSource, Index]], name: str
) -> None:
    source, index = prepared[name]
    tokenizer = SyntheticVocabulary(world=source.world)
    for (length, image_tokens), packing in product(SHAPES, ("best_fit", "one_image_per_row")):
        if length < image_tokens + LARGEST_TURNS.get(source.TAG, 0):
            continue  # no room for a whole turn: such a stage does not plan
        image_tokens = 0 if source.TAG == "texts" else image_tokens
        shape: Any = {"length": length, "image_tokens": image_tokens, "packing": packing}
        rows = pack(index, **shape).row_count
        assert 0.2 * rows <= guaranteed_rows(source, **shape, tokenizer=tokenizer) <= rows, shape


@pytest.mark.parametrize("name", NAMES)
def test_every_beginning_of_a_source_fills_the_rows_that_it_is_sure_to(
    prepared: dict[str, tuple[SyntheticSource, Index]], name: str
) -> None:
    source, index = prepared[name]
    if isinstance(source, SyntheticInterleaved):
        return
    image_tokens = 0 if source.TAG == "texts" else 12
    sizes = np.minimum(index.samples["tokens_count"].astype(np.int32) + image_tokens, 64)
    count_field = "documents" if source.TAG == "texts" else "images"
    for count in (1, 2, 7, 30, 100, len(sizes)):
        smaller = type(source)(**{**fields(source), count_field: count})
        tokenizer = SyntheticVocabulary(world=source.world)
        sure = guaranteed_rows(smaller, length=64, image_tokens=image_tokens, packing="best_fit", tokenizer=tokenizer)
        assert sure <= best_fit(sizes[:count], 64)[1]


def fields(source: SyntheticSource) -> dict[str, Any]:
    return {name: getattr(source, name) for name in type(source).__dataclass_fields__ if name != "TAG"}


def test_a_source_is_doubled_in_nothing_but_its_size() -> None:
    for source in sources(4).values():
        before, after = fields(source), fields(doubled(source))
        (name,) = {name for name in before if before[name] != after[name]}
        assert name in ("documents", "images") and after[name] == 2 * before[name]
