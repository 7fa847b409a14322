from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.data.file_types import codec_of
from firstsight.data.readers import RecordReader, list_shards, list_source, locate_source
from firstsight.data.readers.source_reader import choose_caption
from firstsight.errors import DataError, RequestError
from firstsight.recipe.mixture import Recaptioned, SyntheticTexts, SyntheticWorld
from firstsight.site import Site
from firstsight.units import Share

from .reading import (
    captioned_members,
    external,
    read_all,
    recaptioned,
    shard_names,
    source_at,
    to_jsonl,
    write_tar,
    write_texts,
)


def test_folder_without_files_of_the_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Got no such file"):
        list(read_all(source_at(tmp_path), "captions"))
    with pytest.raises(DataError, match="no reader"):
        list(read_all(source_at(tmp_path), "encoder"))


def test_splits_from_folders_and_file_names(tmp_path: Path) -> None:
    write_texts(
        tmp_path, "train-00000.jsonl", "val_1.jsonl", "dev/x.jsonl", "trainer.jsonl", "test.jsonl", "my-test.jsonl"
    )
    with pytest.raises(DataError, match=r"Got test, train, validation\. Choose one .* split ="):
        shard_names(source_at(tmp_path))
    assert shard_names(source_at(tmp_path, split="train")) == ["train-00000.jsonl"]
    assert (
        shard_names(source_at(tmp_path, split="val"))
        == shard_names(source_at(tmp_path, split="validation"))
        == ["dev/x.jsonl", "val_1.jsonl"]
    )
    assert [shard.split for shard in list_shards(source_at(tmp_path, split="test"), "text")] == ["test"]
    with pytest.raises(DataError, match="wanted the split 'extra'"):
        shard_names(source_at(tmp_path, split="extra"))


def test_single_split_need_not_be_chosen(tmp_path: Path) -> None:
    write_texts(tmp_path, "a.jsonl", "train.jsonl")
    assert [shard.split for shard in list_shards(source_at(tmp_path), "text")] == ["", "train"]


def test_digest_requires_a_complete_pass(tmp_path: Path) -> None:
    write_texts(tmp_path, "a.jsonl")
    [shard] = list_shards(source_at(tmp_path), "text")
    reading = RecordReader(source_at(tmp_path), "text", source=external("text")).read(shard)
    next(iter(reading))
    with pytest.raises(DataError, match="Read all records"):
        _ = reading.digest


def test_removed_file_is_an_error(tmp_path: Path) -> None:
    write_texts(tmp_path, "a.jsonl")
    [shard] = list_shards(source_at(tmp_path), "text")
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be opened"):
        list(RecordReader(source_at(tmp_path), "text", source=external("text")).read(shard))


def test_locate_source_from_the_site_or_the_step(tmp_path: Path) -> None:
    site = Site(sources={"s": source_at("s3://b/s", split="train")})
    recaptioned = Recaptioned(external=external("captions"), synthetic_share=Share(1, 2), seed=0)
    world = SyntheticTexts(
        world=SyntheticWorld(objects=16, kinds=8, image_size=48, max_objects=4, seed=0), documents=1, loss_mask="all"
    )
    assert (
        locate_source(external("text"), None, site) == locate_source(recaptioned, tmp_path, site) == site.sources["s"]
    )
    assert locate_source(world, tmp_path, site) == source_at(tmp_path)
    with pytest.raises(RequestError, match="no source is called 's'"):
        locate_source(external("text"), tmp_path, Site())
    with pytest.raises(RequestError, match="wanted the folder"):
        locate_source(world, None, site)


def counted(folder: Path, **counts: int) -> None:
    rows = [{"shard": name.replace("_", "-"), "num_sequences": count} for name, count in counts.items()]
    (folder / "manifest.jsonl").write_bytes(to_jsonl(rows).rstrip(b"\n"))


