"""Tiny models of other people's classes with random weights, saved to disk with the processors that they come with."""

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
    "{% if c['type'] == 'image' %}PICTURE{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def words(marks: list[str], **named: str) -> Any:
    """A tokenizer of bytes; `marks` are added, <s> and </s> begin and end."""
    from transformers import PreTrainedTokenizerFast

    alphabet = {mark: number for number, mark in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<s>", "</s>", *marks)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>", extra_special_tokens=named
    )


def llava(folder: Path) -> Path:
    """LLaVA with SigLIP: all pictures become the same few tokens."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor, SiglipImageProcessorPil

    known = words(["<image>"], image_token="<image>")
    vision = {"model_type": "siglip_vision_model", **SIGLIP}
    config = LlavaConfig(
        vision_config=vision,
        text_config={**LLAMA, "vocab_size": len(known)},
        image_token_index=known.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": 28, "width": 28}),
        tokenizer=known,
        patch_size=14,
        vision_feature_select_strategy="full",
        chat_template=VICUNA,
    )
    return _saved(folder, LlavaForConditionalGeneration, config, processor)


def paligemma(folder: Path) -> Path:
    """PaliGemma: no chat template, attention over its prefix in both directions."""
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessorPil,
    )

    known = words(["<image>"], image_token="<image>")
    pictures = SiglipImageProcessorPil(size={"height": 28, "width": 28}, image_seq_length=4)
    processor = PaliGemmaProcessor(pictures, known)
    text = {**LLAMA, "model_type": "gemma", "head_dim": 16, "vocab_size": len(known)}
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **SIGLIP},
        text_config=text,
        image_token_index=known.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
        tie_word_embeddings=False,
    )
    return _saved(folder, PaliGemmaForConditionalGeneration, config, processor)


def idefics3(folder: Path) -> Path:
    """Idefics3: large pictures are cut into tiles, as many as they need."""
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
    )

    known = words(["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"])
    processor = Idefics3Processor(
        Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        known,
        image_seq_len=4,
        chat_template=VICUNA.replace("<image>\n", "<image>"),
    )
    config = Idefics3Config(
        vision_config={**SIGLIP, "patch_size": 7},
        text_config={**LLAMA, "vocab_size": len(known)},
        scale_factor=2,
        image_token_id=known.convert_tokens_to_ids("<image>"),
    )
    return _saved(folder, Idefics3ForConditionalGeneration, config, processor)


def qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL: as many tokens as a picture has room for, positions in three directions, draws and penalises."""
    from transformers import (
        GenerationConfig,
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
        Qwen2VLProcessor,
    )

    from firstsight.evaluate.models.hf_folder import without_video_processor

    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    known = words(marks)
    ids = dict(zip(marks, known.convert_tokens_to_ids(marks), strict=True))
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    processor = without_video_processor(Qwen2VLProcessor)(
        Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 4 * 28 * 28}),
        known,
        None,
        chat_template=CHATML.replace("PICTURE", picture),
    )
    config = Qwen2VLConfig(
        text_config={
            **LLAMA,
            "model_type": "qwen2_vl_text",
            "vocab_size": len(known),
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        vision_config={"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    _saved(folder, Qwen2VLForConditionalGeneration, config, processor)
    ends = [ids["<|im_end|>"], known.eos_token_id]
    GenerationConfig(
        do_sample=True, temperature=5.0, top_k=50, repetition_penalty=1.5, eos_token_id=ends, pad_token_id=ends[1]
    ).save_pretrained(folder)
    return folder


def _saved(folder: Path, kind: Any, config: Any, processor: Any) -> Path:
    """Weights large enough that answers hang on the picture, and differ from question to question."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(_LOUD.get(next((part for part in _LOUD if part in name), ""), 4.0))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


_LOUD = {"embed_tokens": 8.0, "patch_embed": 12.0, "merger": 12.0, "projector": 12.0, "connector": 12.0}
"""By what parts of a model are multiplied."""
