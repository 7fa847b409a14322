"""Handler `encode`: the features of all images of a source by an external encoder, computed once for all arms."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from firstsight.data.index import Index
from firstsight.data.loader import DecodedImages
from firstsight.data.readers import locate_source
from firstsight.data.readers.source_reader import check_source_unchanged
from firstsight.errors import ModelError
from firstsight.files import write_atomic
from firstsight.model.vision import extract_features, load_encoder
from firstsight.recipe.stages import Encode
from firstsight.recipe.vision import PatchProjectionSpec
from firstsight.site import ProgressCallback, Site
from firstsight.train.compilation import configure_torch
from firstsight.train.loop import ProgressReporter
from firstsight.train.streams import source_pixels

ENCODE_BATCH = 256


def encode_features(
    spec: Encode, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Write features.npy: float16 features [images, tokens, width] in the order of the index.

    A rerun after a kill continues with the remaining batches and leaves the same bytes. Raises DataError if the source
    is not the one that was prepared, ModelError if the encoder has another shape than the recipe.
    """
    vision = spec.vision
    if isinstance(vision, PatchProjectionSpec):
        raise ModelError("encode needs an external encoder. Got a patch projection, which is part of the model.")
    configure_torch(site)
    index, location = Index.open(inputs["index"]), locate_source(spec.source, inputs.get("source"), site)
    check_source_unchanged(index, location)
    folders = [inputs[f"encoder{number}"] for number in range(len(vision.towers))]
    encoder = load_encoder(vision, folders).to(site.device)
    features = _FeatureFile(out, (len(index.images), vision.tokens, vision.width), index_digest=index.digest)
    total, pixels = len(index.images), source_pixels(index, location, vision, cache=site.cache)
    starts = range(features.rows_done, total, ENCODE_BATCH)
    batches = [np.arange(start, min(start + ENCODE_BATCH, total)) for start in starts]
    progress, last_save = ProgressReporter(on_progress, total=total, unit="images"), monotonic()
    for indices, images in zip(batches, _decode_ahead(pixels, batches, site.readers), strict=True):
        encoded = extract_features(encoder, torch.from_numpy(images).to(site.device)).half().cpu().numpy()
        features.write_rows(indices, encoded, location=folders[0])
        if monotonic() - last_save > site.save_every:
            features.save()
            last_save = monotonic()
        if progress.is_due:
            progress.report(features.rows_done)
    features.finish()


def _decode_ahead(pixels: DecodedImages, batches: Iterable[np.ndarray], threads: int) -> Iterator[np.ndarray]:
    """The pixels of each batch, decoded by `threads` threads while the batch before is encoded."""
    with ThreadPoolExecutor(threads) as pool:
        submitted = (pool.map(pixels.take, np.array_split(indices, threads)) for indices in batches)
        for parts, _ in pairwise(chain(submitted, [None])):
            assert parts is not None
            yield np.concatenate(list(parts))


class _FeatureFile:
    """features.npy while it is written: an array in `resume/` with a file that counts its finished rows."""

    def __init__(self, out: Path, shape: tuple[int, int, int], *, index_digest: str) -> None:
        self._out, self._folder, self._index_digest = out, out / "resume", index_digest
        self._state_path = self._folder / "point.json"
        state = json.loads(self._state_path.read_text()) if self._state_path.is_file() else {}
        is_same = state.get("mark") == index_digest and state.get("shape") == list(shape)
        self.rows_done: int = state["done"] if is_same else 0
        self._folder.mkdir(exist_ok=True)
        mode = "r+" if self.rows_done else "w+"
        self.array = np.lib.format.open_memmap(self._folder / "features.npy", mode=mode, dtype=np.float16, shape=shape)

    def write_rows(self, indices: np.ndarray, features: np.ndarray, *, location: Path) -> None:
        """Write the next rows; ModelError if their shape is wrong."""
        expected, actual = self.array.shape[1:], features.shape[1:]
        if actual != expected:
            raise ModelError(f"{location}: wanted features {expected} an image. Got {actual}. Mend the recipe's vit.")
        self.array[indices] = features
        self.rows_done = int(indices[-1]) + 1

    def save(self) -> None:
        """Make the finished rows the resume point: the rows first, then their count."""
        self.array.flush()
        state = {"done": self.rows_done, "mark": self._index_digest, "shape": list(self.array.shape)}
        write_atomic(self._state_path, json.dumps(state))

    def finish(self) -> None:
        """Move features.npy to the output folder and remove `resume/`."""
        self.array.flush()
        (self._folder / "features.npy").replace(self._out / "features.npy")
        shutil.rmtree(self._folder)