def test_shard_must_match_its_manifest(tmp_path: Path) -> None:
    write_tar(tmp_path / "s-0.tar", captioned_members(3))
    write_tar(tmp_path / "s-1.tar", [*captioned_members(1), ("9.txt", b"no picture")])
    counted(tmp_path, s_0=3, s_1=2, s_2=5)
    assert len(read_all(source_at(tmp_path), "captions")) == 5
    counted(tmp_path, s_0=4)
    with pytest.raises(DataError, match=r"s-0\.tar: wanted 4 samples, as in manifest\.jsonl\. Got 3"):
        read_all(source_at(tmp_path), "captions")
    (tmp_path / "manifest.jsonl").write_text('{"shard": "s-0"}\n')
    with pytest.raises(DataError, match="line 1: wanted shard and num_sequences"):
        read_all(source_at(tmp_path), "captions")


def test_blank_and_null_lines_of_a_manifest_are_skipped(tmp_path: Path) -> None:
    write_tar(tmp_path / "s-0.tar", captioned_members(1))
    (tmp_path / "manifest.jsonl").write_text('null\n\n{"shard": "s-0", "num_sequences": 1}\n null \n')
    location = source_at(tmp_path / "manifest.jsonl")
    assert [shard.name for shard in list_shards(location, "captions")] == ["s-0.tar"]
    assert len(read_all(location, "captions")) == 1


def test_manifest_as_the_path_selects_shards(tmp_path: Path) -> None:
    for name in ("s-0.tar", "s-1.tar", "other.tar"):
        write_tar(tmp_path / name, captioned_members(1))
    counted(tmp_path, s_1=1, s_0=1)
    location = source_at(tmp_path / "manifest.jsonl")
    assert [shard.name for shard in list_shards(location, "captions")] == ["s-0.tar", "s-1.tar"]
    assert len(read_all(location, "captions")) == 2
    counted(tmp_path, s_0=1, s_7=1)
    with pytest.raises(DataError, match=r"names 2 shards\. Got none of s-7\.tar \(1 missing\)"):
        list_shards(location, "captions")


def test_img2dataset_tables_beside_tars_are_not_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", captioned_members(1))
    (tmp_path / "00000.parquet").write_bytes(b"")
    (tmp_path / "00000_stats.json").write_bytes(b"{}")
    assert len(read_all(source_at(tmp_path), "captions")) == 1


@given(seed=st.integers(0, 2**64), share=st.fractions(0, 1, max_denominator=1000))
@settings(max_examples=10, deadline=None)
def test_synthetic_share_is_met_and_nested(seed: int, share: Fraction) -> None:
    """300 keys: five standard deviations are 0.145; a larger share contains a smaller one."""
    keys = [f"{number:09d}" for number in range(300)]
    chosen = {key for key in keys if choose_caption(recaptioned(Share(share), seed), key)[0]}
    assert abs(len(chosen) / len(keys) - share) <= 0.145
    assert chosen <= {key for key in keys if choose_caption(recaptioned(Share((share + 1) / 2), seed), key)[0]}
    assert not any(choose_caption(recaptioned(Share(0), seed), key)[0] for key in keys)
    assert all(choose_caption(recaptioned(Share(1), seed), key)[0] for key in keys)


def test_caption_choice_is_pinned() -> None:
    """Published results depend on it: sha256 of "7", a zero byte and the key, computed with coreutils."""
    digest = hashlib.sha256(b"7\x00000000003").hexdigest()
    assert choose_caption(recaptioned(Share(1, 2), 7), "000000003") == (
        int(digest[:16], 16) < 2**63,
        int(digest[16:32], 16),
    )
    picks = Counter(choose_caption(recaptioned(Share(1), 1), str(number))[1] % 3 for number in range(900))
    assert all(230 <= picks[record] <= 370 for record in range(3))


