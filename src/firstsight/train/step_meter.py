"""Speed and memory of training over each interval of its log; circumstances, which are in no published file."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from time import monotonic
from typing import Any

import torch

from firstsight.recipe.stages import Finetune, Midtrain, Pretrain
from firstsight.recipe.training_flops import device_peak_flops, image_flops, token_flops
from firstsight.train import parallel
from firstsight.train.loop import MicroBatches, StepInfo


class StepMeter:
    """Counts tokens, images and seconds since the last record; docs/reference/log.md describes the fields.

    FLOPs are those of the formulas of a plan: without recomputed activations, with the encoder where it runs.
    """

    def __init__(self, spec: Pretrain | Midtrain | Finetune, *, stored_features: bool, device: str) -> None:
        self._token_flops = token_flops(spec)
        self._image_flops = 0 if isinstance(spec, Pretrain) else image_flops(spec, stored_features=stored_features)
        self._device = torch.device(device)
        self._peak_flops = _peak_flops(self._device)
        self._start_interval()

    def _start_interval(self) -> None:
        self._start, self._tokens, self._images, self._wait_seconds = monotonic(), 0, 0, 0.0

    def wait_for(self, batches: Iterator[MicroBatches]) -> Iterator[MicroBatches]:
        """The batches; the time until each arrives counts as waiting for data."""
        while True:
            start = monotonic()
            batch = next(batches)
            self._wait_seconds += monotonic() - start
            yield batch

    def add_step(self, info: StepInfo) -> None:
        """Count an update."""
        self._tokens += info.tokens
        self._images += info.num_images

    def record(self) -> dict[str, Any]:
        """The fields of the interval that ends now; the next one begins."""
        seconds = max(1e-9, monotonic() - self._start)
        flops = (self._tokens * self._token_flops + self._images * self._image_flops) / seconds
        record = {
            "seconds": round(seconds, 4),
            "tokens_per_second": round(self._tokens / seconds, 3),
            "flops_per_second": round(flops),
            "peak_share": round(flops / self._peak_flops, 4) if self._peak_flops else None,
            "data_wait_seconds": round(self._wait_seconds, 4),
            "peak_memory_bytes": _peak_memory_bytes(self._device),
        }
        self._start_interval()
        return record


def _peak_flops(device: torch.device) -> float | None:
    """The peak of the GPUs of all ranks; None for a CPU and for a GPU that is not in the table."""
    peak = device_peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return peak and peak * parallel.world_size()


def _peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
