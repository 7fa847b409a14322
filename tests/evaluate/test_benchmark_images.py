"""Images by every name that benchmarks use, in folders and archives, intact and damaged."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.benchmark_images import BenchmarkImages
from tests.evaluate.tasks.task_files import write_tar

NAMES = {
    "val2014/COCO_val2014_000000458752.jpg": b"coco",
    "n578564.jpg": b"gqa",
    "000012.png": b"world",
    "train_images/003a8ae2ef43b901.jpg": b"textvqa",
    "ARID20/floor/left/box/seq01/rgb/result_2018.png": b"ocid left",
    "ARID20/floor/right/box/seq01/rgb/result_2018.png": b"ocid right",
}


@pytest.fixture(params=["tar", "folder"])
def benchmarks(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "tar":
        write_tar(tmp_path / "images.tar", NAMES)
    else:
        _write_files(tmp_path / "images", NAMES)
    return tmp_path


def _write_files(folder: Path, names: dict[str, bytes]) -> None:
    for name, data in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("458752", b"coco"),
        ("COCO_val2014_000000458752", b"coco"),
        ("COCO_val2014_000000458752.jpg", b"coco"),
        ("val2014/COCO_val2014_000000458752.jpg", b"coco"),
        ("n578564", b"gqa"),
        ("000012", b"world"),
        ("000012.png", b"world"),
        ("003a8ae2ef43b901", b"textvqa"),
        ("ARID20/floor/right/box/seq01/rgb/result_2018.png", b"ocid right"),
        ("left/box/seq01/rgb/result_2018.png", b"ocid left"),
    ],
)
def test_an_image_has_several_names(benchmarks: Path, name: str, data: bytes) -> None:
    images = BenchmarkImages(benchmarks)
    assert images.read(name) == data
    images.close()


@pytest.mark.parametrize(
    "name", ["578564", "x", "12.jpg", "COCO_val2014_000000458752.png", "../images/n578564.jpg", ""]
)
def test_other_names_match_nothing(benchmarks: Path, name: str) -> None:
    images = BenchmarkImages(benchmarks)
    with pytest.raises(DataError, match="no image is called"):
        images.read(name)
    assert images.missing_names([name, "458752"]) == (name,)
    images.close()


def test_two_names_of_one_image_have_one_location(benchmarks: Path) -> None:
    images = BenchmarkImages(benchmarks)
    assert images.location("458752") == images.location("COCO_val2014_000000458752.jpg") != images.location("n578564")
    images.close()


def test_an_ambiguous_name_is_refused_with_all_matches(benchmarks: Path) -> None:
    images = BenchmarkImages(benchmarks)
    with pytest.raises(DataError, match=r"may be any of ARID20/floor/left.*right.*own images/ folder"):
        images.read("result_2018.png")
    images.close()


def test_a_number_of_two_benchmarks_is_refused(tmp_path: Path) -> None:
    # Visual Genome's 107899.jpg is another picture than COCO's number 107899.
    _write_files(tmp_path / "images", {"107899.jpg": b"genome", "COCO_val2014_000000107899.jpg": b"coco"})
    images = BenchmarkImages(tmp_path)
    assert images.read("107899.jpg") == b"genome"
    with pytest.raises(DataError, match="'107899' may be any of"):
        images.read("107899")
    _write_files(tmp_path / "vqav2" / "images", {"COCO_val2014_000000107899.jpg": b"own"})
    images = BenchmarkImages(tmp_path)
    assert images.read("107899", "vqav2") == b"own"


def test_a_tasks_own_images_come_before_the_shared_ones(tmp_path: Path) -> None:
    _write_files(tmp_path / "images", {"a.png": b"common", "b.png": b"common b"})
    write_tar(tmp_path / "gqa" / "images.tar", {"a.png": b"own"})
    images = BenchmarkImages(tmp_path)
    assert [images.read(*at) for at in (("a", "gqa"), ("b", "gqa"), ("a", ""))] == [b"own", b"common b", b"common"]
    assert images.location("a", "gqa") != images.location("a")
    images.close()


def test_images_may_be_only_in_the_tasks_folders(tmp_path: Path) -> None:
    _write_files(tmp_path / "gqa" / "images", {"a.png": b"own"})
    assert BenchmarkImages(tmp_path).read("a", "gqa") == b"own"
    with pytest.raises(DataError, match=r"no image is called 'a'.*There are none"):
        BenchmarkImages(tmp_path).read("a", "pope")
    with pytest.raises(DataError, match=r"images.tar or images/. Got neither"):
        BenchmarkImages(tmp_path / "gqa" / "images")


def test_missing_images_are_counted_and_the_first_few_named(benchmarks: Path) -> None:
    images = BenchmarkImages(benchmarks)
    names = ["458752", *(f"lost{n}.jpg" for n in range(40)), "lost0.jpg"]
    with pytest.raises(DataError, match=r"40 of 41 images are missing: 'lost0.jpg', 'lost1.jpg', 'lost2.jpg', \.\.\."):
        images.check_present(names, "vqav2")
    images.check_present(["458752"])
    images.close()


@pytest.mark.parametrize("extra_bytes", [1, 511, 1023, 1500])
def test_a_truncated_archive_is_refused(tmp_path: Path, extra_bytes: int) -> None:
    whole = write_tar(tmp_path / "images.tar", {f"{n}.png": bytes(600) for n in range(4)}).read_bytes()
    (tmp_path / "images.tar").write_bytes(whole[: 3 * (512 + 1024) + extra_bytes])
    with pytest.raises(DataError, match=r"images\.tar.*(truncated|cut|breaks off)"):
        BenchmarkImages(tmp_path)


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.tar").write_bytes(b"\x1f\x8b" + os.urandom(2000))
    with pytest.raises(DataError, match=r"images\.tar"):
        BenchmarkImages(tmp_path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.png"])
def test_members_with_paths_outside_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "images.tar", {name: b"x"})
    with pytest.raises(DataError, match="points out of the archive"):
        BenchmarkImages(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_an_archive_are_not_followed(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = kind, "/etc/passwd"
        tar.addfile(link)
        plain = tarfile.TarInfo("./b.png")
        plain.size = 1
        tar.addfile(plain, io.BytesIO(b"b"))
    images = BenchmarkImages(tmp_path)
    with pytest.raises(DataError, match=r"a\.png is a link, not a plain file"):
        images.read("a.png")
    assert images.read("b.png") == b"b"
    images.close()


def test_linked_folders_are_walked_once(tmp_path: Path) -> None:
    _write_files(tmp_path / "elsewhere", {"val2014/COCO_val2014_000000000009.jpg": b"far"})
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "coco").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    images = BenchmarkImages(tmp_path)
    assert images.read("9") == b"far"
    with pytest.raises(DataError, match=r"gone\.png: wanted an image"):
        images.read("gone")


def test_a_folder_named_like_an_image_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "images" / "a.png").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no image is called 'a\.png'"):
        BenchmarkImages(tmp_path).read("a.png")


def test_many_names_cost_little_memory(tmp_path: Path) -> None:
    count = 1_500
    write_tar(tmp_path / "images.tar", {f"val2014/COCO_val2014_{n:012d}.jpg": b"" for n in range(count)})
    tracemalloc.start()
    images = BenchmarkImages(tmp_path)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # tarfile's own list of members takes about 1,300 bytes each.
    assert used < 500 * count
    assert images.missing_names(str(n) for n in range(count)) == ()
    images.close()


@pytest.mark.parametrize("store", ["images", "images.tar"])
def test_files_of_macos_are_no_images(tmp_path: Path, store: str) -> None:
    names = {"COCO_val2014_000000000042.jpg": b"a", "._COCO_val2014_000000000042.jpg": b"b", ".cache/42.jpg": b"c",
             "__MACOSX/._42.jpg": b"d"}  # fmt: skip
    if store == "images":
        _write_files(tmp_path / store, names)
    else:
        write_tar(tmp_path / store, names)
    assert BenchmarkImages(tmp_path).read("42") == b"a"


def test_an_archive_beside_the_tasks_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"Got images\.zip, which is not read\. Unpack it"):
        BenchmarkImages(tmp_path)
