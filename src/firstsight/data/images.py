"""Encoded images to pixels, the same on every machine: first frame, upright, on white, RGB.

`perceptual_hash` when a source is prepared, `decode_image_fast` for training and `decode_image` for evaluation accept
the same images. JPEG is decoded by libjpeg-turbo at any size, and its warnings are errors: Pillow ignores them and
returns images that are partly grey. All other formats are decoded by Pillow.

An image becomes a square in one of two ways: `resize` changes its proportions; `letterbox` keeps them: its longer side
gets the size of the square, its shorter side is rounded to the nearest pixel (halves up, at least one), and the rest is
`pad_color`. The image is centered; an odd pixel of padding is at the right or bottom.

Shapes: h x w pixels as decoded, S side of the square.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import ExifTags, Image, PngImagePlugin

from firstsight.data.records import RecordError
from firstsight.limits import current_limits, describe_excess
from firstsight.recipe.vision import SIGLIP_MEAN_STD, ImageFit, RGBBytes, mean_color_bytes

SIGLIP_PAD_COLOR = mean_color_bytes(SIGLIP_MEAN_STD)
"""Padding of letterboxed images for SigLIP."""
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
JPEG_OVERSAMPLING = 3
"""`decode_image_fast` decodes a JPEG to at least this many times the side of the square.

Mean absolute difference to `decode_image` in levels of 256 on real photographs of 512 pixels at S = 48: 3.2 at 1,
1.1 at 2, 0.42 at 3, for 0.87, 0.94 and 1.05 ms (1.30 without scaling).
"""
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAGIC = re.compile(rb"(?s)\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP|GIF8[79]a|BM|II[*+]\0|MM\0[*+]|II\0\*|MM\*\0")
_BASE64_MAGIC = re.compile(r"iVBORw0KGgo|/9j/[\w+/]{4}|R0lGOD[dl]|UklGR[\w+/]{8}|[\w+/]{200}")
"""The beginnings of PNG, JPEG, GIF and WebP in base64, or of anything that is too long for a name."""
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGE_PNG_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")
_Square = UInt8[np.ndarray, "S S 3"]
_MAX_EXTRANEOUS_BYTES = 16
"""Bytes before the end marker that some cameras write; damaged scans have hundreds."""
_DECODE_ERRORS = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError),
    *(TypeError, ValueError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""Raised by Pillow's decoders for invalid data."""
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # invalid EXIF of published images


def has_image_signature(data: bytes) -> bool:
    """Whether `data` begins like a file of one of IMAGE_FORMATS."""
    return _MAGIC.match(data) is not None


def looks_like_base64(text: str) -> bool:
    """Whether a text is an image in base64 or a data URL instead of the name of one."""
    return text.startswith("data:") or ("." not in text[:64] and _BASE64_MAGIC.match(text) is not None)


def open_image(data: bytes) -> Image.Image:
    """An image with only its header decoded; RecordError when it is invalid or the image above a limit."""
    if not data:
        raise RecordError("zero bytes", "an empty file")
    limits = current_limits()
    if len(data) > limits.picture:
        raise RecordError("too many bytes", describe_excess("picture", len(data)))
    Image.MAX_IMAGE_PIXELS = limits.pixels  # Pillow's own check, which it also makes for parts of files such as tiles
    try:
        image = Image.open(io.BytesIO(_without_large_text(data)), formats=IMAGE_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        size = re.search(r"\((\d+) pixels", str(error))
        raise RecordError("too many pixels", describe_excess("pixels", int(size[1]) if size else None)) from None
    except _DECODE_ERRORS:
        is_base64 = looks_like_base64(data[:256].decode("latin-1"))
        hint = ", but base64: write the bytes themselves" if is_base64 else ""
        raise RecordError("not an image", f"none of {', '.join(IMAGE_FORMATS)}{hint}") from None
    width, height = image.size
    if width * height > limits.pixels:
        raise RecordError("too many pixels", describe_excess("pixels", width * height, detail=f" ({width} x {height})"))
    return image


def _without_large_text(data: bytes) -> bytes:
    """A PNG without texts and a color profile that unpack to more than Pillow reads of one; they are not in its pixels.

    After as many unpacked bytes, all others are left out too, so that many of them cost no more time than one.
    """
    if not data.startswith(_PNG_SIGNATURE):
        return data
    position, unpacked_bytes, large = len(_PNG_SIGNATURE), 0, list[tuple[int, int]]()
    while position + 12 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + size
        if data[position + 4 : position + 8] in _LARGE_PNG_CHUNKS:
            limit = PngImagePlugin.MAX_TEXT_CHUNK
            unpacked_size = (
                _unpacked_size(data[position + 8 : end - 4], limit) if unpacked_bytes <= limit else limit + 1
            )
            unpacked_bytes += min(unpacked_size, limit)
            if unpacked_size > limit:
                large.append((position, end))
        position = end
    if not large:
        return data
    starts = [0, *(end for _, end in large)]
    ends = [*(start for start, _ in large), len(data)]
    return b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))


