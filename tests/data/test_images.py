"""Encoded images to pixels: the correct image or RecordError, alike in evaluation, training and hashing."""

from __future__ import annotations

import base64
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
    decode_image,
    decode_image_fast,
    decode_rgb,
    has_image_signature,
    looks_like_base64,
    open_image,
    perceptual_hash,
)
from firstsight.data.records import RecordError
from firstsight.limits import DEFAULT_LIMITS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG with a size in its header and almost no content."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth patches with edges and a little grain: it compresses like photographs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    edges = 60 * (np.add.outer(np.arange(height), 2 * np.arange(width)) // 37 % 2)[..., None]
    return Image.fromarray(np.clip(smooth + edges - 30 + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8))


def orientation_exif(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def sixteen_bit_image(width: int, height: int) -> Image.Image:
    return Image.fromarray((np.arange(width * height, dtype=np.uint16) * 5).reshape(height, width))


PHOTO = photo(150, 100)
FRAMES = {"save_all": True, "append_images": [PHOTO.rotate(9)]}
FORMS = {
    "jpeg": encode(PHOTO, "JPEG"),
    "progressive": encode(PHOTO, "JPEG", progressive=True),
    "turned": encode(PHOTO, "JPEG", exif=orientation_exif(6)),
    "grey": encode(PHOTO.convert("L"), "JPEG"),
    "print": encode(PHOTO.convert("CMYK"), "JPEG"),
    "two images": encode(PHOTO, "MPO", **FRAMES),
    "png": encode(PHOTO),
    "palette": encode(PHOTO.convert("P")),
    "grey and alpha": encode(PHOTO.convert("LA")),
    "alpha": encode(PHOTO.convert("RGBA")),
    "one bit": encode(PHOTO.convert("1")),
    "16 bits": encode(sixteen_bit_image(150, 100)),
    "webp": encode(PHOTO, "WEBP"),
    "moving webp": encode(PHOTO, "WEBP", lossless=True, **FRAMES),
    "moving gif": encode(PHOTO, "GIF", **FRAMES),
    "bmp": encode(PHOTO, "BMP"),
    "tiff": encode(PHOTO, "TIFF", compression="tiff_lzw"),
}
GOLDEN = 3222785471
"""crc32 of `decode_image_fast` for a fixed JPEG, with AVX-512, with AVX2 and without vector instructions."""
DECODERS = {
    "exact": lambda data: decode_image(data, 32),
    "fast": lambda data: decode_image_fast(data, 32),
    "hash": perceptual_hash,
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"\xff" * (DEFAULT_LIMITS.picture + 1), "too many bytes"),
        (b"<svg/>", "not an image"),
        (png_header(8_000, 8_000), "too many pixels"),
        (png_header(30_000, 30_000), "too many pixels"),
        (png_header(8, 8), "not an image"),
        (FORMS["jpeg"][:-200], "not an image"),
        (FORMS["jpeg"][:-2], "not an image"),
        (FORMS["print"][:-200], "not an image"),
        (encode(Image.fromarray(np.ones((8, 8), dtype=np.float32)), "TIFF"), "not an image"),
        (encode(Image.fromarray(np.full((8, 8), 1 << 20, dtype=np.int32)), "TIFF"), "not an image"),
    ],
)
def test_invalid_data_is_refused_with_a_reason(data: bytes, reason: str, decoder: str) -> None:
    with pytest.raises(RecordError) as error:
        DECODERS[decoder](data)
    assert error.value.reason == reason


def test_fifty_megapixels_are_accepted() -> None:
    assert open_image(png_header(10_000, 5_000)).size == (10_000, 5_000)


def decode_all_ways(data: bytes) -> list[Any]:
    """The result of each decoder: pixels, a hash, or the reason of the error."""
    results: list[Any] = []
    for decoder in DECODERS.values():
        try:
            results.append(decoder(data))
        except RecordError as error:
            results.append(error.reason)
    return results


