"""Written sources through reading, preparing and packing to batches: every record arrives unchanged."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from firstsight import synthetic
from firstsight.data.image_reader import ImageReader
from firstsight.data.images import decode_image
from firstsight.data.index import Index
from firstsight.data.loader import BatchStream, LoaderMixture, LoaderSource, PrecomputedFeatures
from firstsight.data.loader.achieved_mix import AchievedMix
from firstsight.data.packing import pack
from firstsight.data.prepare import prepare
from firstsight.data.readers import RecordReader, list_shards
from firstsight.data.records import Dialogue, Document, ImageLocation, ImageText, InterleavedDocument
from firstsight.data.tokenizer import LOSS_ALWAYS, load_tokenizer
from firstsight.recipe.mixture import (
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticInterleaved,
    SyntheticMultitask,
    SyntheticTexts,
    SyntheticVocabulary,
    SyntheticWorld,
)
from firstsight.recipe.stages import Prepare, RowShape
from firstsight.site import Location, Progress, Site
from firstsight.units import Share

WORLD = SyntheticWorld(objects=16, kinds=8, image_size=48, max_objects=4, seed=0)
MULTITASK = ("captions", "words", "boxes", "dialogues")
SPECS = {
    "text": (SyntheticTexts(world=WORLD, documents=400, loss_mask="determined"), synthetic.write_texts),
    "captions": (SyntheticCaptions(world=WORLD, images=60, quality="rich"), synthetic.write_captions),
    "dialogues": (SyntheticDialogues(world=WORLD, images=60, turns=2), synthetic.write_dialogues),
    "interleaved": (SyntheticInterleaved(world=WORLD, documents=60, max_images=3), synthetic.write_interleaved),
    "multitask": (
        SyntheticMultitask(world=WORLD, images=60, turns=2, **dict.fromkeys(MULTITASK, Share(1, 4))),
        synthetic.write_multitask,
    ),
}


def ignore_progress(progress: Progress) -> None:
    del progress


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    site = Site(cache=root / "cache")
    for name in ("words", *SPECS, *(f"{name}.index" for name in SPECS)):
        (root / name).mkdir()
    synthetic.write_vocabulary(
        SyntheticVocabulary(world=WORLD), inputs={}, out=root / "words", site=site, on_progress=ignore_progress
    )
    for name, (spec, write) in SPECS.items():
        write(spec, inputs={}, out=root / name, site=site, on_progress=ignore_progress)
        inputs = {"source": root / name, "tokenizer": root / "words"}
        spec = Prepare(source=spec, tokenizer=SyntheticVocabulary(world=WORLD))
        prepare(spec, inputs=inputs, out=root / f"{name}.index", site=site, on_progress=ignore_progress)
    return root


def text_words(text: str) -> list[str]:
    """Words without the special tokens between turns."""
    return [word for word in text.split() if not word.startswith("<|")]


def image_positions(record: InterleavedDocument, *, has_end: bool) -> list[int]:
    """The tokens before each image, one a word; a document that starts with text starts with the end token."""
    positions, count = list[int](), int(has_end)
    for part in record.parts:
        if isinstance(part, ImageLocation):
            positions.append(count)
        else:
            count += len(part.split())
    return positions


@pytest.mark.parametrize("name", SPECS)
def test_every_record_is_prepared_word_for_word(prepared: Path, name: str) -> None:
    tokenizer, index = load_tokenizer(prepared / "words"), Index.open(prepared / f"{name}.index")
    assert (index.path / "quarantine.jsonl").read_text() == ""
    assert len(index.samples) == (400 if name == "text" else 60)
    location = Location(path=str(prepared / name))
    reader, images = RecordReader(location, index.form, source=SPECS[name][0]), ImageReader(index, location, None)
    records = (record for shard in list_shards(location, index.form) for record in reader.read(shard))
    for sample, record in zip(index.samples, records, strict=True):
        start, count, image_count, first_image = sample.item()
        match record:
            case Document():
                text, spans = record.text, record.loss
                loss = index.loss[start + 1 : start + count - 1]
                tokens = index.tokens[start + 1 : start + count - 1]
                loss_texts = [text[a:b] for a, b in spans or ()]
                assert text_words(" ".join(loss_texts)) == tokenizer.decode(tokens[loss > 0].tolist()).split()
                assert (tokens == tokenizer.special_ids.answer).sum() == text.split().count("<|/a|>")
            case ImageText():
                text = record.caption
            case Dialogue():
                text, tokens, loss = " ".join(record.turns), index.tokens[start : start + count], index.loss[start:]
                answers = tokens[loss[:count] == LOSS_ALWAYS]
                assert tokenizer.decode(answers.tolist()).split() == " ".join(record.turns[1::2]).split()
                assert (answers == tokenizer.special_ids.answer).sum() == len(record.turns) // 2
            case InterleavedDocument():
                text = " ".join(part for part in record.parts if isinstance(part, str))
                positions = index.image_refs["at"][first_image : first_image + image_count].tolist()
                assert positions == image_positions(record, has_end=isinstance(record.parts[0], str))
            case _:
                pytest.fail(f"the synthetic world writes no {type(record).__name__}")
        assert tokenizer.decode(index.tokens[start : start + count].tolist()).split() == text_words(text)
        for data in images.read_images(
            index.image_refs["picture"][first_image : first_image + image_count].astype(np.int64)
        ):
            assert decode_image(data, 48).shape == (48, 48, 3)


def test_a_mixed_batch_has_its_share_of_images(prepared: Path) -> None:
    def make_source(name: str) -> LoaderSource:
        index = Index.open(prepared / f"{name}.index")
        features = (
            PrecomputedFeatures(arrays=(np.zeros((len(index.images), 9, 4), dtype=np.float16),))
            if name != "text"
            else None
        )
        packed_rows = pack(index, length=64, image_tokens=9 if features else 0, packing="best_fit")
        return LoaderSource(name=name, index=index, packed_rows=packed_rows, images=features, answers_only=False)

    def make_mixture(*names: str) -> LoaderMixture:
        shares, sources = (Fraction(1, len(names)),) * len(names), tuple(make_source(name) for name in names)
        return LoaderMixture(sources=sources, shares=shares, epochs=(1,) * len(names), counted_in="rows")

    stream = BatchStream(
        text_mixture=make_mixture("text"),
        image_mixture=make_mixture("captions", "dialogues"),
        spans=((32, Fraction(1, 2)),),
        counted_in="rows",
        row_shape=RowShape(batch_size=8, length=64),
        seed=0,
        text_seed=0,
        text_row_offset=0,
        steps=4,
    )
    assert [stream.batch(step).source_ids.tolist().count(0) for step in range(4)] == [4] * 4
    assert AchievedMix(stream, 4).rows == {"text": 16, "captions": 8, "dialogues": 8}
