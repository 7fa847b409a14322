"""What an index shares with evaluation sets, against sets of n-grams and planted copies."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from firstsight.data.audit import contamination, find_duplicates, find_overlap
from firstsight.data.audit.report import MAX_RARE_RECORDS
from firstsight.data.images import perceptual_hash
from firstsight.data.tokenizer import Tokenizer, load_tokenizer
from firstsight.errors import DataError
from tests.data.audit.audit_data import benchmark, make_index, ngrams_of, real_images, reencode, stores
from tests.data.conftest import END, WORDS, Workshop, words_of


@given(data=stores())
@settings(max_examples=25)
def test_overlapping_records_are_those_that_sets_of_ngrams_find(
    data: tuple[list[list[int]], list[list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts, documents = data
    workshop = Workshop(tmp_path_factory.mktemp("audit"))
    tokenizer = load_tokenizer(workshop.words())
    index = make_index([[WORDS + overlap for overlap in document] for document in documents], digest=tokenizer.digest)
    report = find_overlap(
        index, eval_paths=[benchmark(workshop.folder("sets"), [words_of(text) for text in texts])], tokenizer=tokenizer
    )
    expected = set[tuple[int, ...]]().union(*map(ngrams_of, texts))
    expected_records = {number for number, overlap in enumerate(documents) if ngrams_of(overlap) & expected}
    assert {overlap.train_record.record for overlap in report.text_overlaps} == expected_records
    assert not report.phrases
    for overlap in report.text_overlaps:
        number = int(overlap.eval_item.item.removeprefix("rows[").partition("]")[0])
        left, right = words_of(documents[overlap.train_record.record]), words_of(texts[number])
        assert f" {overlap.shared_text} " in f" {left} "
        assert f" {overlap.shared_text} " in f" {right} "
        assert overlap.shared_text.count("w") >= contamination.NGRAM_SIZE
    distinct = {words_of(text) for text in texts}
    assert (report.texts, report.short_texts) == (
        len(distinct),
        sum(overlap.count("w") < 13 for overlap in distinct),
    )


def test_words_across_the_border_of_two_records_are_no_overlap(workshop: Workshop) -> None:
    tokenizer = load_tokenizer(workshop.words())
    text = list(range(13))
    index = make_index(
        [[WORDS + overlap for overlap in text[:6]], [WORDS + overlap for overlap in text[6:]]], digest=tokenizer.digest
    )
    assert not find_overlap(
        index, eval_paths=[benchmark(workshop.folder("sets"), [words_of(text)])], tokenizer=tokenizer
    ).text_overlaps


def test_words_of_many_records_are_a_phrase(workshop: Workshop) -> None:
    tokenizer = load_tokenizer(workshop.words())
    rare, common = list(range(14)), list(range(50, 64))
    documents = [[END, *(WORDS + overlap for overlap in common), 99, n % 7] for n in range(MAX_RARE_RECORDS + 1)]
    documents += [[END, *(WORDS + overlap for overlap in rare)] for _ in range(MAX_RARE_RECORDS)]
    sets = benchmark(workshop.folder("sets"), [words_of(rare), words_of(common)])
    report = find_overlap(make_index(documents, digest=tokenizer.digest), eval_paths=[sets], tokenizer=tokenizer)
    assert {overlap.train_record.record for overlap in report.text_overlaps} == set(
        range(MAX_RARE_RECORDS + 1, 2 * MAX_RARE_RECORDS + 1)
    )
    assert {overlap.shared_ngrams for overlap in report.text_overlaps} == {2}
    assert [(overlap.records, str(overlap.eval_item)) for overlap in report.phrases] == [
        (MAX_RARE_RECORDS + 1, "sets/questions.json: rows[1].question.text")
    ]
    assert report.phrases[0].shared_text in (words_of(common[:13]), words_of(common[1:]))
    text = "\n".join(report.summary_lines())
    assert (
        "10 of 21 (47.62%) records contain 13 or more consecutive tokens of 1 of 2 (50.00%) evaluation texts." in text
    )
    assert f'record 11 has, as sets/questions.json: rows[0].question.text: "{words_of(rare)}"' in text
    assert "1 evaluation texts contain words that are in more than 10 records" in text
    lines = [json.loads(line) for line in report.write(workshop.root).read_text().splitlines()]
    assert Counter(line["kind"] for line in lines) == {"words": MAX_RARE_RECORDS, "phrase": 1}
    assert lines[0]["train_record"] == {"record": 11, "shard": "", "offset": -1}


def test_an_ngram_that_is_repeated_in_a_record_counts_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contamination, "_CHUNK", 5)
    tokenizer = load_tokenizer(workshop.words())
    text = [WORDS + overlap for overlap in range(13)]
    index = make_index([text * (MAX_RARE_RECORDS + 5)], digest=tokenizer.digest)
    report = find_overlap(
        index, eval_paths=[benchmark(workshop.folder("sets"), [words_of(range(13))])], tokenizer=tokenizer
    )
    assert not report.phrases
    assert [(overlap.shared_ngrams, overlap.train_record.record) for overlap in report.text_overlaps] == [
        (MAX_RARE_RECORDS + 5, 0)
    ]


def test_another_tokenizer_is_refused(workshop: Workshop) -> None:
    tokenizer = load_tokenizer(workshop.words())
    sets = benchmark(workshop.folder("sets"), [words_of(range(13))])
    with pytest.raises(DataError, match="wanted the tokenizer that it was prepared with"):
        find_overlap(make_index([[1, 2]], digest="another"), eval_paths=[sets], tokenizer=tokenizer)


QUESTION = "Which of the two umbrellas beside the wooden bench has stripes of yellow and dark green?"


def question_documents(tokenizer: Tokenizer) -> list[list[int]]:
    """The question at the beginning, after a word, and after a line break; then other texts."""
    texts = [QUESTION, f"We ask: {QUESTION} Nobody knows.", f"Quiz\n{QUESTION}\n", QUESTION[:40], QUESTION.upper()]
    return [[tokenizer.special_ids.end, *ids, tokenizer.special_ids.end] for ids in tokenizer.encode(texts)]


@pytest.mark.shared
def test_a_real_evaluation_set_is_found_in_real_data(shared: Path, tmp_path: Path) -> None:
    """Images of VQAv2 and GQA are not in CC12M; re-encoded copies are all found, and nothing else is."""
    (tmp_path / "tokenizer.json").write_bytes(
        gzip.decompress((shared / "tokenizers" / "gpt-neox-20b_tokenizer.json.gz").read_bytes())
    )
    tokenizer = load_tokenizer(tmp_path)
    sets = shared / "allennlp_vision"
    first_images, _ = real_images(shared)
    documents = question_documents(tokenizer)
    clean = make_index(
        documents, images=[(perceptual_hash(data), len(data)) for data in first_images[:5]], digest=tokenizer.digest
    )
    report = find_overlap(clean, eval_paths=[sets], tokenizer=tokenizer)
    assert (report.image_overlaps, report.eval_images) == ((), 5)
    copies = [reencode(file.read_bytes(), "WEBP", 0.4) for file in sorted((sets / "images").rglob("*.jpg"))]
    leaky = make_index(
        documents, images=[(perceptual_hash(data), len(data)) for data in copies], digest=tokenizer.digest
    )
    report = find_overlap(leaky, eval_paths=[sets], tokenizer=tokenizer)
    assert {(overlap.train_record.record, Path(overlap.eval_item.file).name) for overlap in report.image_overlaps} == {
        (number, file.name) for number, file in enumerate(sorted((sets / "images").rglob("*.jpg")))
    }
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    report = find_overlap(leaky, eval_paths=[tmp_path / "q.jsonl"], tokenizer=tokenizer)
    assert {overlap.train_record.record for overlap in report.text_overlaps} == {0, 1, 2}


def test_plain_images_are_counted_and_never_match(workshop: Workshop) -> None:
    """Plain areas and gradients are left out on both sides, counted, and never match."""
    sets = workshop.folder("sets")
    slope = np.linspace(0, 255, 64).astype(np.uint8)
    arrays = {"black": np.zeros((64, 64)), "white": np.full((64, 64), 255), "across": np.tile(slope, (64, 1))}
    arrays["down"] = arrays["across"].T
    hashes = []
    for name, pixels in arrays.items():
        Image.fromarray(pixels.astype(np.uint8)).save(sets / f"{name}.png")
        hashes.append((perceptual_hash((sets / f"{name}.png").read_bytes()), 100))
    tokenizer = load_tokenizer(workshop.words())
    index = make_index([[1, n] for n in range(4)], images=hashes, digest=tokenizer.digest)
    report = find_overlap(index, eval_paths=[sets], tokenizer=tokenizer)
    assert (report.image_overlaps, report.uninformative_images, report.eval_uninformative_images) == (
        (),
        4,
        4,
    )
    assert "4 training and 4 evaluation images were left out" in "\n".join(report.summary_lines())
    report = find_duplicates(index)
    assert (report.identical_images, report.similar_images, report.uninformative_images) == (0, 0, 4)
