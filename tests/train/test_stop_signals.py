"""Signals during training: the step under way is finished and saved, and the same command leaves the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import Stopped
from firstsight.recipe.mixture import single_source
from firstsight.site import Site
from firstsight.train import handlers
from firstsight.train.handlers import pretrain
from firstsight.train.loop import StepInfo, train
from firstsight.train.stop_signals import STOP_SIGNALS, stop_signals
from tests.train import tiny_study
from tests.train.test_parallel import rank_pids
from tests.train.test_resume import resume_tokens

Inputs = dict[str, Path]


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_saves_after_the_step_under_way_and_costs_no_byte(
    inputs: Inputs, site: Site, trunk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def signalled(*arguments: Any, **options: Any) -> Iterator[StepInfo]:
        for info in train(*arguments, **options):
            if info.step == 3:
                os.kill(os.getpid(), number)
            yield info

    spec, out = tiny_study.segment_spec(10, "0", "2/5"), tmp_path / "out"
    monkeypatch.setattr(handlers, "train", signalled)
    with pytest.raises(Stopped, match=r"^saved at step 3 of 4; the same command continues$"):
        tiny_study.run_handler(pretrain, spec, inputs, out, site)
    monkeypatch.undo()
    assert resume_tokens(out) == 3 * tiny_study.ROW_SHAPE.tokens_per_step
    rerun = tiny_study.run_handler(pretrain, spec, inputs, out, site)
    assert tiny_study.read_files(rerun) == tiny_study.read_files(trunk)


def test_a_signal_to_the_worker_stops_all_ranks_at_one_step(inputs: Inputs, site: Site, tmp_path: Path) -> None:
    spec, signals = tiny_study.segment_spec(20_000, "0", "2/5"), list[int]()
    text = single_source(tiny_study.TEXTS, max_epochs=1000)
    spec = replace(spec, pretrain=replace(spec.pretrain, text=text))
    with pytest.raises(Stopped) as stopped:
        pretrain(
            spec,
            inputs=inputs,
            out=tmp_path,
            site=replace(site, processes=2),
            on_progress=lambda _: signals or signals.append(1) or os.kill(os.getpid(), signal.SIGTERM),
        )
    step = int(str(stopped.value).split()[3].replace(",", ""))
    assert 0 < step * tiny_study.ROW_SHAPE.tokens_per_step == resume_tokens(tmp_path)
    assert rank_pids() == []


def test_handlers_of_signals_are_restored() -> None:
    before, received = [signal.getsignal(number) for number in STOP_SIGNALS], list[int]()
    with stop_signals(received.append):
        for number in STOP_SIGNALS:
            os.kill(os.getpid(), number)
    assert received == list(STOP_SIGNALS)
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
