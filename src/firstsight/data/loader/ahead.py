"""Batches made by threads ahead of training, delivered in order: decoding and copying let go of Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from firstsight.data.loader.rows import Batch
from firstsight.data.loader.stream import Stream
from firstsight.errors import DataError


def ahead(
    stream: Stream, first: int, *, readers: int, depth: int = 4, parts: Sequence[tuple[int, int]] = ((0, 1),)
) -> Generator[tuple[Batch, ...]]:
    """The steps of a stream from `first` to its end, at most `depth` of them made ahead by `readers` threads.

    Of each step those parts that are asked for, see `Stream.batch`; the same ones for any number of readers, and 0
    makes each when it is asked for. An error is raised at its step and names it. The threads end with the iterator:
    at its end, when it is closed, or when nobody holds it.
    """
    steps = range(first, stream.steps)
    if not readers:
        yield from (_made(stream, step, parts) for step in steps)
        return
    pool, waiting = ThreadPoolExecutor(readers, thread_name_prefix="reader"), deque[Future[tuple[Batch, ...]]]()
    try:
        for step in steps:
            waiting.append(pool.submit(_made, stream, step, parts))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _made(stream: Stream, step: int, parts: Sequence[tuple[int, int]]) -> tuple[Batch, ...]:
    try:
        return tuple(stream.batch(step, part) for part in parts)
    except DataError as error:
        raise type(error)(f"step {step}: {error}") from error
    except OSError as error:
        error.add_note(f"while the batch of step {step} was made")
        raise
