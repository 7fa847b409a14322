"""Encoded pictures to pixels, the same on every machine: first frame, upright, on white, RGB.

Legend: S side of the square that a model sees.
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from firstsight.data.records import Refused

MOST_BYTES = 20_000_000
"""Encoded bytes of one picture."""
MOST_PIXELS = 50_000_000
"""Declared pixels of one picture; read from the header, so that a bomb is never unpacked."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def opened(data: bytes) -> Image.Image:
    """The picture behind `data` with nothing decoded yet; raises Refused when size or header are out of bounds."""
    if not data:
        raise Refused("zero bytes", "an empty file")
    if len(data) > MOST_BYTES:
        raise Refused("too many bytes", f"{len(data):,} bytes, at most {MOST_BYTES:,}")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refused("too many pixels", f"declares more than {MOST_PIXELS:,} pixels") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise Refused("not a picture", f"none of {', '.join(FORMATS)}") from None
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise Refused("too many pixels", f"declares {width} x {height}, at most {MOST_PIXELS:,} pixels")
    return picture


def upright(data: bytes) -> Image.Image:
    """The decoded RGB picture: first frame, EXIF rotation applied, transparency over white, 16 bits to 8."""
    picture = opened(data)
    try:
        picture.seek(0)
        picture.load()
        turned = ImageOps.exif_transpose(picture)
        return _rgb(turned)
    except (OSError, ValueError, SyntaxError, EOFError, IndexError) as error:
        raise Refused("not a picture", f"{picture.format} that breaks while decoding ({error})") from None


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        deep = np.asarray(picture)
        return Image.fromarray((np.clip(deep, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return picture.convert("RGB")


def checked(data: bytes) -> int:
    """The perceptual hash of a picture that decodes to its end; raises Refused for what does not.

    64 bits, unsigned: which of 8 x 9 neighbours in a row of the shrunken grey picture is brighter.
    """
    grey = np.asarray(upright(data).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def decode(data: bytes, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Pixels of a picture squeezed to a square of `size`, bicubic; raises Refused for what is not a picture."""
    return np.asarray(upright(data).resize((size, size), Image.Resampling.BICUBIC))
