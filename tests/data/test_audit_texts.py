"""Records that repeat and records that hold evaluation texts, against sets of token lists."""

from __future__ import annotations

import base64
import gzip
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.audit import duplicates, find_duplicates, find_overlap, ngrams
from firstsight.data.audit.eval_sets import collect_eval_sets
from firstsight.data.audit.report import MAX_RARE_RECORDS
from firstsight.data.images import perceptual_hash
from firstsight.data.tokenizer import Tokenizer, load_tokenizer
from firstsight.errors import DataError

from .audited import again, made, real
from .conftest import END, WORDS, Workshop, add, picture, words_of

tokens = st.lists(st.integers(0, 2), max_size=6)


@given(documents=st.lists(tokens, max_size=40))
@settings(max_examples=60)
def test_records_repeat_exactly_when_their_tokens_do(documents: list[list[int]]) -> None:
    before = duplicates._CHUNK
    duplicates._CHUNK = 7
    try:
        index = made(documents)
        labels = duplicates.label_equal_texts(index).tolist()
        counted = find_duplicates(index)
    finally:
        duplicates._CHUNK = before
    for (one, ours), (other, theirs) in combinations(zip(documents, labels, strict=True), 2):
        assert (one == other) == (ours == theirs)
    times = Counter(map(tuple, documents))
    assert (counted.records, counted.repeated_texts) == (len(documents), len(documents) - len(times))
    sizes = sorted((size for size in times.values() if size > 1), reverse=True)
    assert [one.size for one in counted.largest_repeated] == sizes[: duplicates.MAX_LISTED_CLUSTERS]


def test_equal_hashes_of_unequal_texts_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_hash_records", lambda tokens, start, count: np.zeros(len(count), dtype=np.uint64))
    labels = duplicates.label_equal_texts(made([[1, 2], [1, 3], [1, 3], [4, 4, 4]])).tolist()
    assert len(set(labels)) == 3
    assert labels[1] == labels[2]


@given(values=st.lists(st.integers(0, 2**16 - 1), min_size=ngrams.NGRAM_SIZE, max_size=40))
def test_rolled_hashes_are_the_polynomial(values: list[int]) -> None:
    base = int(ngrams._BASE)
    wanted = []
    for start in range(len(values) - ngrams.NGRAM_SIZE + 1):
        value = 0
        for token in values[start : start + ngrams.NGRAM_SIZE]:
            value = (value * base + token) % 2**32
        wanted.append(value)
    assert ngrams.rolling_hashes(np.array(values, dtype=np.uint32)).tolist() == wanted


def stretches(ids: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(ids[start : start + ngrams.NGRAM_SIZE]) for start in range(len(ids) - ngrams.NGRAM_SIZE + 1)}


