"""Processors: the pixels of images are those of training."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import firstsight.hub.hf_classes  # noqa: F401
from firstsight.data import images
from firstsight.hub.hf_classes import image_to_pixels
from firstsight.model.vision import normalize_pixels
from firstsight.recipe.vision import ImageFit
from tests.hub.checkpoints import (
    load_processor,
    png_bytes,
)


@pytest.mark.parametrize("fit", ["resize", "letterbox"])
def test_images_become_the_pixels_of_training(fit: ImageFit) -> None:
    rotated = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(io.BytesIO(png_bytes(2))).save(rotated, "PNG", exif=exif)
    sixteen_bit = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 1 << 16, (9, 30), dtype=np.uint16)).save(sixteen_bit, "PNG")
    for data in (
        png_bytes(0),
        png_bytes(1, size=(9, 30)),
        png_bytes(3, mode="RGBA"),
        rotated.getvalue(),
        sixteen_bit.getvalue(),
    ):
        expected = images.decode_image(data, 12, fit, pad_color=(124, 116, 104))
        assert np.array_equal(
            image_to_pixels(Image.open(io.BytesIO(data)), 12, fit=fit, ground=(124, 116, 104)), expected
        )


def test_processors_give_the_inputs_of_training(fallback_export: Path, native_export: Path) -> None:
    data = png_bytes(5, size=(31, 17))
    image = Image.open(io.BytesIO(data))
    pixels = load_processor(fallback_export)(images=image, text="<|img_patch|>what ?", return_tensors="pt")[
        "pixel_values"
    ]
    expected = images.decode_image(data, 12, "letterbox", pad_color=(128, 128, 128))
    assert pixels.dtype == torch.uint8
    assert np.array_equal(pixels[0].numpy(), expected)
    normalized = load_processor(native_export)(images=image, text="<|img_patch|>what ?", return_tensors="pt")[
        "pixel_values"
    ]
    decoded = torch.from_numpy(images.decode_image(data, 12).copy())[None]
    torch.testing.assert_close(normalized, normalize_pixels(decoded), rtol=0, atol=1e-6)
