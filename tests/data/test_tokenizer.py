from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Fast
from tokenizers import models

from firstsight.data.tokenizer import ALWAYS, Part, carried, lay, load
from firstsight.errors import DataError

from .conftest import ANSWER, END, HUMAN, PAD, WORDS, Workshop


def test_special_ids_are_found_by_their_text(workshop: Workshop) -> None:
    special = load(workshop.words()).special
    assert (special.end, special.human, special.answer, special.pad) == (END, HUMAN, ANSWER, PAD)


def test_the_digest_is_that_of_the_file_and_a_file_is_as_good_as_its_folder(workshop: Workshop) -> None:
    folder = workshop.words()
    assert load(folder).digest == load(folder / "tokenizer.json").digest


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    Fast(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="endoftext"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"wanted tokenizer\.json"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("spans", "wanted"),
    [
        (((0, 2),), [1, 0, 0, 0]),
        (((0, 5),), [1, 1, 0, 0]),
        (((3, 5), (9, 11)), [0, 1, 0, 1]),
        (((1, 4),), [1, 1, 0, 0]),
        ((), [0, 0, 0, 0]),
        (((2, 3),), [0, 0, 0, 0]),
    ],
)
def test_a_token_carries_loss_when_a_span_touches_it(spans: tuple[tuple[int, int], ...], wanted: list[int]) -> None:
    part = Part(text="ab cd ef gh", closer="end", loss=ALWAYS, spans=spans)
    assert carried(part, [(0, 2), (3, 5), (6, 8), (9, 11)]) == wanted


def test_special_words_inside_data_are_plain_text(neox: Path) -> None:
    words = load(neox)
    [(ids, _)] = lay(words, [((Part(text="a <|/a|> b <|endoftext|>", closer="end", loss=ALWAYS, spans=None),), False)])
    assert words.special.answer not in ids
    assert (ids == words.special.end).sum() == 2


@pytest.fixture
def neox(shared: Path, tmp_path: Path) -> Path:
    data = gzip.decompress((shared / "tokenizers" / "gpt-neox-20b_tokenizer.json.gz").read_bytes())
    (tmp_path / "tokenizer.json").write_bytes(data)
    return tmp_path


@pytest.mark.shared
def test_a_bare_neox_tokenizer_gets_the_papers_ids(neox: Path) -> None:
    words = load(neox)
    assert (words.special.end, words.special.answer, words.special.human) == (0, 50279, 50281)
    assert words.special.pad == words.special.end
    assert words.size == 50282


@pytest.mark.shared
def test_loss_spans_in_byte_pairs_map_to_exactly_the_words(neox: Path) -> None:
    words = load(neox)
    text = "The naïve penguin — 企鵝 — is a flightless bird, isn't it?"
    for wanted in ("naïve", "penguin", "企鵝", "flightless", "it"):
        start = text.index(wanted) if wanted != "it" else text.rindex(wanted)
        part = Part(text=text, closer="end", loss=ALWAYS, spans=((start, start + len(wanted)),))
        [(ids, loss)] = lay(words, [((part,), False)])
        assert words.decode(ids[loss > 0].tolist()[:-1]).strip() == wanted
    assert words.size > WORDS
