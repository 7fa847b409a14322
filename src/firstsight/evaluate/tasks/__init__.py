"""The tasks by name; a new one is a file and a line."""

from __future__ import annotations

from firstsight.errors import UnknownName
from firstsight.evaluate.question import Task
from firstsight.evaluate.tasks.boxes import OCID_REF, REFCOCO
from firstsight.evaluate.tasks.choices import TEXT
from firstsight.evaluate.tasks.gqa import GQA
from firstsight.evaluate.tasks.pope import POPE
from firstsight.evaluate.tasks.textvqa import TEXTVQA
from firstsight.evaluate.tasks.vizwiz import VIZWIZ
from firstsight.evaluate.tasks.vqav2 import KINDS, VQAV2

TASKS: dict[str, Task] = {
    task.name: task for task in (VQAV2, GQA, VIZWIZ, TEXTVQA, REFCOCO, OCID_REF, POPE, KINDS, *TEXT)
}


def task(name: str) -> Task:
    """The task called `name`; UnknownName lists the nearest."""
    if name not in TASKS:
        raise UnknownName("task", name, TASKS)
    return TASKS[name]
