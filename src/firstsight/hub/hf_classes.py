"""firstsight's models and processors as transformers' classes; importing this module registers them with Auto classes.

They load, train and generate like other models; no code is read from a folder. The layers are `model.layers`'; only
the cache is transformers' DynamicCache, so that all of `generate` works with it.
Shapes: B rows, T new tokens, S tokens in all, D width, V vocabulary, N images of P x P pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast, no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageOps
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import make_flat_list_of_images
from transformers.modeling_outputs import CausalLMOutputWithPast

from firstsight.data.images import convert_to_rgb, resize_to_square
from firstsight.errors import DataError, ModelError
from firstsight.hub.sidecars import IMAGE_TOKEN
from firstsight.model import attention
from firstsight.model.layers import AttentionInputs, HiddenStates, Projection, Reach, merge_heads
from firstsight.model.lm import LM
from firstsight.model.vision import Encoder
from firstsight.model.vlm import VLM
from firstsight.recipe import serialize
from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec
from firstsight.recipe.vision import ImageFit, PatchProjectionSpec, RGBBytes

TokenIds = Int[Tensor, "B T"]


@no_type_check  # transformers wraps its __init__ to take any keyword, which fails a type check at run time
class FirstsightConfig(PreTrainedConfig):
    """A spec as canonical JSON, and the attributes that transformers reads of every configuration."""

    model_type = "firstsight"
    keys_to_ignore_at_inference = ("past_key_values",)

    firstsight: dict[str, Any] | None = None
    """`recipe.serialize.to_json` of an LMSpec or VLMSpec."""
    image_token_id: int | None = None
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.firstsight is not None:
            lm = decoder_spec(self.spec)
            self.vocab_size, self.hidden_size = lm.vocab_size, lm.width
            self.num_hidden_layers, self.num_attention_heads = lm.layers, lm.heads
            self.num_key_value_heads, self.head_dim = lm.kv_heads, lm.head_dim
            # with token shift a layer caches its last inputs in addition to keys and values
            self.layer_types = ["hybrid" if lm.token_shift > 1 else "full_attention"] * lm.layers
        super().__post_init__(**kwargs)

    @property
    def spec(self) -> LMSpec | VLMSpec:
        """The model's spec; ModelError if the configuration has none."""
        if self.firstsight is None:
            raise ModelError("config.json: wanted a spec under 'firstsight'. Got none. Export the checkpoint again.")
        return serialize.from_json(self.firstsight)


class _FirstsightModel(PreTrainedModel, GenerationMixin):
    """The base of text-only and vision-language models."""

    config_class = FirstsightConfig
    config: FirstsightConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers wants a list

    def __init__(self, config: FirstsightConfig) -> None:
        super().__init__(config)
        self.model = VLM(config.spec)
        self.encoder = _external_encoder(config.spec)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: all weights come from a checkpoint."""

    def get_input_embeddings(self) -> nn.Module:
        return self.model.lm.tok_embeddings

    def get_output_embeddings(self) -> nn.Module | None:
        return self.model.lm.output

    def forward(
        self,
        input_ids: TokenIds,
        attention_mask: Int[Tensor, "B S"] | Bool[Tensor, "B S"] | dict[str, Any] | None = None,
        *,
        pixel_values: UInt8[Tensor, "N P P 3"] | None = None,
        past_key_values: Any = None,
        labels: TokenIds | None = None,
        logits_to_keep: int | Int[Tensor, " positions"] = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, the training loss for `labels` (-100 is ignored), and the cache.

        `attention_mask` is 0 at padding, left or right; `pixel_values` are those of the processor, one per image.
        Of `kwargs`, `position_ids` replace the counted positions, and `use_cache` makes a new cache.
        """
        position_ids, use_cache = kwargs.pop("position_ids", None), kwargs.pop("use_cache", None)
        lm, cache, count = self.model.lm, past_key_values, input_ids.shape[1]
        lm.compute_dtype = lm.norm.weight.dtype
        if cache is None and labels is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=self.config)
        past_length = 0 if cache is None else cache.get_seq_length()
        token_mask = _token_mask(attention_mask, input_ids, past_length)
        x, image_ids = self._embed_inputs(input_ids, pixel_values, past_length)
        allowed = cached_attention_mask(token_mask, count, image_ids)
        windowed_mask, window = None, lm.spec.window
        if 0 < window < token_mask.shape[1]:
            windowed_mask = cached_attention_mask(token_mask, count, image_ids, window=window)
            windowed_mask = attention.additive_mask(windowed_mask, lm.wide_dtype)
        mask = attention.additive_mask(allowed, lm.wide_dtype)
        inputs = lm.masked_inputs(_position_ids(position_ids, token_mask, count), mask, windowed_mask)
        hidden = lm(x, inputs) if cache is None else run_blocks_with_cache(lm, x, inputs, cache=cache)
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = lm.logits(hidden[:, positions])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)

    def _embed_inputs(
        self, ids: TokenIds, pixels: UInt8[Tensor, "N P P 3"] | None, past_length: int
    ) -> tuple[HiddenStates, Int[Tensor, "B T"] | None]:
        """The input of the blocks, and the image of each token, -1 for text; None if there are no images."""
        x = self.model.lm.embed(ids)
        x = x if x.dtype == torch.float64 else x.float()  # the residual stream is float32, as in training
        is_image = ids == self.config.image_token_id if self.config.image_token_id is not None else ids < 0
        if pixels is None and (past_length or not bool(is_image.any())):
            return x, None  # a generated token is text, whatever its id
        spec, image_count = self.config.spec, 0 if pixels is None else len(pixels)
        if not isinstance(spec, VLMSpec):
            raise ModelError("this is a text-only model. Got images. Omit them, or use a vision-language model.")
        count, expected = int(is_image.sum()), spec.image_tokens * image_count
        if count != expected:
            raise ModelError(
                f"input_ids: wanted {expected} image tokens, {spec.image_tokens} for each of {image_count} images. "
                f"Got {count}. Make both with the folder's processor."
            )
        slots = torch.where(is_image, is_image.flatten().cumsum(0).view_as(ids) - 1, -1)
        embeddings = self.model.encode_images(self._projector_inputs(pixels))
        return self.model.insert_image_embeddings(x, embeddings, slots), self.model.image_ids(slots)

    def _projector_inputs(self, pixels: Any) -> Any:
        if self.encoder is None:
            return pixels
        with torch.no_grad():
            features = self.encoder(pixels)
        return features if features.dtype == torch.float64 else features.half()


