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
from firstsight.hub.processing import FirstsightImageProcessor, FirstsightProcessor
from firstsight.model import layers
from firstsight.model.layers import Frame, Weights, norm
from firstsight.model.lm import LM
from firstsight.model.vision import Encoder
from firstsight.model.vlm import VLM
from firstsight.recipe import canon
from firstsight.recipe.lm import LMSpec
from firstsight.recipe.model import VLMSpec, decoder
from firstsight.recipe.vision import Patches

Ids = Int[Tensor, "B T"]
Stream = Float[Tensor, "B T D"]


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
            lm = decoder(self.spec)
            self.vocab_size, self.hidden_size = lm.vocabulary, lm.width
            self.num_hidden_layers, self.num_attention_heads = lm.layers, lm.heads
            self.num_key_value_heads, self.head_dim = lm.kv_heads, lm.head
            # with token shift a layer remembers its last inputs beside keys and values
            self.layer_types = ["hybrid" if lm.token_shift > 1 else "full_attention"] * lm.layers
        super().__post_init__(**kwargs)

    @property
    def spec(self) -> LMSpec | VLMSpec:
        """The model; ModelError where the configuration has none."""
        if self.firstsight is None:
            raise ModelError("config.json: wanted a spec under 'firstsight'. Got none. Export the checkpoint again.")
        return canon.decode(self.firstsight)


class _Firstsight(PreTrainedModel, GenerationMixin):
    """What text models and models that see share."""

    config_class = FirstsightConfig
    config: FirstsightConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ["Block"]  # noqa: RUF012 - transformers wants a list

    def __init__(self, config: FirstsightConfig) -> None:
        super().__init__(config)
        self.model = VLM(config.spec)
        self.encoder = _frozen(config.spec)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every weight comes from a checkpoint; `model.initialise` starts one afresh."""

    def get_input_embeddings(self) -> nn.Module:
        return self.model.lm.tok_embeddings

    def get_output_embeddings(self) -> nn.Module | None:
        return self.model.lm.output

    def forward(
        self,
        input_ids: Ids,
        attention_mask: Int[Tensor, "B S"] | Bool[Tensor, "B S"] | dict[str, Any] | None = None,
        *,
        pixel_values: UInt8[Tensor, "N P P 3"] | None = None,
        past_key_values: Any = None,
        labels: Ids | None = None,
        logits_to_keep: int | Int[Tensor, " kept"] = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, the loss of `labels` (-100: none) as training counts it, and the cache.

        `attention_mask` is 0 at padding, left or right; `pixel_values` are the processor's, one for each picture.
        Of `kwargs`, `position_ids` count each row's tokens otherwise, `use_cache` says whether a cache is begun.
        """
        counted, cached = kwargs.pop("position_ids", None), kwargs.pop("use_cache", None)
        lm = self.model.lm
        lm.compute = lm.norm.weight.dtype
        if past_key_values is None and labels is None and (self.config.use_cache if cached is None else cached):
            past_key_values = DynamicCache(config=self.config)
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        real = _real(attention_mask, input_ids, past)
        positions = _positions(counted, real, input_ids.shape[1])
        x, pictures = self._read(input_ids, pixel_values, past)
        frame = _frame(lm, positions, seen(real, input_ids.shape[1], pictures))
        hidden = lm(x, frame) if past_key_values is None else extended(lm, x, frame, cache=past_key_values)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = lm.logits(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _read(
        self, ids: Ids, pixels: UInt8[Tensor, "N P P 3"] | None, past: int
    ) -> tuple[Stream, Int[Tensor, "B T"] | None]:
        """The stream that the blocks read, and which picture each place belongs to where attention asks."""
        x = self.model.lm.embed(ids)
        x = x if x.dtype == torch.float64 else x.float()  # the stream stays wide, as in training
        places = ids == self.config.image_token_id if self.config.image_token_id is not None else ids < 0
        if pixels is None and (past or not bool(places.any())):
            return x, None  # what is generated is a word, whatever its id
        spec = self.config.spec
        if not isinstance(spec, VLMSpec):
            raise ModelError("a text model has no eyes. Got pictures. Leave them out, or take a model that sees.")
        count, wanted = int(places.sum()), spec.image_tokens * (0 if pixels is None else len(pixels))
        if count != wanted:
            raise ModelError(
                f"input_ids: wanted {wanted} image tokens, {spec.image_tokens} for each of "
                f"{0 if pixels is None else len(pixels)} pictures. Got {count}. Make both with the folder's processor."
            )
        slots = torch.where(places, places.flatten().cumsum(0).view_as(ids) - 1, -1)
        x = self.model.lay(x, self.model.see(self._features(pixels)), slots)
        return x, self.model.pictures(slots)

    def _features(self, pixels: Any) -> Any:
        """What the projector is shown: a frozen encoder's features in half precision, as training kept them."""
        if self.encoder is None:
            return pixels
        with torch.no_grad():
            found = self.encoder(pixels)
        return found if found.dtype == torch.float64 else found.half()


class FirstsightForCausalLM(_Firstsight):
    """A text model."""

    def __init__(self, config: FirstsightConfig) -> None:
        if isinstance(config.spec, VLMSpec):
            raise ModelError("wanted a text model. Got one that sees. Load it with AutoModelForImageTextToText.")
        super().__init__(config)


class FirstsightForConditionalGeneration(_Firstsight):
    """A model that sees; a frozen encoder's weights are in its files under `encoder.`."""

    def __init__(self, config: FirstsightConfig) -> None:
        if not isinstance(config.spec, VLMSpec):
            raise ModelError("wanted a model that sees. Got a text model. Load it with AutoModelForCausalLM.")
        super().__init__(config)


def _frozen(spec: LMSpec | VLMSpec) -> Encoder | None:
    if not isinstance(spec, VLMSpec) or spec.encoder == "trained" or isinstance(spec.vision, Patches):
        return None
    return Encoder(spec.vision).requires_grad_(False)


def _real(mask: Tensor | dict[str, Any] | None, ids: Ids, past: int) -> Bool[Tensor, "B S"]:
    """True where a token stands, old and new, False at padding."""
    whole = (ids.shape[0], past + ids.shape[1])
    if mask is None:
        return torch.ones(whole, dtype=torch.bool, device=ids.device)
    if isinstance(mask, dict):
        raise ModelError("wanted a cache that grows. Got a static one, and its masks. Leave cache_implementation out.")
    if tuple(mask.shape) != whole:
        raise ModelError(f"attention_mask: wanted {list(whole)}, old and new tokens. Got {list(mask.shape)}. Give all.")
    return mask.bool()


def _positions(given: Tensor | None, real: Bool[Tensor, "B S"], new: int) -> Int[Tensor, "B T"]:
    """Of the new tokens, counted from each row's first real one; -1 at padding."""
    counted = real.long().cumsum(1) - 1 if given is None else given.long().expand(len(real), -1)
    return torch.where(real[:, -new:], counted[:, -new:], -1)


def seen(real: Bool[Tensor, "B S"], new: int, pictures: Int[Tensor, "B T"] | None = None) -> Bool[Tensor, "B 1 T S"]:
    """True where each new token may look: backwards at real tokens, at itself, and anywhere inside its own picture."""
    columns = torch.arange(real.shape[1], device=real.device)
    rows = columns[-new:, None]
    allowed = (real[:, None, :] & (columns <= rows)) | (columns == rows)
    if pictures is not None:
        together = (pictures[:, :, None] == pictures[:, None, :]) & (pictures >= 0)[:, None, :]
        allowed[:, :, -new:] |= together
    return allowed[:, None]


def _frame(lm: LM, positions: Int[Tensor, "B T"], allowed: Bool[Tensor, "B 1 T S"]) -> Frame:
    wide = torch.float64 if lm.compute == torch.float64 else torch.float32
    cos, sin = layers.rotations(positions, lm.spec.rope, head=lm.spec.head, dtype=wide)
    return Frame(cos=cos, sin=sin, mask=layers.additive(allowed, wide), positions=positions)


def extended(lm: LM, x: Stream, frame: Frame, *, cache: Any) -> Stream:
    """The blocks over tokens that come after those in transformers' cache, which takes them up."""
    assert isinstance(frame.mask, Tensor)
    mask = frame.mask.to(lm.compute)
    for index, layer in enumerate(lm.layers):
        w: Weights = layer.weights()  # pyright: ignore[reportCallIssue]
        h = norm(x, w.attention_norm, lm.shape)
        if w.shift is not None:
            before = remembered(cache, index, h, positions=frame.positions, lag=w.shift.shape[0] - 1)
            h = layers.shifted(h, w.shift.to(h.dtype), before, frame.positions)
        q, k, v = layers.project(w, h, (frame.cos, frame.sin), lm.shape)
        k, v = cache.update(k, v, index)
        x = layers.finish(w, x, F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True), lm.shape)
    return x


