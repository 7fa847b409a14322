"""Encoded pictures to pixels: the right picture or Refused, the same in evaluation, in training and at the door."""

from __future__ import annotations

import io
import itertools
import struct
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from firstsight.data.images import (
    JPEG_OVERSAMPLING,
    MAX_IMAGE_BYTES,
    decode_image,
    decode_image_fast,
    decode_rgb,
    has_image_signature,
    open_image,
    perceptual_hash,
)
from firstsight.data.records import RecordError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    held = io.BytesIO()
    picture.save(held, form, **options)
    return held.getvalue()


def declared(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth patches with edges and a little grain: it compresses as photographs do."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    edges = 60 * (np.add.outer(np.arange(height), 2 * np.arange(width)) // 37 % 2)[..., None]
    return Image.fromarray(np.clip(smooth + edges - 30 + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8))


def turned(number: int) -> Image.Exif:
    told = Image.Exif()
    told[0x0112] = number
    return told


def deep(width: int, height: int) -> Image.Image:
    return Image.fromarray((np.arange(width * height, dtype=np.uint16) * 5).reshape(height, width))


PHOTO = photo(150, 100)
FRAMES = {"save_all": True, "append_images": [PHOTO.rotate(9)]}
FORMS = {
    "jpeg": encoded(PHOTO, "JPEG"),
    "progressive": encoded(PHOTO, "JPEG", progressive=True),
    "turned": encoded(PHOTO, "JPEG", exif=turned(6)),
    "grey": encoded(PHOTO.convert("L"), "JPEG"),
    "print": encoded(PHOTO.convert("CMYK"), "JPEG"),
    "two pictures": encoded(PHOTO, "MPO", **FRAMES),
    "png": encoded(PHOTO),
    "palette": encoded(PHOTO.convert("P")),
    "grey and alpha": encoded(PHOTO.convert("LA")),
    "alpha": encoded(PHOTO.convert("RGBA")),
    "one bit": encoded(PHOTO.convert("1")),
    "16 bits": encoded(deep(150, 100)),
    "webp": encoded(PHOTO, "WEBP"),
    "moving webp": encoded(PHOTO, "WEBP", lossless=True, **FRAMES),
    "moving gif": encoded(PHOTO, "GIF", **FRAMES),
    "bmp": encoded(PHOTO, "BMP"),
    "tiff": encoded(PHOTO, "TIFF", compression="tiff_lzw"),
}
GOLDEN = 3222785471
"""crc32 of what `quick` made of a fixed JPEG, with AVX-512, with AVX2 and without vector instructions."""
WAYS = {
    "exact": lambda data: decode_image(data, 32),
    "quick": lambda data: decode_image_fast(data, 32),
    "door": perceptual_hash,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"\xff" * (MAX_IMAGE_BYTES + 1), "too many bytes"),
        (b"<svg/>", "not a picture"),
        (declared(8_000, 8_000), "too many pixels"),
        (declared(30_000, 30_000), "too many pixels"),
        (declared(8, 8), "not a picture"),
        (FORMS["jpeg"][:-200], "not a picture"),
        (FORMS["jpeg"][:-2], "not a picture"),
        (FORMS["print"][:-200], "not a picture"),
        (encoded(Image.fromarray(np.ones((8, 8), dtype=np.float32)), "TIFF"), "not a picture"),
        (encoded(Image.fromarray(np.full((8, 8), 1 << 20, dtype=np.int32)), "TIFF"), "not a picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(data: bytes, reason: str, way: str) -> None:
    with pytest.raises(RecordError) as refused:
        WAYS[way](data)
    assert refused.value.reason == reason


def test_fifty_megapixels_are_still_a_picture() -> None:
    assert open_image(declared(10_000, 5_000)).size == (10_000, 5_000)


def outcomes(data: bytes) -> list[Any]:
    """What each way makes of the data: pixels, a hash, or the reason why not."""
    found: list[Any] = []
    for way in WAYS.values():
        try:
            found.append(way(data))
        except RecordError as refused:
            found.append(refused.reason)
    return found


@settings(deadline=None)
@given(form=st.sampled_from(sorted(FORMS)), cut=st.floats(0, 1, exclude_max=True))
def test_a_picture_that_breaks_off_is_refused_or_whole(form: str, cut: float) -> None:
    data = FORMS[form]
    exact, fast, door = outcomes(data[: int(len(data) * cut)])
    if isinstance(exact, str):
        assert exact == fast == door
    else:
        assert (exact == decode_image(data, 32)).all()
        assert (fast == decode_image_fast(data, 32)).all()


@settings(deadline=None)
@given(form=st.sampled_from(sorted(FORMS)), seed=st.integers(0, 2**32), head=st.booleans())
def test_damage_never_crashes_and_all_ways_agree(form: str, seed: int, head: bool) -> None:
    rng, data = np.random.default_rng(seed), bytearray(FORMS[form])
    for at in rng.integers(0, 200 if head else len(data), 3):
        data[at] = rng.integers(256)
    exact, fast, door = outcomes(bytes(data))
    assert isinstance(exact, str) == isinstance(fast, str) == isinstance(door, str)


def test_a_damaged_scan_is_refused_though_pillow_shows_it() -> None:
    data = encoded(photo(400, 300), "JPEG")
    broken = data[:8_000] + bytes(500) + data[8_500:]
    Image.open(io.BytesIO(broken)).load()
    assert outcomes(broken) == ["not a picture"] * 3


def test_a_few_bytes_before_the_end_mark_do_no_harm() -> None:
    data = FORMS["jpeg"]
    assert (decode_image(data[:-2] + b"\0\1\2" + data[-2:], 32) == decode_image(data, 32)).all()
    assert (decode_image_fast(data + b"behind the end", 32) == decode_image_fast(data, 32)).all()
    assert outcomes(data[:-2] + bytes(500) + data[-2:]) == ["not a picture"] * 3


def test_exif_that_cannot_be_read_says_nothing() -> None:
    broken = (
        FORMS["turned"]
        .replace(b"Exif\0\0MM\0*", b"Exif\0\0\xff\xfe\xfd\xfc")
        .replace(b"Exif\0\0II*\0", b"Exif\0\0\xff\xfe\xfd\xfc")
    )
    assert broken != FORMS["turned"]
    assert (decode_image(broken, 32) == decode_image(FORMS["jpeg"], 32)).all()


def test_what_begins_like_a_picture() -> None:
    assert all(has_image_signature(data) for data in FORMS.values())
    assert not any(has_image_signature(data) for data in (b"", b"<svg/>", bytes(20), b"RIFF1234WAVE", b"{}", b"PAR1"))


def corner(data: bytes) -> tuple[int, ...]:
    exact, fast = decode_image(data, 4), decode_image_fast(data, 4)
    assert np.abs(exact.astype(int) - fast).max() <= 1
    return tuple(exact[0, 0].tolist())


def test_transparency_lies_over_white() -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert corner(encoded(half)) == (255, 255, 255)
    assert corner(encoded(Image.new("LA", (8, 8), (0, 0)))) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert corner(encoded(palette, transparency=0)) == (255, 255, 255)
    assert corner(encoded(palette)) == (10, 20, 30)


def test_sixteen_bits_become_eight() -> None:
    assert corner(encoded(Image.fromarray(np.full((8, 8), 0x8123, dtype=np.uint16)))) == (0x81, 0x81, 0x81)


def test_cmyk_becomes_rgb() -> None:
    red, green, blue = corner(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize(("form", "options"), [("WEBP", {"lossless": True}), ("GIF", {}), ("PNG", {}), ("TIFF", {})])
def test_the_first_frame_counts(form: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("blue", "red")]
    assert corner(encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)) == (0, 0, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_the_picture_upright(form: str, turn: int) -> None:
    data = encoded(photo(40, 24), form, exif=turned(turn))
    told = Image.open(io.BytesIO(data))
    told.load()
    wanted = ImageOps.exif_transpose(told).convert("RGB")
    assert (np.asarray(decode_rgb(data)) == np.asarray(wanted)).all()
    assert decode_rgb(data).size == ((24, 40) if turn > 4 else (40, 24))
    difference = np.abs(
        decode_image_fast(data, 8).astype(int) - np.asarray(wanted.resize((8, 8), Image.Resampling.BICUBIC))
    )
    assert difference.max() <= 2


def test_a_picture_of_the_right_size_keeps_its_pixels_and_others_are_squeezed() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    flat = encoded(Image.new("RGB", (40, 10), (9, 8, 7)))
    for way in (decode_image, decode_image_fast):
        assert (way(encoded(Image.fromarray(noise)), 6) == noise).all()
        assert way(flat, 5).tolist() == [[[9, 8, 7]] * 5] * 5


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (2, 3)])
def test_thin_pictures_are_pictures(shape: tuple[int, int]) -> None:
    for form in ("PNG", "JPEG"):
        data = encoded(Image.new("RGB", shape, (200, 100, 50)), form, **({"quality": 95} if form == "JPEG" else {}))
        for pixels in (decode_image(data, 8), decode_image_fast(data, 8)):
            assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 4
        assert 0 <= perceptual_hash(data) < 2**64


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(150, 100), (149, 101), (33, 17)])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_pixels_are_pillows(subsampling: str, size: tuple[int, int], progressive: bool) -> None:
    data = encoded(photo(*size), "JPEG", subsampling=subsampling, progressive=progressive, quality=85)
    assert (np.asarray(decode_rgb(data)) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_the_exact_way_is_siglips_processor() -> None:
    """Oracle: the processor that ships with transformers; the rescaling to -1..1 is undone."""
    siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip")
    processor = siglip.SiglipImageProcessorPil(size={"height": 56, "width": 56}, resample=3)
    for form in ("jpeg", "progressive", "png", "webp", "palette"):
        picture = Image.open(io.BytesIO(FORMS[form])).convert("RGB")
        wanted = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_allclose(decode_image(FORMS[form], 56) / 127.5 - 1, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [8, 16, 24, 40])
def test_jpeg_is_decoded_as_small_as_room_allows(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[int] = []

    def watched(*given: Any, **named: Any) -> np.ndarray:
        found = simplejpeg_decode(*given, **named)
        sides.append(min(found.shape[:2]))
        return found

    simplejpeg_decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    data = encoded(photo(301, 199), "JPEG")
    decode_image_fast(data, size)
    fitting = [side for side in (25, 50, 100, 199) if side >= JPEG_OVERSAMPLING * size]
    assert sides == [min(fitting, default=199)]
    decode_image(data, size)
    assert sides[1] == 199


def test_quick_is_the_same_in_every_thread_and_on_every_machine() -> None:
    datas = [encoded(photo(90 + 17 * seed, 200 - 13 * seed, seed), "JPEG") for seed in range(8)] * 4
    alone = [decode_image_fast(data, 24).tobytes() for data in datas]
    with ThreadPoolExecutor(4) as crew:
        assert [found.tobytes() for found in crew.map(lambda data: decode_image_fast(data, 24), datas)] == alone
    ramp = np.add.outer(np.arange(301) * 7, np.arange(200) * 11)[..., None] * (1, 3, 5) % 256
    held = decode_image_fast(encoded(Image.fromarray(ramp.astype(np.uint8))), 48)
    assert zlib.crc32(held.tobytes()) == GOLDEN


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[bytes]:
    with tarfile.open(shared / "torchtitan_cc12m" / "cc12m-train-0000.tar") as tar:
        return [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]


@pytest.mark.shared
@pytest.mark.parametrize(("size", "mean", "worst"), [(384, 0.03, 0.3), (224, 0.01, 0.02), (48, 0.5, 1.6)])
def test_quick_is_close_to_exact_on_real_photographs(
    photographs: list[bytes], size: int, mean: float, worst: float
) -> None:
    off = [
        np.abs(decode_image_fast(data, size).astype(int) - decode_image(data, size)).mean() for data in photographs[:16]
    ]
    assert np.mean(off) <= mean
    assert max(off) <= worst


def copies(data: bytes) -> list[bytes]:
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    half = whole.resize((whole.width // 2, whole.height // 2))
    square = whole.resize((224, 224))
    options = ((whole, "JPEG", 40), (whole, "JPEG", 20), (half, "JPEG", 85), (whole, "WEBP", 50), (square, "JPEG", 90))
    return [encoded(picture, form, quality=quality) for picture, form, quality in options]


@pytest.mark.shared
def test_copies_hash_alike_and_other_pictures_do_not(photographs: list[bytes]) -> None:
    hashes = [perceptual_hash(data) for data in photographs]
    pairs = [(one, copy) for one, data in zip(hashes[:16], photographs, strict=False) for copy in copies(data)[::2]]
    copied = [(one ^ perceptual_hash(copy)).bit_count() for one, copy in pairs]
    others = [(one ^ other).bit_count() for one, other in itertools.combinations(hashes, 2)]
    assert max(copied) <= 4
    assert min(others) >= 20


def test_a_hash_sees_the_picture_and_not_its_file() -> None:
    pictures = [photo(150, 100, seed) for seed in range(12)]
    hashes = [perceptual_hash(encoded(one)) for one in pictures]
    for one, picture in zip(hashes, pictures, strict=True):
        assert (one ^ perceptual_hash(encoded(picture.resize((300, 200)), "JPEG", quality=50))).bit_count() <= 6
    assert min((one ^ other).bit_count() for one, other in itertools.combinations(hashes, 2)) > 12
    red, blue = (perceptual_hash(encoded(Image.new("RGB", (8, 8), colour))) for colour in ("red", "blue"))
    assert red == blue, "one colour alone has no waves"
