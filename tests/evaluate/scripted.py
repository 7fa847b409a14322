"""One who is asked without a model: answers are a function of what is asked, and everything asked is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from firstsight.errors import ModelError
from firstsight.evaluate.speakers.speaker import Asked, Offered


class Scripted:
    """Says "PICTURE|WORDS", chooses by a digest of both, and fails before answer number `dies`."""

    def __init__(self, *, sees: bool = True, dies: int | None = None, held: int = 2) -> None:
        self._sees, self._dies, self._held = sees, dies, held
        self.asked: list[Asked | Offered] = []
        self.seen: list[str] = []
        self.answered = 0

    @property
    def sees(self) -> bool:
        return self._sees

    @property
    def held(self) -> int:
        return self._held

    def refuse_unknown(self, texts: Sequence[str], *, where: str) -> None:
        """It reads everything."""

    def see(self, encoded: Sequence[tuple[str, bytes]]) -> list[object]:
        self.seen += [name for name, _ in encoded]
        return [sha256(data).hexdigest() for _, data in encoded]

    def say(self, asked: Sequence[Asked], *, limit: int) -> Iterator[str]:
        for one in asked:
            self._count(one)
            yield f"{one.picture}|{one.text}"

    def choose(self, offered: Sequence[Offered]) -> Iterator[int]:
        for one in offered:
            self._count(one)
            yield sha256(f"{one.picture}|{one.text}".encode()).digest()[0] % len(one.choices)

    def _count(self, one: Asked | Offered) -> None:
        if self.answered == self._dies:
            raise ModelError("no memory is left. Take a larger machine.")
        self.asked.append(one)
        self.answered += 1
