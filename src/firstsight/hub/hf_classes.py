"""firstsight's models as transformers' classes: importing this makes them known to the Auto classes.

They load, train and generate like any other; no code is ever read from a folder. The arithmetic is `model.layers`';
only the cache, a dynamic one, is transformers' own, so that all of `generate` works with it.
Shapes: B rows, T new tokens, S tokens seen, D width, V vocabulary, N pictures of P pixels a side.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from firstsight.errors import ModelError
from firstsight.hub.hf_processing import FirstsightImageProcessor, FirstsightProcessor
from firstsight.model import attention, layers
from firstsight.model.layers import AttentionInputs, BlockWeights, norm
from firstsight.model.lm import LM
from firstsight.model.vision import Encoder
from firstsight.model.vlm import VLM
from firstsight.recipe import serialize
from firstsight.recipe.model import LMSpec, VLMSpec, decoder_spec
from firstsight.recipe.vision import PatchProjectionSpec

TokenIds = Int[Tensor, "B T"]
HiddenStates = Float[Tensor, "B T D"]


@no_type_check  # transformers wraps its __init__ to take any keyword, which a type checker at run time cannot see
class FirstsightConfig(PreTrainedConfig):
    """A spec as its canonical JSON, and what transformers asks every configuration for."""

    model_type = "firstsight"
    keys_to_ignore_at_inference = ("past_key_values",)

    firstsight: dict[str, Any] | None = None
    """`recipe.canon.encode` of an LMSpec or VLMSpec."""
    image_token_id: int | None = None
    use_cache: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.firstsight is not None:
            lm = decoder_spec(self.spec)
            self.vocab_size, self.hidden_size = lm.vocab_size, lm.width
            self.num_hidden_layers, self.num_attention_heads = lm.layers, lm.heads
            self.num_key_value_heads, self.head_dim = lm.kv_heads, lm.head_dim
            # with token shift a layer remembers its last inputs beside keys and values
            self.layer_types = ["hybrid" if lm.token_shift > 1 else "full_attention"] * lm.layers
        super().__post_init__(**kwargs)

    @property
    def spec(self) -> LMSpec | VLMSpec:
        """The model; ModelError where the configuration has none."""
        if self.firstsight is None:
            raise ModelError("config.json: wanted a spec under 'firstsight'. Got none. Export the checkpoint again.")
        return serialize.from_json(self.firstsight)


class _FirstsightModel(PreTrainedModel, GenerationMixin):
    """What text models and models that see share."""

    config_class = FirstsightConfig
    config: FirstsightConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers wants a list

    def __init__(self, config: FirstsightConfig) -> None:
        super().__init__(config)
        self.model = VLM(config.spec)
        self.encoder = _frozen_encoder(config.spec)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every weight comes from a checkpoint; `model.initialise` starts one afresh."""

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
        logits_to_keep: int | Int[Tensor, " kept"] = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, the loss of `labels` (-100: none) as training counts it, and the cache.

        `attention_mask` is 0 at padding, left or right; `pixel_values` are the processor's, one for each picture.
        Of `kwargs`, `position_ids` count each row's tokens otherwise, `use_cache` says whether a cache is begun.
        """
        position_ids, use_cache = kwargs.pop("position_ids", None), kwargs.pop("use_cache", None)
        lm = self.model.lm
        lm.compute_dtype = lm.norm.weight.dtype
        if past_key_values is None and labels is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = DynamicCache(config=self.config)
        past_length = 0 if past_key_values is None else past_key_values.get_seq_length()
        token_mask = _token_mask(attention_mask, input_ids, past_length)
        positions = _position_ids(position_ids, token_mask, input_ids.shape[1])
        x, image_indices = self._embed_inputs(input_ids, pixel_values, past_length)
        attention_inputs = _attention_inputs(
            lm, positions, cached_attention_mask(token_mask, input_ids.shape[1], image_indices)
        )
        hidden = (
            lm(x, attention_inputs)
            if past_key_values is None
            else run_blocks_with_cache(lm, x, attention_inputs, cache=past_key_values)
        )
        logit_positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = lm.logits(hidden[:, logit_positions])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _embed_inputs(
        self, ids: TokenIds, pixels: UInt8[Tensor, "N P P 3"] | None, past_length: int
    ) -> tuple[HiddenStates, Int[Tensor, "B T"] | None]:
        """The stream that the blocks read, and which picture each place belongs to where attention asks."""
        x = self.model.lm.embed(ids)
        x = x if x.dtype == torch.float64 else x.float()  # the stream stays wide, as in training
        image_token_mask = ids == self.config.image_token_id if self.config.image_token_id is not None else ids < 0
        if pixels is None and (past_length or not bool(image_token_mask.any())):
            return x, None  # what is generated is a word, whatever its id
        spec = self.config.spec
        if not isinstance(spec, VLMSpec):
            raise ModelError("a text model has no eyes. Got pictures. Leave them out, or take a model that sees.")
        token_count, expected_count = (
            int(image_token_mask.sum()),
            spec.image_tokens * (0 if pixels is None else len(pixels)),
        )
        if token_count != expected_count:
            raise ModelError(
                f"input_ids: wanted {expected_count} image tokens, {spec.image_tokens} for each of "
                f"{0 if pixels is None else len(pixels)} pictures. Got {token_count}. Make both with the folder's processor."
            )
        image_slots = torch.where(image_token_mask, image_token_mask.flatten().cumsum(0).view_as(ids) - 1, -1)
        x = self.model.insert_image_embeddings(x, self.model.encode_images(self._projector_inputs(pixels)), image_slots)
        return x, self.model.image_ids(image_slots)

    def _projector_inputs(self, pixels: Any) -> Any:
        """What the projector is shown: a frozen encoder's features in half precision, as training kept them."""
        if self.encoder is None:
            return pixels
        with torch.no_grad():
            features = self.encoder(pixels)
        return features if features.dtype == torch.float64 else features.half()


