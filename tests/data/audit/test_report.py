"""The sentences and the file of an audit's findings."""

from __future__ import annotations

import json
from pathlib import Path

from firstsight.data.audit.eval_sets import EvalItem
from firstsight.data.audit.report import (
    DuplicateCluster,
    ImageOverlap,
    ImageRecordFinder,
    OverlapReport,
    RecordLocation,
    TextOverlap,
    quote_shortened,
)
from tests.data.audit.audit_data import make_index

IMAGE = RecordLocation(record=1200, shard="a.tar", offset=5120)


def make_report(images: tuple[ImageOverlap, ...], texts: tuple[TextOverlap, ...]) -> OverlapReport:
    return OverlapReport(
        image_overlaps=images,
        text_overlaps=texts,
        phrases=(),
        images=8,
        uninformative_images=1,
        records=4,
        eval_images=2,
        eval_uninformative_images=0,
        crowded_images=3,
        texts=5,
        short_texts=1,
        unread={".zip": 2, ".bin": 1},
        broken_items=("a.jpg: not an image",),
    )


def test_findings_are_sentences_with_counts_and_shares() -> None:
    overlaps = (
        ImageOverlap(distance=2, train_record=IMAGE, eval_item=EvalItem(file="e.png")),
        ImageOverlap(distance=3, train_record=IMAGE, eval_item=EvalItem(file="f.json", item="[0]")),
    )
    text = TextOverlap(
        shared_ngrams=1, shared_text="x\n y", train_record=RecordLocation(record=3), eval_item=EvalItem(file="g.txt")
    )
    assert make_report(overlaps, (text,)).summary_lines() == (
        "1 of 8 (12.50%) training images are similar to 2 of 2 (100.00%) evaluation images: at most 4 of 64 bits of "
        "their hashes differ.",
        "  record 1,200 (a.tar at 5,120) like e.png (2 bits)",
        "  record 1,200 (a.tar at 5,120) like f.json: [0] (3 bits)",
        "1 of 4 (25.00%) records contain 13 or more consecutive tokens of 1 of 4 (25.00%) evaluation texts.",
        '  record 3 has, as g.txt: "x y"',
        "1 training and 0 evaluation images were left out, because they are too uniform to distinguish.",
        "3 evaluation images share bits with too many others; matches may be missing.",
        "1 of 5 (20.00%) evaluation texts are shorter than 13 tokens: not searched for.",
        "Evaluation files that were not read: 1 x .bin, 2 x .zip.",
        "1 evaluation files or images are broken. The first: a.jpg: not an image",
    )


def test_the_file_has_a_line_for_each_finding(tmp_path: Path) -> None:
    overlap = ImageOverlap(distance=2, train_record=IMAGE, eval_item=EvalItem(file="e.png"))
    report = make_report((overlap,) * 5, ())
    lines = [json.loads(line) for line in report.write(tmp_path).read_text().splitlines()]
    assert lines == 5 * [
        {
            "kind": "picture",
            "distance": 2,
            "train_record": {"record": 1200, "shard": "a.tar", "offset": 5120},
            "eval_item": {"file": "e.png", "item": ""},
        }
    ]


def test_clusters_and_quotes_are_shortened() -> None:
    members = tuple(RecordLocation(record=record) for record in range(3))
    assert str(DuplicateCluster(size=3, members=members)) == "3 x: record 0, record 1, record 2"
    assert str(DuplicateCluster(size=4000, members=members)) == "4,000 x: record 0, record 1, record 2, ..."
    assert quote_shortened("a  b\n") == '"a b"'
    assert quote_shortened("a" * 101) == f'"{"a" * 97}..."'


def test_an_image_is_located_at_the_first_record_that_has_it() -> None:
    index = make_index([[1]] * 4, images=[(5, 10), (6, 11), (7, 12)])
    index.image_refs["picture"][2] = 1
    finder = ImageRecordFinder(index)
    assert finder.locate(0) == RecordLocation(record=0, shard="a.tar", offset=0)
    assert finder.locate(1) == RecordLocation(record=1, shard="a.tar", offset=1000)