def _unpacked_size(chunk: bytes, limit: int) -> int:
    """Bytes of the compressed part of a text or profile, `limit` + 1 if there are more."""
    start = max(0, chunk.find(b"\0", 0, 80))
    stream = re.compile(rb"\x78[\x01\x5e\x9c\xda]").search(chunk, start)
    if stream is None:  # a text that is not compressed
        return len(chunk)
    decompressor = zlib.decompressobj()
    try:
        size = len(decompressor.decompress(chunk[stream.start() :], limit + 1))
    except zlib.error:
        return len(chunk)
    return size


def decode_rgb(data: bytes) -> Image.Image:
    """The decoded RGB image: first frame, EXIF rotation applied, transparency over white, 16 bits to 8."""
    return Image.fromarray(_decode_pixels(data)[0])


def decode_image(
    data: bytes, size: int, fit: ImageFit = "resize", *, pad_color: RGBBytes = SIGLIP_PAD_COLOR
) -> _Square:
    """Pixels of an image as a square of `size`, as the encoder's processor does it; RecordError for invalid data.

    Source: transformers, SiglipImageProcessor with resample=3 (Pillow's bicubic on the whole image); DINOv2's
    BitImageProcessor and CLIP's do the same without their crop. SigLIP 2 has resample=2 (bilinear), as has DINOv3,
    whose processor does not round the resized pixels to bytes.
    """
    return resize_to_square(decode_rgb(data), size, fit, pad_color=pad_color)


def resize_to_square(image: Image.Image, size: int, fit: ImageFit, *, pad_color: RGBBytes) -> _Square:
    """`decode_image` for an upright RGB image."""
    width, height = letterbox_size(image.size, size) if fit == "letterbox" else (size, size)
    resampling = Image.Resampling.BILINEAR if fit == "resize_bilinear" else Image.Resampling.BICUBIC
    return _pad_to_square(np.asarray(image.resize((width, height), resampling)), size, pad_color)


def decode_image_fast(
    data: bytes, size: int, fit: ImageFit = "resize", *, pad_color: RGBBytes = SIGLIP_PAD_COLOR
) -> UInt8[np.ndarray, "S S 3"]:
    """`decode_image` for training, in half the time or less; equal bits on every run, thread and processor.

    Mean difference to `decode_image` in levels of 256 on real photographs of 512 pixels at S = 384, 224 and 48: 0.02,
    0.003 and 0.42 (worst image 0.22, 0.01 and 1.5); letterboxed 0.003, 0.002 and 0.49 (0.013, 0.005 and 1.85).
    """
    pixels, full_size = _decode_pixels(data, min_side=JPEG_OVERSAMPLING * size, fit=fit)
    width, height = letterbox_size(full_size, size) if fit == "letterbox" else (size, size)
    if pixels.shape[:2] == (height, width):
        return _pad_to_square(pixels, size, pad_color)
    import torch  # slow to import, and preparing a source does not need it

    # In this order of None and permute torch detects that channels are last, and needs a third of the time.
    channels_last = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    mode = "bilinear" if fit == "resize_bilinear" else "bicubic"
    resized = torch.nn.functional.interpolate(channels_last, (height, width), mode=mode, antialias=True)
    return _pad_to_square(np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy()), size, pad_color)


