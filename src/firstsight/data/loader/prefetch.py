"""Batches made by threads ahead of training, delivered in order: decoding and copying let go of Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from firstsight.data.loader.collate import Batch
from firstsight.data.loader.stream import BatchStream
from firstsight.errors import DataError


def prefetch_batches(
    stream: BatchStream,
    first_step: int,
    *,
    num_workers: int,
    depth: int = 4,
    replicas: Sequence[tuple[int, int]] = ((0, 1),),
) -> Generator[tuple[Batch, ...]]:
    """The steps of a stream from `first` to its end, at most `depth` of them made ahead by `readers` threads.

    Of each step those parts that are asked for, see `Stream.batch`; the same ones for any number of readers, and 0
    makes each when it is asked for. An error is raised at its step and names it. The threads end with the iterator:
    at its end, when it is closed, or when nobody holds it.
    """
    steps = range(first_step, stream.steps)
    if not num_workers:
        yield from (_load_step(stream, step, replicas) for step in steps)
        return
    pool, pending_batches = (
        ThreadPoolExecutor(num_workers, thread_name_prefix="reader"),
        deque[Future[tuple[Batch, ...]]](),
    )
    try:
        for step in steps:
            pending_batches.append(pool.submit(_load_step, stream, step, replicas))
            if len(pending_batches) > depth:
                yield pending_batches.popleft().result()
        while pending_batches:
            yield pending_batches.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load_step(stream: BatchStream, step: int, replicas: Sequence[tuple[int, int]]) -> tuple[Batch, ...]:
    try:
        return tuple(stream.batch(step, replica) for replica in replicas)
    except DataError as error:
        raise type(error)(f"step {step}: {error}") from error
    except OSError as error:
        error.add_note(f"while the batch of step {step} was made")
        raise
