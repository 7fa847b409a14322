"""Evaluation sets in every layout."""

from __future__ import annotations

import base64
import gzip
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from firstsight.data.audit.eval_sets import collect_eval_sets
from firstsight.data.images import perceptual_hash
from firstsight.errors import DataError
from tests.data.conftest import add, picture


def test_every_layout_of_an_evaluation_set_is_read(tmp_path: Path) -> None:
    root = tmp_path / "sets"
    root.mkdir()
    value = [{"q": "one text", "inner": {"answers": ["two texts", 7, None]}}]
    (root / "a.json").write_text(json.dumps(value))
    (root / "b.jsonl").write_text('{"q": "three texts"}\n\n{"q": "four texts"}\n')
    (root / "c.json").write_text('{"q": "five texts"}\n{"q": "six texts"}\n')
    (root / "d.json.gz").write_bytes(gzip.compress(b'{"q": "seven texts"}'))
    (root / "e.jsonl.zst").write_bytes(zstandard.compress(b'{"q": "eight texts"}\n'))
    encoded = base64.b64encode(picture((1, 2, 3), side=64, form="BMP")).decode()
    (root / "f.tsv").write_text(f"index\tq\timage\n1\tnine texts\t{encoded}\n")
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
    assert [str(item) for item in sets.images] == [
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
    assert [line.partition(":")[0] for line in sets.broken_items] == ["sets/m.jpg", "sets/n.json"]


def test_a_folder_without_images_and_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: wanted an evaluation set"):
        collect_eval_sets([tmp_path / "nowhere"])
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"Got none \(1 x \.zip\)"):
        collect_eval_sets([tmp_path])


def test_files_that_are_no_data_are_counted_and_all_frames_are_read(tmp_path: Path) -> None:
    _write = zstandard.ZstdCompressor().compress
    (tmp_path / "a.jsonl.zst").write_bytes(_write(b'{"q": "w1 w2"}\n') + _write(b'{"q": "w3 w4"}\n'))
    (tmp_path / "._a.png").write_bytes(b"x")
    with tarfile.open(tmp_path / "i.tar", "w") as tar:
        add(tar, "._0.png", b"x")
        add(tar, "0.PNG", picture((1, 2, 3)))
    sets = collect_eval_sets([tmp_path])
    assert (len(sets.images), len(sets.texts), sets.broken_items) == (1, 2, [])
    assert sets.unread == {"macOS file": 1, "tar member: macOS file": 1}
