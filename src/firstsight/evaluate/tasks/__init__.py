"""The tasks by name; a new one is a file and a line, and a user's own is a folder."""

from __future__ import annotations

from pathlib import Path

from firstsight.errors import RequestError, UnknownName
from firstsight.evaluate.question import Task
from firstsight.evaluate.tasks.beyond.captions import COCO_CAPTIONS, NOCAPS
from firstsight.evaluate.tasks.beyond.mmmu import MMMU
from firstsight.evaluate.tasks.beyond.own import SAYS, own
from firstsight.evaluate.tasks.boxes import OCID_REF, REFCOCO, REFCOCO_PLUS, REFCOCOG
from firstsight.evaluate.tasks.choices import TEXT
from firstsight.evaluate.tasks.gqa import GQA
from firstsight.evaluate.tasks.pope import POPE, POPE_P
from firstsight.evaluate.tasks.textvqa import TEXTVQA, TEXTVQA_OCR
from firstsight.evaluate.tasks.vizwiz import VIZWIZ
from firstsight.evaluate.tasks.vqav2 import KINDS, VQAV2

PAPER: tuple[Task, ...] = (VQAV2, GQA, VIZWIZ, TEXTVQA, REFCOCO, OCID_REF, POPE)
BEYOND: tuple[Task, ...] = (KINDS, TEXTVQA_OCR, REFCOCO_PLUS, REFCOCOG, POPE_P, COCO_CAPTIONS, NOCAPS, MMMU)

TASKS: dict[str, Task] = {task.name: task for task in (*PAPER, *BEYOND, *TEXT)}


def task(name: str, benchmarks: Path | None = None) -> Task:
    """The task called `name`: a known one, or the one that `benchmarks/name/task.json` describes.

    UnknownName lists the nearest; a user's task of a known name is refused, and DataError says what is wrong in one.
    """
    brought = benchmarks is not None and (benchmarks / name / SAYS).is_file()
    if brought and name in TASKS:
        raise RequestError(f"{benchmarks}/{name}: {SAYS} would replace the built-in task {name}. Rename the folder.")
    if brought and benchmarks is not None:
        return own(benchmarks / name)
    if name not in TASKS:
        raise UnknownName("task", name, [*TASKS, *_brought(benchmarks)])
    return TASKS[name]


def _brought(benchmarks: Path | None) -> list[str]:
    return [] if benchmarks is None else [path.parent.name for path in benchmarks.glob(f"*/{SAYS}")]