@settings(deadline=None)
@given(form=st.sampled_from(sorted(FORMS)), cut=st.floats(0, 1, exclude_max=True))
def test_truncated_image_is_refused_or_complete(form: str, cut: float) -> None:
    data = FORMS[form]
    exact, fast, hash_or_reason = decode_all_ways(data[: int(len(data) * cut)])
    if isinstance(exact, str):
        assert exact == fast == hash_or_reason
    else:
        assert (exact == decode_image(data, 32)).all()
        assert (fast == decode_image_fast(data, 32)).all()


@settings(deadline=None)
@given(form=st.sampled_from(sorted(FORMS)), seed=st.integers(0, 2**32), head=st.booleans())
def test_damaged_images_never_crash_and_all_decoders_agree(form: str, seed: int, head: bool) -> None:
    rng, data = np.random.default_rng(seed), bytearray(FORMS[form])
    for at in rng.integers(0, 200 if head else len(data), 3):
        data[at] = rng.integers(256)
    exact, fast, hash_or_reason = decode_all_ways(bytes(data))
    assert isinstance(exact, str) == isinstance(fast, str) == isinstance(hash_or_reason, str)


def test_damaged_scan_is_refused_although_pillow_decodes_it() -> None:
    data = encode(photo(400, 300), "JPEG")
    broken = data[:8_000] + bytes(500) + data[8_500:]
    Image.open(io.BytesIO(broken)).load()
    assert decode_all_ways(broken) == ["not an image"] * 3


def test_few_bytes_before_the_end_marker_are_accepted() -> None:
    data = FORMS["jpeg"]
    assert (decode_image(data[:-2] + b"\0\1\2" + data[-2:], 32) == decode_image(data, 32)).all()
    assert (decode_image_fast(data + b"behind the end", 32) == decode_image_fast(data, 32)).all()
    assert decode_all_ways(data[:-2] + bytes(500) + data[-2:]) == ["not an image"] * 3


def test_invalid_exif_is_ignored() -> None:
    broken = (
        FORMS["turned"]
        .replace(b"Exif\0\0MM\0*", b"Exif\0\0\xff\xfe\xfd\xfc")
        .replace(b"Exif\0\0II*\0", b"Exif\0\0\xff\xfe\xfd\xfc")
    )
    assert broken != FORMS["turned"]
    assert (decode_image(broken, 32) == decode_image(FORMS["jpeg"], 32)).all()


def test_image_signatures() -> None:
    assert all(has_image_signature(data) for data in FORMS.values())
    assert not any(has_image_signature(data) for data in (b"", b"<svg/>", bytes(20), b"RIFF1234WAVE", b"{}", b"PAR1"))


def corner(data: bytes) -> tuple[int, ...]:
    exact, fast = decode_image(data, 4), decode_image_fast(data, 4)
    assert np.abs(exact.astype(int) - fast).max() <= 1
    return tuple(exact[0, 0].tolist())


def test_transparency_is_over_white() -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert corner(encode(half)) == (255, 255, 255)
    assert corner(encode(Image.new("LA", (8, 8), (0, 0)))) == (255, 255, 255)
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert corner(encode(palette, transparency=0)) == (255, 255, 255)
    assert corner(encode(palette)) == (10, 20, 30)


def test_sixteen_bits_become_eight() -> None:
    assert corner(encode(Image.fromarray(np.full((8, 8), 0x8123, dtype=np.uint16)))) == (0x81, 0x81, 0x81)


