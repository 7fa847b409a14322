"""The tasks by name: the paper's, further ones, and users' own from a folder with task.json."""

from __future__ import annotations

from pathlib import Path

from firstsight.errors import RequestError, UnknownName
from firstsight.evaluate.task import TASK_FILE, Task
from firstsight.evaluate.tasks.boxes import OCID_REF, REFCOCO, REFCOCO_PLUS, REFCOCOG
from firstsight.evaluate.tasks.captions import COCO_CAPTIONS, NOCAPS
from firstsight.evaluate.tasks.choices import MMMU, TEXT_TASKS
from firstsight.evaluate.tasks.custom import load_custom_task
from firstsight.evaluate.tasks.vqa import GQA, KINDS, POPE, POPE_P, TEXTVQA, TEXTVQA_OCR, VIZWIZ, VQAV2

PAPER_TASKS: tuple[Task, ...] = (VQAV2, GQA, VIZWIZ, TEXTVQA, REFCOCO, OCID_REF, POPE)
EXTRA_TASKS: tuple[Task, ...] = (KINDS, TEXTVQA_OCR, REFCOCO_PLUS, REFCOCOG, POPE_P, COCO_CAPTIONS, NOCAPS, MMMU)

TASKS: dict[str, Task] = {task.name: task for task in (*PAPER_TASKS, *EXTRA_TASKS, *TEXT_TASKS)}


def get_task(name: str, benchmarks: Path | None = None) -> Task:
    """The task called `name`: a built-in one, or the one of `benchmarks/name/task.json`.

    Raises UnknownName with the nearest names, RequestError for a user's task with a built-in name, DataError for an
    invalid task.json.
    """
    if benchmarks is not None and (benchmarks / name / TASK_FILE).is_file():
        if name in TASKS:
            problem = f"{TASK_FILE} would replace the built-in task {name}. Rename the folder."
            raise RequestError(f"{benchmarks / name}: {problem}")
        return load_custom_task(benchmarks / name)
    if name not in TASKS:
        custom_names = [] if benchmarks is None else [path.parent.name for path in benchmarks.glob(f"*/{TASK_FILE}")]
        raise UnknownName("task", name, [*TASKS, *custom_names])
    return TASKS[name]
