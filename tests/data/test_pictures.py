from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from firstsight.data.pictures import MOST_BYTES, decode, opened, upright
from firstsight.data.records import Refused


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    held = io.BytesIO()
    picture.save(held, form, **options)
    return held.getvalue()


def declared(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"\xff" * (MOST_BYTES + 1), "too many bytes"),
        (b"<svg/>", "not a picture"),
        (declared(8_000, 8_000), "too many pixels"),
        (declared(30_000, 30_000), "too many pixels"),
        (declared(8, 8), "not a picture"),
        (encoded(Image.new("RGB", (64, 64), "red"), "JPEG")[:-200], "not a picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        upright(data)
    assert refused.value.reason == reason


def test_fifty_megapixels_are_still_a_picture() -> None:
    assert opened(declared(10_000, 5_000)).size == (10_000, 5_000)


def corner(data: bytes) -> tuple[int, ...]:
    return tuple(decode(data, 4)[0, 0].tolist())


def test_transparency_lies_over_white() -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert corner(encoded(half)) == (255, 255, 255)
    assert corner(encoded(Image.new("LA", (8, 8), (0, 0)))) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert corner(encoded(palette, transparency=0)) == (255, 255, 255)
    assert corner(encoded(palette)) == (10, 20, 30)


def test_sixteen_bits_become_eight() -> None:
    deep = Image.fromarray(np.full((8, 8), 0x8123, dtype=np.uint16))
    assert corner(encoded(deep)) == (0x81, 0x81, 0x81)


def test_cmyk_becomes_rgb() -> None:
    red, green, blue = corner(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red > 240 and green < 15 and blue < 15


def test_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red")]
    assert corner(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)) == (0, 0, 255)


def test_exif_turns_the_picture_upright() -> None:
    wide = Image.new("RGB", (16, 8), "black")
    wide.paste((255, 255, 255), (0, 0, 8, 8))
    turn = Image.Exif()
    turn[0x0112] = 6
    found = upright(encoded(wide, "PNG", exif=turn))
    assert found.size == (8, 16)
    assert found.getpixel((4, 2)) == (255, 255, 255), "rotated clockwise: what was left is on top"


def test_decoding_keeps_a_picture_of_the_right_size_and_squeezes_others() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    assert (decode(encoded(Image.fromarray(noise)), 6) == noise).all()
    assert decode(encoded(Image.new("RGB", (40, 10), (9, 8, 7))), 5).tolist() == [[[9, 8, 7]] * 5] * 5
