"""An EvalModel without weights: answers are a function of the request, and all requests are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from firstsight.errors import ModelError
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest


class ScriptedModel:
    """Answers "IMAGE|PROMPT", ranks choices by a digest of both, raises ModelError before answer number `fail_at`."""

    def __init__(self, *, has_vision: bool = True, fail_at: int | None = None, image_batch: int = 2) -> None:
        self._has_vision, self._fail_at, self._image_batch = has_vision, fail_at, image_batch
        self.requests: list[GenerationRequest | ChoiceRequest] = []
        self.image_names: list[str] = []
        self.num_answers = 0

    @property
    def has_vision(self) -> bool:
        return self._has_vision

    @property
    def image_batch(self) -> int:
        return self._image_batch

    def check_vocabulary(self, texts: Sequence[str], *, location: str) -> None:
        """Accepts any text."""

    def encode_images(self, named_images: Sequence[tuple[str, bytes]]) -> list[object]:
        self.image_names += [name for name, _ in named_images]
        return [sha256(data).hexdigest() for _, data in named_images]

    def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[str]:
        for request in requests:
            self.record(request)
            yield f"{request.image}|{request.text}"

    def rank_choices(self, requests: Sequence[ChoiceRequest]) -> Iterator[int]:
        for request in requests:
            self.record(request)
            yield sha256(f"{request.image}|{request.text}".encode()).digest()[0] % len(request.choices)

    def record(self, request: GenerationRequest | ChoiceRequest) -> None:
        """Count a request, or raise ModelError."""
        if self.num_answers == self._fail_at:
            raise ModelError("no memory is left. Take a larger machine.")
        self.requests.append(request)
        self.num_answers += 1
