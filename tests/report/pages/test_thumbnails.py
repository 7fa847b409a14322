"""Images of a page: encoded again, each once, and messages for those that cannot be shown."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from firstsight.data.images import decode_rgb
from firstsight.report.pages.thumbnails import Thumbnails, make_thumbnail
from firstsight.units import format_bytes
from tests.report.answer_files import encoded_image, write_images


def _bytes(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


@pytest.mark.parametrize(
    ("data", "image_format", "size"),
    [
        (encoded_image(2000, 1000, "JPEG"), "JPEG", (384, 192)),
        (encoded_image(300, 1200, "WEBP"), "JPEG", (96, 384)),
        (encoded_image(48, 48), "PNG", (48, 48)),
        (encoded_image(128, 20, "BMP"), "PNG", (128, 20)),
    ],
)
def test_images_are_encoded_again(data: bytes, image_format: str, size: tuple[int, int]) -> None:
    thumbnail = make_thumbnail(decode_rgb(data + b"<script>alert(1)</script>"))
    decoded = Image.open(io.BytesIO(_bytes(thumbnail.uri)))
    assert (decoded.format, decoded.size, (thumbnail.width, thumbnail.height)) == (image_format, size, size)
    assert b"script" not in _bytes(thumbnail.uri)
    left, right = decoded.convert("RGB").getpixel((2, size[1] // 2)), decoded.convert("RGB").getpixel((size[0] - 3, 2))
    assert isinstance(left, tuple) and isinstance(right, tuple)
    assert left[0] > 240 > 20 > left[2] and right[2] > 240 > 20 > right[0]
    assert make_thumbnail(decode_rgb(data)).uri == make_thumbnail(decode_rgb(data)).uri


def test_exif_rotation_is_applied_and_other_metadata_dropped() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    thumbnail = make_thumbnail(decode_rgb(encoded_image(400, 200, "JPEG", exif=exif)))
    assert (thumbnail.width, thumbnail.height) == (192, 384)
    assert b"secret" not in _bytes(thumbnail.uri)


def test_images_that_cannot_be_shown_have_a_reason(tmp_path: Path) -> None:
    valid, truncated, drawing = (
        encoded_image(200, 200, "JPEG"),
        encoded_image(200, 200, "JPEG")[:-200],
        b"<svg onload=alert(1)>",
    )
    folder = write_images(tmp_path / "b", {"1.jpg": valid, "2.jpg": truncated, "3.png": drawing, "4.gif": b""})
    thumbnails = Thumbnails()
    assert thumbnails.find(folder, "gqa", "1") is thumbnails.find(folder, "gqa", "1")
    assert len(thumbnails.page_images) == 1
    for name, reason in (("2", "breaks"), ("3", "none of"), ("4", "empty"), ("9", "no image is called '9'")):
        assert reason in str(thumbnails.find(folder, "gqa", name))
    assert "--benchmarks" in str(thumbnails.find(None, "gqa", "1"))
    assert "images.tar or images/" in str(thumbnails.find(tmp_path / "missing", "gqa", "1"))
    (tmp_path / "invalid").mkdir()
    (tmp_path / "invalid" / "images.tar").write_bytes(b"no archive at all" * 100)
    assert "images.tar" in str(thumbnails.find(tmp_path / "invalid", "gqa", "1"))
    thumbnails.close()
    assert len(thumbnails.page_images) == 1


def test_tasks_may_have_images_of_their_own(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "b", {"1.png": encoded_image(10, 10)})
    write_images(folder / "textvqa", {"1.png": encoded_image(20, 20)})
    write_images(tmp_path / "secret", {"1.png": encoded_image(30, 30), "2.png": encoded_image(30, 30)})
    thumbnails = Thumbnails()
    tasks = ("gqa", "textvqa", "textvqa_ocr", "../secret", "..", "\0")
    images = [thumbnails.find(folder, task, "1") for task in tasks]
    assert [image.width for image in images if not isinstance(image, str)] == [10, 20, 20, 10, 10, 10]
    assert len(thumbnails.page_images) == 2 and isinstance(thumbnails.find(folder, "../secret", "2"), str)


def test_size_of_all_images_is_limited(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "b", {f"{n}.jpg": encoded_image(384, 300 + n, "JPEG") for n in range(4)})
    size = len(make_thumbnail(decode_rgb(encoded_image(384, 300, "JPEG"))).uri)
    limit = 2 * size + size // 2
    thumbnails = Thumbnails(max_bytes=limit)
    images = [thumbnails.find(folder, "gqa", str(n)) for n in range(4)]
    assert [isinstance(image, str) for image in images] == [False, False, True, True]
    used = format_bytes(sum(len(image.uri) for image in images[:2] if not isinstance(image, str)))
    assert f"{used} of images, of at most {format_bytes(limit)}; ask for fewer rows" in str(images[2])