class FirstsightForCausalLM(_FirstsightModel):
    """A text model."""

    def __init__(self, config: FirstsightConfig) -> None:
        if isinstance(config.spec, VLMSpec):
            raise ModelError("wanted a text model. Got one that sees. Load it with AutoModelForImageTextToText.")
        super().__init__(config)


class FirstsightForConditionalGeneration(_FirstsightModel):
    """A model that sees; a frozen encoder's weights are in its files under `encoder.`."""

    def __init__(self, config: FirstsightConfig) -> None:
        if not isinstance(config.spec, VLMSpec):
            raise ModelError("wanted a model that sees. Got a text model. Load it with AutoModelForCausalLM.")
        super().__init__(config)


def _frozen_encoder(spec: LMSpec | VLMSpec) -> Encoder | None:
    if not isinstance(spec, VLMSpec) or spec.encoder == "trained" or isinstance(spec.vision, PatchProjectionSpec):
        return None
    return Encoder(spec.vision).requires_grad_(False)


def _token_mask(attention_mask: Tensor | dict[str, Any] | None, ids: TokenIds, past_length: int) -> Bool[Tensor, "B S"]:
    """True where a token stands, old and new, False at padding."""
    expected_shape = (ids.shape[0], past_length + ids.shape[1])
    if attention_mask is None:
        return torch.ones(expected_shape, dtype=torch.bool, device=ids.device)
    if isinstance(attention_mask, dict):
        raise ModelError("wanted a cache that grows. Got a static one, and its masks. Leave cache_implementation out.")
    if tuple(attention_mask.shape) != expected_shape:
        raise ModelError(
            f"attention_mask: wanted {list(expected_shape)}, old and new tokens. Got {list(attention_mask.shape)}. Give all."
        )
    return attention_mask.bool()


def _position_ids(position_ids: Tensor | None, token_mask: Bool[Tensor, "B S"], new_tokens: int) -> Int[Tensor, "B T"]:
    """Of the new tokens, counted from each row's first real one; -1 at padding."""
    positions = (
        token_mask.long().cumsum(1) - 1 if position_ids is None else position_ids.long().expand(len(token_mask), -1)
    )
    return torch.where(token_mask[:, -new_tokens:], positions[:, -new_tokens:], -1)


