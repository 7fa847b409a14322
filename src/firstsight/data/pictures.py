"""Encoded pictures to pixels, the same on every machine: first frame, upright, on white, RGB.

Three ways in, one opinion on what is a picture: `checked` at the door, `quick` for training, `decode` for evaluation.
JPEG goes through libjpeg-turbo at any size, and what it warns of is refused: Pillow swallows those warnings and would
hand out half-grey pictures. Everything else goes through Pillow.

A picture becomes a square in one of two ways: `resize` squeezes it; `letterbox` keeps its shape, its longer side as
long as the square, its shorter side rounded to the nearest pixel (halves up, at least one), in the middle of `ground`.
What the ground has more is odd at the right and below: the picture begins at half of it, rounded down.

Legend: h x w pixels as decoded, S side of the square that a model sees.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from firstsight.data.records import Refused
from firstsight.recipe.vision import HALF, Fit, Ground, ground_of

GREY = ground_of(HALF)
"""SigLIP's ground of letterboxed pictures."""
MOST_BYTES = 20_000_000
"""Encoded bytes of one picture."""
MOST_PIXELS = 50_000_000
"""Declared pixels of one picture; read from the header, so that a bomb is never unpacked."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
ROOM = 3
"""`quick` decodes a JPEG to at least this many times the wanted side.

Mean absolute difference to `decode` in levels of 256 on real photographs of 512 pixels at S = 48: 3.2 at 1, 1.1 at 2,
0.42 at 3, for 0.87, 0.94 and 1.05 ms (1.30 without scaling).
"""
_HASHED = 64
"""Least side that a JPEG is decoded to before it is hashed."""
_TOLD = 0x0112
"""EXIF's tag of the orientation."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIGNS = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP|GIF8[79]a|BM|II[*+]\0|MM\0[*+]|II\0\*|MM\*\0", re.DOTALL
)
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_MOST_STRAY = 16
"""Bytes before the end marker that some cameras leave; damaged scans leave hundreds."""
_BROKEN = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's readers raise on bytes that are not what they claim to be."""
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # other people's broken EXIF: nobody can mend it


def signed(data: bytes) -> bool:
    """Whether `data` begins as one of FORMATS does."""
    return _SIGNS.match(data) is not None


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
    except _BROKEN:
        raise Refused("not a picture", f"none of {', '.join(FORMATS)}") from None
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise Refused("too many pixels", f"declares {width} x {height}, at most {MOST_PIXELS:,} pixels")
    return picture


def upright(data: bytes) -> Image.Image:
    """The decoded RGB picture: first frame, EXIF rotation applied, transparency over white, 16 bits to 8."""
    return Image.fromarray(_pixels(data)[0])


def decode(data: bytes, size: int, fit: Fit = "resize", *, ground: Ground = GREY) -> UInt8[np.ndarray, "S S 3"]:
    """Pixels of a picture as a square of `size`, exactly as the encoder's processor does; Refused for what is none.

    Source: transformers, SiglipImageProcessor with resample=3 (Pillow's bicubic on the whole picture). DINOv2's
    BitImageProcessor does the same where it is told to resize to the square and not to crop.
    """
    return squared(upright(data), size, fit, ground=ground)


def squared(picture: Image.Image, size: int, fit: Fit, *, ground: Ground) -> UInt8[np.ndarray, "S S 3"]:
    """What `decode` makes of an upright RGB picture."""
    width, height = inner(picture.size, size) if fit == "letterbox" else (size, size)
    return _framed(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)), size, ground)


def quick(data: bytes, size: int, fit: Fit = "resize", *, ground: Ground = GREY) -> UInt8[np.ndarray, "S S 3"]:
    """`decode` for training, in half the time or less, equal bits on every run, thread and processor; refuses alike.

    Real photographs of 512 pixels differ from `decode` by 0.02 levels of 256 on average at S = 384, 0.003 at 224 and
    0.42 at 48 (the worst picture by 0.22, 0.01 and 1.5); letterboxed by 0.003, 0.002 and 0.49 (0.013, 0.005 and 1.85),
    at 48 since most of them are then decoded at a quarter of their size instead of half.
    """
    pixels, whole = _pixels(data, least=ROOM * size, fit=fit)
    width, height = inner(whole, size) if fit == "letterbox" else (size, size)
    if pixels.shape[:2] == (height, width):
        return _framed(pixels, size, ground)
    import torch  # the door and the tests of a record need not pay for it

    # In this order of None and permute torch knows the channels to be last, and needs a third of the time.
    planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    squeezed = torch.nn.functional.interpolate(planes, (height, width), mode="bicubic", antialias=True)
    return _framed(np.ascontiguousarray(squeezed[0].permute(1, 2, 0).numpy()), size, ground)


