"""Rows to batches: `Stream.batch(step)` is a pure function of the step, so resuming is one integer.

Legend: B rows of T tokens, N pictures in the batch (varies, may be 0) of I tokens of width W, or of S x S pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float16, Int8, Int32, Int64, UInt8
from torch import Tensor

from firstsight.data.index import Index, read_image
from firstsight.data.order import picks, shuffled, split
from firstsight.data.pack import Pieces, RowTable
from firstsight.data.pictures import decode
from firstsight.data.tokenizer import ALWAYS, BEFORE
from firstsight.errors import MixError
from firstsight.recipe.stages import Rows

IGNORED = -100
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Pictures as what the frozen encoder made of them, in the order of the index."""

    array: Float16[np.ndarray, "pictures I W"]

    @classmethod
    def open(cls, folder: Path) -> Features:
        """The output of an encode step, memory-mapped."""
        return cls(array=np.load(folder / "features.npy", mmap_mode="r").view(np.ndarray))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape[1:]

    def take(self, numbers: Int64[np.ndarray, "N"]) -> Float16[np.ndarray, "N I W"]:
        return self.array[numbers]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pixels:
    """Pictures decoded when they are needed, for a model without a frozen encoder."""

    index: Index
    folder: Path
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size, 3)

    def take(self, numbers: Int64[np.ndarray, "N"]) -> UInt8[np.ndarray, "N S S 3"]:
        found = np.empty((len(numbers), *self.shape), dtype=np.uint8)
        for place, number in enumerate(numbers.tolist()):
            found[place] = decode(read_image(self.folder, self.index, number), self.size)
        return found


Pictures = Features | Pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """One source ready to be drawn from."""

    name: str
    index: Index
    table: RowTable
    pictures: Pictures | None
    """None for text."""
    answers_only: bool
    """Fine-tuning: questions carry no loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """B rows of T tokens; what is not a token (picture slots, padding) holds the pad id."""

    tokens: Int64[Tensor, "B T"]
    targets: Int64[Tensor, "B T"]
    """The next token where it carries loss, IGNORED elsewhere."""
    docs: Int32[Tensor, "B T"]
    """Document within the row from 0, -1 for padding."""
    positions: Int32[Tensor, "B T"]
    """Within the document, from 0."""
    slots: Int64[Tensor, "B T"]
    """Row of `images` flattened to [N*I, W] that belongs here, -1 elsewhere."""
    images: Float16[Tensor, "N I W"] | UInt8[Tensor, "N S S 3"]
    kinds: Int8[Tensor, "B"]
    """0 text, 1 and up the image sources in the order of the mix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Achieved:
    """What a run really holds, counted row by row; shares are of the whole run."""

    rows: dict[str, int]
    tokens: dict[str, int]
    """Padding not among them."""
    loss_tokens: dict[str, int]
    epochs: dict[str, float]
    asked: Fraction
    """Share of image rows."""
    padding: float

    def record(self) -> dict[str, object]:
        """As JSON: counts by source, and the image part's share in all three units."""
        counts = {"rows": self.rows, "tokens": self.tokens, "loss_tokens": self.loss_tokens}
        text = next(iter(self.rows))
        shares = {unit: 1 - held[text] / max(1, sum(held.values())) for unit, held in counts.items()}
        return {"asked": str(self.asked), "achieved": shares, **counts, "epochs": self.epochs, "padding": self.padding}


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
        blank = _Blank(size, self.rows.length, self.text.index.special.pad)
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


class _Blank:
    """A batch while it is filled: flat arrays, so that every feed writes all its rows with one indexing each."""

    def __init__(self, batch: int, length: int, pad: int) -> None:
        self.shape, places = (batch, length), batch * length
        self.tokens = np.full(places, pad, dtype=np.int64)
        self.targets = np.full(places, IGNORED, dtype=np.int64)
        self.docs = np.full(places, -1, dtype=np.int32)
        self.positions = np.zeros(places, dtype=np.int32)
        self.slots = np.full(places, -1, dtype=np.int64)
        self.kinds = np.zeros(batch, dtype=np.int8)
        self.images: list[np.ndarray] = []

    def put(self, feed: Feed, kind: int, places: Int64[np.ndarray, "n"], rows: Int64[np.ndarray, "n"]) -> None:
        """Write `rows` of a feed's table into the batch's rows `places`."""
        table = feed.table
        first, stop = table.first[rows], table.first[rows + 1]
        pieces, nth = _ranges(first, stop)
        held = table.pieces.taken(pieces)
        start = np.repeat(places, stop - first) * self.shape[1] + table.column[pieces]
        slots = np.where(held.image >= 0, table.image_tokens, 0)
        whole, within = _ranges(start, start + slots + held.count)
        self.kinds[places] = kind
        self.docs[whole] = np.repeat(nth, slots + held.count)
        self.positions[whole] = within
        self._words(feed, held, start, slots)
        if feed.pictures is not None:
            self._pictures(feed.pictures, held, start, table.image_tokens)

    def _words(self, feed: Feed, held: Pieces, start: np.ndarray, slots: np.ndarray) -> None:
        """Tokens, and one place to their left the targets; a piece that goes on also aims at the token behind it."""
        source, within = _ranges(held.start, held.start + held.count + held.goes_on)
        aim = np.repeat(start + slots, held.count + held.goes_on) + within
        token, loss = feed.index.tokens[source], feed.index.loss[source]
        inside = within < np.repeat(held.count, held.count + held.goes_on)
        self.tokens[aim[inside]] = token[inside]
        carries = (loss == ALWAYS) | ((loss == BEFORE) & (not feed.answers_only))
        carries &= (within > 0) | np.repeat(slots > 0, held.count + held.goes_on)
        self.targets[aim[carries] - 1] = token[carries]

    def _pictures(self, pictures: Pictures, held: Pieces, start: np.ndarray, tokens: int) -> None:
        pictured = np.flatnonzero(held.image >= 0)
        before = sum(len(array) for array in self.images)
        aim, _ = _ranges(start[pictured], start[pictured] + tokens)
        self.slots[aim] = before * tokens + np.arange(len(aim))
        self.images.append(pictures.take(held.image[pictured].astype(np.int64)))

    def finished(self, pictures: Pictures | None) -> Batch:
        if pictures is None:
            images = np.zeros((0, 0, 0), dtype=np.float16)
        elif self.images:
            images = np.concatenate(self.images)
        else:
            images = pictures.take(np.zeros(0, dtype=np.int64))
        flat = (self.tokens, self.targets, self.docs, self.positions, self.slots)
        tokens, targets, docs, positions, slots = (torch.from_numpy(array.reshape(self.shape)) for array in flat)
        return Batch(
            tokens=tokens,
            targets=targets,
            docs=docs,
            positions=positions,
            slots=slots,
            images=torch.from_numpy(images),
            kinds=torch.from_numpy(self.kinds),
        )


def _ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all ranges [start, stop) in a row, and each one's place inside its range."""
    count = stop - start
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.repeat(start, count) + within, within