@st.composite
def stores(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Evaluation texts, and documents of noise with stretches of them planted at random places."""
    chance = draw(st.randoms(use_true_random=False))
    texts = [[chance.randrange(200) for _ in range(chance.randrange(5, 40))] for _ in range(chance.randrange(1, 8))]
    documents = []
    for _ in range(chance.randrange(1, 12)):
        inside = [chance.randrange(200) for _ in range(chance.randrange(0, 50))]
        if chance.random() < 0.5:
            text = chance.choice(texts)
            start = chance.randrange(len(text))
            at = chance.randrange(len(inside) + 1)
            inside[at:at] = text[start : start + chance.randrange(8, 30)]
        documents.append(inside)
    return texts, documents


@given(data=stores(), chunk=st.integers(1, 60))
@settings(max_examples=80)
def test_planted_stretches_are_all_found_and_only_they(
    data: tuple[list[list[int]], list[list[int]]], chunk: int
) -> None:
    texts, documents = data
    flat = [token for one in documents for token in one]
    wanted = set[tuple[int, ...]]().union(*map(stretches, texts))
    before = ngrams._CHUNK
    ngrams._CHUNK = chunk
    try:
        sought = ngrams.build_ngrams(texts, range(len(texts)))
        hits = list(ngrams.find_ngrams(np.array(flat, dtype=np.uint16), sought))
    finally:
        ngrams._CHUNK = before
    assert len(sought.hashes) == len(wanted)
    assert [at for one in hits for at in one.positions.tolist()] == [
        start
        for start in range(len(flat) - ngrams.NGRAM_SIZE + 1)
        if tuple(flat[start : start + ngrams.NGRAM_SIZE]) in wanted
    ]
    for one in hits:
        for at, gram in zip(one.positions, one.ngram_ids, strict=True):
            assert sought.tokens[gram].tolist() == flat[at : at + ngrams.NGRAM_SIZE]
            assert tuple(flat[at : at + ngrams.NGRAM_SIZE]) in stretches(texts[sought.texts[gram]])


def benchmark(folder: Path, texts: Sequence[str]) -> Path:
    rows = [{"id": number, "question": {"text": text}} for number, text in enumerate(texts)]
    (folder / "questions.json").write_text(json.dumps({"rows": rows}))
    return folder


@given(data=stores())
@settings(max_examples=25)
def test_records_that_hold_evaluation_texts_are_those_that_sets_find(
    data: tuple[list[list[int]], list[list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts, documents = data
    workshop = Workshop(tmp_path_factory.mktemp("audit"))
    words = load_tokenizer(workshop.words())
    index = made([[WORDS + one for one in document] for document in documents], digest=words.digest)
    told = find_overlap(
        index, eval_paths=[benchmark(workshop.folder("sets"), [words_of(text) for text in texts])], tokenizer=words
    )
    wanted = set[tuple[int, ...]]().union(*map(stretches, texts))
    held = {number for number, one in enumerate(documents) if stretches(one) & wanted}
    assert {one.train_record.record for one in told.text_overlaps} == held
    assert not told.phrases
    for one in told.text_overlaps:
        number = int(one.eval_item.item.removeprefix("rows[").partition("]")[0])
        ours, theirs = words_of(documents[one.train_record.record]), words_of(texts[number])
        assert f" {one.shared_text} " in f" {ours} "
        assert f" {one.shared_text} " in f" {theirs} "
        assert one.shared_text.count("w") >= ngrams.NGRAM_SIZE
    distinct = {words_of(text) for text in texts}
    assert (told.coverage.texts, told.coverage.short_texts) == (
        len(distinct),
        sum(one.count("w") < 13 for one in distinct),
    )


def test_words_across_the_border_of_two_records_are_no_leak(workshop: Workshop) -> None:
    words = load_tokenizer(workshop.words())
    text = list(range(13))
    index = made([[WORDS + one for one in text[:6]], [WORDS + one for one in text[6:]]], digest=words.digest)
    assert not find_overlap(
        index, eval_paths=[benchmark(workshop.folder("sets"), [words_of(text)])], tokenizer=words
    ).text_overlaps


def test_what_many_records_say_is_a_phrase(workshop: Workshop) -> None:
    words = load_tokenizer(workshop.words())
    rare, common = list(range(14)), list(range(50, 64))
    documents = [[END, *(WORDS + one for one in common), 99, n % 7] for n in range(MAX_RARE_RECORDS + 1)]
    documents += [[END, *(WORDS + one for one in rare)] for _ in range(MAX_RARE_RECORDS)]
    sets = benchmark(workshop.folder("sets"), [words_of(rare), words_of(common)])
    told = find_overlap(made(documents, digest=words.digest), eval_paths=[sets], tokenizer=words)
    assert {one.train_record.record for one in told.text_overlaps} == set(
        range(MAX_RARE_RECORDS + 1, 2 * MAX_RARE_RECORDS + 1)
    )
    assert {one.shared_ngrams for one in told.text_overlaps} == {2}
    assert [(one.records, str(one.eval_item)) for one in told.phrases] == [
        (MAX_RARE_RECORDS + 1, "sets/questions.json: rows[1].question.text")
    ]
    assert told.phrases[0].shared_text in (words_of(common[:13]), words_of(common[1:]))
    text = "\n".join(told.summary_lines())
    assert (
        "10 of 21 (47.62%) records contain 13 or more consecutive tokens of 1 of 2 (50.00%) evaluation texts." in text
    )
    assert f'record 11 has, as sets/questions.json: rows[0].question.text: "{words_of(rare)}"' in text
    assert "1 evaluation texts contain words that are in more than 10 records" in text
    lines = [json.loads(line) for line in told.write(workshop.root).read_text().splitlines()]
    assert Counter(line["kind"] for line in lines) == {"words": MAX_RARE_RECORDS, "phrase": 1}
    assert lines[0]["train_record"] == {"record": 11, "shard": "", "offset": -1}


def test_a_leak_that_comes_twice_in_a_record_counts_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "_CHUNK", 5)
    words = load_tokenizer(workshop.words())
    text = [WORDS + one for one in range(13)]
    index = made([text * (MAX_RARE_RECORDS + 5)], digest=words.digest)
    told = find_overlap(index, eval_paths=[benchmark(workshop.folder("sets"), [words_of(range(13))])], tokenizer=words)
    assert not told.phrases
    assert [(one.shared_ngrams, one.train_record.record) for one in told.text_overlaps] == [(MAX_RARE_RECORDS + 5, 0)]


def test_every_layout_of_an_evaluation_set_is_read(tmp_path: Path) -> None:
    root = tmp_path / "sets"
    root.mkdir()
    value = [{"q": "one text", "inner": {"answers": ["two texts", 7, None]}}]
    (root / "a.json").write_text(json.dumps(value))
    (root / "b.jsonl").write_text('{"q": "three texts"}\n\n{"q": "four texts"}\n')
    (root / "c.json").write_text('{"q": "five texts"}\n{"q": "six texts"}\n')
    (root / "d.json.gz").write_bytes(gzip.compress(b'{"q": "seven texts"}'))
    (root / "e.jsonl.zst").write_bytes(zstandard.compress(b'{"q": "eight texts"}\n'))
    code = base64.b64encode(picture((1, 2, 3), side=64, form="BMP")).decode()
    (root / "f.tsv").write_text(f"index\tq\timage\n1\tnine texts\t{code}\n")
    (root / "g.csv").write_text('index,q\n1,"ten,\n texts"\n')
    (root / "h.txt").write_text("eleven texts\nhttp://example.com/not/a/sentence\n\u4e09\u4e2a\u5b57\n")
    for name, mode in (("i.tar", "w"), ("j.tar.gz", "w:gz")):
        with tarfile.open(root / name, mode) as tar:  # type: ignore[call-overload]
            add(tar, "x/0.png", picture((9, 9, 9)))
            add(tar, "x/0.txt", f"caption of {name}".encode())
            add(tar, "x/0.npz", b"?")
    pq.write_table(pa.table({"q": ["twelve texts"], "image": [{"bytes": picture((4, 4, 4))}]}), root / "k.parquet")
    (root / "l.jpg").write_bytes(picture((5, 5, 5), form="JPEG"))
    (root / "m.jpg").write_bytes(b"no picture")
    (root / "n.json").write_text("{ no json")
    (root / "o.zip").write_bytes(b"PK")
    sets = collect_eval_sets([root])
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    assert [text.split()[0].strip(",") for text in sets.texts if "text" in text] == numbers
    assert {"caption of i.tar", "caption of j.tar.gz", "\u4e09\u4e2a\u5b57"} <= set(sets.texts)
    assert len(sets.texts) == 15
    assert str(sets.texts["two texts"]) == "sets/a.json: [0].inner.answers[0]"
    assert str(sets.texts["four texts"]) == "sets/b.jsonl: line 3.q"
    assert str(sets.texts["ten,\n texts"]) == "sets/g.csv: row 2, column 2"
    assert [str(one) for one in sets.images] == [
        "sets/f.tsv: row 2, column 3",
        "sets/i.tar/x/0.png",
        "sets/j.tar.gz/x/0.png",
        "sets/k.parquet: [0].image.bytes",
        "sets/l.jpg",
    ]
    assert sets.hashes[1] == perceptual_hash(picture((9, 9, 9)))
    counted = collect_eval_sets([root], with_hashes=False)
    assert (counted.images[0], len(counted.images), len(counted.hashes)) == (sets.images[0], 6, 0)
    assert sets.unread == {".npz": 2, ".zip": 1}
    assert [line.partition(":")[0] for line in sets.refused] == ["sets/m.jpg", "sets/n.json"]


def test_an_evaluation_set_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: wanted an evaluation set"):
        collect_eval_sets([tmp_path / "nowhere"])
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"Got none \(1 x \.zip\)"):
        collect_eval_sets([tmp_path])


def test_another_tokenizer_is_refused(workshop: Workshop) -> None:
    words = load_tokenizer(workshop.words())
    sets = benchmark(workshop.folder("sets"), [words_of(range(13))])
    with pytest.raises(DataError, match="wanted the tokenizer that it was prepared with"):
        find_overlap(made([[1, 2]], digest="another"), eval_paths=[sets], tokenizer=words)


@pytest.mark.shared
def test_a_real_evaluation_set_is_found_in_real_data(shared: Path, tmp_path: Path) -> None:
    """Pictures of VQAv2 and GQA are not among CC12M's; encoded anew among them, each is found and nothing else."""
    (tmp_path / "tokenizer.json").write_bytes(
        gzip.decompress((shared / "tokenizers" / "gpt-neox-20b_tokenizer.json.gz").read_bytes())
    )
    words = load_tokenizer(tmp_path)
    sets = shared / "allennlp_vision"
    web, _ = real(shared)
    said = said_twice(words)
    clean = made(said, pictures=[(perceptual_hash(data), len(data)) for data in web[:5]], digest=words.digest)
    told = find_overlap(clean, eval_paths=[sets], tokenizer=words)
    assert (told.image_overlaps, told.coverage.eval_images) == ((), 5)
    hidden = [again(file.read_bytes(), "WEBP", 0.4) for file in sorted((sets / "images").rglob("*.jpg"))]
    leaky = made(said, pictures=[(perceptual_hash(data), len(data)) for data in hidden], digest=words.digest)
    told = find_overlap(leaky, eval_paths=[sets], tokenizer=words)
    assert {(one.train_record.record, Path(one.eval_item.file).name) for one in told.image_overlaps} == {
        (number, file.name) for number, file in enumerate(sorted((sets / "images").rglob("*.jpg")))
    }
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    told = find_overlap(leaky, eval_paths=[tmp_path / "q.jsonl"], tokenizer=words)
    assert {one.train_record.record for one in told.text_overlaps} == {0, 1, 2}


QUESTION = "Which of the two umbrellas beside the wooden bench has stripes of yellow and dark green?"


def said_twice(words: Tokenizer) -> list[list[int]]:
    """The question at the beginning, after a word, and after a line break; then other texts."""
    texts = [QUESTION, f"We ask: {QUESTION} Nobody knows.", f"Quiz\n{QUESTION}\n", QUESTION[:40], QUESTION.upper()]
    return [[words.special_ids.end, *ids, words.special_ids.end] for ids in words.encode(texts)]
