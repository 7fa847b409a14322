"""Captioned pictures: the layouts of DataComp, DataComp-DR and CC12M, manifests, and every bad sample."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.readers import list_shards
from firstsight.data.readers.source_reader import choose_caption
from firstsight.data.records import ImageText
from firstsight.errors import DataError
from firstsight.recipe.mixture import Recaptioned
from firstsight.units import Share

from ..conftest import add, picture
from .reading import at, bad, everything, good, lines, named, passes

RED = picture((255, 0, 0))


def tar(file: Path, files: list[tuple[str, bytes]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as packed:
        for name, data in files:
            add(packed, name, data)
    return file.parent


def mixed(share: Share, seed: int = 0) -> Recaptioned:
    return Recaptioned(external=named("captions"), synthetic_share=share, seed=seed)


def syn(*texts: object) -> bytes:
    return json.dumps({"syn_text": texts}).encode()


def test_a_caption_is_txt_or_else_what_json_says(tmp_path: Path) -> None:
    tar(
        tmp_path / "a.tar",
        [
            *[("1.jpg", RED), ("1.txt", b" of txt\n"), ("1.json", b'{"caption": "of json"}')],
            *[("2.jpeg", RED), ("2.json", b'{"caption": "of json"}'), ("2.syn.json", syn("synthetic"))],
            *[("3.png", RED), ("3.json", b'{"uid": "7"}'), ("4.webp", RED), ("4.json", b'{"caption": 4}')],
            *[("5.png", RED), ("5.json", b"{"), ("6.png", RED), ("6.paug.json", b"{}")],
        ],
    )
    found = everything(at(tmp_path), "captions")
    assert [(one.id, one.caption, one.synthetic) for one in good(found)] == [
        ("1", "of txt", False),
        ("2", "of json", False),
    ]
    assert bad(found) == [("3", "no caption"), ("4", "field missing"), ("5", "not JSON"), ("6", "no caption")]


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("a\x00b", "control character"),
        ("a\x07", "control character"),
        ("a\x7f", "control character"),
        ("a\x85b", "control character"),
        ("x" * 10_001, "too long"),
        ("\u3000", "empty caption"),
        ("a\tb\nc\rd", None),
        ("x" * 10_000, None),
    ],
)
def test_captions_that_are_none_are_refused_by_name(tmp_path: Path, caption: str, reason: str | None) -> None:
    tar(tmp_path / "a.tar", [("1.png", RED), ("1.txt", caption.encode())])
    found = everything(at(tmp_path), "captions")
    assert [why for _, why in bad(found)] == ([] if reason is None else [reason])


def test_keys_and_members_that_stand_twice_are_refused(tmp_path: Path) -> None:
    one = [("1.png", RED), ("1.txt", b"w1")]
    tar(
        tmp_path / "a.tar",
        [*one, ("2.png", RED), ("2.png", RED), ("2.txt", b"w2"), ("3.png", RED), ("3.txt", b"w3"), *one],
    )
    found = everything(at(tmp_path), "captions")
    assert [one.id for one in good(found)] == ["1", "3"]
    assert bad(found) == [("2", "duplicate key"), ("1", "duplicate key")]


def test_a_picture_that_is_too_large_is_passed_over(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("1.png", bytes(20_000_001)), ("1.txt", b"w1"), ("2.png", RED), ("2.txt", b"w2")])
    found = everything(at(tmp_path), "captions")
    assert bad(found) == [("1", "too many bytes")]
    assert [one.id for one in good(found)] == ["2"]


def recaptioned(folder: Path, count: int) -> list[tuple[str, bytes]]:
    return [
        part
        for number in range(count)
        for part in (
            (f"{number:06d}.png", RED),
            (f"{number:06d}.txt", f"real {number}".encode()),
            (f"{number:06d}.json", json.dumps({"uid": f"u{number}"}).encode()),
        )
    ]


def synthetic(count: int, key: str = "{:06d}") -> list[tuple[str, bytes]]:
    return [
        (key.format(number) + ".syn.json", syn(*(f"syn {number} {n}" for n in range(3)))) for number in range(count)
    ]


def test_synthetic_captions_come_from_the_sample_or_from_a_tar_apart(tmp_path: Path) -> None:
    """Four ways to keep the same captions tell the same records; real and synthetic come as often as asked."""
    count = 60
    own = [
        one
        for number in range(count)
        for one in (*recaptioned(tmp_path, count)[3 * number :][:3], synthetic(count)[number])
    ]
    uids = [(f"u{number}.json", json.dumps({"uid": f"u{number}"}).encode()) for number in range(count)]
    tar(tmp_path / "own" / "0.tar", own)
    tar(tmp_path / "pictures" / "0.tar", recaptioned(tmp_path, count))
    tar(tmp_path / "apart" / "0.tar", synthetic(count))
    tar(
        tmp_path / "by-uid" / "0.tar", [one for pair in zip(uids, synthetic(count, "u{}"), strict=True) for one in pair]
    )
    source = mixed(Share(1, 3))
    found = [
        everything(at(tmp_path / "own"), "captions", source),
        everything(at(tmp_path / "pictures", captions=str(tmp_path / "apart")), "captions", source),
        everything(at(tmp_path / "pictures", captions=str(tmp_path / "by-uid")), "captions", source),
    ]
    told = [[(one.id, one.caption, one.synthetic) for one in records] for records in found]
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == count
    for number, (key, caption, made) in enumerate(told[0]):
        assert key == f"{number:06d}"
        assert caption.startswith(f"syn {number} " if made else f"real {number}")
    assert {caption[-1] for _, caption, made in told[0] if made} == {"0", "1", "2"}
    assert 10 <= sum(made for _, _, made in told[0]) <= 30


def test_a_folder_of_captions_inside_the_source_is_not_read_as_pictures(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", recaptioned(tmp_path, 2))
    tar(tmp_path / "captions" / "0.tar", synthetic(2))
    location = at(tmp_path, captions=str(tmp_path / "captions"))
    assert [shard.name for shard in list_shards(location, "captions")] == ["0.tar"]
    assert {one.synthetic for one in good(everything(location, "captions", mixed(Share(1))))} == {True}


def test_a_record_that_wants_a_synthetic_caption_and_has_none_is_refused(tmp_path: Path) -> None:
    sample = [("png", RED), ("txt", b"real")]
    files = {
        "1": [],
        "2": [("syn.json", syn())],
        "3": [("syn.json", b'{"syn_text": "no list"}')],
        "4": [("syn.json", b"[")],
    }
    tar(tmp_path / "a.tar", [(f"{key}.{end}", data) for key, more in files.items() for end, data in sample + more])
    found = everything(at(tmp_path), "captions", mixed(Share(1)))
    assert bad(found) == [("1", "no caption"), ("2", "no caption"), ("3", "no caption"), ("4", "not JSON")]
    assert len(good(everything(at(tmp_path), "captions", mixed(Share(0))))) == 4
    tar(tmp_path / "b" / "a.tar", [("9.syn.json", syn("of another key"))])
    location = at(tmp_path / "a.tar", captions=str(tmp_path / "b"))
    assert [why for _, why in bad(everything(location, "captions", mixed(Share(1))))] == ["no caption"] * 4


def test_a_shard_without_its_captions_is_named_and_they_count_for_the_digest(tmp_path: Path) -> None:
    tar(tmp_path / "p" / "0.tar", recaptioned(tmp_path, 1))
    tar(tmp_path / "c" / "1.tar", synthetic(1))
    location = at(tmp_path / "p", captions=str(tmp_path / "c"))
    with pytest.raises(DataError, match=r"wanted synthetic captions in 0\.tar"):
        everything(location, "captions", mixed(Share(1)))
    (tmp_path / "c" / "1.tar").rename(tmp_path / "c" / "0.tar")
    [(_, before)] = passes(location, "captions", mixed(Share(0)))
    tar(tmp_path / "c" / "0.tar", [*synthetic(1), ("more.txt", b"")])
    [(_, after)] = passes(location, "captions", mixed(Share(0)))
    alone = hashlib.sha256((tmp_path / "p" / "0.tar").read_bytes()).hexdigest()
    assert len({before, after, alone}) == 3
    assert [digest for _, digest in passes(location, "captions")] == [alone]


@given(seed=st.integers(0, 2**64), share=st.fractions(0, 1, max_denominator=1000))
@settings(max_examples=10, deadline=None)
def test_as_many_are_synthetic_as_asked_and_more_share_keeps_those_that_were(seed: int, share: Fraction) -> None:
    """300 keys: five standard deviations are 0.145; a larger share takes more of the same."""
    keys = [f"{number:09d}" for number in range(300)]
    chosen = {key for key in keys if choose_caption(mixed(Share(share), seed), key)[0]}
    assert abs(len(chosen) / len(keys) - share) <= 0.145
    assert chosen <= {key for key in keys if choose_caption(mixed(Share((share + 1) / 2), seed), key)[0]}
    assert not any(choose_caption(mixed(Share(0), seed), key)[0] for key in keys)
    assert all(choose_caption(mixed(Share(1), seed), key)[0] for key in keys)


def test_the_choice_is_pinned() -> None:
    """Published numbers hang on it: sha256 of "7", a zero byte and the key, computed with coreutils."""
    digest = hashlib.sha256(b"7\x00000000003").hexdigest()
    assert choose_caption(mixed(Share(1, 2), 7), "000000003") == (int(digest[:16], 16) < 2**63, int(digest[16:32], 16))
    picks = Counter(choose_caption(mixed(Share(1), 1), str(number))[1] % 3 for number in range(900))
    assert all(230 <= picks[one] <= 370 for one in range(3))


def counted(folder: Path, **counts: int) -> None:
    rows = [{"shard": name.replace("_", "-"), "num_sequences": count} for name, count in counts.items()]
    (folder / "manifest.jsonl").write_bytes(lines(rows).rstrip(b"\n"))


def test_a_shard_that_differs_from_its_manifest_is_refused(tmp_path: Path) -> None:
    tar(tmp_path / "s-0.tar", recaptioned(tmp_path, 3))
    tar(tmp_path / "s-1.tar", [*recaptioned(tmp_path, 1), ("9.txt", b"no picture")])
    counted(tmp_path, s_0=3, s_1=2, s_2=5)
    assert len(everything(at(tmp_path), "captions")) == 5
    counted(tmp_path, s_0=4)
    with pytest.raises(DataError, match=r"s-0\.tar: wanted 4 samples, says manifest\.jsonl\. Got 3"):
        everything(at(tmp_path), "captions")
    (tmp_path / "manifest.jsonl").write_text('{"shard": "s-0"}\n')
    with pytest.raises(DataError, match="line 1: wanted shard and num_sequences"):
        everything(at(tmp_path), "captions")


def test_a_manifest_as_the_path_names_the_shards(tmp_path: Path) -> None:
    for name in ("s-0.tar", "s-1.tar", "other.tar"):
        tar(tmp_path / name, recaptioned(tmp_path, 1))
    counted(tmp_path, s_1=1, s_0=1)
    location = at(tmp_path / "manifest.jsonl")
    assert [shard.name for shard in list_shards(location, "captions")] == ["s-0.tar", "s-1.tar"]
    assert len(everything(location, "captions")) == 2
    counted(tmp_path, s_0=1, s_7=1)
    with pytest.raises(DataError, match=r"names 2 shards\. Got none of s-7\.tar \(1 missing\)"):
        list_shards(location, "captions")


def test_tables_that_img2dataset_leaves_beside_its_tars_are_not_read(tmp_path: Path) -> None:
    tar(tmp_path / "00000.tar", recaptioned(tmp_path, 1))
    (tmp_path / "00000.parquet").write_bytes(b"")
    (tmp_path / "00000_stats.json").write_bytes(b"{}")
    assert len(everything(at(tmp_path), "captions")) == 1


@pytest.mark.shared
@pytest.mark.parametrize("folder", ["vla_foundry_shards/image_caption", "torchtitan_cc12m"])
def test_webdataset_sees_the_same_samples_and_the_same_bytes_at_our_offsets(shared: Path, folder: str) -> None:
    found = [one for one in everything(at(shared / folder), "captions") if isinstance(one, ImageText)]
    files = sorted(str(file) for file in (shared / folder).glob("*.tar"))
    peer = list(webdataset.WebDataset(files, shardshuffle=False))
    assert len(found) == len(peer)
    for ours, theirs in zip(found, peer, strict=True):
        data = (shared / folder / ours.image.shard).read_bytes()[ours.image.offset :][: ours.image.size]
        assert ours.id == theirs["__key__"]
        assert ours.caption == theirs["txt"].decode().strip()
        assert data == next(theirs[kind] for kind in ("jpg", "webp") if kind in theirs)


@pytest.mark.shared
def test_the_digest_of_a_real_shard_is_the_published_one(shared: Path) -> None:
    """The first 16 digits stand in the README that came with the files."""
    digests = [digest for _, digest in passes(at(shared / "vla_foundry_shards" / "image_caption"), "captions")]
    assert [digest[:16] for digest in digests] == [
        "30c666630a20d724", "f017661f8cbb3b82", "921e0319b82f2bf8",
        "376c5f7eb1e2e260", "087fe50885700ec9", "06e7629a340fcd8d",
    ]  # fmt: skip


@pytest.mark.shared
def test_the_real_manifest_names_sixteen_shards_of_which_six_are_there(shared: Path) -> None:
    folder = shared / "vla_foundry_shards" / "image_caption"
    assert len(list_shards(at(folder), "captions")) == 6
    with pytest.raises(DataError, match=r"names 16 shards\. Got none of shard-0006\.tar, .* \(10 missing\)"):
        list_shards(at(folder / "manifest.jsonl"), "captions")