def test_cmyk_becomes_rgb() -> None:
    red, green, blue = corner(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize(("form", "options"), [("WEBP", {"lossless": True}), ("GIF", {}), ("PNG", {}), ("TIFF", {})])
def test_first_frame_is_decoded(form: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("blue", "red")]
    assert corner(encode(frames[0], form, save_all=True, append_images=frames[1:], **options)) == (0, 0, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_applied(form: str, turn: int) -> None:
    data = encode(photo(40, 24), form, exif=orientation_exif(turn))
    image = Image.open(io.BytesIO(data))
    image.load()
    expected = ImageOps.exif_transpose(image).convert("RGB")
    assert (np.asarray(decode_rgb(data)) == np.asarray(expected)).all()
    assert decode_rgb(data).size == ((24, 40) if turn > 4 else (40, 24))
    difference = np.abs(
        decode_image_fast(data, 8).astype(int) - np.asarray(expected.resize((8, 8), Image.Resampling.BICUBIC))
    )
    assert difference.max() <= 2


def test_resize_keeps_pixels_of_the_right_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    flat = encode(Image.new("RGB", (40, 10), (9, 8, 7)))
    for decoder in (decode_image, decode_image_fast):
        assert (decoder(encode(Image.fromarray(noise)), 6) == noise).all()
        assert decoder(flat, 5).tolist() == [[[9, 8, 7]] * 5] * 5


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (2, 3)])
def test_thin_images(shape: tuple[int, int]) -> None:
    for form in ("PNG", "JPEG"):
        data = encode(Image.new("RGB", shape, (200, 100, 50)), form, **({"quality": 95} if form == "JPEG" else {}))
        for pixels in (decode_image(data, 8), decode_image_fast(data, 8)):
            assert np.abs(pixels.astype(int) - (200, 100, 50)).max() <= 4
        assert 0 <= perceptual_hash(data) < 2**64


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(150, 100), (149, 101), (33, 17)])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_pixels_equal_pillow(subsampling: str, size: tuple[int, int], progressive: bool) -> None:
    data = encode(photo(*size), "JPEG", subsampling=subsampling, progressive=progressive, quality=85)
    assert (np.asarray(decode_rgb(data)) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_decode_image_equals_siglip_processor() -> None:
    """Oracle: the processor that ships with transformers; the rescaling to -1..1 is undone."""
    siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip")
    processor = siglip.SiglipImageProcessorPil(size={"height": 56, "width": 56}, resample=3)
    for form in ("jpeg", "progressive", "png", "webp", "palette"):
        image = Image.open(io.BytesIO(FORMS[form])).convert("RGB")
        expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        np.testing.assert_allclose(decode_image(FORMS[form], 56) / 127.5 - 1, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [8, 16, 24, 40])
def test_jpeg_is_decoded_at_the_smallest_sufficient_scale(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[int] = []

    def record_side(*args: Any, **kwargs: Any) -> np.ndarray:
        pixels = simplejpeg_decode(*args, **kwargs)
        sides.append(min(pixels.shape[:2]))
        return pixels

    simplejpeg_decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", record_side)
    data = encode(photo(301, 199), "JPEG")
    decode_image_fast(data, size)
    fitting = [side for side in (25, 50, 100, 199) if side >= JPEG_OVERSAMPLING * size]
    assert sides == [min(fitting, default=199)]
    decode_image(data, size)
    assert sides[1] == 199


def test_fast_decoding_is_deterministic() -> None:
    datas = [encode(photo(90 + 17 * seed, 200 - 13 * seed, seed), "JPEG") for seed in range(8)] * 4
    one_thread = [decode_image_fast(data, 24).tobytes() for data in datas]
    with ThreadPoolExecutor(4) as pool:
        assert [pixels.tobytes() for pixels in pool.map(lambda data: decode_image_fast(data, 24), datas)] == one_thread
    ramp = np.add.outer(np.arange(301) * 7, np.arange(200) * 11)[..., None] * (1, 3, 5) % 256
    buffer = decode_image_fast(encode(Image.fromarray(ramp.astype(np.uint8))), 48)
    assert zlib.crc32(buffer.tobytes()) == GOLDEN


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[bytes]:
    with tarfile.open(shared / "torchtitan_cc12m" / "cc12m-train-0000.tar") as tar:
        return [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]  # type: ignore[union-attr]


@pytest.mark.shared
@pytest.mark.parametrize(("size", "mean", "worst"), [(384, 0.03, 0.3), (224, 0.01, 0.02), (48, 0.5, 1.6)])
def test_fast_decoding_is_close_to_exact_on_real_photographs(
    photographs: list[bytes], size: int, mean: float, worst: float
) -> None:
    differences = [
        np.abs(decode_image_fast(data, size).astype(int) - decode_image(data, size)).mean() for data in photographs[:16]
    ]
    assert np.mean(differences) <= mean
    assert max(differences) <= worst


def copies(data: bytes) -> list[bytes]:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    half = image.resize((image.width // 2, image.height // 2))
    square = image.resize((224, 224))
    options = ((image, "JPEG", 40), (image, "JPEG", 20), (half, "JPEG", 85), (image, "WEBP", 50), (square, "JPEG", 90))
    return [encode(image, form, quality=quality) for image, form, quality in options]


@pytest.mark.shared
def test_copies_have_close_hashes_and_other_images_do_not(photographs: list[bytes]) -> None:
    hashes = [perceptual_hash(data) for data in photographs]
    pairs = [
        (image_hash, copy)
        for image_hash, data in zip(hashes[:16], photographs, strict=False)
        for copy in copies(data)[::2]
    ]
    copied = [(image_hash ^ perceptual_hash(copy)).bit_count() for image_hash, copy in pairs]
    others = [(image_hash ^ other_hash).bit_count() for image_hash, other_hash in itertools.combinations(hashes, 2)]
    assert max(copied) <= 4
    assert min(others) >= 20


def test_hash_depends_on_pixels_not_on_encoding() -> None:
    images = [photo(150, 100, seed) for seed in range(12)]
    hashes = [perceptual_hash(encode(image)) for image in images]
    for image_hash, image in zip(hashes, images, strict=True):
        assert (image_hash ^ perceptual_hash(encode(image.resize((300, 200)), "JPEG", quality=50))).bit_count() <= 6
    assert (
        min((image_hash ^ other_hash).bit_count() for image_hash, other_hash in itertools.combinations(hashes, 2)) > 12
    )
    red, blue = (perceptual_hash(encode(Image.new("RGB", (8, 8), color))) for color in ("red", "blue"))
    assert red == blue, "single colors have equal hashes"


ORIENTATIONS = {
    "BYTE": (1, 1, lambda number, order: bytes([number, 0, 0, 0])),
    "ASCII": (2, 2, lambda number, order: f"{number}\0".encode().ljust(4, b"\0")),
    "SHORT": (3, 1, lambda number, order: struct.pack(f"{order}HH", number, 0)),
    "two SHORTs": (3, 2, lambda number, order: struct.pack(f"{order}HH", number, number)),
    "LONG": (4, 1, lambda number, order: struct.pack(f"{order}I", number)),
    "UNDEFINED": (7, 1, lambda number, order: bytes([number, 0, 0, 0])),
}


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ORIENTATIONS)
def test_orientation_of_any_type_is_read(kind: str, order: str, number: int) -> None:
    """As ImageOps.exif_transpose turns the image for the standard type, SHORT; 0 and 9 say nothing."""
    code, count, value = ORIENTATIONS[kind]
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    entry = struct.pack(f"{order}HHHI", 1, 0x0112, code, count) + value(number, order)
    exif = b"Exif\0\0" + head + entry + bytes(4)
    image = photo(40, 24)
    standard = Image.Exif()
    standard[0x0112] = number
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encode(image, exif=standard))))
    assert np.array_equal(np.asarray(decode_rgb(encode(image, exif=exif))), np.asarray(upright))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP"])
def test_base64_is_told_from_names(form: str) -> None:
    text = base64.b64encode(encode(photo(24, 16), form)).decode()
    assert looks_like_base64(text)
    assert looks_like_base64(f"data:image/png;base64,{text}")
    with pytest.raises(RecordError, match="but base64"):
        open_image(text.encode())
    for name in ("R0lGOD.jpg", "a/b.png", "9j/x.jpg", "/9j/a.jpg", "coco/train2017/000000000009.jpg", "x" * 100):
        assert not looks_like_base64(name)