def inner(whole: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height that a picture of `whole` (width, height) takes in a letterbox of `size`."""
    longer = max(whole)
    width, height = (max(1, (2 * side * size + longer) // (2 * longer)) for side in whole)
    return width, height


def _framed(pixels: UInt8[np.ndarray, "h w 3"], size: int, ground: Ground) -> UInt8[np.ndarray, "S S 3"]:
    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    square = np.empty((size, size, 3), dtype=np.uint8)
    square[:] = ground
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def checked(data: bytes) -> int:
    """The perceptual hash of a picture that decodes to its end; raises Refused for what does not.

    64 bits, unsigned: which of the 8 x 8 lowest frequencies of the grey picture are above their median. Among real
    photographs a copy (quality 20 to 40, half or quarter size, squeezed, WebP, PNG) is at most 4 bits away and another
    picture at least 20; with neighbours' differences for bits (dHash) it was 5 and 9. Pictures in one colour are alike.
    """
    small = Image.fromarray(_pixels(data, least=_HASHED)[0]).convert("L").resize((32, 32), Image.Resampling.BICUBIC)
    waves = (_WAVES @ np.asarray(small, dtype=np.int64) @ _WAVES.T).ravel()
    return int.from_bytes(np.packbits(waves > np.median(waves[1:])).tobytes(), "big")


_WAVES = np.rint(1024 * np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))).astype(np.int64)
"""Cosines in whole numbers, so that a hash has no rounding to differ in between machines."""


def _pixels(
    data: bytes, *, least: int | None = None, fit: Fit = "resize"
) -> tuple[UInt8[np.ndarray, "h w 3"], tuple[int, int]]:
    """Upright RGB, writable, and the width and height of the whole picture.

    A JPEG may come smaller, but neither side, or where it is letterboxed not the longer one, below `least` by that.
    """
    picture = opened(data)
    try:
        if picture.format in ("JPEG", "MPO"):
            found = _jpeg(data, picture, _parts(picture.size, least, fit))
        else:
            picture.seek(0)
            picture.load()
            found = np.array(rgb(picture))
        number, (width, height) = _orientation(picture), picture.size
        turn = _TURNS.get(number)
        whole = (height, width) if number > 4 and turn is not None else (width, height)
        return (found if turn is None else np.array(Image.fromarray(found).transpose(turn))), whole
    except _BROKEN as error:
        if isinstance(error, Refused):
            raise
        raise Refused("not a picture", f"{picture.format} that breaks while decoding ({error})") from None


def _jpeg(data: bytes, picture: Image.Image, parts: int) -> np.ndarray:
    """Pixels by libjpeg-turbo; by Pillow for print colours and rare samplings, which have no other reader."""
    printed = picture.mode == "CMYK"
    side = 1 if printed else -(-min(picture.size) // parts) if parts > 1 else 0
    try:
        found = simplejpeg.decode_jpeg(data, "CMYK" if printed else "RGB", min_width=side, min_height=side)
    except ValueError as error:
        stray = _STRAY.search(str(error))
        harmless = stray is not None and int(stray[1]) <= _MOST_STRAY
        if not harmless and "subsampling" not in str(error):
            raise
        return np.array(rgb(picture))
    return np.array(rgb(picture)) if printed else found


def _parts(size: tuple[int, int], least: int | None, fit: Fit) -> int:
    """1, 2, 4 or 8: the largest by which libjpeg may divide a picture that is to keep `least`.

    The scales between are slower than the whole picture: only these have vector code.
    """
    side, parts = max(size) if fit == "letterbox" else min(size), 1
    while least is not None and parts < 8 and side >= least * parts * 2:
        parts *= 2
    return parts


def _orientation(picture: Image.Image) -> int:
    """1 to 8 as EXIF numbers them; EXIF that cannot be read says nothing."""
    try:
        return picture.getexif().get(_TOLD, 1)
    except _BROKEN:
        return 1


def rgb(picture: Image.Image) -> Image.Image:
    """Transparency over white, 16 bits to 8, RGB; raises Refused for values whose white nobody tells."""
    if picture.mode == "F":
        raise Refused("not a picture", "numbers with fractions, of which nobody says where white is")
    if picture.mode.startswith("I"):
        deep = np.asarray(picture)
        if deep.min() < 0 or deep.max() > 0xFFFF:
            raise Refused("not a picture", "grey values beyond 16 bits")
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return picture.convert("RGB")
