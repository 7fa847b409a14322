"""Prompts that look like the beginning of a training row."""

from __future__ import annotations

from firstsight.data.tokenizer import Tokenizer, prompt_spans, tokenize_spans
from firstsight.errors import DataError


def encode_prompt(tokenizer: Tokenizer, question: str, *, image_tokens: int) -> list[int]:
    """Tokens up to where the answer begins, as in training rows: slots (pad ids) first, or the start token."""
    [(ids, _)] = tokenize_spans(tokenizer, [(prompt_spans(question), image_tokens > 0)])
    return [tokenizer.special_ids.pad] * image_tokens + ids.tolist()


def encode_context(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text document that has begun and is to be continued."""
    if not text.strip():
        raise DataError("a context needs words. Got nothing but white space.")
    [ids] = tokenizer.encode([text])
    return [tokenizer.special_ids.end, *ids]
