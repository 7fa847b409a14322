"""Encoded pictures to pixels, the same on every machine: first frame, upright, on white, RGB.

Three ways in, one opinion on what is a picture: `checked` at the door, `quick` for training, `decode` for evaluation.
JPEG goes through libjpeg-turbo at any size, and what it warns of is refused: Pillow swallows those warnings and would
hand out half-grey pictures. Everything else goes through Pillow.

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
    return Image.fromarray(_pixels(data, least=None))


def decode(data: bytes, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """Pixels of a picture squeezed to a square of `size`, exactly as SigLIP's processor does; Refused for what is none.

    Source: transformers, SiglipImageProcessor with resample=3 (Pillow's bicubic on the whole picture).
    """
    return np.asarray(upright(data).resize((size, size), Image.Resampling.BICUBIC))


def quick(data: bytes, size: int) -> UInt8[np.ndarray, "S S 3"]:
    """`decode` for training, in half the time or less, equal bits on every run, thread and processor; refuses alike.

    Real photographs of 512 pixels differ from `decode` by 0.02 levels of 256 on average at S = 384, 0.003 at 224 and
    0.42 at 48 (the worst picture by 0.22, 0.01 and 1.5).
    """
    pixels = _pixels(data, least=ROOM * size)
    if pixels.shape[:2] == (size, size):
        return pixels
    import torch  # the door and the tests of a record need not pay for it

    # In this order of None and permute torch knows the channels to be last, and needs a third of the time.
    planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    squeezed = torch.nn.functional.interpolate(planes, (size, size), mode="bicubic", antialias=True)
    return np.ascontiguousarray(squeezed[0].permute(1, 2, 0).numpy())


def checked(data: bytes) -> int:
    """The perceptual hash of a picture that decodes to its end; raises Refused for what does not.

    64 bits, unsigned: which of the 8 x 8 lowest frequencies of the grey picture are above their median. Among real
    photographs a copy (quality 20 to 40, half or quarter size, squeezed, WebP, PNG) is at most 4 bits away and another
    picture at least 20; with neighbours' differences for bits (dHash) it was 5 and 9. Pictures in one colour are alike.
    """
    small = Image.fromarray(_pixels(data, least=_HASHED)).convert("L").resize((32, 32), Image.Resampling.BICUBIC)
    waves = (_WAVES @ np.asarray(small, dtype=np.int64) @ _WAVES.T).ravel()
    return int.from_bytes(np.packbits(waves > np.median(waves[1:])).tobytes(), "big")


_WAVES = np.rint(1024 * np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * np.arange(32) + 1))).astype(np.int64)
"""Cosines in whole numbers, so that a hash has no rounding to differ in between machines."""


def _pixels(data: bytes, *, least: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Upright RGB, writable; a JPEG may come smaller, but not below `least` on either side unless it is by itself."""
    picture = opened(data)
    try:
        if picture.format in ("JPEG", "MPO"):
            found = _jpeg(data, picture, least)
        else:
            picture.seek(0)
            picture.load()
            found = np.array(_rgb(picture))
        turn = _TURNS.get(_orientation(picture))
        return found if turn is None else np.array(Image.fromarray(found).transpose(turn))
    except _BROKEN as error:
        if isinstance(error, Refused):
            raise
        raise Refused("not a picture", f"{picture.format} that breaks while decoding ({error})") from None


def _jpeg(data: bytes, picture: Image.Image, least: int | None) -> np.ndarray:
    """Pixels by libjpeg-turbo; by Pillow for print colours and rare samplings, which have no other reader."""
    printed = picture.mode == "CMYK"
    side = 1 if printed else _scaled(picture.size, least)
    try:
        found = simplejpeg.decode_jpeg(data, "CMYK" if printed else "RGB", min_width=side, min_height=side)
    except ValueError as error:
        stray = _STRAY.search(str(error))
        harmless = stray is not None and int(stray[1]) <= _MOST_STRAY
        if not harmless and "subsampling" not in str(error):
            raise
        return np.array(_rgb(picture))
    return np.array(_rgb(picture)) if printed else found


def _scaled(size: tuple[int, int], least: int | None) -> int:
    """What to ask libjpeg for, so that it takes the smallest of 1, 1/2, 1/4, 1/8 that keeps `least` on both sides.

    The scales between are slower than the whole picture: only these have vector code.
    """
    short, parts = min(size), 1
    while least is not None and parts < 8 and short >= least * parts * 2:
        parts *= 2
    return -(-short // parts) if parts > 1 else 0


def _orientation(picture: Image.Image) -> int:
    """1 to 8 as EXIF numbers them; EXIF that cannot be read says nothing."""
    try:
        return picture.getexif().get(_TOLD, 1)
    except _BROKEN:
        return 1


def _rgb(picture: Image.Image) -> Image.Image:
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
