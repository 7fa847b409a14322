"""Writes the synthetic benchmarks in the file formats of the published ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstsight.files import write_atomic
from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.site import ProgressCallback, Site
from firstsight.synthetic.questions import QuestionPlan
from firstsight.synthetic.rendering import cached_renderer, encode_png
from firstsight.synthetic.text_tasks import TEXT_TASK_MAKERS
from firstsight.synthetic.vision_tasks import (
    SYNTHETIC_VISION_TASKS,
    VisionQuestion,
    make_vision_question,
    question_count,
)
from firstsight.synthetic.writers import compact_json, json_line, tar_writer, with_progress

_ANNOTATORS = 10
"""Annotators per question; all give the correct answer."""

FileContents = dict[str, bytes]


def write_benchmarks(
    spec: SyntheticBenchmarks, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Writes one folder per task, with question_blind.json for vision tasks, and one images.tar."""
    renderer = cached_renderer(spec.world, site.cache)
    plan = [(task, index) for task in SYNTHETIC_VISION_TASKS for index in range(question_count(task, spec.questions))]
    questions: dict[str, list[VisionQuestion]] = {name: [] for name in _FILE_WRITERS}
    with tar_writer(out / "images.tar") as add_file:
        for number in with_progress(range(len(plan)), len(plan), unit="images", on_progress=on_progress):
            task, index = plan[number]
            question = make_vision_question(task, renderer, number=number, index=index)
            questions[task.name.split()[0]].append(question)
            add_file(question.image, encode_png(renderer.render(question.scene)))
    for name, make_files in _FILE_WRITERS.items():
        blind_answers = {question.id: question.blind_answer for question in questions[name]}
        _write_files(out / name, make_files(questions[name]) | {"question_blind.json": compact_json(blind_answers)})
    for name, make_record in TEXT_TASK_MAKERS.items():
        records = [make_record(spec.world, QuestionPlan.from_index(index)) for index in range(spec.questions)]
        _write_files(out / name, {f"{name}.jsonl": b"".join(map(json_line, records))})


def _write_files(folder: Path, files: FileContents) -> None:
    for name, content in files.items():
        write_atomic(folder / name, content)


def _vqa_files(questions: Sequence[VisionQuestion]) -> FileContents:
    header = {"info": {"description": "The built-in world"}, "data_type": "mscoco", "data_subtype": "val2014"}
    records = [{"image_id": x.number, "question_id": x.number, "question": x.text, **x.tags} for x in questions]
    return {
        "questions.json": compact_json({**header, "task_type": "Open-Ended", "questions": records}),
        "annotations.json": compact_json({**header, "annotations": [_vqa_annotation(x) for x in questions]}),
    }


def _vqa_annotation(question: VisionQuestion) -> dict[str, Any]:
    answer = {"answer": question.answer, "answer_confidence": "yes"}
    return {
        "image_id": question.number,
        "question_id": question.number,
        "question_type": " ".join(question.text.split()[:2]),
        "answer_type": "number" if question.answer.isdigit() else "other",
        "multiple_choice_answer": question.answer,
        "answers": [{**answer, "answer_id": annotator + 1} for annotator in range(_ANNOTATORS)],
    }


def _gqa_files(questions: Sequence[VisionQuestion]) -> FileContents:
    records = {
        question.id: {
            "imageId": question.stem,
            "question": question.text,
            "answer": question.answer,
            "fullAnswer": f"{question.answer} is {question.question.subject} .",
            "isBalanced": True,
            "types": {"structural": "query", "semantic": "rel", "detailed": "relO"},
            **question.tags,
        }
        for question in questions
    }
    return {"questions.json": compact_json(records)}


def _textvqa_files(questions: Sequence[VisionQuestion]) -> FileContents:
    records = [
        {
            "question_id": question.number,
            "image_id": question.stem,
            "question": question.text,
            "answers": [question.answer] * _ANNOTATORS,
            "image_width": question.scene.world.image_size,
            "image_height": question.scene.world.image_size,
            "set_name": "val",
            **question.tags,
        }
        for question in questions
    ]
    dataset = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "world", "data": records}
    return {"TextVQA_val.json": compact_json(dataset)}


def _vizwiz_files(questions: Sequence[VisionQuestion]) -> FileContents:
    records = [
        {
            "image": question.image,
            "question": question.text,
            "answers": [{"answer": question.answer, "answer_confidence": "yes"}] * _ANNOTATORS,
            "answer_type": question.answer if question.answer == "unanswerable" else "other",
            "answerable": int(question.answer != "unanswerable"),
            **question.tags,
        }
        for question in questions
    ]
    return {"val.json": compact_json(records)}


def _refcoco_files(questions: Sequence[VisionQuestion]) -> FileContents:
    records: list[dict[str, Any]] = []
    for question in questions:
        left, top, right, bottom = question.box
        record = {"img_id": question.stem, "question_id": question.number, "sents": question.text}
        records.append(record | {"bbox": [left, top, right - left, bottom - top]} | _size_and_tags(question))
    return {"refcoco_val.json": compact_json(records)}


def _ocid_ref_files(questions: Sequence[VisionQuestion]) -> FileContents:
    records: dict[str, dict[str, Any]] = {}
    for question in questions:
        record = {"scene_path": question.image, "sentence": question.text, "bbox": str(list(question.box))}
        records[question.id] = record | _size_and_tags(question)
    return {"val_expressions.json": compact_json(records)}


def _size_and_tags(question: VisionQuestion) -> dict[str, Any]:
    size = question.scene.world.image_size
    return {"width": size, "height": size, **question.tags}


def _pope_files(questions: Sequence[VisionQuestion]) -> FileContents:
    files: FileContents = {}
    for x in questions:
        record = {"question_id": x.index + 1, "image": x.image, "text": x.text, "label": x.answer, **x.tags}
        files[f"{x.split}.json"] = files.get(f"{x.split}.json", b"") + json_line(record)
    return files


_FILE_WRITERS: dict[str, Callable[[Sequence[VisionQuestion]], FileContents]] = {
    "vqav2": _vqa_files,
    "gqa": _gqa_files,
    "textvqa": _textvqa_files,
    "vizwiz": _vizwiz_files,
    "refcoco": _refcoco_files,
    "ocid_ref": _ocid_ref_files,
    "pope": _pope_files,
    "kinds": _vqa_files,
}
