"""One who is asked without a model: answers are a function of what is asked, and everything asked is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from firstsight.errors import ModelError
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest


class Scripted:
    """Says "PICTURE|WORDS", chooses by a digest of both, and fails before answer number `dies`."""

    def __init__(self, *, sees: bool = True, dies: int | None = None, held: int = 2) -> None:
        self._sees, self._dies, self._held = sees, dies, held
        self.asked: list[GenerationRequest | ChoiceRequest] = []
        self.seen: list[str] = []
        self.answered = 0

    @property
    def has_vision(self) -> bool:
        return self._sees

    @property
    def image_batch(self) -> int:
        return self._held

    def check_vocabulary(self, texts: Sequence[str], *, location: str) -> None:
        """It reads everything."""

    def encode_images(self, named_images: Sequence[tuple[str, bytes]]) -> list[object]:
        self.seen += [name for name, _ in named_images]
        return [sha256(data).hexdigest() for _, data in named_images]

    def generate(self, requests: Sequence[GenerationRequest], *, max_new_tokens: int) -> Iterator[str]:
        for one in requests:
            self._count(one)
            yield f"{one.image}|{one.text}"

    def rank_choices(self, requests: Sequence[ChoiceRequest]) -> Iterator[int]:
        for one in requests:
            self._count(one)
            yield sha256(f"{one.image}|{one.text}".encode()).digest()[0] % len(one.choices)

    def _count(self, one: GenerationRequest | ChoiceRequest) -> None:
        if self.answered == self._dies:
            raise ModelError("no memory is left. Take a larger machine.")
        self.asked.append(one)
        self.answered += 1
