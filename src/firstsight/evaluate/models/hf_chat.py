"""Prompt formats of transformers models: a question as the model was trained to read it, and its parsed answer.

Models with a chat template use it. PaliGemma has none: it was trained on one-line prefixes, and writes boxes as
location tokens. Its prompts are `answer en QUESTION`, without the sentences that ask for brief answers, and
`detect PHRASE` for a box. Source: transformers, models/paligemma, and big_vision's README of PaliGemma.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from PIL import Image

from firstsight.data.records import IMAGE_PLACEHOLDER, strip_image_placeholder
from firstsight.errors import ModelError
from firstsight.evaluate.models.hf_folder import HFComponents
from firstsight.limits import check_limit

_BOX_REQUEST = "Please provide the bounding box coordinate of the region this sentence describes"
_BOX_PROMPT = re.compile(rf'^{_BOX_REQUEST}: "(?P<phrase>.*)"$')
_BREVITY_PROMPTS = (
    "Answer the question using a single word or phrase.",
    "When the provided information is insufficient, respond with 'Unanswerable'.",
)


_TEMPLATE_ERRORS = (TemplateError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What a chat template can raise in transformers' sandbox: it is a program that the model's publisher wrote."""


class ChatFormat:
    """The prompt format of one model: one user turn through its chat template; text unchanged for models without."""

    def __init__(self, components: HFComponents) -> None:
        self._components = components
        self._special_tokens = special_token_strings(components)

    def render(self, text: str, *, has_image: bool) -> str:
        """The whole prompt of a question, image token included."""
        processor, tokenizer, text = self._components.processor, self._components.tokenizer, self._clean(text)
        if processor is None and not tokenizer.chat_template:
            return self._components.text_prefix + text
        image_part = [{"type": "image"}] if has_image else []
        content = text if processor is None else [*image_part, {"type": "text", "text": text}]
        messages, renderer = [{"role": "user", "content": content}], tokenizer if processor is None else processor
        try:
            prompt = str(renderer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except _TEMPLATE_ERRORS as error:
            raise ModelError(
                f"{self._components.model_type}: wanted a prompt from the chat template of its folder. Got: "
                f"{type(error).__name__}: {error}. Copy chat_template.jinja again, as the model's publisher wrote it."
            ) from error
        check_limit(f"{self._components.model_type}: its chat template", "prompt", len(prompt))
        return prompt

    def model_inputs(self, rendered: Sequence[str], images: Sequence[Image.Image] | None) -> Any:
        """The model's inputs for rendered prompts, padded on the left; all rows have an image, or none has."""
        tokenizer = self._components.tokenizer
        has_bos = tokenizer.bos_token is not None and rendered[0].startswith(tokenizer.bos_token)
        settings = {"padding": True, "return_tensors": "pt", "add_special_tokens": not has_bos}
        if self._components.processor is None:
            return tokenizer(list(rendered), return_token_type_ids=False, **settings)
        image_lists = None if images is None else [[image] for image in images]
        return self._components.processor(text=list(rendered), images=image_lists, **settings)

    def parse_answer(self, answer: str) -> str:
        """The answer in the benchmarks' notation."""
        return answer

    def _clean(self, text: str) -> str:
        """A question without special tokens (they could end a turn or stand for an image) or a leading line break."""
        text = strip_image_placeholder(IMAGE_PLACEHOLDER + text)
        for token in self._special_tokens:
            text = text.replace(token, "")
        return text


class PaliGemmaFormat(ChatFormat):
    """PaliGemma's prefixes; see the module's docstring."""

    def render(self, text: str, *, has_image: bool) -> str:
        lines = self._clean(text).split("\n")
        clean_text = " ".join(line for line in lines if line.strip() and line not in _BREVITY_PROMPTS)
        box_match = _BOX_PROMPT.match(clean_text)
        prefix = f"detect {box_match['phrase']}" if box_match else f"answer en {clean_text}"
        image_token = getattr(self._components.processor, "image_token", "") if has_image else ""
        return f"{image_token}{self._components.tokenizer.bos_token}{prefix}\n"

    def model_inputs(self, rendered: Sequence[str], images: Sequence[Image.Image] | None) -> Any:
        settings = {"padding": True, "return_tensors": "pt"}
        if images is None:
            settings |= {"add_special_tokens": False, "return_token_type_ids": True}
            return self._components.tokenizer(list(rendered), **settings)
        assert self._components.processor is not None
        # the processor itself adds the bos token after the image, and the line break that ends a prefix
        bos_token = self._components.tokenizer.bos_token
        texts = [prompt.replace(bos_token, "", 1).removesuffix("\n") for prompt in rendered]
        inputs = self._components.processor(text=texts, images=[[image] for image in images], **settings)
        inputs.pop("labels", None)  # for training; all -100 here
        return inputs

    def parse_answer(self, answer: str) -> str:
        """`<loc0102>...` (y, x, y, x in 1,024ths) becomes [x, y, x, y] in shares of the image."""
        match = re.search(r"<loc(\d{4})>" * 4, answer)
        if match is None:
            return answer
        top, left, bottom, right = (int(bin_index) / 1024 for bin_index in match.groups())
        return f"[{left:.3f}, {top:.3f}, {right:.3f}, {bottom:.3f}]"


def chat_format_of(components: HFComponents) -> ChatFormat:
    """The prompt format of a model; ModelError for a vision-language model without a chat template."""
    if components.model_type == "paligemma":
        return PaliGemmaFormat(components)
    processor = components.processor
    if processor is not None and not processor.chat_template and not components.tokenizer.chat_template:
        raise ModelError(
            f"{components.model_type}: wanted a chat template, which defines the prompt. Got none in its folder. "
            "Put chat_template.jinja there as the model's card has it; base models are not trained on dialogues."
        )
    return ChatFormat(components)


def special_token_strings(components: HFComponents) -> list[str]:
    """The strings that a model's tokenizer or processor treats as special tokens, longest first."""
    tokenizer = components.tokenizer
    added_tokens = [str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
    image_token = getattr(components.processor, "image_token", None)  # some processors have none
    image_tokens = [image_token] if image_token else []
    return sorted({*added_tokens, *tokenizer.all_special_tokens, *image_tokens}, key=len, reverse=True)
