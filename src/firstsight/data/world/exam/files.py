"""The benchmarks' own file forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstsight.data.world.draw import png, studio
from firstsight.data.world.exam.text import TEXT_TASKS
from firstsight.data.world.exam.turns import Turn
from firstsight.data.world.exam.vision import VISION_TASKS, Asked, asked_of, size
from firstsight.data.world.write import archive, line, paced, packed
from firstsight.recipe.mix import Benchmarks
from firstsight.site import Site, Tell

_TEN = 10
"""Annotators, all of one mind: the drawing is the truth."""

Files = dict[str, bytes]
Sheets = Mapping[str, Sequence[Asked]]


def benchmarks(spec: Benchmarks, *, inputs: Mapping[str, Path], out: Path, site: Site, tell: Tell) -> None:
    """Leaves a folder per task with its files and, for vision, question_blind.json; images.tar serves all of them."""
    del inputs
    drawn = studio(spec.world, site.cache)
    rounds = [(task, n) for task in VISION_TASKS for n in range(size(task, spec.questions))]
    asked: dict[str, list[Asked]] = {task.name: [] for task in VISION_TASKS}
    with archive(out / "images.tar") as add:
        for number in paced(range(len(rounds)), len(rounds), unit="pictures", tell=tell):
            task, turn = rounds[number]
            one = asked_of(task, drawn, number=number, nth=turn)
            asked[task.name].append(one)
            add(one.image, png(drawn.paint(one.scene)))
    for name, form in _FORMS.items():
        _write(out / name, form({k: v for k, v in asked.items() if k.split()[0] == name}))
    for name, make in TEXT_TASKS.items():
        rows = [make(spec.world, Turn.of(n)) for n in range(spec.questions)]
        _write(out / name, {f"{name}.jsonl": b"".join(map(line, rows))})


def _write(folder: Path, files: Files) -> None:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _blind(rows: Sequence[Asked]) -> Files:
    return {"question_blind.json": packed({str(row.number): row.blind for row in rows})}


def _vqa(sheets: Sheets) -> Files:
    """The VQA challenge's two files."""
    rows = [row for sheet in sheets.values() for row in sheet]
    head = {"info": {"description": "The built-in world"}, "data_type": "mscoco", "data_subtype": "val2014"}
    questions = [{"image_id": r.number, "question": r.text, "question_id": r.number, **r.tags} for r in rows]
    return {
        "questions.json": packed({**head, "task_type": "Open-Ended", "questions": questions}),
        "annotations.json": packed({**head, "annotations": [_annotation(row) for row in rows]}),
        **_blind(rows),
    }


def _annotation(row: Asked) -> dict[str, Any]:
    answers = [{"answer": row.question.answer, "answer_confidence": "yes", "answer_id": n + 1} for n in range(_TEN)]
    return {
        "image_id": row.number,
        "question_id": row.number,
        "question_type": " ".join(row.text.split()[:2]),
        "answer_type": "number" if row.question.answer.isdigit() else "other",
        "multiple_choice_answer": row.question.answer,
        "answers": answers,
    }


def _gqa(sheets: Sheets) -> Files:
    """GQA's testdev form: a mapping by question id."""
    rows = sheets["gqa"]
    asked = {
        str(row.number): {
            "imageId": row.stem,
            "question": row.text,
            "answer": row.question.answer,
            "fullAnswer": f"{row.question.answer} is {row.question.about} .",
            "isBalanced": True,
            "types": {"structural": "query", "semantic": "rel", "detailed": "relO"},
            **row.tags,
        }
        for row in rows
    }
    return {"questions.json": packed(asked), **_blind(rows)}


def _textvqa(sheets: Sheets) -> Files:
    """TextVQA's own form."""
    rows = sheets["textvqa"]
    data = [
        {
            "question_id": row.number,
            "image_id": row.stem,
            "question": row.text,
            "answers": [row.question.answer] * _TEN,
            "image_width": row.scene.world.picture,
            "image_height": row.scene.world.picture,
            "set_name": "val",
            **row.tags,
        }
        for row in rows
    ]
    named = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "world", "data": data}
    return {"TextVQA_val.json": packed(named), **_blind(rows)}


def _vizwiz(sheets: Sheets) -> Files:
    """VizWiz's list; questions are known by their picture."""
    rows = sheets["vizwiz"]
    listed = [
        {
            "image": row.image,
            "question": row.text,
            "answers": [{"answer": row.question.answer, "answer_confidence": "yes"}] * _TEN,
            "answer_type": row.question.answer if row.question.answer == "unanswerable" else "other",
            "answerable": int(row.question.answer != "unanswerable"),
            **row.tags,
        }
        for row in rows
    ]
    return {"val.json": packed(listed), "question_blind.json": packed({row.image: row.blind for row in rows})}


def _refcoco(sheets: Sheets) -> Files:
    """One row a sentence, boxes as left, top, width, height."""
    rows = sheets["refcoco"]
    listed = [
        {
            "img_id": row.stem,
            "question_id": row.number,
            "sents": row.text,
            "bbox": [row.box[0], row.box[1], row.box[2] - row.box[0], row.box[3] - row.box[1]],
            "width": row.scene.world.picture,
            "height": row.scene.world.picture,
            **row.tags,
        }
        for row in rows
    ]
    return {"refcoco_val.json": packed(listed), **_blind(rows)}


def _ocid_ref(sheets: Sheets) -> Files:
    """A mapping by expression, boxes as left, top, right, bottom in a string."""
    rows = sheets["ocid_ref"]
    listed = {
        str(row.number): {
            "scene_path": row.image,
            "sentence": row.text,
            "bbox": str(list(row.box)),
            "width": row.scene.world.picture,
            "height": row.scene.world.picture,
            **row.tags,
        }
        for row in rows
    }
    return {"val_expressions.json": packed(listed), **_blind(rows)}


def _pope_files(sheets: Sheets) -> Files:
    """Three files of one JSON object a line; ids count from 1 in each."""
    files: Files = {}
    blind: dict[str, str] = {}
    for name, rows in sheets.items():
        split = name.split()[1]
        files[f"{split}.json"] = b"".join(
            line({"question_id": n, "image": r.image, "text": r.text, "label": r.question.answer, **r.tags})
            for n, r in enumerate(rows, start=1)
        )
        blind |= {f"{split}-{n}": row.blind for n, row in enumerate(rows, start=1)}
    return {**files, "question_blind.json": packed(blind)}


_FORMS: dict[str, Callable[[Sheets], Files]] = {
    "vqav2": _vqa,
    "gqa": _gqa,
    "textvqa": _textvqa,
    "vizwiz": _vizwiz,
    "refcoco": _refcoco,
    "ocid_ref": _ocid_ref,
    "pope": _pope_files,
    "kinds": _vqa,
}
