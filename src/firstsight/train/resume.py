"""Resume points of a training step, written by all ranks and read by any number of them.

resume/TOKENS/            weights, and moments of trained parameters, as safetensors of torch.distributed.checkpoint:
                          each rank writes its own rows, with their offsets
resume/last-N-model*      weights that the step publishes besides those at its end
resume/log.jsonl, ledger.npy, point.json      of rank 0 (`resume_folder`), with the digest of every file
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstsight.errors import ModelError
from firstsight.model import checkpoint_io
from firstsight.model.tensors import (
    MAX_SHARD_BYTES,
    ShapeAndDtype,
    StoredTensors,
    check_finite,
    shapes_and_dtypes,
    tensor_mismatches,
    write_tensors,
)
from firstsight.resume_folder import AppendedFile, ResumeFolder, remove_path
from firstsight.train import parallel
from firstsight.train.compilation import release_free_memory
from firstsight.train.parallel import WholeTensors
from firstsight.train.state import MOMENT_KEYS, TrainState, collect_moments
from firstsight.units import Tokens


class TrainingResume:
    """The resume folder of a training step. `load` comes first, then `open_appended`, then any number of `save`.

    All ranks call the same methods in the same order; only rank 0 has the log, the ledger and the point. Points are
    written by a thread from a copy of the state.
    """

    def __init__(self, out: Path, state: TrainState, *, on_damage: Callable[[str], None]) -> None:
        self._folder, self._state = ResumeFolder(out, on_damage=on_damage), state
        self._saved_tokens: int | None = None
        self._group, self._thread = parallel.background_group(), ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self.path = self._folder.path

    def load(self) -> dict[str, Any] | None:
        """Set the state to the point and return its `extra_state`; None if there is none that fits.

        A point that is damaged, or that a firstsight with other parameters wrote, is set aside.
        """
        point = parallel.from_main(None if parallel.rank() else self._folder.restore())
        if point is None:
            return None
        try:
            _load_tensors(self.path / _folder_name(point["seen"]), self._state)
        except ModelError as error:  # raised on all ranks: all read the same headers
            if not parallel.rank():
                self._folder.set_aside(str(error))
            return None
        self._state.tokens_seen = Tokens(point["seen"])
        self._saved_tokens = point["seen"]
        return point["extra"]

    def open_appended(self, name: str) -> AppendedFile | None:
        """The file `name`, continued from the point or empty; None on other ranks than 0."""
        return None if parallel.rank() else self._folder.open_appended(name)

    def save(self, extra_state: Mapping[str, Any], *, earlier: Sequence[Path] = ()) -> None:
        """Begin to make the state and `extra_state` (plain JSON) of rank 0 the resume point; older ones are deleted.

        Returns once the state is copied, and the point before is written: the copy takes as much memory of the machine
        as weights and moments. `earlier`: files of earlier weights in the folder that are kept (`LastWeights.files`).
        No point is written over itself.
        """
        tokens_seen = int(self._state.tokens_seen)
        if self._saved_tokens == tokens_seen:
            return
        self.wait()
        tensors = self._state.model.state_dict() | collect_moments(self._state)
        copy = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        point = {"seen": tokens_seen, "extra": deepcopy(dict(extra_state))}
        appended = self._folder.record_appended()
        self._pending = self._thread.submit(self._write, copy, point, appended, list(earlier))
        self._saved_tokens = tokens_seen

    def _write(
        self, tensors: dict[str, Tensor], point: Mapping[str, Any], records: dict[str, Any], earlier: Sequence[Path]
    ) -> None:
        """Write a point; all ranks end after it is written."""
        folder, group = self.path / _folder_name(point["seen"]), self._group
        if not parallel.rank():
            remove_path(folder)  # of an attempt that was killed, perhaps with more ranks
        parallel.from_main(None, group)  # the others begin after that
        files = [*_save_tensors(folder, tensors, group), *(() if parallel.rank() else earlier)]
        for rank_records in parallel.from_all(self._folder.record_files(files), group):
            records |= rank_records
        if not parallel.rank():
            self._folder.save(point, records)
        parallel.from_main(None, group)
        tensors.clear()
        release_free_memory()

    def check(self) -> None:
        """Raise what the last `save` raised meanwhile. OSError if the disk was full: the point before stays."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last point is written; raises as `check`."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait until the last point is written, whether that fails or not: its step has failed already."""
        with suppress(Exception):
            self.wait()
        self._thread.shutdown()

    def finish(self) -> None:
        """Put log and ledger into the work folder. The resume folder stays until the step is published."""
        self._folder.finish()


class LastWeights:
    """The weights that a step publishes besides those at its end; until then they are in its resume folder."""

    def __init__(self, resume: TrainingResume, checkpoint_tokens: Sequence[int]) -> None:
        """`checkpoint_tokens`: tokens seen at each published checkpoint, the one at the end first."""
        self._resume, self._path = resume, resume.path
        self._tokens = {number: tokens for number, tokens in enumerate(checkpoint_tokens) if number}

    def write_due(self, state: TrainState) -> bool:
        """Write the weights if they are to be published; whether they are. A resume point must follow."""
        due = [number for number, tokens in self._tokens.items() if tokens == state.tokens_seen]
        if due:
            self._resume.wait()  # a point removes files that it does not name
        for number in due:
            weights = WholeTensors(state.model.state_dict())
            if parallel.rank():
                weights.gather()
            else:
                write_tensors(self._path, weights, name=_last_name(number))
        return bool(due)

    def files(self, tokens_seen: int) -> list[Path]:
        """The files of the weights up to `tokens_seen`."""
        written = [number for number, tokens in self._tokens.items() if tokens <= tokens_seen]
        return [file for number in written for file in sorted(self._path.glob(f"{_last_name(number)}[-.]*"))]

    def publish(self, folder: Path) -> None:
        """Write a checkpoint of each into the finished checkpoint `folder`."""
        for number, tokens in self._tokens.items():
            weights = StoredTensors(self._path, _last_name(number))
            target = checkpoint_io.last_checkpoint(folder, number)
            checkpoint_io.save_with_weights(target, weights, checkpoint=folder, tokens_seen=tokens)


def _save_tensors(folder: Path, tensors: dict[str, Tensor], group: Any) -> list[Path]:
    """Write this rank's rows of all tensors, in files of at most MAX_SHARD_BYTES of whole tensors; returns them."""
    import torch.distributed.checkpoint as dcp  # takes half a second, which steps without a resume point save
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    for name, tensor in tensors.items():
        check_finite(name, parallel.local_tensor(tensor), location=folder)
    numbers, file_bytes = dict[str, int](), 0
    for name, tensor in tensors.items():
        number = max(numbers.values(), default=1)
        is_full = file_bytes and file_bytes + tensor.nbytes > MAX_SHARD_BYTES
        numbers[name], file_bytes = (number + 1, 0) if is_full else (number, file_bytes)
        file_bytes += tensor.nbytes
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=numbers, save_distributed=True)
    with _plain_errors():
        dcp.save(tensors, storage_writer=writer, process_group=group)  # pyright: ignore[reportPrivateImportUsage]
    return sorted(folder.glob(f"shard-{parallel.rank() + 1:05d}-*"))


