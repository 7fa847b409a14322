"""Which tokenizer belongs to weights that come in: the one beside them, or another of the same numbers."""

from __future__ import annotations

from pathlib import Path

from firstsight.data.tokenizer import load as load_tokenizer
from firstsight.errors import ModelError, RequestError
from firstsight.hub.finding import folder_of


def tokenizer(place: Path, asked: str, vocabulary: int) -> Path:
    """The tokenizer.json that belongs to the model; ModelError where its numbers are not the model's."""
    own = place / "tokenizer.json"
    if not asked and not own.is_file():
        pieces = " (a tokenizer.model becomes one by AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER))"
        raise RequestError(
            f"{place}: wanted a tokenizer.json beside the weights. Got none. Give --tokenizer with a file, "
            f"folder or hub name{pieces if place.joinpath('tokenizer.model').is_file() else ''}; "
            "OpenLM and DCLM use EleutherAI/gpt-neox-20b."
        )
    found = folder_of(asked, weights=False) if asked else own
    words = load_tokenizer(found)
    advice = "Give the tokenizer that the model was trained with."
    far = not own.is_file() and 2 * words.published < vocabulary  # nothing else says that they belong together
    if words.published > vocabulary or far:
        raise ModelError(
            f"{words.path}: wanted the tokenizer of a model with {vocabulary} token rows. Got one of "
            f"{words.published} tokens. {advice}"
        )
    if own.is_file() and (differing := _differing(own, words.path)):
        raise ModelError(f"{words.path}: wanted the vocabulary of {own}. Got {differing} other tokens. {advice}")
    return words.path


def _differing(one: Path, other: Path) -> int:
    """How many tokens have another number in the other file, or none."""
    from tokenizers import Tokenizer as Fast

    first, second = (Fast.from_file(str(file)).get_vocab(with_added_tokens=True) for file in (one, other))
    return len(first.items() ^ second.items())
