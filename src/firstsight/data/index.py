"""`prepare`: one pass over a source that checks, tokenizes and indexes it; `Index`: what that pass left.

samples.npy        tokens_from, tokens_count, shown_from, shown_count, one a record
shown.npy          picture, at: which pictures a record shows, each before which of the record's tokens
tokens.npy         all tokens in a row; loss.npy beside it (0 never, 1 always, 2 only before fine-tuning)
images.npy         shard, offset, size, hash of every picture's encoded bytes in the source; shards.json names them
manifest.json      counts, form, tokenizer, special ids, digest of all of the above
quarantine.jsonl   what was refused: reason, shard, where, detail
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from time import monotonic

import numpy as np
from jaxtyping import Integer, UInt8

from firstsight.data import sources, tokenizer
from firstsight.data.records import Bad, Dialogue, ImageText, Place, Record
from firstsight.errors import DataError
from firstsight.recipe.mix import Captions, Dialogues, Form, Named, Recaptioned, Source, Texts
from firstsight.recipe.stages import Prepare
from firstsight.site import Progress, Site, Tell

MOST_BAD = Fraction(1, 100)
"""A source with more refused records than this is itself refused: something else is wrong with it."""
SAMPLE = np.dtype([("tokens_from", "<i8"), ("tokens_count", "<i4"), ("shown_count", "<i4"), ("shown_from", "<i8")])
SHOWN = np.dtype([("picture", "<i4"), ("at", "<i4")])
IMAGE = np.dtype([("offset", "<i8"), ("size", "<i8"), ("hash", "<u8"), ("shard", "<i4")])
_ARRAYS = ("samples", "shown", "tokens", "loss", "images")
_BATCH = 4096
_FORMAT = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Index:
    """A prepared source, memory-mapped: reading one is free, holding one costs nothing."""

    path: Path
    form: Form
    samples: np.ndarray
    shown: np.ndarray
    tokens: Integer[np.ndarray, "tokens"]
    loss: UInt8[np.ndarray, "tokens"]
    images: np.ndarray
    shards: tuple[str, ...]
    special: tokenizer.Special
    tokenizer_digest: str
    digest: str

    @classmethod
    def open(cls, path: Path) -> Index:
        """The index in a folder; raises DataError when the folder is none or its arrays contradict its manifest."""
        if not (path / "manifest.json").is_file():
            raise DataError(f"{path}: wanted the folder of a prepared source. Got no manifest.json. Prepare it first.")
        manifest = json.loads((path / "manifest.json").read_text())
        arrays = {name: _mapped(path / f"{name}.npy", manifest["counts"]) for name in _ARRAYS}
        return cls(
            path=path,
            form=manifest["form"],
            shards=tuple(json.loads((path / "shards.json").read_text())),
            special=tokenizer.Special(**manifest["special"]),
            tokenizer_digest=manifest["tokenizer"],
            digest=manifest["digest"],
            **arrays,
        )


def _mapped(file: Path, counts: Mapping[str, int]) -> np.ndarray:
    array = np.load(file, mmap_mode="r").view(np.ndarray)
    wanted = counts["tokens" if file.stem == "loss" else file.stem]
    if len(array) != wanted:
        raise DataError(f"{file}: wanted {wanted} entries, says its manifest. Got {len(array)}. Prepare it again.")
    return array


def read_image(folder: Path, index: Index, number: int) -> bytes:
    """Encoded bytes of picture `number` of an index, out of the source folder that it was made from."""
    offset, size, _, shard = index.images[number].item()
    file = folder / index.shards[shard]
    with file.open("rb") as data:
        data.seek(offset)
        found = data.read(size)
    if len(found) != size:
        raise DataError(f"{file}: wanted {size} bytes at {offset}. Got {len(found)}. It changed: prepare it again.")
    return found


def form_of(source: Source) -> Form:
    """In which form a source comes."""
    match source:
        case Texts():
            return "text"
        case Captions():
            return "captions"
        case Dialogues():
            return "dialogues"
        case Named():
            return source.form
        case Recaptioned():
            return "captions"


def prepare(spec: Prepare, *, inputs: Mapping[str, Path], out: Path, site: Site, tell: Tell) -> None:
    """Handler: check, tokenize and index `inputs["source"]`; starts over after a kill, equal bytes for equal inputs.

    Raises DataError when more than MOST_BAD of the records are refused.
    """
    words = tokenizer.load(inputs["tokenizer"])
    form = form_of(spec.source)
    with Writer(out, words) as writer:
        writer.take(sources.read(inputs["source"], form), expected=_expected(spec.source), tell=tell)
    writer.refuse_rot(inputs["source"])
    _manifest(out, form, words, writer)


def _expected(source: Source) -> int:
    match source:
        case Texts():
            return source.documents
        case Captions() | Dialogues():
            return source.pictures
        case Named() | Recaptioned():
            return 0


class Growing:
    """A one-dimensional .npy file that is appended to; its header is written again when the length is known."""

    def __init__(self, file: Path, dtype: np.dtype) -> None:
        self.dtype, self.count = dtype, 0
        self._stream = file.open("wb")
        self._head()

    def _head(self) -> None:
        shape = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self._stream, shape)

    def append(self, values: np.ndarray) -> None:
        self._stream.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())
        self.count += len(values)

    def close(self) -> None:
        self._stream.seek(0)
        self._head()
        self._stream.close()


class Writer:
    """Records into the files of an index, in batches, with memory for one batch and the places of the pictures."""

    def __init__(self, out: Path, words: tokenizer.Tokenizer) -> None:
        self.words, self.bad = words, Counter[str]()
        self.first_bad: dict[str, Bad] = {}
        self._shards, self._numbers = dict[str, int](), dict[Place, int]()
        self._stack = ExitStack()
        size = np.dtype("<u2" if words.size <= 2**16 else "<u4")
        kinds = {"samples": SAMPLE, "shown": SHOWN, "tokens": size, "loss": np.dtype("u1"), "images": IMAGE}
        self.arrays = {name: Growing(out / f"{name}.npy", kinds[name]) for name in _ARRAYS}
        for array in self.arrays.values():
            self._stack.callback(array.close)
        self._quarantine = self._stack.enter_context((out / "quarantine.jsonl").open("w", encoding="utf-8"))
        self._out = out

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        (self._out / "shards.json").write_text(json.dumps(list(self._shards), ensure_ascii=False, indent=0) + "\n")

    def take(self, found: Iterator[Record | Bad], *, expected: int, tell: Tell) -> None:
        """Write all of `found`; tells the number of records at most twice a second."""
        told, start = monotonic(), monotonic()
        while batch := list(islice(found, _BATCH)):
            for bad in (record for record in batch if isinstance(record, Bad)):
                self._refuse(bad)
            self._write([record for record in batch if not isinstance(record, Bad)])
            if monotonic() - told > 0.5:
                told = monotonic()
                done = self.arrays["samples"].count
                speed = self.arrays["tokens"].count / (told - start)
                tell(Progress(done=done, total=max(expected, done), unit="records", numbers={"tokens/s": speed}))

    def _refuse(self, bad: Bad) -> None:
        self.bad[bad.reason] += 1
        self.first_bad.setdefault(bad.reason, bad)
        self._quarantine.write(json.dumps(asdict(bad), sort_keys=True) + "\n")

    def _write(self, records: list[Record]) -> None:
        if not records:
            return
        places = [record.image if isinstance(record, ImageText | Dialogue) else None for record in records]
        laid = tokenizer.lay(
            self.words,
            [(tokenizer.parts(record), place is not None) for record, place in zip(records, places, strict=True)],
        )
        samples = np.zeros(len(records), dtype=SAMPLE)
        counts = np.array([len(ids) for ids, _ in laid])
        samples["tokens_count"] = counts
        samples["tokens_from"] = self.arrays["tokens"].count + np.cumsum(counts) - counts
        pictures = [self._number(place) for place in places if place is not None]
        samples["shown_count"] = [place is not None for place in places]
        samples["shown_from"] = self.arrays["shown"].count + np.cumsum(samples["shown_count"]) - samples["shown_count"]
        shown = np.zeros(len(pictures), dtype=SHOWN)
        shown["picture"] = pictures
        self.arrays["shown"].append(shown)
        self.arrays["samples"].append(samples)
        self.arrays["tokens"].append(np.concatenate([ids for ids, _ in laid]))
        self.arrays["loss"].append(np.concatenate([loss for _, loss in laid]))

    def _number(self, place: Place) -> int:
        """The picture's number: by first appearance, once for all records that share it."""
        if place not in self._numbers:
            shard = self._shards.setdefault(place.shard, len(self._shards))
            self._numbers[place] = len(self._numbers)
            self.arrays["images"].append(np.array([(place.offset, place.size, place.hash, shard)], dtype=IMAGE))
        return self._numbers[place]

    def refuse_rot(self, folder: Path) -> None:
        """Raise DataError when more than MOST_BAD of the records were refused, or none was left."""
        good, bad = self.arrays["samples"].count, self.bad.total()
        if good and bad <= (good + bad) * MOST_BAD:
            return
        reasons = "; ".join(
            f"{count} x {reason} (first: {one.shard}, {one.where}: {one.detail})"
            for reason, count in self.bad.most_common()
            for one in [self.first_bad[reason]]
        )
        raise DataError(
            f"{folder}: wanted at most {float(MOST_BAD):.0%} bad records. Got {bad} of {good + bad}: "
            f"{reasons or 'no record at all'}. Repair the source or take the bad shards out."
        )


def _manifest(out: Path, form: Form, words: tokenizer.Tokenizer, writer: Writer) -> None:
    counts = {name: array.count for name, array in writer.arrays.items() if name != "loss"}
    manifest = {
        "format": _FORMAT,
        "form": form,
        "counts": {**counts, "bad": writer.bad.total()},
        "refused": dict(writer.bad),
        "tokenizer": words.digest,
        "special": asdict(words.special),
        "digest": _digest([out / f"{name}.npy" for name in _ARRAYS] + [out / "shards.json"]),
    }
    (out / "manifest.json").write_text(json.dumps(manifest, sort_keys=True, indent=1) + "\n")


def _digest(files: list[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as data:
            whole.update(hashlib.file_digest(data, "sha256").digest())
    return whole.hexdigest()
