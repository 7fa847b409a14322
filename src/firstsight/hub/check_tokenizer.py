"""Which tokenizer belongs to weights that come in: the one beside them, or another of the same numbers."""

from __future__ import annotations

from pathlib import Path

from firstsight.data.tokenizer import load_tokenizer as load_tokenizer
from firstsight.errors import ModelError, RequestError
from firstsight.hub.download import resolve_hub_path


def matching_tokenizer_file(weights_path: Path, tokenizer_location: str, vocabulary_size: int) -> Path:
    """The tokenizer.json that belongs to the model; ModelError where its numbers are not the model's."""
    bundled_file = weights_path / "tokenizer.json"
    if not tokenizer_location and not bundled_file.is_file():
        conversion_hint = (
            " (a tokenizer.model becomes one by AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER))"
        )
        raise RequestError(
            f"{weights_path}: wanted a tokenizer.json beside the weights. Got none. Give --tokenizer with a file, "
            f"folder or hub name{conversion_hint if weights_path.joinpath('tokenizer.model').is_file() else ''}; "
            "OpenLM and DCLM use EleutherAI/gpt-neox-20b."
        )
    tokenizer_path = resolve_hub_path(tokenizer_location, needs_weights=False) if tokenizer_location else bundled_file
    tokenizer = load_tokenizer(tokenizer_path)
    advice = "Give the tokenizer that the model was trained with."
    is_too_small = (
        not bundled_file.is_file() and 2 * tokenizer.base_vocab_size < vocabulary_size
    )  # nothing else says that they belong together
    if tokenizer.base_vocab_size > vocabulary_size or is_too_small:
        raise ModelError(
            f"{tokenizer.path}: wanted the tokenizer of a model with {vocabulary_size} token rows. Got one of "
            f"{tokenizer.base_vocab_size} tokens. {advice}"
        )
    if bundled_file.is_file() and (differing_count := _count_differing_tokens(bundled_file, tokenizer.path)):
        raise ModelError(
            f"{tokenizer.path}: wanted the vocabulary of {bundled_file}. Got {differing_count} other tokens. {advice}"
        )
    return tokenizer.path


def _count_differing_tokens(first_file: Path, second_file: Path) -> int:
    """How many tokens have another number in the other file, or none."""
    from tokenizers import Tokenizer as Fast

    first_vocab, second_vocab = (
        Fast.from_file(str(file)).get_vocab(with_added_tokens=True) for file in (first_file, second_file)
    )
    return len(first_vocab.items() ^ second_vocab.items())
