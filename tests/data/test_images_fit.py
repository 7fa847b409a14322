"""Images resized to a square as by the encoders' processors, or letterboxed; equal bits on every machine."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from firstsight.data.images import SIGLIP_PAD_COLOR, decode_image, decode_image_fast, letterbox_size
from firstsight.model.vision import normalize_pixels
from firstsight.recipe.mixture import External
from firstsight.recipe.scales.models import dinov2_large_reg_384, siglip_dinov2_384, siglip_so400m_384
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.units import Tokens

ENCODER = External(name="tower", form="encoder", tokens=Tokens(0))
SIGLIP, DINOV2 = siglip_so400m_384(ENCODER), dinov2_large_reg_384(ENCODER)
DECODERS = {"exact": decode_image, "fast": decode_image_fast}
MAGENTA = (255, 0, 254)


def encode(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, form, **options)
    return buffer.getvalue()


def waves(height: int, width: int) -> np.ndarray:
    """A smooth image without random numbers."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(y * 3 + x * 2) % 256, (y * y // 50 + x) % 256, (255 - y) % 256]
    return np.stack(planes, -1).astype(np.uint8)


def orientation_exif(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def test_pad_colors_are_the_encoders_mean_colors() -> None:
    """Oracle: 255 times the published means, halves up."""
    assert SIGLIP.pad_color == SIGLIP_PAD_COLOR == (128, 128, 128)
    assert DINOV2.pad_color == (124, 116, 104)
    assert siglip_dinov2_384(ENCODER, ENCODER).pad_color == SIGLIP.pad_color
    assert PatchProjectionSpec(image_size=8, patch_size=4, width=2, fit="letterbox").pad_color == SIGLIP.pad_color
    for spec in (SIGLIP, DINOV2):
        padding = torch.tensor(spec.pad_color, dtype=torch.uint8).expand(1, 1, 1, 3)
        assert normalize_pixels(padding, mean=spec.mean, std=spec.std).abs().max() < 0.5 / 255 / 0.2


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("shape", "box"),  # box: top, left, bottom, right in a square of 10
    [
        ((20, 20), (0, 0, 10, 10)),
        ((20, 40), (2, 0, 7, 10)),  # 5 of 10 rows: 2 above, 3 below
        ((40, 20), (0, 2, 10, 7)),
        ((6, 60), (4, 0, 5, 10)),
        ((1, 900), (4, 0, 5, 10)),  # a tenth of a pixel is still one
        ((30, 40), (1, 0, 9, 10)),  # 7.5 rows: halves up
        ((3, 4), (1, 0, 9, 10)),
        ((10, 6), (0, 2, 10, 8)),
    ],
)
def test_letterbox_keeps_proportions(decoder: str, shape: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    flat = encode(np.full((*shape, 3), (9, 8, 7)))
    pixels = DECODERS[decoder](flat, 10, "letterbox", pad_color=MAGENTA)
    expected = np.full((10, 10, 3), MAGENTA, dtype=np.uint8)
    expected[box[0] : box[2], box[1] : box[3]] = (9, 8, 7)
    assert (pixels == expected).all()


@settings(deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), size=st.integers(1, 500))
def test_longer_side_fills_and_shorter_is_rounded(width: int, height: int, size: int) -> None:
    wide, high = letterbox_size((width, height), size)
    assert max(wide, high) == size
    assert (wide >= high) if width >= height else (high >= wide)
    shorter, exact = min(wide, high), size * min(width, height) / max(width, height)
    assert abs(shorter - exact) <= 0.5 or shorter == 1 > exact
    assert letterbox_size((height, width), size) == (high, wide)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (31, 77), (48, 48)])
