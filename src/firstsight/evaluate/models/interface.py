"""The interface of a model under evaluation, and the files that such a model is loaded from."""

from __future__ import annotations

import unicodedata
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from firstsight.data.records import RecordError
from firstsight.errors import DataError, ModelError

_MODEL_FILE_SUFFIXES = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model", ".py")
_TRAINING_FILE_PREFIXES = ("optimizer", "training_args", "trainer_state", "scheduler")
"""Files that training writes to a model's folder and that do not affect its answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """A prompt and the encoded image it is about, as returned by `EvalModel.encode_images`; None for no image."""

    text: str
    image: object | None
    references: tuple[str, ...] = ()
    """Texts whose likelihood as the whole answer is needed."""
    sample_keys: tuple[int, ...] = ()
    """One sampled answer is needed for each; the keys of their random numbers, from 0 to 2^64 - 1."""


class RawAnswer(NamedTuple):
    """A model's answer to a question, and the model's distribution over answers as far as it is needed."""

    text: str
    """The greedy answer; of a question with choices the index of the likeliest one, the first on a tie."""
    log_likelihoods: tuple[float | None, ...] = ()
    """Of each reference followed by the answer's end, or of each choice. None for a reference without a probability of
    its own: the tokenizer cannot represent it or encodes it like an earlier one, or a logit of it is minus infinity."""
    samples: tuple[str, ...] = ()
    """Answers that were sampled at temperature 1; none where the model does not sample."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceRequest:
    """A prompt, its encoded image as in GenerationRequest, and the answers to rank by likelihood."""

    text: str
    image: object | None
    choices: tuple[str, ...]
    is_chat_turn: bool
    """Whether a choice is the reply in a dialogue (vision tasks), or continues the text after a space (text tasks)."""


@runtime_checkable
class EvalModel(Protocol):
    """A model that can be evaluated: native checkpoints and transformers models implement it."""

    @property
    def has_vision(self) -> bool:
        """Whether the model accepts images."""
        ...

    @property
    def image_batch(self) -> int:
        """How many encoded images to keep in memory at once."""
        ...

    def check_vocabulary(self, texts: Sequence[str], *, location: str) -> None:
        """RequestError that names the words which the tokenizer cannot represent."""
        ...

    def encode_images(self, named_images: Sequence[tuple[str, bytes]]) -> list[object]:
        """The `image` of a request for each (name, encoded image file); DataError for bytes that are no image."""
        ...

    def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[RawAnswer]:
        """Greedy answers, in order, with the likelihoods of the references and the samples that a request needs."""
        ...

    def rank_choices(self, requests: Sequence[ChoiceRequest]) -> Iterator[RawAnswer]:
        """The index of each request's likeliest choice, in order, with the log-likelihoods of all its choices.

        As lm-eval's `acc`: summed over tokens, without normalisation by length.
        """
        ...


def rank(log_likelihoods: Sequence[float]) -> RawAnswer:
    """The answer to a question with these log-likelihoods of its choices."""
    likeliest = max(range(len(log_likelihoods)), key=log_likelihoods.__getitem__)
    return RawAnswer(str(likeliest), tuple(log_likelihoods))


def is_decoded(decoded: str, text: str) -> bool:
    """Whether a tokenizer's decoding of a text is that text, but for what not every tokenizer preserves."""
    return _fold_text(decoded) == _fold_text(text)


def _fold_text(text: str) -> str:
    """`text` without case, spaces, punctuation and control characters, in NFKC: what every tokenizer preserves."""
    characters = (character for character in unicodedata.normalize("NFKC", text.lower()) if not character.isspace())
    return "".join(character for character in characters if unicodedata.category(character)[0] not in "CP")


@contextmanager
def image_errors(name: str) -> Generator[None, None, None]:
    """Turns an image decoder's RecordError into a DataError that names the image."""
    try:
        yield
    except RecordError as error:
        raise DataError(f"{name}: wanted an image. Got {error.detail}. Give a PNG, JPEG or WebP file.") from error


def list_checkpoint_files(checkpoint: Path) -> list[Path]:
    """The files that determine a checkpoint's answers, sorted: without optimizer states, logs and ledgers.

    ModelError for a folder that is neither in firstsight's (spec.json) nor in transformers' layout (config.json).
    """
    if (checkpoint / "spec.json").is_file():
        paths = [checkpoint / "spec.json", checkpoint / "tokenizer.json", *checkpoint.glob("model*.safetensors*")]
        return sorted(path for path in (*paths, *checkpoint.glob("encoder[0-9]*/*")) if path.is_file())
    if (checkpoint / "config.json").is_file():
        paths = [path for path in checkpoint.iterdir() if path.suffix in _MODEL_FILE_SUFFIXES and path.is_file()]
        return sorted(path for path in paths if not path.name.startswith(_TRAINING_FILE_PREFIXES))
    names = sorted(path.name for path in checkpoint.iterdir())[:5] if checkpoint.is_dir() else []
    raise ModelError(
        f"{checkpoint}: wanted a checkpoint: a folder with spec.json (firstsight) or config.json (transformers). "
        f"Got {', '.join(names) or 'nothing'}. Name the output of a training step, or a downloaded model's folder."
    )
