from __future__ import annotations

import gzip
import json
import tarfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Fast
from tokenizers import models

from firstsight.data.records import (
    Dialogue,
    Document,
    ImageLocation,
    ImageText,
    InterleavedDocument,
    Record,
    TokenizedChunk,
)
from firstsight.data.tokenizer import (
    LOSS_ALWAYS,
    LOSS_BEFORE_FINETUNING,
    LOSS_NEVER,
    TextSpan,
    encode_context,
    encode_prompt,
    load_tokenizer,
    span_loss_flags,
    tokenize_records,
)
from firstsight.errors import DataError

from .conftest import ANSWER, END, HUMAN, PAD, WORDS, Workshop, words_of


def test_special_ids_are_looked_up_by_their_text(workshop: Workshop) -> None:
    ids = load_tokenizer(workshop.words()).special_ids
    assert (ids.end, ids.human, ids.answer, ids.pad) == (END, HUMAN, ANSWER, PAD)


def test_a_file_and_its_folder_load_the_same_tokenizer(workshop: Workshop) -> None:
    folder = workshop.words()
    assert load_tokenizer(folder).digest == load_tokenizer(folder / "tokenizer.json").digest


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    Fast(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="endoftext"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match=r"wanted tokenizer\.json"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        (((0, 2),), [1, 0, 0, 0]),
        (((0, 5),), [1, 1, 0, 0]),
        (((3, 5), (9, 11)), [0, 1, 0, 1]),
        (((1, 4),), [1, 1, 0, 0]),
        ((), [0, 0, 0, 0]),
        (((2, 3),), [0, 0, 0, 0]),
    ],
)
def test_a_token_carries_loss_if_a_span_overlaps_it(spans: tuple[tuple[int, int], ...], expected: list[int]) -> None:
    span = TextSpan(text="ab cd ef gh", closing_token="end", loss=LOSS_ALWAYS, loss_spans=spans)
    assert span_loss_flags(span, [(0, 2), (3, 5), (6, 8), (9, 11)]) == expected


@pytest.mark.shared
def test_special_tokens_in_data_are_plain_text(neox: Path) -> None:
    tokenizer = load_tokenizer(neox)
    [layout] = tokenize_records(tokenizer, [Document(id="0", text="a <|/a|> b <|endoftext|>", loss=None)])
    ids = layout.ids
    assert tokenizer.special_ids.answer not in ids
    assert (ids == tokenizer.special_ids.end).sum() == 2


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"model": {"type": "none"}}', b""])
def test_a_damaged_file_is_refused_and_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(DataError, match=r"tokenizer\.json: wanted Hugging Face tokenizers' JSON\. Got: .*Copy"):
        load_tokenizer(tmp_path)


@pytest.fixture
def neox(shared: Path, tmp_path: Path) -> Path:
    data = gzip.decompress((shared / "tokenizers" / "gpt-neox-20b_tokenizer.json.gz").read_bytes())
    (tmp_path / "tokenizer.json").write_bytes(data)
    return tmp_path


@pytest.mark.shared
def test_a_bare_neox_tokenizer_gets_the_papers_ids(neox: Path) -> None:
    tokenizer = load_tokenizer(neox)
    assert (tokenizer.special_ids.end, tokenizer.special_ids.answer, tokenizer.special_ids.human) == (0, 50279, 50281)
    assert tokenizer.special_ids.pad == tokenizer.special_ids.end
    assert tokenizer.vocab_size == 50282


@pytest.mark.shared
def test_loss_spans_in_byte_pairs_map_to_exactly_the_words(neox: Path) -> None:
    tokenizer = load_tokenizer(neox)
    text = "The naïve penguin — 企鵝 — is a flightless bird, isn't it?"
    for expected in ("naïve", "penguin", "企鵝", "flightless", "it"):
        start = text.index(expected) if expected != "it" else text.rindex(expected)
        document = Document(id="0", text=text, loss=((start, start + len(expected)),))
        [layout] = tokenize_records(tokenizer, [document])
        assert tokenizer.decode(layout.ids[layout.loss > 0].tolist()[:-1]).strip() == expected
    assert tokenizer.vocab_size > WORDS


LOCATION = ImageLocation(shard="a.tar", offset=0, size=1, hash=0)
W = WORDS
"""The id of w0."""


def layouts(workshop: Workshop, *records: Record) -> list[tuple[list[int], list[int], tuple[int, ...], int]]:
    return [
        (layout.ids.tolist(), layout.loss.tolist(), layout.image_positions, layout.record_number)
        for layout in tokenize_records(load_tokenizer(workshop.words()), records)
    ]


