"""Invalid images and decompression bombs are rejected with a reason; unusual images are decoded correctly."""

from __future__ import annotations

import resource
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from firstsight.data.images import decode_image, decode_image_fast, decode_rgb

from .conftest import Workshop
from .prepared_sources import caption_members, encode_image, prepare_source, write_tar


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def png_with_large_comment() -> bytes:
    """An image with a comment of 100 MB, compressed to 100 kB."""
    png = encode_image(Image.new("RGB", (16, 16)), "PNG")
    comment = b"zTXtComment\0\0" + zlib.compress(bytes(100_000_000))
    return png[:33] + struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment)) + png[33:]


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(encode_image(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


INVALID_IMAGES = {
    "zero bytes": ("b_png", b"", "zero bytes"),
    "a bomb in png": ("b_png", png_header(60_000, 60_000), "too many pixels"),
    "a bomb in jpeg": ("b_jpg", jpeg_header(65_000, 65_000), "too many pixels"),
    "half a png": ("b_png", encode_image(Image.effect_noise((64, 64), 90), "PNG")[:-800], "not an image"),
    "half a jpeg": ("b_jpg", encode_image(Image.effect_noise((64, 64), 90), "JPEG")[:-800], "not an image"),
    "half a webp": ("b_webp", encode_image(Image.effect_noise((64, 64), 90), "WEBP")[:-400], "not an image"),
    "a page of html": ("b_jpg", b"<html>404 not found</html>", "not an image"),
    "an svg": ("b_png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
}


@pytest.mark.parametrize("name", INVALID_IMAGES)
def test_broken_image_is_rejected(workshop: Workshop, name: str) -> None:
    member, data, reason = INVALID_IMAGES[name]
    folder = write_tar(workshop.folder("source"), caption_members(2, **{member: data, "b_txt": b"w7"}))
    prepared = prepare_source(workshop, folder, "captions")
    assert prepared.quarantine == [(reason, "00000.tar", "b")]
    assert prepared.caption_words() == [[0], [1]]


def test_decompression_bomb_is_never_decoded(workshop: Workshop) -> None:
    """3.6 gigapixels in the header would take 10 GB; the process must need far less."""
    folder = write_tar(workshop.folder("source"), caption_members(1, b_png=png_header(60_000, 60_000), b_txt=b"w7"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prepare_source(workshop, folder, "captions")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def two_sided(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (64, 64), left)
    image.paste(right, (32, 0, 64, 64))
    return image


RED, BLUE, WHITE, PINK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (255, 204, 204)
_TURNED = Image.Exif()
_TURNED[0x0112] = 6
"""Rotate by 90 degrees clockwise: the left side becomes the top."""

_FRAMES = {"save_all": True, "append_images": [two_sided(BLUE, BLUE)]}
_DEEP = Image.fromarray(np.full((64, 64), 0x80FF, dtype=np.uint16))
UNUSUAL_IMAGES = {
    "print colours": ("jpg", encode_image(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG", quality=95), RED, RED),
    "sixteen bits": ("png", encode_image(_DEEP, "PNG"), (128, 128, 128), (128, 128, 128)),
    "moving": ("webp", encode_image(two_sided(RED, RED), "WEBP", lossless=True, **_FRAMES), RED, RED),
    "moving png": ("png", encode_image(two_sided(RED, RED), "PNG", **_FRAMES), RED, RED),
    "see-through": (
        "png",
        encode_image(Image.new("RGBA", (64, 64), (255, 0, 0, 51)), "PNG"),
        (255, 204, 204),
        (255, 204, 204),
    ),
    "a see-through colour": ("png", encode_image(Image.new("P", (64, 64)), "PNG", transparency=0), WHITE, WHITE),
    "one bit": ("png", encode_image(Image.new("1", (64, 64), 1), "PNG"), WHITE, WHITE),
    "turned": ("jpg", encode_image(two_sided(RED, BLUE), "JPEG", exif=_TURNED, quality=95), RED, BLUE),
    "turned in png": ("png", encode_image(two_sided(RED, BLUE), "PNG", exif=_TURNED), RED, BLUE),
}
"""Extension, bytes, color of the upper and of the lower half."""


@pytest.mark.parametrize("name", UNUSUAL_IMAGES)
def test_unusual_images_are_decoded_correctly(workshop: Workshop, name: str) -> None:
    ending, data, upper, lower = UNUSUAL_IMAGES[name]
    folder = write_tar(workshop.folder("source"), {f"b.{ending}": data, "b.txt": b"w7"})
    prepared = prepare_source(workshop, folder, "captions")
    assert (prepared.quarantine, prepared.caption_words()) == ([], [[7]])
    assert prepared.images() == [data]
    for decode in (decode_image, decode_image_fast):
        pixels = decode(data, 16).astype(int)
        assert abs(pixels[:6] - upper).max() <= 3
        assert abs(pixels[10:] - lower).max() <= 3


def test_large_texts_and_profiles_of_a_png_are_left_out_unread(workshop: Workshop) -> None:
    """A comment of 100 MB in 100 kB is no part of the pixels: the image stays, and nothing of it is unpacked."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plain, bomb = encode_image(Image.new("RGB", (16, 16)), "PNG"), png_with_large_comment()
    assert np.array_equal(decode_image(bomb, 16), decode_image(plain, 16))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    folder = write_tar(workshop.folder("source"), caption_members(2, b_png=bomb, b_txt=b"w7"))
    assert prepare_source(workshop, folder, "captions").quarantine == []


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("count", [1, 90])
@pytest.mark.parametrize("at_end", [False, True])
def test_png_chunks_that_pillow_refuses_do_not_hide_pixels(kind: bytes, count: int, at_end: bool) -> None:
    prefix = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"p\0\0"}[kind]
    chunk = kind + prefix + zlib.compress(bytes(1_100_000))
    packed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    image = Image.effect_noise((24, 16), 90).convert("RGB")
    png = encode_image(image, "PNG")
    at = len(png) - 12 if at_end else 33
    assert np.array_equal(np.asarray(decode_rgb(png[:at] + packed * count + png[at:])), np.asarray(image))