class FirstsightForCausalLM(_FirstsightModel):
    """A text-only model."""

    def __init__(self, config: FirstsightConfig) -> None:
        if isinstance(config.spec, VLMSpec):
            raise ModelError(
                "wanted a text-only model. Got a vision-language one. Load it with AutoModelForImageTextToText."
            )
        super().__init__(config)


class FirstsightForConditionalGeneration(_FirstsightModel):
    """A vision-language model; an external encoder's weights are in its files under `encoder.`."""

    def __init__(self, config: FirstsightConfig) -> None:
        if not isinstance(config.spec, VLMSpec):
            raise ModelError("wanted a vision-language model. Got a text-only one. Load it with AutoModelForCausalLM.")
        super().__init__(config)


def _external_encoder(spec: LMSpec | VLMSpec) -> Encoder | None:
    if not isinstance(spec, VLMSpec) or spec.encoder == "included" or isinstance(spec.vision, PatchProjectionSpec):
        return None
    return Encoder(spec.vision).requires_grad_(False)


def _token_mask(attention_mask: Tensor | dict[str, Any] | None, ids: TokenIds, past_length: int) -> Bool[Tensor, "B S"]:
    """True at tokens, cached and new, False at padding."""
    expected = [ids.shape[0], past_length + ids.shape[1]]
    if attention_mask is None:
        return torch.ones(expected, dtype=torch.bool, device=ids.device)
    if isinstance(attention_mask, dict):
        raise ModelError("wanted a dynamic cache. Got the masks of a static one. Leave cache_implementation out.")
    if (shape := list(attention_mask.shape)) != expected:
        raise ModelError(f"attention_mask: wanted {expected}, cached and new tokens. Got {shape}. Give all of them.")
    return attention_mask.bool()


def _position_ids(position_ids: Tensor | None, token_mask: Bool[Tensor, "B S"], new_tokens: int) -> Int[Tensor, "B T"]:
    """Positions of the new tokens, counted from each row's first token that is not padding; -1 at padding."""
    counted = token_mask.long().cumsum(1) - 1
    positions = counted if position_ids is None else position_ids.long().expand(len(token_mask), -1)
    return torch.where(token_mask[:, -new_tokens:], positions[:, -new_tokens:], -1)


def cached_attention_mask(
    token_mask: Bool[Tensor, "B S"], new_tokens: int, image_ids: Int[Tensor, "B T"] | None = None, *, window: int = 0
) -> Bool[Tensor, "B 1 T S"]:
    """True where a new token attends: earlier tokens without padding, itself, and all tokens of its own image.

    With a window only the last `window` tokens, itself included, besides those of its image.
    """
    columns = torch.arange(token_mask.shape[1], device=token_mask.device)
    rows = columns[-new_tokens:, None]
    is_earlier = token_mask[:, None, :] & (columns <= rows)
    if window:
        is_earlier &= attention.window_mask(token_mask, new_tokens, window)[:, 0]
    allowed = is_earlier | (columns == rows)
    if image_ids is not None:
        allowed[:, :, -new_tokens:] |= (image_ids[:, :, None] == image_ids[:, None, :]) & (image_ids >= 0)[:, None, :]
    return allowed[:, None]