def _load_tensors(folder: Path, state: TrainState) -> None:
    """Set weights and moments to those in a folder, whatever the number of ranks that wrote it.

    ModelError, before anything is changed, if these are not the tensors of the state.
    """
    import torch.distributed.checkpoint as dcp  # takes half a second
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(folder))
    with _plain_errors():
        entries: dict[str, Any] = reader.read_metadata().state_dict_metadata
    stored: dict[str, ShapeAndDtype] = {name: (entry.size, entry.properties.dtype) for name, entry in entries.items()}
    weights, moments = state.model.state_dict(), _empty_moments(state, stored)
    tensors = weights | {f"{name}.{key}": values[key] for name, values in moments.items() for key in MOMENT_KEYS}
    if mismatches := tensor_mismatches(shapes_and_dtypes(tensors), stored):
        raise ModelError(f"{folder}: weights and spec disagree. {mismatches}.")
    with _plain_errors():
        dcp.load(tensors, storage_reader=reader)  # pyright: ignore[reportPrivateImportUsage]
    for name, values in moments.items():
        state.optimizer.state[state.model.get_parameter(name)] = values


def _empty_moments(state: TrainState, stored: Mapping[str, ShapeAndDtype]) -> dict[str, dict[str, Tensor]]:
    """Zero moments of the trained parameters that have stored ones."""
    return {
        name: {
            **{key: torch.zeros_like(parameter, requires_grad=False) for key in MOMENT_KEYS[:2]},
            "step": torch.zeros((), device=parameter.device),
        }
        for name, parameter in state.model.named_parameters()
        if f"{name}.step" in stored and parameter.requires_grad
    }


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the error that torch.distributed.checkpoint wraps, without its notes on single processes."""
    from torch.distributed.checkpoint.api import CheckpointException

    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")
        try:
            yield
        except CheckpointException as error:
            rank, (cause, _) = next(iter(error.failures.items()))
            cause.add_note(f"on rank {rank}, in torch.distributed.checkpoint")
            raise cause from None


def _folder_name(tokens_seen: int) -> str:
    return f"{tokens_seen:015d}"


def _last_name(number: int) -> str:
    return f"last-{number}-model"
