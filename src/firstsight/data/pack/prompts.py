"""Prompts that look like the beginning of a training row."""

from __future__ import annotations

from firstsight.data.tokenizer import Tokenizer, lay, prompt_parts
from firstsight.errors import DataError


def prompt(tokenizer: Tokenizer, human: str, *, image_tokens: int) -> list[int]:
    """Tokens up to where the answer begins, as in training rows: slots (pad ids) first, or the start token."""
    [(ids, _)] = lay(tokenizer, [(prompt_parts(human), image_tokens > 0)])
    return [tokenizer.special.pad] * image_tokens + ids.tolist()


def context(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text document that has begun and is to be continued."""
    if not text.strip():
        raise DataError("a context needs words. Got nothing but white space.")
    [ids] = tokenizer.encode([text])
    return [tokenizer.special.end, *ids]
