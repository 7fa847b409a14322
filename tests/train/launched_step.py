"""A script for torchrun: rank 0 does a training step, the others serve it. With `die`, the last rank is killed."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstsight.launch import launched, leading
from firstsight.train import handlers
from firstsight.train.loop import StepInfo, train
from firstsight.train.ranks import serve_launched
from tests.train import tiny_study


def dying(*arguments: Any, **options: Any) -> Iterator[StepInfo]:
    for info in train(*arguments, **options):
        if info.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        yield info


def main(file: str, mode: str) -> None:
    launch = launched()
    assert launch is not None
    if launch.rank:
        if mode == "die":
            handlers.train = dying
        serve_launched(launch)
        return
    arguments = pickle.loads(Path(file).read_bytes())
    with leading(launch):
        handlers.pretrain(**arguments, on_progress=tiny_study.ignore_progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
