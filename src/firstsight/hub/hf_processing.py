"""What goes into firstsight's own classes: pictures as training saw them, and places for them among the words.

Shapes: N pictures, S pixels a side.
"""

from __future__ import annotations

from typing import Any, cast, no_type_check

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import make_flat_list_of_images

from firstsight.data import images as pictures
from firstsight.errors import DataError
from firstsight.hub.sidecars import IMAGE_TOKEN
from firstsight.recipe.vision import ImageFit, RGBBytes


def image_to_pixels(image: Image.Image, size: int, *, fit: ImageFit, ground: RGBBytes) -> UInt8[np.ndarray, "S S 3"]:
    """Pixels of an opened picture as `data.pictures.decode` makes them of its bytes; writable."""
    upright_image = pictures.convert_to_rgb(ImageOps.exif_transpose(image))
    return pictures.resize_to_square(upright_image, size, fit, pad_color=ground).copy()


class FirstsightImageProcessor(BaseImageProcessor):
    """Pictures to uint8 pixels [N, S, S, 3]; the model scales them itself, as each of its encoders wants them.

    `image_tokens` are the places that one picture takes among the words.
    """

    def __init__(
        self,
        *,
        size: int = 384,
        fit: ImageFit = "resize",
        ground: Any = (128, 128, 128),
        image_tokens: int = 729,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_tokens = image_tokens
        self.size, self.fit = int(size), fit
        self.ground = [int(channel) for channel in ground]

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """Pillow pictures, or RGB arrays [h, w, 3] of bytes, flat or nested; always tensors."""
        fetched_images: Any = self.fetch_images(images)
        red, green, blue = cast(list[int], self.ground)
        fit, flat_images = cast(ImageFit, self.fit), cast(list[Any], make_flat_list_of_images(fetched_images))
        pixels = [
            torch.from_numpy(image_to_pixels(_to_pil_image(image), self.size, fit=fit, ground=(red, green, blue)))
            for image in flat_images
        ]
        return BatchFeature({"pixel_values": torch.stack(pixels)})


def _to_pil_image(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(
            f"wanted a Pillow picture or bytes [h, w, 3]. Got {pixels.dtype} {list(pixels.shape)}. Open it."
        )
    return Image.fromarray(pixels)


@no_type_check  # transformers reads its __init__'s own code to know what it takes
class FirstsightProcessor(ProcessorMixin):
    """Dialogues and pictures to a model's inputs, with as many places as a picture takes where a prompt names one."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_token = IMAGE_TOKEN
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """The places of one picture, whose mark stands once in a prompt."""
        return IMAGE_TOKEN * self.image_processor.image_tokens
