"""An EvalModel without weights: answers are a function of the request, and all requests are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from math import log

from firstsight.errors import ModelError
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest, RawAnswer


class ScriptedModel:
    """Answers "IMAGE|PROMPT", ranks choices by a digest of both, raises ModelError before answer number `fail_at`.

    Every reference has the probability 1/4, the chosen one of two choices 3/4; samples are equal to the answer.
    """

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

    def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[RawAnswer]:
        for request in requests:
            self.record(request)
            text = f"{request.image}|{request.text}"
            yield RawAnswer(text, (log(1 / 4),) * len(request.references), (text,) * len(request.sample_keys))

    def rank_choices(self, requests: Sequence[ChoiceRequest]) -> Iterator[RawAnswer]:
        for request in requests:
            self.record(request)
            chosen = sha256(f"{request.image}|{request.text}".encode()).digest()[0] % len(request.choices)
            yield RawAnswer(str(chosen), tuple(log(3 if n == chosen else 1) for n in range(len(request.choices))))

    def record(self, request: GenerationRequest | ChoiceRequest) -> None:
        """Count a request, or raise ModelError."""
        if self.num_answers == self._fail_at:
            raise ModelError("no memory is left. Take a larger machine.")
        self.requests.append(request)
        self.num_answers += 1
