"""Processors of firstsight's transformers classes: images to pixels as in training, and image tokens in prompts.

Shapes: N images of S x S pixels.
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

from firstsight.data.images import convert_to_rgb, resize_to_square
from firstsight.errors import DataError
from firstsight.hub.sidecars import IMAGE_TOKEN
from firstsight.recipe.vision import ImageFit, RGBBytes


def image_to_pixels(image: Image.Image, size: int, *, fit: ImageFit, ground: RGBBytes) -> UInt8[np.ndarray, "S S 3"]:
    """Pixels of an opened image, writable, equal to those that `data.images.decode_image` makes of its bytes."""
    upright = convert_to_rgb(ImageOps.exif_transpose(image))
    return resize_to_square(upright, size, fit, pad_color=ground).copy()


class FirstsightImageProcessor(BaseImageProcessor):
    """Images to uint8 pixels [N, S, S, 3]; the model normalizes them for each of its encoders.

    `image_tokens` is the number of tokens of an image.
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
        """The pixels of Pillow images or RGB arrays [h, w, 3] of bytes, flat or nested; always tensors."""
        red, green, blue = cast(list[int], self.ground)
        flat, fit = (
            cast(list[Any], make_flat_list_of_images(cast(Any, self.fetch_images(images)))),
            cast(ImageFit, self.fit),
        )
        pixels = [image_to_pixels(_to_pil_image(x), self.size, fit=fit, ground=(red, green, blue)) for x in flat]
        return BatchFeature({"pixel_values": torch.stack(list(map(torch.from_numpy, pixels)))})


def _to_pil_image(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise DataError(f"wanted a Pillow image or bytes [h, w, 3]. Got {pixels.dtype} {list(pixels.shape)}. Open it.")
    return Image.fromarray(pixels)


@no_type_check  # transformers inspects the signature of __init__, which a wrapper would hide
class FirstsightProcessor(ProcessorMixin):
    """Dialogues and images to a model's inputs; an image token in a prompt is repeated for all tokens of its image."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **kwargs: Any
    ) -> None:
        self.image_token = IMAGE_TOKEN
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """The tokens of an image, for the single image token of a prompt."""
        return IMAGE_TOKEN * self.image_processor.image_tokens
