"""The tasks by name; a new one is a file and a line, and a user's own is a folder."""

from __future__ import annotations

from pathlib import Path

from firstsight.errors import RequestError, UnknownName
from firstsight.evaluate.task import Task
from firstsight.evaluate.tasks.boxes import OCID_REF, REFCOCO, REFCOCO_PLUS, REFCOCOG
from firstsight.evaluate.tasks.captions import COCO_CAPTIONS, NOCAPS
from firstsight.evaluate.tasks.choices import TEXT_TASKS
from firstsight.evaluate.tasks.custom import TASK_FILE, load_custom_task
from firstsight.evaluate.tasks.gqa import GQA
from firstsight.evaluate.tasks.mmmu import MMMU
from firstsight.evaluate.tasks.pope import POPE, POPE_P
from firstsight.evaluate.tasks.textvqa import TEXTVQA, TEXTVQA_OCR
from firstsight.evaluate.tasks.vizwiz import VIZWIZ
from firstsight.evaluate.tasks.vqav2 import KINDS, VQAV2

PAPER_TASKS: tuple[Task, ...] = (VQAV2, GQA, VIZWIZ, TEXTVQA, REFCOCO, OCID_REF, POPE)
EXTRA_TASKS: tuple[Task, ...] = (KINDS, TEXTVQA_OCR, REFCOCO_PLUS, REFCOCOG, POPE_P, COCO_CAPTIONS, NOCAPS, MMMU)

TASKS: dict[str, Task] = {get_task.name: get_task for get_task in (*PAPER_TASKS, *EXTRA_TASKS, *TEXT_TASKS)}


def get_task(name: str, benchmarks: Path | None = None) -> Task:
    """The task called `name`: a known one, or the one that `benchmarks/name/task.json` describes.

    UnknownName lists the nearest; a user's task of a known name is refused, and DataError says what is wrong in one.
    """
    is_custom = benchmarks is not None and (benchmarks / name / TASK_FILE).is_file()
    if is_custom and name in TASKS:
        raise RequestError(
            f"{benchmarks}/{name}: {TASK_FILE} would replace the built-in task {name}. Rename the folder."
        )
    if is_custom and benchmarks is not None:
        return load_custom_task(benchmarks / name)
    if name not in TASKS:
        raise UnknownName("task", name, [*TASKS, *_custom_task_names(benchmarks)])
    return TASKS[name]


def _custom_task_names(benchmarks: Path | None) -> list[str]:
    return [] if benchmarks is None else [path.parent.name for path in benchmarks.glob(f"*/{TASK_FILE}")]
