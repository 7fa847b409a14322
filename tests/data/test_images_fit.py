"""How a picture becomes a square: squeezed as the encoders' processors do, or letterboxed; the same bits anywhere."""

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
from firstsight.recipe.scales.encoders import dinov2_large_reg_384, siglip_dinov2_384, siglip_so400m_384
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.units import Tokens

NAMED = External(name="tower", form="encoder", tokens=Tokens(0))
SIGLIP, DINOV2 = siglip_so400m_384(NAMED), dinov2_large_reg_384(NAMED)
WAYS = {"exact": decode_image, "quick": decode_image_fast}
MAGENTA = (255, 0, 254)


def encoded(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(held, form, **options)
    return held.getvalue()


def waves(height: int, width: int) -> np.ndarray:
    """A smooth picture that no random generator has a say in."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(y * 3 + x * 2) % 256, (y * y // 50 + x) % 256, (255 - y) % 256]
    return np.stack(planes, -1).astype(np.uint8)


def turned(number: int) -> Image.Exif:
    told = Image.Exif()
    told[0x0112] = number
    return told


def test_grounds_are_the_encoders_mean_colours() -> None:
    """Oracle: 255 times the published means, halves up."""
    assert SIGLIP.pad_color == SIGLIP_PAD_COLOR == (128, 128, 128)
    assert DINOV2.pad_color == (124, 116, 104)
    assert siglip_dinov2_384(NAMED, NAMED).pad_color == SIGLIP.pad_color
    assert PatchProjectionSpec(image_size=8, patch_size=4, width=2, fit="letterbox").pad_color == SIGLIP.pad_color
    for spec in (SIGLIP, DINOV2):
        ground = torch.tensor(spec.pad_color, dtype=torch.uint8).expand(1, 1, 1, 3)
        assert normalize_pixels(ground, mean=spec.mean, std=spec.std).abs().max() < 0.5 / 255 / 0.2


@pytest.mark.parametrize("way", WAYS)
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
def test_a_letterbox_keeps_the_shape(way: str, shape: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    flat = encoded(np.full((*shape, 3), (9, 8, 7)))
    found = WAYS[way](flat, 10, "letterbox", pad_color=MAGENTA)
    wanted = np.full((10, 10, 3), MAGENTA, dtype=np.uint8)
    wanted[box[0] : box[2], box[1] : box[3]] = (9, 8, 7)
    assert (found == wanted).all()


@settings(deadline=None)
@given(width=st.integers(1, 3000), height=st.integers(1, 3000), size=st.integers(1, 500))
def test_the_longer_side_fills_and_the_shorter_is_nearest(width: int, height: int, size: int) -> None:
    wide, high = letterbox_size((width, height), size)
    assert max(wide, high) == size
    assert (wide >= high) if width >= height else (high >= wide)
    shorter, exact = min(wide, high), size * min(width, height) / max(width, height)
    assert abs(shorter - exact) <= 0.5 or shorter == 1 > exact
    assert letterbox_size((height, width), size) == (high, wide)


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (31, 77), (48, 48)])
def test_a_letterboxed_picture_is_pillows_resized(shape: tuple[int, int]) -> None:
    picture = Image.fromarray(waves(*shape))
    long = max(shape)
    high, wide = (round(side * 32 / long + 1e-9) for side in shape)
    wanted = np.full((32, 32, 3), SIGLIP_PAD_COLOR, dtype=np.uint8)
    top, left = (32 - high) // 2, (32 - wide) // 2
    wanted[top : top + high, left : left + wide] = np.asarray(picture.resize((wide, high), Image.Resampling.BICUBIC))
    data = encoded(waves(*shape))
    assert (decode_image(data, 32, "letterbox") == wanted).all()
    assert np.abs(decode_image_fast(data, 32, "letterbox").astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_that_fits_keeps_its_pixels(way: str) -> None:
    found = WAYS[way](encoded(waves(6, 8)), 8, "letterbox", pad_color=MAGENTA)
    assert (found[1:7] == waves(6, 8)).all() and (found[[0, 7]] == MAGENTA).all()


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_boxed_as_it_stands_upright(turn: int) -> None:
    data = encoded(waves(80, 300), "JPEG", quality=90, exif=turned(turn))
    exact, fast = (way(data, 12, "letterbox", pad_color=MAGENTA) for way in WAYS.values())
    rows = (exact == MAGENTA).all(axis=(1, 2)).sum(), (fast == MAGENTA).all(axis=(1, 2)).sum()
    columns = (exact == MAGENTA).all(axis=(0, 2)).sum(), (fast == MAGENTA).all(axis=(0, 2)).sum()
    assert (rows, columns) == (((0, 0), (9, 9)) if turn > 4 else ((9, 9), (0, 0)))
    assert np.abs(exact.astype(int) - fast).mean() < 1


@pytest.mark.parametrize(
    ("shape", "sides"), [((800, 200), [400]), ((200, 800), [400]), ((801, 199), [401]), ((96, 96), [96])]
)
def test_a_boxed_jpeg_is_decoded_as_small_as_room_allows(
    shape: tuple[int, int], sides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longer side of a boxed picture counts: 3 times 100 pixels fit in half of 800, squeezed ones need all."""
    import simplejpeg

    whole, seen = simplejpeg.decode_jpeg, list[int]()

    def watched(*given: Any, **named: Any) -> np.ndarray:
        found = whole(*given, **named)
        seen.append(max(found.shape[:2]))
        return found

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    data = encoded(waves(*shape), "JPEG")
    decode_image_fast(data, 100, "letterbox")
    assert seen == sides
    decode_image_fast(data, 100, "resize")
    assert seen[1:] == [max(shape)]


GOLDEN = {
    ("exact", "resize"): 61551735,
    ("exact", "letterbox"): 1518231875,
    ("quick", "resize"): 91940015,
    ("quick", "letterbox"): 1607484325,
}
"""crc32 of two fixed pictures' pixels, a PNG and a JPEG, with AVX-512, with AVX2 and without vector instructions."""


@pytest.mark.parametrize(("way", "fit"), GOLDEN)
def test_pixels_are_the_same_on_every_machine(way: str, fit: Any) -> None:
    datas = encoded(waves(300, 201)), encoded(waves(411, 640), "JPEG", quality=90, subsampling="4:4:4")
    found = b"".join(WAYS[way](data, 48, fit, pad_color=DINOV2.pad_color).tobytes() for data in datas)
    assert zlib.crc32(found) == GOLDEN[way, fit]


@pytest.mark.parametrize("shape", [(100, 150), (33, 17), (224, 224), (500, 333)])
def test_exact_pixels_are_those_of_the_published_processors(shape: tuple[int, int]) -> None:
    """Oracle: transformers' SigLIP processor, and DINOv2's told to resize to the square and not to crop."""
    siglip = pytest.importorskip("transformers.models.siglip.image_processing_pil_siglip").SiglipImageProcessorPil
    bit = pytest.importorskip("transformers.models.bit.image_processing_pil_bit").BitImageProcessorPil
    size, mean, deviation = {"height": 56, "width": 56}, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    square = bit(size=size, do_center_crop=False, image_mean=mean, image_std=deviation)
    for spec, processor in ((SIGLIP, siglip(size=size)), (DINOV2, square)):
        wanted = processor(Image.fromarray(waves(*shape)), return_tensors="np")["pixel_values"]
        found = torch.from_numpy(decode_image(encoded(waves(*shape)), 56).copy())[None]
        values = normalize_pixels(found, mean=spec.mean, std=spec.std).numpy()
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-6)


@pytest.mark.shared
@pytest.mark.parametrize(("size", "mean", "worst"), [(384, 0.005, 0.02), (224, 0.005, 0.01), (48, 0.55, 1.9)])
def test_quick_letterboxes_are_close_to_exact_on_real_photographs(
    shared: Path, size: int, mean: float, worst: float
) -> None:
    import tarfile

    with tarfile.open(shared / "torchtitan_cc12m" / "cc12m-train-0000.tar") as tar:
        members = [member for member in tar if member.name.endswith(".jpg")][:16]
        datas = [tar.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    both = [(decode_image_fast(data, size, "letterbox"), decode_image(data, size, "letterbox")) for data in datas]
    off = [np.abs(fast.astype(int) - exact).mean() for fast, exact in both]
    assert np.mean(off) <= mean
    assert max(off) <= worst
