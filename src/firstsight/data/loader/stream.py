"""Which rows a step reads: `Stream.batch(step)` is a pure function of the step, so resuming is one integer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Int64

from firstsight.data.loader.feeds import Feed
from firstsight.data.loader.rows import Batch, Blank
from firstsight.data.order import picks, shuffled, split
from firstsight.errors import MixError
from firstsight.recipe.stages import Rows

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Achieved:
    """What a run really holds, counted row by row; shares are of the whole run."""

    rows: dict[str, int]
    tokens: dict[str, int]
    """Padding not among them."""
    loss_tokens: dict[str, int]
    epochs: dict[str, float]
    text_rows_seen: int
    """Of this stage and all before: where the text of the next stage begins."""
    asked: Fraction
    """Share of image rows."""
    padding: float

    def record(self) -> dict[str, object]:
        """As JSON: counts by source, and the image part's share in all three units."""
        counts = {"rows": self.rows, "tokens": self.tokens, "loss_tokens": self.loss_tokens}
        text = next(iter(self.rows))
        shares = {unit: 1 - held[text] / max(1, sum(held.values())) for unit, held in counts.items()}
        return {
            "asked": str(self.asked),
            "achieved": shares,
            **counts,
            "epochs": self.epochs,
            "padding": self.padding,
            "text_rows_seen": self.text_rows_seen,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """All batches of one training step: text beside image rows, exactly mixed, each source in its own seeded order.

    Construction raises MixError when a source holds too few rows or when sources do not fit together.
    """

    text: Feed
    images: tuple[tuple[Feed, Fraction], ...]
    """Image sources with their shares of the image part; these sum to 1."""
    share: Fraction
    """Of all rows, how many are image rows."""
    rows: Rows
    seed: int
    text_rows_seen: int
    """Text rows that came before this stream: its own go on from there."""
    steps: int
    epochs: int
    """How often a source may be gone through at most."""

    def __post_init__(self) -> None:
        _check_fit(self)
        _check_supply(self)

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """Text first, then the image sources: the order of `Batch.kinds`."""
        return (self.text, *(feed for feed, _ in self.images))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feed.name for feed in self.feeds)

    def batch(self, step: int) -> Batch:
        """The rows of step `step`, from 0; the same for any history."""
        size = self.rows.batch
        blank = Blank(size, self.rows.length, self.text.index.special.pad)
        for kind, (places, rows) in enumerate(self._drawn(np.arange(step * size, (step + 1) * size))):
            if len(places):
                blank.put(self.feeds[kind], kind, places, rows)
        return blank.finished(next((feed.pictures for feed in self.feeds[1:]), None))

    def samples(self, step: int) -> list[list[tuple[int, int]]]:
        """The ledger of a step: for each row the (kind, record of its index) that it holds."""
        ledger: list[list[tuple[int, int]]] = [[] for _ in range(self.rows.batch)]
        first = step * self.rows.batch
        for kind, (places, rows) in enumerate(self._drawn(np.arange(first, first + self.rows.batch))):
            table = self.feeds[kind].table
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                held = table.pieces.sample[table.first[row] : table.first[row + 1]]
                ledger[place] = [(kind, number) for number in held.tolist()]
        return ledger

    def _drawn(self, positions: Int64[np.ndarray, "n"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each feed which of `positions` it fills (as places among them) and with which of its table's rows."""
        pictured, nth = picks(positions, self.share)
        places = np.flatnonzero(~pictured)
        yield places, self._rows(0, nth[places] + self.text_rows_seen)
        if not self.images:
            return
        places = np.flatnonzero(pictured)
        part, within = split(nth[places], [share for _, share in self.images])
        for number in range(len(self.images)):
            mine = part == number
            yield places[mine], self._rows(number + 1, within[mine])

    def _rows(self, kind: int, nth: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
        if not len(nth):
            return nth
        return shuffled(nth, count=self.feeds[kind].table.rows, seed=self.seed * 1_000_003 + kind)[1]

    def achieved(self, steps: int) -> Achieved:
        """Rows, tokens and loss tokens of the first `steps` steps by source; raises MixError where the share is off."""
        total = steps * self.rows.batch
        counts = np.zeros((len(self.feeds), 3), dtype=np.int64)
        for start in range(0, total, _CHUNK):
            for kind, (_, rows) in enumerate(self._drawn(np.arange(start, min(total, start + _CHUNK)))):
                counts[kind] += _counted(self.feeds[kind], rows)
        wanted, got = total * self.share.numerator // self.share.denominator, int(counts[1:, 0].sum())
        if got != wanted:
            raise MixError(f"{self.text.name}: wanted {wanted} image rows of {total}. Got {got}. Report this as a bug.")
        rows, tokens, loss = (dict(zip(self.names, counts[:, unit].tolist(), strict=True)) for unit in range(3))
        return Achieved(
            rows=rows,
            tokens=tokens,
            loss_tokens=loss,
            epochs={feed.name: rows[feed.name] / max(1, feed.table.rows) for feed in self.feeds},
            text_rows_seen=self.text_rows_seen + rows[self.text.name],
            asked=Fraction(self.share),
            padding=1 - int(counts[:, 1].sum()) / max(1, total * self.rows.length),
        )


def _counted(feed: Feed, rows: Int64[np.ndarray, "n"]) -> tuple[int, int, int]:
    """Rows, tokens and loss tokens of some rows of a feed."""
    table = feed.table
    loss = table.always if feed.answers_only else table.always + table.before
    return len(rows), int(table.filled[rows].sum(dtype=np.int64)), int(loss[rows].sum(dtype=np.int64))


def _check_fit(stream: Stream) -> None:
    """Same row length, tokenizer and picture shape everywhere, and names that tell the feeds apart."""
    text, names = stream.text, stream.names
    if stream.share and not stream.images:
        raise MixError(
            f"{text.name}: wanted {stream.share} image rows. Got no image source. Add one, or make the share 0."
        )
    if len(set(names)) < len(names):
        raise MixError(f"sources need names of their own. Got {', '.join(names)}.")
    for feed in stream.feeds:
        if feed.table.length != stream.rows.length:
            raise MixError(f"{feed.name}: wanted rows of {stream.rows.length}. Got {feed.table.length}. Pack it again.")
        if feed.index.tokenizer_digest != text.index.tokenizer_digest:
            raise MixError(
                f"{feed.name}: wanted the tokenizer of {text.name}. Got another tokenizer. Prepare it again."
            )
    shapes = {None if feed.pictures is None else feed.pictures.shape for feed, _ in stream.images}
    if len(shapes) > 1 or None in shapes:
        raise MixError(f"{', '.join(names[1:])}: wanted pictures of one shape. Got {', '.join(map(str, shapes))}.")


def _check_supply(stream: Stream) -> None:
    """Every source holds its rows of the whole run in at most `epochs` passes."""
    total = stream.steps * stream.rows.batch
    pictured = total * stream.share.numerator // stream.share.denominator
    wanted = [stream.text_rows_seen + total - pictured]
    left, rest = pictured, Fraction(1)
    for _, share in stream.images:
        part = share / rest if rest else Fraction(0)
        wanted.append(left * part.numerator // part.denominator)
        left, rest = left - wanted[-1], rest - share
    for feed, want in zip(stream.feeds, wanted, strict=True):
        have = feed.table.rows
        if want > have * stream.epochs:
            needed = f"allow epochs={-(-want // have)}, " if have else ""
            raise MixError(
                f"{feed.name}: wants {want:,} rows, but {feed.index.path} holds {have:,} and may be gone through "
                f"{stream.epochs} times. Train for fewer tokens, {needed}or add a source."
            )