def remembered(
    cache: Any, index: int, h: Float[Tensor, "B T D"], *, positions: Int[Tensor, "B T"], lag: int
) -> Float[Tensor, "B lag D"]:
    """The last inputs before `h` that a layer's cache holds, which takes up those of `h`.

    Its last `lag` are then each row's last real ones, whatever padding follows, and so they stay where the cache takes
    back tokens of `h`, as it does for guesses that were wrong.
    """
    held = cache.layers[index].conv_states[0]
    before = h.new_zeros(len(h), lag, h.shape[2]) if held is None else held[..., -lag:].transpose(1, 2).clone()
    columns = torch.arange(lag + h.shape[1], device=h.device)
    last = torch.where(positions >= 0, columns[: h.shape[1]], -1).amax(dim=1)
    kept = (columns + last[:, None] + 1 - h.shape[1]).clamp(min=0)[..., None].expand(-1, -1, h.shape[2])
    both = torch.cat((before, h), dim=1).gather(1, kept)
    cache.update_conv_state(both.transpose(1, 2), index, conv_kernel_size=lag)
    return before


AutoConfig.register("firstsight", FirstsightConfig)
AutoModelForCausalLM.register(FirstsightConfig, FirstsightForCausalLM)
AutoModelForImageTextToText.register(FirstsightConfig, FirstsightForConditionalGeneration)
AutoImageProcessor.register(
    FirstsightConfig,
    image_processor_classes={"pil": FirstsightImageProcessor, "torchvision": FirstsightImageProcessor},
)
AutoProcessor.register(FirstsightConfig, FirstsightProcessor)