def test_letterboxed_image_equals_pillow_resize(shape: tuple[int, int]) -> None:
    image = Image.fromarray(waves(*shape))
    long = max(shape)
    high, wide = (round(side * 32 / long + 1e-9) for side in shape)
    expected = np.full((32, 32, 3), SIGLIP_PAD_COLOR, dtype=np.uint8)
    top, left = (32 - high) // 2, (32 - wide) // 2
    expected[top : top + high, left : left + wide] = np.asarray(image.resize((wide, high), Image.Resampling.BICUBIC))
    data = encode(waves(*shape))
    assert (decode_image(data, 32, "letterbox") == expected).all()
    assert np.abs(decode_image_fast(data, 32, "letterbox").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("decoder", DECODERS)
def test_image_of_the_right_size_keeps_its_pixels(decoder: str) -> None:
    pixels = DECODERS[decoder](encode(waves(6, 8)), 8, "letterbox", pad_color=MAGENTA)
    assert (pixels[1:7] == waves(6, 8)).all() and (pixels[[0, 7]] == MAGENTA).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_letterbox_of_the_upright_image(turn: int) -> None:
    data = encode(waves(80, 300), "JPEG", quality=90, exif=orientation_exif(turn))
    exact, fast = (decoder(data, 12, "letterbox", pad_color=MAGENTA) for decoder in DECODERS.values())
    rows = (exact == MAGENTA).all(axis=(1, 2)).sum(), (fast == MAGENTA).all(axis=(1, 2)).sum()
    columns = (exact == MAGENTA).all(axis=(0, 2)).sum(), (fast == MAGENTA).all(axis=(0, 2)).sum()
    assert (rows, columns) == (((0, 0), (9, 9)) if turn > 4 else ((9, 9), (0, 0)))
    assert np.abs(exact.astype(int) - fast).mean() < 1


@pytest.mark.parametrize(
    ("shape", "sides"), [((800, 200), [400]), ((200, 800), [400]), ((801, 199), [401]), ((96, 96), [96])]
)
def test_letterboxed_jpeg_is_decoded_at_the_smallest_sufficient_scale(
    shape: tuple[int, int], sides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longer side of a letterboxed image: 3 times 100 pixels fit in half of 800; `resize` needs the whole image."""
    import simplejpeg

    decode_jpeg, decoded_sides = simplejpeg.decode_jpeg, list[int]()

    def record_side(*args: Any, **kwargs: Any) -> np.ndarray:
        pixels = decode_jpeg(*args, **kwargs)
        decoded_sides.append(max(pixels.shape[:2]))
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", record_side)
    data = encode(waves(*shape), "JPEG")
    decode_image_fast(data, 100, "letterbox")
    assert decoded_sides == sides
    decode_image_fast(data, 100, "resize")
    assert decoded_sides[1:] == [max(shape)]


GOLDEN = {
    ("exact", "resize"): 61551735,
    ("exact", "letterbox"): 1518231875,
    ("fast", "resize"): 91940015,
    ("fast", "letterbox"): 1607484325,
}
"""crc32 of the pixels of two fixed images, a PNG and a JPEG, with AVX-512, with AVX2 and without vectors."""


@pytest.mark.parametrize(("decoder", "fit"), GOLDEN)
def test_pixels_are_pinned(decoder: str, fit: Any) -> None:
    datas = encode(waves(300, 201)), encode(waves(411, 640), "JPEG", quality=90, subsampling="4:4:4")
    pixels = b"".join(DECODERS[decoder](data, 48, fit, pad_color=DINOV2.pad_color).tobytes() for data in datas)
    assert zlib.crc32(pixels) == GOLDEN[decoder, fit]


@pytest.mark.parametrize("shape", [(100, 150), (33, 17), (224, 224), (500, 333)])
def test_exact_pixels_equal_the_published_processors(shape: tuple[int, int]) -> None:
    """Oracle: transformers' SigLIP processor, and DINOv2's set to resize to the square and not to crop."""
    siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip").SiglipImageProcessorPil
    bit = pytest.importorskip("transformers.models.bit.image_processing_pil_bit").BitImageProcessorPil
    size, mean, deviation = {"height": 56, "width": 56}, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    square = bit(size=size, do_center_crop=False, image_mean=mean, image_std=deviation)
    for spec, processor in ((SIGLIP, siglip(size=size)), (DINOV2, square)):
        expected = processor(Image.fromarray(waves(*shape)), return_tensors="np")["pixel_values"]
        pixels = torch.from_numpy(decode_image(encode(waves(*shape)), 56).copy())[None]
        values = normalize_pixels(pixels, mean=spec.mean, std=spec.std).numpy()
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize(("size", "mean", "worst"), [(384, 0.005, 0.02), (224, 0.005, 0.01), (48, 0.55, 1.9)])
def test_fast_letterboxes_are_close_to_exact_on_real_photographs(
    shared: Path, size: int, mean: float, worst: float
) -> None:
    import tarfile

    with tarfile.open(shared / "torchtitan_cc12m" / "cc12m-train-0000.tar") as tar:
        members = [member for member in tar if member.name.endswith(".jpg")][:16]
        datas = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    both = [(decode_image_fast(data, size, "letterbox"), decode_image(data, size, "letterbox")) for data in datas]
    differences = [np.abs(fast.astype(int) - exact).mean() for fast, exact in both]
    assert np.mean(differences) <= mean
    assert max(differences) <= worst


def test_bilinear_pixels_equal_the_processor_of_siglip2() -> None:
    """Oracle: transformers' SiglipImageProcessor with the resample=2 of SigLIP 2; `fast` differs by rounding."""
    siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip").SiglipImageProcessorPil
    pixels = waves(90, 121)
    processor = siglip(size={"height": 48, "width": 48}, resample=2)
    expected = torch.as_tensor(np.asarray(processor(Image.fromarray(pixels))["pixel_values"][0]))
    exact = decode_image(encode(pixels), 48, "resize_bilinear")
    actual = normalize_pixels(torch.from_numpy(exact.copy())[None])[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    fast = decode_image_fast(encode(pixels), 48, "resize_bilinear")
    assert np.abs(fast.astype(int) - exact).max() <= 1
    assert np.abs(decode_image(encode(pixels), 48).astype(int) - exact).max() > 1, "bicubic is another image"
