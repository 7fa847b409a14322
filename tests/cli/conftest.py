"""Fixtures of the commands: checkpoints and benchmarks of the evaluation tests, and a folder with data to prepare."""

from tests.data.conftest import workshop
from tests.evaluate.conftest import benchmarks, checkpoint, tokenizer

__all__ = ["benchmarks", "checkpoint", "tokenizer", "workshop"]