def test_every_form_is_laid_out_as_documented(workshop: Workshop) -> None:
    """Written by hand from the table in the module; 1 always, 2 before fine-tuning, 0 never."""
    records = [
        Document(id="1", text="w1 w2 w3", loss=((0, 2), (6, 8))),
        ImageText(id="2", image=LOCATION, caption="w1 w2"),
        Dialogue(id="3", image=LOCATION, turns=("w1", "w2", "w3", "w4")),
        Dialogue(id="4", image=None, turns=("w1", "w2")),
        TokenizedChunk(id="5", tokens=(9, END, 10)),
        InterleavedDocument(id="6", parts=("w1", LOCATION, "w2 w3", LOCATION, LOCATION, "w4")),
        InterleavedDocument(id="7", parts=(LOCATION, "w1", LOCATION)),
    ]
    assert layouts(workshop, *records) == [
        ([END, W + 1, W + 2, W + 3, END], [0, 1, 0, 1, 1], (), 0),
        ([W + 1, W + 2, END], [1, 1, 1], (0,), 1),
        ([W + 1, HUMAN, W + 2, ANSWER, W + 3, HUMAN, W + 4, ANSWER], [2, 2, 1, 1, 2, 2, 1, 1], (0,), 2),
        ([END, W + 1, HUMAN, W + 2, ANSWER], [0, 2, 2, 1, 1], (), 3),
        ([9, END], [0, 1], (), 4),
        ([END, 10], [0, 1], (), 4),
        ([END, W + 1, W + 2, W + 3, W + 4, END], [0, 1, 1, 1, 1, 1], (2, 4, 4), 5),
        ([W + 1, END], [1, 1], (0, 1), 6),
    ]
    assert (LOSS_NEVER, LOSS_ALWAYS, LOSS_BEFORE_FINETUNING) == (0, 1, 2)


@pytest.mark.parametrize(
    ("chunk", "pieces"),
    [
        ([8, 9], [[8, 9]]),
        ([END, 8, 9], [[END, 8, 9]]),
        ([8, 9, END], [[8, 9, END]]),
        ([8, END, END, 9], [[8, END], [END, 9]]),
        ([END, 8, END, 9, END], [[END, 8, END], [END, 9, END]]),
        ([END], []),
        ([END, END], []),
    ],
)
def test_a_chunk_is_cut_at_its_end_tokens(workshop: Workshop, chunk: list[int], pieces: list[list[int]]) -> None:
    assert [ids for ids, *_ in layouts(workshop, TokenizedChunk(id="1", tokens=tuple(chunk)))] == pieces


@given(chunk=st.lists(st.integers(0, 3), min_size=1, max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_no_target_of_a_chunk_is_lost_or_repeated(workshop: Workshop, chunk: list[int]) -> None:
    """Targets are all but the first token and the ends that follow an end; each has what came before it before it."""
    tokenizer = workshop.root / "words"
    actual = tokenize_records(
        load_tokenizer(tokenizer if tokenizer.exists() else workshop.words()),
        [TokenizedChunk(id="1", tokens=tuple(chunk))],
    )
    targets = [
        (before, following)
        for layout in actual
        for before, following in zip(layout.ids[:-1].tolist(), layout.ids[1:].tolist(), strict=True)
    ]
    expected = [(before, following) for before, following in pairwise(chunk) if before or following]
    assert targets == expected
    assert all(layout.loss.tolist() == [0] + [1] * (len(layout.ids) - 1) for layout in actual)


@pytest.mark.shared
def test_ids_outside_the_tokenizers_file_are_an_error(workshop: Workshop, neox: Path) -> None:
    size = load_tokenizer(workshop.words()).vocab_size
    assert layouts(workshop, TokenizedChunk(id="1", tokens=(size - 1,)))
    with pytest.raises(DataError, match=f"does not match the token tar: wanted ids below {size} .* Got {size}"):
        layouts(workshop, TokenizedChunk(id="1", tokens=(1, size)))
    bare = load_tokenizer(neox)
    assert len(tokenize_records(bare, [TokenizedChunk(id="1", tokens=(50276,))])) == 1
    with pytest.raises(DataError, match=r"below 50277 .* Got 50277"):
        tokenize_records(bare, [TokenizedChunk(id="1", tokens=(50277,))])


@pytest.mark.shared
def test_real_chunks_are_cut_into_their_documents(shared: Path, neox: Path) -> None:
    """32 chunks of 2,049 ids with 82 ends, none at a chunk's edge and no two side by side: 114 pieces.

    Each end stands in two pieces, so they hold 65,568 + 82 tokens.
    """
    tokenizer = load_tokenizer(neox)
    with tarfile.open(shared / "vla_foundry_shards" / "text" / "text_dataset_1" / "shard-0000.tar") as tar:
        streams = [tar.extractfile(layout) for layout in tar]
        chunks = [json.loads(gzip.decompress(layout.read())) for layout in streams if layout is not None]
    actual = tokenize_records(
        tokenizer, [TokenizedChunk(id=str(n), tokens=tuple(chunk)) for n, chunk in enumerate(chunks)]
    )
    assert len(actual) == 114
    assert sum(len(layout.ids) for layout in actual) == 65_650
    layouts = [tokenizer.decode(layout.ids.tolist()) for layout in actual if layout.record_number == 0]
    whole = Fast.from_file(str(neox / "tokenizer.json")).decode(chunks[0], skip_special_tokens=False)
    assert layouts == whole.split("<|endoftext|>")
    assert layouts[0].startswith('1 comment about "Advertisers Need to Make Some Noise ".')


@settings(max_examples=20)
@given(numbers=st.lists(st.integers(0, 199), min_size=1, max_size=6), image_tokens=st.sampled_from([0, 4]))
def test_a_prompt_is_the_beginning_of_its_training_row(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], image_tokens: int
) -> None:
    tokenizer = load_tokenizer(Workshop(tmp_path_factory.mktemp("prompt")).words())
    start, words = [PAD] * image_tokens if image_tokens else [END], [WORDS + number for number in numbers]
    assert encode_prompt(tokenizer, words_of(numbers), image_tokens=image_tokens) == [*start, *words, HUMAN]
    assert encode_context(tokenizer, words_of(numbers)) == [END, *words]