def letterbox_size(full_size: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height of an image of `full_size` (width, height) in a letterbox of `size`."""
    longer = max(full_size)
    width, height = (max(1, (2 * side * size + longer) // (2 * longer)) for side in full_size)
    return width, height


def _pad_to_square(pixels: UInt8[np.ndarray, "h w 3"], size: int, pad_color: RGBBytes) -> UInt8[np.ndarray, "S S 3"]:
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    square = np.empty((size, size, 3), dtype=np.uint8)
    square[:] = pad_color
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def perceptual_hash(data: bytes) -> int:
    """The perceptual hash of an image that decodes completely; RecordError for others.

    64 bits, unsigned: which of the 8 x 8 lowest frequencies of the grey image are above their median. Among real
    photographs a copy (quality 20 to 40, half or quarter size, other proportions, WebP, PNG) differs in at most 4 bits
    and another image in at least 20; with differences of neighbouring pixels as bits (dHash) it was 5 and 9. All images
    in a single color have the same hash.
    """
    grey = Image.fromarray(_decode_pixels(data, min_side=64)[0]).convert("L")
    thumbnail = grey.resize((32, 32), Image.Resampling.BICUBIC)
    coefficients = (_DCT_BASIS @ np.asarray(thumbnail, dtype=np.int64) @ _DCT_BASIS.T).ravel()
    return int.from_bytes(np.packbits(coefficients > np.median(coefficients[1:])).tobytes(), "big")


_DCT_BASIS = np.rint(1024 * np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))).astype(np.int64)
"""Cosines as integers, so that rounding cannot differ between machines."""


def _decode_pixels(
    data: bytes, *, min_side: int | None = None, fit: ImageFit = "resize"
) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]:
    """Upright RGB, writable, and the width and height of the whole image.

    A JPEG may be decoded at a smaller scale, with its shorter side (letterboxed: its longer one) at least `min_side`.
    """
    image = open_image(data)
    try:
        if image.format in ("JPEG", "MPO"):
            pixels = _decode_jpeg(data, image, _jpeg_scale(image.size, min_side, fit))
        else:
            image.seek(0)
            image.load()
            pixels = np.array(convert_to_rgb(image))
        (width, height), orientation = image.size, _exif_orientation(image)
        if orientation not in _TRANSPOSES:
            return pixels, (width, height)
        upright = np.array(Image.fromarray(pixels).transpose(_TRANSPOSES[orientation]))
        return upright, (height, width) if orientation > 4 else (width, height)
    except _DECODE_ERRORS as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError("not an image", f"{image.format} that breaks while decoding ({error})") from None


def _decode_jpeg(data: bytes, image: Image.Image, scale: int) -> np.ndarray:
    """Pixels by libjpeg-turbo; by Pillow for CMYK and rare subsamplings, which simplejpeg does not convert."""
    is_cmyk = image.mode == "CMYK"
    side = 1 if is_cmyk else -(-min(image.size) // scale) if scale > 1 else 0
    try:
        pixels = simplejpeg.decode_jpeg(data, "CMYK" if is_cmyk else "RGB", min_width=side, min_height=side)
    except ValueError as error:
        extraneous = re.search(r"(\d+) extraneous bytes before marker 0xd9", str(error))
        is_harmless = extraneous is not None and int(extraneous[1]) <= _MAX_EXTRANEOUS_BYTES
        if not is_harmless and "subsampling" not in str(error):
            raise
        return np.array(convert_to_rgb(image))
    return np.array(convert_to_rgb(image)) if is_cmyk else pixels


def _jpeg_scale(size: tuple[int, int], min_side: int | None, fit: ImageFit) -> int:
    """1, 2, 4 or 8: the largest divisor at which the side is at least `min_side`.

    libjpeg's other scales are slower than decoding the whole image: only these have vector code.
    """
    side, scale = max(size) if fit == "letterbox" else min(size), 1
    while min_side is not None and scale < 8 and side >= min_side * scale * 2:
        scale *= 2
    return scale


def _exif_orientation(image: Image.Image) -> int:
    """The orientation from 1 to 8, whatever its type in the file; 1 if it is missing or cannot be read."""
    try:
        value: Any = image.getexif().get(ExifTags.Base.Orientation, 1)
        value = value[0] if isinstance(value, tuple) else value
        if isinstance(value, str | bytes):
            data = value.encode("latin-1") if isinstance(value, str) else value
            data = data.strip(b"\0 ")[:1]
            value = int(data) if data.isdigit() else data[0] if data else 1
        return int(value) if value in _TRANSPOSES else 1
    except _DECODE_ERRORS:
        return 1


def convert_to_rgb(image: Image.Image) -> Image.Image:
    """Transparency over white, 16 bits to 8, RGB; RecordError for values whose maximum is unknown."""
    if image.mode == "F":
        raise RecordError("not an image", "floating-point values without a known maximum")
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 0xFFFF:
            raise RecordError("not an image", "grey values beyond 16 bits")
        return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")
