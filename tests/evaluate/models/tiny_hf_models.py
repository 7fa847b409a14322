"""Tiny transformers models with random weights, saved with their processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
SIGLIP = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
VICUNA = (
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% for c in m['content'] if c['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer(special_tokens: list[str], **named: str) -> Any:
    """A tokenizer of bytes with special tokens; <s> is the bos, </s> the eos token."""
    from transformers import PreTrainedTokenizerFast

    alphabet = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<s>", "</s>", *special_tokens)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", extra_special_tokens=named
    )


def llava(folder: Path) -> Path:
    """LLaVA with SigLIP: all images become the same few tokens."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, SiglipImageProcessorPil

    tokenizer = byte_tokenizer(["<image>"], image_token="<image>")
    vision = {"model_type": "siglip_vision_model", **SIGLIP}
    config = LlavaConfig(
        vision_config=vision,
        text_config={**LLAMA, "vocab_size": len(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": 28, "width": 28}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="full",
        chat_template=VICUNA,
    )
    return _save(folder, LlavaForConditionalGeneration, config, processor)


def paligemma(folder: Path) -> Path:
    """PaliGemma: no chat template, attention over its prefix in both directions."""
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessorPil,
    )

    tokenizer = byte_tokenizer(["<image>"], image_token="<image>")
    image_processor = SiglipImageProcessorPil(size={"height": 28, "width": 28}, image_seq_length=4)
    processor = PaliGemmaProcessor(image_processor, tokenizer)
    text = {**LLAMA, "model_type": "gemma", "head_dim": 16, "vocab_size": len(tokenizer)}
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **SIGLIP},
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
        tie_word_embeddings=False,
    )
    return _save(folder, PaliGemmaForConditionalGeneration, config, processor)


def idefics3(folder: Path) -> Path:
    """Idefics3: large images are split into tiles."""
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
    )

    tokenizer = byte_tokenizer(["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"])
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        tokenizer,
        image_seq_len=4,
        chat_template=VICUNA.replace("<image>\n", "<image>"),
    )
    config = Idefics3Config(
        vision_config={**SIGLIP, "patch_size": 7},
        text_config={**LLAMA, "vocab_size": len(tokenizer)},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _save(folder, Idefics3ForConditionalGeneration, config, processor)


def qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: dynamic resolution, three-dimensional positions; its folder asks for sampling and a penalty."""
    from transformers import (
        GenerationConfig,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
        Qwen2VLProcessor,
    )

    from firstsight.evaluate.models.hf_folder import without_video_processor

    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = byte_tokenizer(marks)
    ids = dict(zip(marks, tokenizer.convert_tokens_to_ids(marks), strict=True))
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    processor = without_video_processor(Qwen2VLProcessor)(
        Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28}),
        tokenizer,
        None,
        chat_template=CHATML.replace("IMAGE", image),
    )
    config = Qwen2VLConfig(
        text_config={
            **LLAMA,
            "model_type": "qwen2_vl_text",
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        vision_config={"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    _save(folder, Qwen2VLForConditionalGeneration, config, processor)
    ends = [ids["<|im_end|>"], tokenizer.eos_token_id]
    GenerationConfig(
        do_sample=True, temperature=5.0, top_k=50, repetition_penalty=1.5, eos_token_id=ends, pad_token_id=ends[1]
    ).save_pretrained(folder)
    return folder


def _save(folder: Path, kind: Any, config: Any, processor: Any) -> Path:
    """Saved with weights large enough that answers depend on the image and the question."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(_WEIGHT_SCALES.get(next((part for part in _WEIGHT_SCALES if part in name), ""), 4.0))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


_WEIGHT_SCALES = {"embed_tokens": 8.0, "patch_embed": 12.0, "merger": 12.0, "projector": 12.0, "connector": 12.0}
"""Factors of the weights by part of a model; 4 for the others."""
