from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from firstsight.data.audit import duplicates, near, ngrams, overlap, repeats
from firstsight.data.audit.against import collect
from firstsight.data.audit.findings import COMMON
from firstsight.data.index import IMAGE, SAMPLE, SHOWN, Index
from firstsight.data.pictures import checked
from firstsight.data.tokenizer import Special, Tokenizer, load
from firstsight.errors import DataError
from firstsight.recipe.mix import Named
from firstsight.units import Tokens

from .conftest import END, WORDS, Workshop, add, picture, words_of

Picture = tuple[int, int]
"""Hash and size in bytes."""


def made(
    documents: Sequence[Sequence[int]],
    *,
    pictures: Sequence[Picture] = (),
    digest: str = "",
    form: str = "captions",
) -> Index:
    """An index of token lists; the first of them show one picture each, in one tar, 1,000 bytes apart."""
    samples = np.zeros(len(documents), dtype=SAMPLE)
    samples["tokens_count"] = [len(one) for one in documents]
    samples["tokens_from"] = np.cumsum(samples["tokens_count"]) - samples["tokens_count"]
    samples["shown_count"] = np.arange(len(documents)) < len(pictures)
    samples["shown_from"] = np.minimum(np.arange(len(documents)), len(pictures))
    shown = np.zeros(len(pictures), dtype=SHOWN)
    shown["picture"] = np.arange(len(pictures))
    rows = [(1000 * number, size, code, 0) for number, (code, size) in enumerate(pictures)]
    flat = np.array([token for one in documents for token in one], dtype=np.uint16)
    return Index(
        path=Path("made"),
        form=form,  # type: ignore[arg-type]
        samples=samples,
        shown=shown,
        tokens=flat,
        loss=np.ones(len(flat), dtype=np.uint8),
        images=np.array(rows, dtype=IMAGE),
        shards=("a.tar",),
        read=(),
        source=Named(name="s", form="captions", tokens=Tokens(0)),
        special=Special(end=END, human=5, answer=3, pad=6),
        tokenizer_digest=digest,
        source_digest="",
        digest="",
    )


