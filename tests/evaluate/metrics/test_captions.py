"""CIDEr-D against the official scorer's own numbers and against a transcription of it.

`tests/golden/metrics/cider.json` holds captions that were made for it and what coco-caption's code gives for them
(`cases`, `mean`), and its scores for the first of each picture's COCO captions against the other four of
`../shared/data/instruct_samples/llava/caps_boxes_coco2014_val_80.jsonl` (`coco`). Made with Java 17 and

    pip install pycocoevalcap==1.2
    gts = PTBTokenizer().tokenize({i: [{"caption": c} for c in references] for i, references in ...})
    res = PTBTokenizer().tokenize({i: [{"caption": answer}] for i, answer in ...})
    mean, scores = Cider().compute_score(gts, res)
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import DataError
from firstsight.evaluate.metrics import METRICS
from firstsight.evaluate.metrics.captions import cider

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "metrics" / "cider.json").read_text())
COCO = Path(__file__).parents[4] / "shared/data/instruct_samples/llava/caps_boxes_coco2014_val_80.jsonl"


def test_captions_score_as_in_the_official_scorer() -> None:
    cases = GOLDEN["cases"]
    scores = cider([case["answer"] for case in cases], [tuple(case["references"]) for case in cases])
    assert scores == pytest.approx([case["score"] for case in cases], abs=1e-8)
    assert sum(scores) / len(scores) == pytest.approx(GOLDEN["mean"], abs=1e-8)


@pytest.mark.shared
@pytest.mark.skipif(not COCO.is_file(), reason="needs ../shared/data")
def test_coco_captions_score_as_in_the_official_scorer() -> None:
    rows = [json.loads(line)["captions"] for line in COCO.read_text().splitlines()]
    scores = cider([first for first, *_ in rows], [tuple(rest) for _, *rest in rows])
    assert scores == pytest.approx(GOLDEN["coco"]["scores"], abs=1e-8)
    assert sum(scores) / len(scores) == pytest.approx(GOLDEN["coco"]["mean"], abs=1e-8)


def official(answers: list[list[str]], truths: list[list[list[str]]]) -> list[float]:
    """cider_scorer.py, on captions that are words already."""

    def cook(words: list[str]) -> dict[tuple[str, ...], int]:
        counts: dict[tuple[str, ...], int] = defaultdict(int)
        for size in range(1, 5):
            for start in range(len(words) - size + 1):
                counts[tuple(words[start : start + size])] += 1
        return counts

    documents: dict[tuple[str, ...], float] = defaultdict(float)
    for references in truths:
        for gram in {gram for reference in references for gram in cook(reference)}:
            documents[gram] += 1

    def vector(words: list[str]) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
        vec: list[dict[tuple[str, ...], float]] = [defaultdict(float) for _ in range(4)]
        norm, length = [0.0] * 4, 0
        for gram, count in cook(words).items():
            vec[len(gram) - 1][gram] = count * (math.log(len(truths)) - math.log(max(1.0, documents[gram])))
            norm[len(gram) - 1] += vec[len(gram) - 1][gram] ** 2
            length += count if len(gram) == 2 else 0
        return vec, [math.sqrt(n) for n in norm], length

    scores = []
    for answer, references in zip(answers, truths, strict=True):
        vec, norm, length = vector(answer)
        total = 0.0
        for reference in references:
            vec_ref, norm_ref, length_ref = vector(reference)
            for n in range(4):
                value = sum(min(weight, vec_ref[n][gram]) * vec_ref[n][gram] for gram, weight in vec[n].items())
                if norm[n] != 0 and norm_ref[n] != 0:
                    value /= norm[n] * norm_ref[n]
                total += value * math.e ** (-((length - length_ref) ** 2) / (2 * 6.0**2))
        scores.append(10 * total / 4 / len(references))
    return scores


CAPTION = st.lists(st.sampled_from(["cat", "dog", "red", "on", "mat", "runs"]), max_size=6)
CORPUS = st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=2)), min_size=1, max_size=4)


@given(CORPUS)
def test_scores_follow_the_definition(corpus: list[tuple[list[str], list[list[str]]]]) -> None:
    answers, truths = [answer for answer, _ in corpus], [references for _, references in corpus]
    scores = cider(
        [" ".join(words) for words in answers], [tuple(" ".join(reference) for reference in ref) for ref in truths]
    )
    assert scores == pytest.approx(official(answers, truths), abs=1e-9)
    assert all(0 <= score <= 10 + 1e-9 for score in scores)


@given(CORPUS, st.randoms())
def test_the_order_of_images_and_references_does_not_matter(
    corpus: list[tuple[list[str], list[list[str]]]], shuffle: object
) -> None:
    cases = [
        (" ".join(answer), tuple(" ".join(reference) for reference in references)) for answer, references in corpus
    ]
    mixed = [(answer, references[::-1]) for answer, references in cases]
    shuffle.shuffle(mixed)  # type: ignore[attr-defined]
    reference = cider([answer for answer, _ in cases], [references for _, references in cases])
    other = cider([answer for answer, _ in mixed], [references for _, references in mixed])
    assert sorted(reference) == pytest.approx(sorted(other), abs=1e-9)


def test_a_caption_equal_to_its_only_reference_scores_ten() -> None:
    captions = ["a red dog runs fast", "two cats sleep on mats"]
    assert cider(captions, [(text,) for text in captions]) == pytest.approx([10.0, 10.0])
    # A single image has no rare words.
    assert cider(captions[:1], [(captions[0],)]) == [0.0]
    assert cider([], []) == []


def test_an_image_without_references_is_named() -> None:
    with pytest.raises(DataError, match="caption 2"):
        METRICS["cider"].compute(["a", "b"], [("a",), ()])
