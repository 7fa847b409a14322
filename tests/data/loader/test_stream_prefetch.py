"""Prefetching in threads: the same batches, errors at their step, and no thread left at the end."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import closing
from fractions import Fraction

import pytest
import torch

from firstsight.data.loader import Batch, BatchStream, LoaderMixture, LoaderSource, prefetch_batches
from firstsight.data.packing import pack
from firstsight.errors import DataError, MixError
from firstsight.recipe.stages import RowShape
from tests.data.reference import RawRecord, build_index

STEPS = 30


class SlowStream(BatchStream):
    """A stream that is slow, records its calls, and may fail."""

    begun: list[int]
    makers: set[str]
    fails_at = -1
    error: type[Exception] = DataError
    pause = 0.0

    def batch(self, step: int, replica: tuple[int, int] = (0, 1)) -> Batch:
        self.begun.append(step)
        self.makers.add(threading.current_thread().name)
        time.sleep(self.pause * (1 + step % 3))
        if step == self.fails_at:
            raise self.error("a shard is gone")
        return super().batch(step, replica)


def slow_stream(*, fails_at: int = -1, error: type[Exception] = DataError, pause: float = 0.0) -> SlowStream:
    index = build_index("text", [RawRecord(list(range(9)), [1] * 9, []) for _ in range(200)])
    source = LoaderSource(
        name="text",
        index=index,
        packed_rows=pack(index, length=16, image_tokens=0, packing="best_fit"),
        images=None,
        answers_only=False,
    )
    result = SlowStream(
        text_mixture=LoaderMixture(sources=(source,), shares=(Fraction(1),), epochs=(99,), counted_in="rows"),
        image_mixture=None,
        spans=((4 * STEPS, Fraction(0)),),
        counted_in="rows",
        row_shape=RowShape(batch_size=4, length=16),
        seed=0,
        text_seed=0,
        text_row_offset=0,
        steps=STEPS,
    )
    messages = {"begun": [], "makers": set(), "fails_at": fails_at, "error": error, "pause": pause}
    for name, value in messages.items():
        object.__setattr__(result, name, value)
    return result


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reader")]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_steps_come_in_order_to_the_end(num_workers: int) -> None:
    stream = slow_stream(pause=0.001)
    actual = list(prefetch_batches(stream, 4, num_workers=num_workers, depth=5, replicas=((1, 2), (0, 2))))
    assert len(actual) == STEPS - 4
    for step, (second, first) in enumerate(actual, start=4):
        assert torch.equal(torch.cat([first.tokens, second.tokens]), stream.batch(step).tokens)
    assert (threading.current_thread().name in stream.makers) and len(stream.makers) <= 1 + num_workers
    assert sorted(stream.begun[: 2 * (STEPS - 4)]) == sorted(2 * [*range(4, STEPS)]), "each part is made once"
    assert reader_threads() == []


def test_at_most_depth_steps_are_prepared_ahead() -> None:
    stream = slow_stream()
    with closing(prefetch_batches(stream, 0, num_workers=2, depth=3)) as batches:
        for step in range(3):
            next(batches)
            time.sleep(0.05)
            assert max(stream.begun) == step + 3


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("error", [DataError, MixError, OSError])
def test_an_error_is_raised_at_its_step_and_names_it(num_workers: int, error: type[Exception]) -> None:
    batches = prefetch_batches(slow_stream(fails_at=7, error=error), 0, num_workers=num_workers, depth=4)
    for _ in range(7):
        next(batches)
    with pytest.raises(error) as caught:
        next(batches)
    messages = [str(caught.value), *getattr(caught.value, "__notes__", [])]
    assert any("step 7" in message for message in messages)
    assert "a shard is gone" in messages[0]
    assert reader_threads() == []


@pytest.mark.parametrize("ending", ["closed", "garbage"])
def test_the_threads_end_with_the_iterator(ending: str) -> None:
    batches = prefetch_batches(slow_stream(pause=0.002), 0, num_workers=3, depth=4)
    next(batches)
    assert len(reader_threads()) == 3
    if ending == "closed":
        batches.close()
    del batches
    gc.collect()
    assert reader_threads() == []