def cached_attention_mask(
    token_mask: Bool[Tensor, "B S"], new_tokens: int, image_indices: Int[Tensor, "B T"] | None = None
) -> Bool[Tensor, "B 1 T S"]:
    """True where each new token may look: backwards at real tokens, at itself, and anywhere inside its own picture."""
    columns = torch.arange(token_mask.shape[1], device=token_mask.device)
    rows = columns[-new_tokens:, None]
    allowed = (token_mask[:, None, :] & (columns <= rows)) | (columns == rows)
    if image_indices is not None:
        same_image = (image_indices[:, :, None] == image_indices[:, None, :]) & (image_indices >= 0)[:, None, :]
        allowed[:, :, -new_tokens:] |= same_image
    return allowed[:, None]


def _attention_inputs(lm: LM, positions: Int[Tensor, "B T"], allowed: Bool[Tensor, "B 1 T S"]) -> AttentionInputs:
    dtype = torch.float64 if lm.compute_dtype == torch.float64 else torch.float32
    cos, sin = layers.rotary_cos_sin(positions, lm.spec.rope, head_dim=lm.spec.head_dim, dtype=dtype)
    return AttentionInputs(cos=cos, sin=sin, mask=attention.additive_mask(allowed, dtype), positions=positions)


def run_blocks_with_cache(lm: LM, x: HiddenStates, attention_inputs: AttentionInputs, *, cache: Any) -> HiddenStates:
    """The blocks over tokens that come after those in transformers' cache, which takes them up."""
    assert isinstance(attention_inputs.mask, Tensor)
    mask = attention_inputs.mask.to(lm.compute_dtype)
    for layer_index, layer in enumerate(lm.layers):
        w: BlockWeights = layer.weights()  # pyright: ignore[reportCallIssue]
        h = norm(x, w.attention_norm, lm.block_config)
        if w.shift is not None:
            previous_inputs = update_shift_state(
                cache, layer_index, h, positions=attention_inputs.positions, lag=w.shift.shape[0] - 1
            )
            h = layers.shift_tokens(h, w.shift.to(h.dtype), previous_inputs, attention_inputs.positions)
        q, k, v = layers.project_qkv(w, h, (attention_inputs.cos, attention_inputs.sin), lm.block_config)
        k, v = cache.update(k, v, layer_index)
        x = layers.output_and_feed_forward(
            w, x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True), lm.block_config
        )
    return x


def update_shift_state(
    cache: Any, layer_index: int, h: Float[Tensor, "B T D"], *, positions: Int[Tensor, "B T"], lag: int
) -> Float[Tensor, "B lag D"]:
    """The last inputs before `h` that a layer's cache holds, which takes up those of `h`.

    Its last `lag` are then each row's last real ones, whatever padding follows, and so they stay where the cache takes
    back tokens of `h`, as it does for guesses that were wrong.
    """
    conv_state = cache.layers[layer_index].conv_states[0]
    previous_inputs = (
        h.new_zeros(len(h), lag, h.shape[2]) if conv_state is None else conv_state[..., -lag:].transpose(1, 2).clone()
    )
    columns = torch.arange(lag + h.shape[1], device=h.device)
    last_token = torch.where(positions >= 0, columns[: h.shape[1]], -1).amax(dim=1)
    gather_indices = (columns + last_token[:, None] + 1 - h.shape[1]).clamp(min=0)[..., None].expand(-1, -1, h.shape[2])
    shift_state = torch.cat((previous_inputs, h), dim=1).gather(1, gather_indices)
    cache.update_conv_state(shift_state.transpose(1, 2), layer_index, conv_kernel_size=lag)
    return previous_inputs


AutoConfig.register("firstsight", FirstsightConfig)
AutoModelForCausalLM.register(FirstsightConfig, FirstsightForCausalLM)
AutoModelForImageTextToText.register(FirstsightConfig, FirstsightForConditionalGeneration)
AutoImageProcessor.register(
    FirstsightConfig,
    image_processor_classes={"pil": FirstsightImageProcessor, "torchvision": FirstsightImageProcessor},
)
AutoProcessor.register(FirstsightConfig, FirstsightProcessor)