class _CachedInputs(NamedTuple):
    """The `BlockInputs` of one block for tokens that follow those in transformers' cache, which it extends by them."""

    inputs: AttentionInputs
    mask: Float[Tensor, "B 1 T S"]
    windowed_mask: Float[Tensor, "B 1 T S"]
    cache: Any
    layer_index: int

    @property
    def dtype(self) -> torch.dtype:
        return self.inputs.dtype

    @property
    def positions(self) -> Int[Tensor, "B T"]:
        return self.inputs.positions

    def preceding_inputs(self, h: HiddenStates, count: int) -> Float[Tensor, "B lag D"]:
        return update_shift_state(self.cache, self.layer_index, h, positions=self.positions, lag=count)

    def attend(self, q: Projection, k: Projection, v: Projection, reach: Reach) -> Projection:
        q, k, v = self.inputs.split_heads(q, k, v, reach)
        k, v = self.cache.update(k, v, self.layer_index)
        mask = self.windowed_mask if reach.is_windowed else self.mask
        return merge_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True))


def run_blocks_with_cache(lm: LM, x: HiddenStates, inputs: AttentionInputs, *, cache: Any) -> HiddenStates:
    """The blocks over tokens that follow those in transformers' cache; the cache is extended by the new tokens."""
    assert isinstance(inputs.mask, Tensor)
    mask = windowed_mask = inputs.mask.to(lm.compute_dtype)
    if isinstance(inputs.windowed_mask, Tensor):
        windowed_mask = inputs.windowed_mask.to(lm.compute_dtype)
    for index, layer in enumerate(lm.layers):
        x = layer(x, _CachedInputs(inputs, mask, windowed_mask, cache, index))
    return x


def update_shift_state(
    cache: Any, layer_index: int, h: Float[Tensor, "B T D"], *, positions: Int[Tensor, "B T"], lag: int
) -> Float[Tensor, "B lag D"]:
    """The cached inputs of a layer before `h`; the inputs in `h` are added to the cache.

    The last `lag` cached inputs of a row are those of its last tokens that are not padding, also after the cache is
    cropped by assisted decoding.
    """
    state = cache.layers[layer_index].conv_states[0]
    last = h.new_zeros(len(h), lag, h.shape[2]) if state is None else state[..., -lag:].transpose(1, 2).clone()
    columns = torch.arange(lag + h.shape[1], device=h.device)
    last_token = torch.where(positions >= 0, columns[: h.shape[1]], -1).amax(dim=1)
    indices = (columns + last_token[:, None] + 1 - h.shape[1]).clamp(min=0)[..., None].expand(-1, -1, h.shape[2])
    new_state = torch.cat((last, h), dim=1).gather(1, indices)
    cache.update_conv_state(new_state.transpose(1, 2), layer_index, conv_kernel_size=lag)
    return last


def image_to_pixels(image: Image.Image, size: int, *, fit: ImageFit, ground: RGBBytes) -> UInt8[np.ndarray, "P P 3"]:
    """Writable pixels of an opened image, equal to those that `data.images.decode_image` makes of its bytes."""
    upright = convert_to_rgb(ImageOps.exif_transpose(image))
    return resize_to_square(upright, size, fit, pad_color=ground).copy()


class FirstsightImageProcessor(BaseImageProcessor):
    """Images to uint8 pixels [N, P, P, 3]; the model normalizes them for each of its encoders.

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
        flat = cast(list[Any], make_flat_list_of_images(cast(Any, self.fetch_images(images))))
        fit, ground = cast(ImageFit, self.fit), (red, green, blue)
        pixels = [image_to_pixels(_to_pil_image(image), self.size, fit=fit, ground=ground) for image in flat]
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


AutoConfig.register("firstsight", FirstsightConfig)
AutoModelForCausalLM.register(FirstsightConfig, FirstsightForCausalLM)
AutoModelForImageTextToText.register(FirstsightConfig, FirstsightForConditionalGeneration)
AutoImageProcessor.register(
    FirstsightConfig, image_processor_classes={"pil": FirstsightImageProcessor, "torchvision": FirstsightImageProcessor}
)
AutoProcessor.register(FirstsightConfig, FirstsightProcessor)
