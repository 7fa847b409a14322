"""Threads ahead of training: the same batches, errors at their step, and nothing left behind."""

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

from .rows import Raw, index_of

STEPS = 30


class Slow(BatchStream):
    """A stream that takes its time, remembers what was asked for, and may fail."""

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


def slow(*, fails_at: int = -1, error: type[Exception] = DataError, pause: float = 0.0) -> Slow:
    index = index_of("text", [Raw(list(range(9)), [1] * 9, []) for _ in range(200)])
    feed = LoaderSource(
        name="text",
        index=index,
        packed_rows=pack(index, length=16, image_tokens=0, packing="best_fit"),
        images=None,
        answers_only=False,
    )
    made = Slow(
        text_mixture=LoaderMixture(sources=(feed,), shares=(Fraction(1),), epochs=(99,), counted_in="rows"),
        image_mixture=None,
        spans=((4 * STEPS, Fraction(0)),),
        counted_in="rows",
        row_shape=RowShape(batch_size=4, length=16),
        seed=0,
        text_seed=0,
        text_row_offset=0,
        steps=STEPS,
    )
    told = {"begun": [], "makers": set(), "fails_at": fails_at, "error": error, "pause": pause}
    for name, value in told.items():
        object.__setattr__(made, name, value)
    return made


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("reader")]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_steps_come_in_order_to_the_end(count: int) -> None:
    stream = slow(pause=0.001)
    found = list(prefetch_batches(stream, 4, num_workers=count, depth=5, replicas=((1, 2), (0, 2))))
    assert len(found) == STEPS - 4
    for step, (second, first) in enumerate(found, start=4):
        assert torch.equal(torch.cat([first.tokens, second.tokens]), stream.batch(step).tokens)
    assert (threading.current_thread().name in stream.makers) and len(stream.makers) <= 1 + count
    assert sorted(stream.begun[: 2 * (STEPS - 4)]) == sorted(2 * [*range(4, STEPS)]), "each part is made once"
    assert readers() == []


def test_no_more_than_the_depth_is_made_ahead() -> None:
    stream = slow()
    with closing(prefetch_batches(stream, 0, num_workers=2, depth=3)) as batches:
        for step in range(3):
            next(batches)
            time.sleep(0.05)
            assert max(stream.begun) == step + 3


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("error", [DataError, MixError, OSError])
def test_an_error_comes_at_its_step_and_names_it(count: int, error: type[Exception]) -> None:
    batches = prefetch_batches(slow(fails_at=7, error=error), 0, num_workers=count, depth=4)
    for _ in range(7):
        next(batches)
    with pytest.raises(error) as caught:
        next(batches)
    told = [str(caught.value), *getattr(caught.value, "__notes__", [])]
    assert any("step 7" in words for words in told)
    assert "a shard is gone" in told[0]
    assert readers() == []


@pytest.mark.parametrize("how", ["closed", "garbage"])
def test_the_threads_end_with_the_iterator(how: str) -> None:
    batches = prefetch_batches(slow(pause=0.002), 0, num_workers=3, depth=4)
    next(batches)
    assert len(readers()) == 3
    if how == "closed":
        batches.close()
    del batches
    gc.collect()
    assert readers() == []
