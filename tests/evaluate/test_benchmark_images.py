"""Pictures by every name that benchmarks give them, in folders and archives, whole and broken."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.benchmark_images import BenchmarkImages
from tests.evaluate.tasks.task_files import packed

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
        packed(tmp_path / "images.tar", NAMES)
    else:
        _loose(tmp_path / "images", NAMES)
    return tmp_path


def _loose(folder: Path, names: dict[str, bytes]) -> None:
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
def test_a_picture_is_found_by_each_of_its_names(benchmarks: Path, name: str, data: bytes) -> None:
    pictures = BenchmarkImages(benchmarks)
    assert pictures.read(name) == data
    pictures.close()


@pytest.mark.parametrize(
    "name", ["578564", "x", "12.jpg", "COCO_val2014_000000458752.png", "../images/n578564.jpg", ""]
)
def test_no_other_name_finds_one(benchmarks: Path, name: str) -> None:
    pictures = BenchmarkImages(benchmarks)
    with pytest.raises(DataError, match="no image is called"):
        pictures.read(name)
    assert pictures.missing_names([name, "458752"]) == (name,)
    pictures.close()


def test_two_names_of_one_picture_are_the_same_place(benchmarks: Path) -> None:
    pictures = BenchmarkImages(benchmarks)
    assert (
        pictures.location("458752")
        == pictures.location("COCO_val2014_000000458752.jpg")
        != pictures.location("n578564")
    )
    pictures.close()


def test_a_name_that_means_several_is_refused_with_all_of_them(benchmarks: Path) -> None:
    pictures = BenchmarkImages(benchmarks)
    with pytest.raises(DataError, match=r"may be any of ARID20/floor/left.*right.*own images/ folder"):
        pictures.read("result_2018.png")
    pictures.close()


def test_a_number_that_two_benchmarks_use_is_refused_and_not_guessed(tmp_path: Path) -> None:
    # Visual Genome's 107899.jpg is another picture than COCO's number 107899.
    _loose(tmp_path / "images", {"107899.jpg": b"genome", "COCO_val2014_000000107899.jpg": b"coco"})
    pictures = BenchmarkImages(tmp_path)
    assert pictures.read("107899.jpg") == b"genome"
    with pytest.raises(DataError, match="'107899' may be any of"):
        pictures.read("107899")
    _loose(tmp_path / "vqav2" / "images", {"COCO_val2014_000000107899.jpg": b"own"})
    pictures = BenchmarkImages(tmp_path)
    assert pictures.read("107899", "vqav2") == b"own"


def test_a_tasks_own_pictures_come_first_and_the_common_ones_fill_up(tmp_path: Path) -> None:
    _loose(tmp_path / "images", {"a.png": b"common", "b.png": b"common b"})
    packed(tmp_path / "gqa" / "images.tar", {"a.png": b"own"})
    pictures = BenchmarkImages(tmp_path)
    assert [pictures.read(*at) for at in (("a", "gqa"), ("b", "gqa"), ("a", ""))] == [b"own", b"common b", b"common"]
    assert pictures.location("a", "gqa") != pictures.location("a")
    pictures.close()


def test_pictures_may_lie_in_the_tasks_folders_alone(tmp_path: Path) -> None:
    _loose(tmp_path / "gqa" / "images", {"a.png": b"own"})
    assert BenchmarkImages(tmp_path).read("a", "gqa") == b"own"
    with pytest.raises(DataError, match=r"no image is called 'a'.*There are none"):
        BenchmarkImages(tmp_path).read("a", "pope")
    with pytest.raises(DataError, match=r"images.tar or images/. Got neither"):
        BenchmarkImages(tmp_path / "gqa" / "images")


def test_missing_pictures_are_counted_and_the_first_few_shown(benchmarks: Path) -> None:
    pictures = BenchmarkImages(benchmarks)
    wanted = ["458752", *(f"lost{n}.jpg" for n in range(40)), "lost0.jpg"]
    with pytest.raises(DataError, match=r"40 of 41 images are missing: 'lost0.jpg', 'lost1.jpg', 'lost2.jpg', \.\.\."):
        pictures.check_present(wanted, "vqav2")
    pictures.check_present(["458752"])
    pictures.close()


@pytest.mark.parametrize("left", [1, 511, 1023, 1500])
def test_an_archive_that_was_cut_is_refused(tmp_path: Path, left: int) -> None:
    whole = packed(tmp_path / "images.tar", {f"{n}.png": bytes(600) for n in range(4)}).read_bytes()
    (tmp_path / "images.tar").write_bytes(whole[: 3 * (512 + 1024) + left])
    with pytest.raises(DataError, match=r"images\.tar.*(cut|breaks off)"):
        BenchmarkImages(tmp_path)


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.tar").write_bytes(b"\x1f\x8b" + os.urandom(2000))
    with pytest.raises(DataError, match=r"images\.tar"):
        BenchmarkImages(tmp_path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.png"])
def test_members_that_point_out_of_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    packed(tmp_path / "images.tar", {name: b"x"})
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
    pictures = BenchmarkImages(tmp_path)
    with pytest.raises(DataError, match=r"a\.png is no plain file"):
        pictures.read("a.png")
    assert pictures.read("b.png") == b"b"
    pictures.close()


def test_folders_that_are_linked_in_are_walked_and_a_circle_ends(tmp_path: Path) -> None:
    _loose(tmp_path / "elsewhere", {"val2014/COCO_val2014_000000000009.jpg": b"far"})
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "coco").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    pictures = BenchmarkImages(tmp_path)
    assert pictures.read("9") == b"far"
    with pytest.raises(DataError, match=r"gone\.png: wanted an image"):
        pictures.read("gone")


def test_a_folder_called_like_a_picture_is_none(tmp_path: Path) -> None:
    (tmp_path / "images" / "a.png").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no image is called 'a\.png'"):
        BenchmarkImages(tmp_path).read("a.png")


def test_many_names_cost_little_memory(tmp_path: Path) -> None:
    count = 1_500
    packed(tmp_path / "images.tar", {f"val2014/COCO_val2014_{n:012d}.jpg": b"" for n in range(count)})
    tracemalloc.start()
    pictures = BenchmarkImages(tmp_path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    # tarfile's own list of members takes about 1,300 bytes each.
    assert held < 500 * count
    assert pictures.missing_names(str(n) for n in range(count)) == ()
    pictures.close()