def rich(seed: int, count: int) -> np.ndarray:
    """Random hashes with 32 of 64 bits set, which are far from one another and never plain."""
    chance = np.random.default_rng(seed)
    bits = np.stack([chance.permutation(64) < 32 for _ in range(count)])
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def flipped(hashes: np.ndarray, bits: int, seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    masks = [sum(1 << int(bit) for bit in chance.permutation(64)[:bits]) for _ in hashes]
    return hashes ^ np.array(masks, dtype=np.uint64)


def brute(left: np.ndarray, right: np.ndarray) -> dict[tuple[int, int], int]:
    distance = np.bitwise_count(left[:, None] ^ right[None, :])
    return {(int(i), int(j)): int(distance[i, j]) for i, j in np.argwhere(distance <= near.NEAR)}


def found(left: np.ndarray, right: np.ndarray) -> dict[tuple[int, int], int]:
    return {
        (int(i), int(j)): int(distance)
        for pairs in near.near(left, right)
        for i, j, distance in zip(pairs.left, pairs.right, pairs.distance, strict=True)
    }


@given(number=st.integers(5, 8), places=st.lists(st.integers(0, 63), max_size=4))
def test_four_bits_in_any_place_leave_a_choice_of_bands_untouched(number: int, places: list[int]) -> None:
    masks = near.masks(number)
    assert len(masks) == comb(number, 4)
    changed = sum(1 << place for place in set(places))
    assert any(int(mask) & changed == 0 for mask in masks)


def test_more_hashes_are_cut_into_more_bands() -> None:
    assert [near.bands(10**power, 10**power) for power in (2, 4, 6, 8)] == sorted(
        near.bands(10**power, 10**power) for power in (2, 4, 6, 8)
    )
    assert near.bands(100, 100) == 5 < near.bands(10**8, 10**8)


@pytest.mark.parametrize("number", [5, 6, 7, 8])
def test_near_hashes_are_those_that_each_with_each_finds(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(near, "bands", lambda left, right: number)
    base = rich(number, 140)
    hashes = np.concatenate([base, *(flipped(base, bits, bits) for bits in range(1, 7))])
    wanted = brute(hashes, hashes)
    assert {0, 1, 2, 3, 4} == set(wanted.values())
    assert found(hashes, hashes) == wanted
    assert found(base, hashes) == brute(base, hashes)


def test_what_hangs_together_is_linked_over_others_too() -> None:
    base = rich(1, 50)
    chain = [base[0], base[0] ^ np.uint64(0b1111), base[0] ^ np.uint64(0b11111111)]
    linked = near.groups(np.array([*chain, *base[1:]], dtype=np.uint64))
    assert len(set(linked.labels[:3].tolist())) == 1
    assert len(set(linked.labels.tolist())) == 50
    assert not linked.crowded.any()


def test_a_crowd_is_not_compared_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 hashes that share their lower half, in which no pair is near: 780 comparisons in vain, none is made."""
    monkeypatch.setattr(near, "CROWD", 20)
    half = rich(2, 40) & np.uint64(0xFFFFFFFF << 32)
    alone = rich(3, 30)
    linked = near.groups(np.concatenate([half | np.uint64(0x5A5A5A5A), alone]))
    assert linked.crowded.tolist() == [True] * 40 + [False] * 30
    monkeypatch.setattr(near, "CROWD", 40)
    assert not near.groups(np.concatenate([half | np.uint64(0x5A5A5A5A), alone])).crowded.any()


def test_planted_pictures_are_counted_and_named() -> None:
    base = rich(4, 20).tolist()
    other = flipped(np.array(base[:3], dtype=np.uint64), 4, 5).tolist()
    even = [0, 0, 2**63, 2**64 - 1]
    pictures = [(code, 500 + number) for number, code in enumerate(base)]
    pictures += [(base[7], 507), (base[7], 507), (base[8], 508)]
    pictures += [(code, 400) for code in other] + [(base[3], 77)]
    pictures += [(code, 100) for code in even]
    seen = duplicates(made([[9 + n, n // 7, 3] for n in range(len(pictures))], pictures=pictures))
    assert (seen.pictures, seen.same, seen.alike, seen.plain, seen.crowded) == (31, 3, 4, 4, 0)
    assert [(one.size, [m.record for m in one.members]) for one in seen.largest_same] == [
        (3, [7, 20, 21]),
        (2, [8, 22]),
    ]
    named = [[m.record for m in one.members] for one in seen.largest_alike]
    assert named == [[0, 23], [1, 24], [2, 25], [3, 26]]
    member = seen.largest_same[0].members[1]
    assert (member.shard, member.place) == ("a.tar", 20_000)
    text = "\n".join(seen.lines())
    assert "3 of 31 (9.68%) pictures repeat an earlier one" in text
    assert "3 x: record 7 (a.tar at 7,000), record 20 (a.tar at 20,000)" in text
    assert "4 of 31 (12.90%) pictures were left out" in text


tokens = st.lists(st.integers(0, 2), max_size=6)


@given(documents=st.lists(tokens, max_size=40))
@settings(max_examples=60)
def test_records_repeat_exactly_when_their_tokens_do(documents: list[list[int]]) -> None:
    before = repeats._CHUNK
    repeats._CHUNK = 7
    try:
        index = made(documents)
        labels = repeats.repeats(index).tolist()
        counted = duplicates(index)
    finally:
        repeats._CHUNK = before
    for (one, ours), (other, theirs) in combinations(zip(documents, labels, strict=True), 2):
        assert (one == other) == (ours == theirs)
    times = Counter(map(tuple, documents))
    assert (counted.records, counted.repeated) == (len(documents), len(documents) - len(times))
    sizes = sorted((size for size in times.values() if size > 1), reverse=True)
    assert [one.size for one in counted.largest_repeated] == sizes[: repeats.LARGEST]


def test_equal_hashes_of_unequal_texts_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_hashed", lambda tokens, start, count: np.zeros(len(count), dtype=np.uint64))
    labels = repeats.repeats(made([[1, 2], [1, 3], [1, 3], [4, 4, 4]])).tolist()
    assert len(set(labels)) == 3
    assert labels[1] == labels[2]


@given(values=st.lists(st.integers(0, 2**16 - 1), min_size=ngrams.N, max_size=40))
def test_rolled_hashes_are_the_polynomial(values: list[int]) -> None:
    base = int(ngrams._BASE)
    wanted = []
    for start in range(len(values) - ngrams.N + 1):
        value = 0
        for token in values[start : start + ngrams.N]:
            value = (value * base + token) % 2**32
        wanted.append(value)
    assert ngrams.rolled(np.array(values, dtype=np.uint32)).tolist() == wanted


def stretches(ids: Sequence[int]) -> set[tuple[int, ...]]:
    return {tuple(ids[start : start + ngrams.N]) for start in range(len(ids) - ngrams.N + 1)}


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
        sought = ngrams.grams(texts, range(len(texts)))
        hits = list(ngrams.scan(np.array(flat, dtype=np.uint16), sought))
    finally:
        ngrams._CHUNK = before
    assert len(sought.hashes) == len(wanted)
    assert [at for one in hits for at in one.positions.tolist()] == [
        start for start in range(len(flat) - ngrams.N + 1) if tuple(flat[start : start + ngrams.N]) in wanted
    ]
    for one in hits:
        for at, gram in zip(one.positions, one.grams, strict=True):
            assert sought.tokens[gram].tolist() == flat[at : at + ngrams.N]
            assert tuple(flat[at : at + ngrams.N]) in stretches(texts[sought.texts[gram]])


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
    words = load(workshop.words())
    index = made([[WORDS + one for one in document] for document in documents], digest=words.digest)
    told = overlap(index, against=[benchmark(workshop.folder("sets"), [words_of(text) for text in texts])], words=words)
    wanted = set[tuple[int, ...]]().union(*map(stretches, texts))
    held = {number for number, one in enumerate(documents) if stretches(one) & wanted}
    assert {one.seen.record for one in told.says} == held
    assert not told.phrases
    for one in told.says:
        number = int(one.against.item.removeprefix("rows[").partition("]")[0])
        ours, theirs = words_of(documents[one.seen.record]), words_of(texts[number])
        assert f" {one.words} " in f" {ours} "
        assert f" {one.words} " in f" {theirs} "
        assert one.words.count("w") >= ngrams.N
    distinct = {words_of(text) for text in texts}
    assert (told.looked.texts, told.looked.short) == (len(distinct), sum(one.count("w") < 13 for one in distinct))


def test_words_across_the_border_of_two_records_are_no_leak(workshop: Workshop) -> None:
    words = load(workshop.words())
    text = list(range(13))
    index = made([[WORDS + one for one in text[:6]], [WORDS + one for one in text[6:]]], digest=words.digest)
    assert not overlap(index, against=[benchmark(workshop.folder("sets"), [words_of(text)])], words=words).says


def test_what_many_records_say_is_a_phrase(workshop: Workshop) -> None:
    words = load(workshop.words())
    rare, common = list(range(14)), list(range(50, 64))
    documents = [[END, *(WORDS + one for one in common), 99, n % 7] for n in range(COMMON + 1)]
    documents += [[END, *(WORDS + one for one in rare)] for _ in range(COMMON)]
    sets = benchmark(workshop.folder("sets"), [words_of(rare), words_of(common)])
    told = overlap(made(documents, digest=words.digest), against=[sets], words=words)
    assert {one.seen.record for one in told.says} == set(range(COMMON + 1, 2 * COMMON + 1))
    assert {one.stretches for one in told.says} == {2}
    assert [(one.records, str(one.against)) for one in told.phrases] == [
        (COMMON + 1, "sets/questions.json: rows[1].question.text")
    ]
    assert told.phrases[0].words in (words_of(common[:13]), words_of(common[1:]))
    text = "\n".join(told.lines())
    assert "10 of 21 (47.62%) records hold 13 or more tokens in a row of 1 of 2 (50.00%) evaluation texts." in text
    assert f'record 11 has, as sets/questions.json: rows[0].question.text: "{words_of(rare)}"' in text
    assert "1 evaluation texts hold words that stand in more than 10 records" in text
    lines = [json.loads(line) for line in told.write(workshop.root).read_text().splitlines()]
    assert Counter(line["kind"] for line in lines) == {"words": COMMON, "phrase": 1}
    assert lines[0]["seen"] == {"record": 11, "shard": "", "place": -1}


def test_a_leak_that_comes_twice_in_a_record_counts_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "_CHUNK", 5)
    words = load(workshop.words())
    text = [WORDS + one for one in range(13)]
    index = made([text * (COMMON + 5)], digest=words.digest)
    told = overlap(index, against=[benchmark(workshop.folder("sets"), [words_of(range(13))])], words=words)
    assert not told.phrases
    assert [(one.stretches, one.seen.record) for one in told.says] == [(COMMON + 5, 0)]


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
    sets = collect([root])
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    assert [text.split()[0].strip(",") for text in sets.texts if "text" in text] == numbers
    assert {"caption of i.tar", "caption of j.tar.gz", "\u4e09\u4e2a\u5b57"} <= set(sets.texts)
    assert len(sets.texts) == 15
    assert str(sets.texts["two texts"]) == "sets/a.json: [0].inner.answers[0]"
    assert str(sets.texts["four texts"]) == "sets/b.jsonl: line 3.q"
    assert str(sets.texts["ten,\n texts"]) == "sets/g.csv: row 2, column 2"
    assert [str(one) for one in sets.pictures] == [
        "sets/f.tsv: row 2, column 3",
        "sets/i.tar/x/0.png",
        "sets/j.tar.gz/x/0.png",
        "sets/k.parquet: [0].image.bytes",
        "sets/l.jpg",
    ]
    assert sets.hashes[1] == checked(picture((9, 9, 9)))
    counted = collect([root], hashing=False)
    assert (counted.pictures[0], len(counted.pictures), len(counted.hashes)) == (sets.pictures[0], 6, 0)
    assert sets.unread == {".npz": 2, ".zip": 1}
    assert [line.partition(":")[0] for line in sets.refused] == ["sets/m.jpg", "sets/n.json"]


def test_an_evaluation_set_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: wanted an evaluation set"):
        collect([tmp_path / "nowhere"])
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"Got none \(1 x \.zip\)"):
        collect([tmp_path])


def test_another_tokenizer_is_refused(workshop: Workshop) -> None:
    words = load(workshop.words())
    sets = benchmark(workshop.folder("sets"), [words_of(range(13))])
    with pytest.raises(DataError, match="wanted the tokenizer that it was prepared with"):
        overlap(made([[1, 2]], digest="another"), against=[sets], words=words)


def test_flat_pictures_look_like_nothing(workshop: Workshop) -> None:
    """Even areas, slopes and a single dot: all left out on both sides, counted, and never a match."""
    sets = workshop.folder("sets")
    slope = np.linspace(0, 255, 64).astype(np.uint8)
    kinds = {"black": np.zeros((64, 64)), "white": np.full((64, 64), 255), "across": np.tile(slope, (64, 1))}
    kinds["down"] = kinds["across"].T
    codes = []
    for name, pixels in kinds.items():
        Image.fromarray(pixels.astype(np.uint8)).save(sets / f"{name}.png")
        codes.append((checked((sets / f"{name}.png").read_bytes()), 100))
    words = load(workshop.words())
    index = made([[1, n] for n in range(4)], pictures=codes, digest=words.digest)
    told = overlap(index, against=[sets], words=words)
    assert (told.pictures, told.looked.plain, told.looked.evaluation_plain) == ((), 4, 4)
    assert "4 training and 4 evaluation pictures were left out" in "\n".join(told.lines())
    seen = duplicates(index)
    assert (seen.same, seen.alike, seen.plain) == (0, 0, 4)


def packed(tar: Path) -> list[bytes]:
    with tarfile.open(tar) as data:
        return [
            stream.read()
            for member in data
            if member.name.endswith((".jpg", ".webp")) and (stream := data.extractfile(member)) is not None
        ]


def real(shared: Path) -> tuple[list[bytes], list[bytes]]:
    """32 pictures of CC12M, 48 of another group's shards."""
    web = packed(shared / "torchtitan_cc12m" / "cc12m-train-0000.tar")
    shards = sorted((shared / "vla_foundry_shards" / "image_caption").glob("*.tar"))
    return web, [data for shard in shards for data in packed(shard)]


def again(data: bytes, form: str, scale: float) -> bytes:
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    held = io.BytesIO()
    whole.resize((int(whole.width * scale), int(whole.height * scale))).save(held, form, quality=60)
    return held.getvalue()


@pytest.mark.shared
def test_real_pictures_are_found_again_and_others_are_not(shared: Path) -> None:
    web, other = real(shared)
    assert (len(web), len(other)) == (32, 48)
    codes = [(checked(data), len(data)) for data in (*web, *other)]
    alone = duplicates(made([[1, n] for n in range(80)], pictures=codes))
    assert (alone.same, alone.alike) == (0, 0)
    copies = [again(data, "WEBP", 0.5) for data in web[:10]] + [again(data, "JPEG", 1.0) for data in other[:10]]
    codes += [(checked(data), len(data)) for data in copies]
    copied = duplicates(made([[1, n] for n in range(100)], pictures=codes))
    assert (copied.same, copied.alike + copied.plain - alone.plain) == (0, 20)
    assert alone.plain <= 2


@pytest.mark.shared
def test_a_real_evaluation_set_is_found_in_real_data(shared: Path, tmp_path: Path) -> None:
    """Pictures of VQAv2 and GQA are not among CC12M's; encoded anew among them, each is found and nothing else."""
    (tmp_path / "tokenizer.json").write_bytes(
        gzip.decompress((shared / "tokenizers" / "gpt-neox-20b_tokenizer.json.gz").read_bytes())
    )
    words = load(tmp_path)
    sets = shared / "allennlp_vision"
    web, _ = real(shared)
    said = said_twice(words)
    clean = made(said, pictures=[(checked(data), len(data)) for data in web[:5]], digest=words.digest)
    told = overlap(clean, against=[sets], words=words)
    assert (told.pictures, told.looked.evaluation_pictures) == ((), 5)
    hidden = [again(file.read_bytes(), "WEBP", 0.4) for file in sorted((sets / "images").rglob("*.jpg"))]
    leaky = made(said, pictures=[(checked(data), len(data)) for data in hidden], digest=words.digest)
    told = overlap(leaky, against=[sets], words=words)
    assert {(one.seen.record, Path(one.against.file).name) for one in told.pictures} == {
        (number, file.name) for number, file in enumerate(sorted((sets / "images").rglob("*.jpg")))
    }
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n")
    told = overlap(leaky, against=[tmp_path / "q.jsonl"], words=words)
    assert {one.seen.record for one in told.says} == {0, 1, 2}


QUESTION = "Which of the two umbrellas beside the wooden bench has stripes of yellow and dark green?"


def said_twice(words: Tokenizer) -> list[list[int]]:
    """The question at the beginning, after a word, and after a line break; then other texts."""
    texts = [QUESTION, f"We ask: {QUESTION} Nobody knows.", f"Quiz\n{QUESTION}\n", QUESTION[:40], QUESTION.upper()]
    return [[words.special.end, *ids, words.special.end] for ids in words.encode(texts)]