@pytest.mark.shared
def test_real_manifest_with_missing_shards(shared: Path) -> None:
    folder = shared / "vla_foundry_shards" / "image_caption"
    assert len(list_shards(source_at(folder), "captions")) == 6
    with pytest.raises(DataError, match=r"names 16 shards\. Got none of shard-0006\.tar, .* \(10 missing\)"):
        list_shards(source_at(folder / "manifest.jsonl"), "captions")


def test_every_file_is_a_shard_or_counted_with_a_reason(tmp_path: Path) -> None:
    write_texts(
        tmp_path, "a.jsonl", "b.json.gz", ".x.jsonl", "._a.jsonl", ".git/c.jsonl", ".git/d", "f/__MACOSX/a.jsonl"
    )
    write_texts(
        tmp_path, "part.txt", "README.md", "old.tgz", "t.csv", "dataset_info.json", "stats.json", "0_stats.json"
    )
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b'{"text": "1"}'))
    listing = list_source(source_at(tmp_path), "text")
    assert [shard.name for shard in listing.shards] == ["a.jsonl", "b.json.gz"]
    assert listing.notices.entries == {
        "hidden file": (2, ".git/"), "macOS file": (2, "._a.jsonl"), "documentation": (1, "README.md"),
        "metadata _stats.json of img2dataset": (1, "0_stats.json"),
        "metadata dataset_info.json": (1, "dataset_info.json"),
        "archive .tgz: unpack it": (1, "old.tgz"), "ending .txt": (1, "part.txt"), "ending .csv": (1, "t.csv"),
        "one JSON object, no list or lines": (1, "stats.json"),
    }  # fmt: skip


def test_images_of_dialogues_are_no_unread_files_and_other_splits_are(tmp_path: Path) -> None:
    write_tar(tmp_path / "images.tar", captioned_members(1))
    for name in ("train/a.jsonl", "val/a.jsonl", "x/0.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'{"question": "q", "answer": "a"}')
    listing = list_source(source_at(tmp_path, split="train"), "dialogues")
    assert listing.notices.entries == {"split validation": (1, "val/a.jsonl")}
    (tmp_path / "other").mkdir()
    listing = list_source(source_at(tmp_path, split="train", pictures=str(tmp_path / "other")), "dialogues")
    assert listing.notices.entries["ending .tar"] == (1, "images.tar")
    assert list_source(source_at(tmp_path / "train"), "dialogues").notices.entries == {}


def test_a_folder_of_archives_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"Got no such file, but 1 x archive \.tar\.gz: unpack it \(a\.tar\.gz\)"):
        list_source(source_at(tmp_path), "captions")


@pytest.mark.parametrize("names", [("a.jsonl", "a.jsonl.gz"), ("a.json.zst", "a.json.gz"), ("A.JSONL.GZ", "a.jsonl")])
@pytest.mark.parametrize("folder", ["", "part/"])
def test_a_file_packed_and_unpacked_is_refused(tmp_path: Path, names: tuple[str, str], folder: str) -> None:
    for name in names:
        write_packed(tmp_path / folder / name, b'{"text": "once"}\n')
    with pytest.raises(DataError, match="records would be read twice") as error_info:
        list_source(source_at(tmp_path), "text")
    assert all(f"{folder}{name}" in str(error_info.value) for name in names)


@pytest.mark.parametrize("names", [("a.jsonl", "b.jsonl.gz"), ("a.json", "a.jsonl.gz"), ("x/a.jsonl", "y/a.jsonl.gz")])
def test_files_that_only_resemble_each_other_are_all_read(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write_packed(tmp_path / name, b'{"text": "once"}\n{"text": "again"}\n')
    assert sorted(shard.name for shard in list_shards(source_at(tmp_path), "text")) == sorted(names)


def write_packed(path: Path, data: bytes) -> None:
    """Write a file, compressed as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = codec_of(path.name)
    path.write_bytes(gzip.compress(data) if codec == "gzip" else zstandard.compress(data) if codec else data)
