"""Writes the synthetic benchmarks in the file formats of the published ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.site import ProgressCallback, Site
from firstsight.synthetic.held_out import QuestionPlan
from firstsight.synthetic.rendering import PixelBox, cached_renderer, encode_png
from firstsight.synthetic.text_tasks import TEXT_TASK_MAKERS
from firstsight.synthetic.vision_tasks import (
    SYNTHETIC_VISION_TASKS,
    VisionQuestion,
    make_vision_question,
    question_count,
)
from firstsight.synthetic.writers import compact_json, json_line, tar_writer, with_progress

_ANNOTATORS = 10
"""Number of annotators a question; all give the correct answer."""

FileContents = dict[str, bytes]
QuestionsBySplit = Mapping[str, Sequence[VisionQuestion]]


def write_benchmarks(
    spec: SyntheticBenchmarks, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Writes one folder a task, with question_blind.json for vision tasks, and one images.tar."""
    del inputs
    renderer = cached_renderer(spec.world, site.cache)
    question_plan = [
        (task, index) for task in SYNTHETIC_VISION_TASKS for index in range(question_count(task, spec.questions))
    ]
    questions: dict[str, list[VisionQuestion]] = {task.name: [] for task in SYNTHETIC_VISION_TASKS}
    with tar_writer(out / "images.tar") as add_file:
        for number in with_progress(
            range(len(question_plan)), len(question_plan), unit="images", on_progress=on_progress
        ):
            task, question_index = question_plan[number]
            question = make_vision_question(task, renderer, number=number, index=question_index)
            questions[task.name].append(question)
            add_file(question.image, encode_png(renderer.render(question.scene)))
    for name, make_files in _FILE_WRITERS.items():
        _write_files(
            out / name,
            make_files({split: questions for split, questions in questions.items() if split.split()[0] == name}),
        )
    for name, make_record in TEXT_TASK_MAKERS.items():
        records = [make_record(spec.world, QuestionPlan.from_index(index)) for index in range(spec.questions)]
        _write_files(out / name, {f"{name}.jsonl": b"".join(map(json_line, records))})


def _write_files(folder: Path, files: FileContents) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _blind_answers_file(questions: Sequence[VisionQuestion]) -> FileContents:
    return {
        "question_blind.json": compact_json({str(question.number): question.blind_answer for question in questions})
    }


def _vqa_files(by_split: QuestionsBySplit) -> FileContents:
    """questions.json and annotations.json of the VQA challenge."""
    questions = [question for questions in by_split.values() for question in questions]
    header = {"info": {"description": "The built-in world"}, "data_type": "mscoco", "data_subtype": "val2014"}
    records = [
        {"image_id": question.number, "question": question.text, "question_id": question.number, **question.tags}
        for question in questions
    ]
    return {
        "questions.json": compact_json({**header, "task_type": "Open-Ended", "questions": records}),
        "annotations.json": compact_json({**header, "annotations": [_annotation(question) for question in questions]}),
        **_blind_answers_file(questions),
    }


def _annotation(question: VisionQuestion) -> dict[str, Any]:
    answers = [
        {"answer": question.answer, "answer_confidence": "yes", "answer_id": annotator + 1}
        for annotator in range(_ANNOTATORS)
    ]
    return {
        "image_id": question.number,
        "question_id": question.number,
        "question_type": " ".join(question.text.split()[:2]),
        "answer_type": "number" if question.answer.isdigit() else "other",
        "multiple_choice_answer": question.answer,
        "answers": answers,
    }


def _gqa_files(by_split: QuestionsBySplit) -> FileContents:
    """GQA testdev: a mapping by question id."""
    questions = by_split["gqa"]
    records = {
        str(question.number): {
            "imageId": question.stem,
            "question": question.text,
            "answer": question.answer,
            "fullAnswer": f"{question.answer} is {question.subject} .",
            "isBalanced": True,
            "types": {"structural": "query", "semantic": "rel", "detailed": "relO"},
            **question.tags,
        }
        for question in questions
    }
    return {"questions.json": compact_json(records), **_blind_answers_file(questions)}


def _textvqa_files(by_split: QuestionsBySplit) -> FileContents:
    """TextVQA validation file."""
    questions = by_split["textvqa"]
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
    return {"TextVQA_val.json": compact_json(dataset), **_blind_answers_file(questions)}


def _vizwiz_files(by_split: QuestionsBySplit) -> FileContents:
    """VizWiz validation list; the image name identifies the question."""
    questions = by_split["vizwiz"]
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
    return {
        "val.json": compact_json(records),
        "question_blind.json": compact_json({question.image: question.blind_answer for question in questions}),
    }


def _refcoco_files(by_split: QuestionsBySplit) -> FileContents:
    """RefCOCO: one record a sentence, boxes as left, top, width, height."""
    questions = by_split["refcoco"]
    records = [
        {
            "img_id": question.stem,
            "question_id": question.number,
            "sents": question.text,
            "bbox": _xywh(question.box),
            "width": question.scene.world.image_size,
            "height": question.scene.world.image_size,
            **question.tags,
        }
        for question in questions
    ]
    return {"refcoco_val.json": compact_json(records), **_blind_answers_file(questions)}


def _xywh(box: PixelBox) -> list[int]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


def _ocid_ref_files(by_split: QuestionsBySplit) -> FileContents:
    """OCID-Ref: a mapping by expression, boxes as left, top, right, bottom in a string."""
    questions = by_split["ocid_ref"]
    records = {
        str(question.number): {
            "scene_path": question.image,
            "sentence": question.text,
            "bbox": str(list(question.box)),
            "width": question.scene.world.image_size,
            "height": question.scene.world.image_size,
            **question.tags,
        }
        for question in questions
    }
    return {"val_expressions.json": compact_json(records), **_blind_answers_file(questions)}


def _pope_files(by_split: QuestionsBySplit) -> FileContents:
    """POPE: three JSON-lines files; ids start at 1 in each."""
    files: FileContents = {}
    blind_answers: dict[str, str] = {}
    for name, questions in by_split.items():
        split = name.split()[1]
        files[f"{split}.json"] = b"".join(
            json_line(
                {
                    "question_id": question_id,
                    "image": question.image,
                    "text": question.text,
                    "label": question.answer,
                    **question.tags,
                }
            )
            for question_id, question in enumerate(questions, start=1)
        )
        blind_answers |= {
            f"{split}-{question_id}": question.blind_answer for question_id, question in enumerate(questions, start=1)
        }
    return {**files, "question_blind.json": compact_json(blind_answers)}


_FILE_WRITERS: dict[str, Callable[[QuestionsBySplit], FileContents]] = {
    "vqav2": _vqa_files,
    "gqa": _gqa_files,
    "textvqa": _textvqa_files,
    "vizwiz": _vizwiz_files,
    "refcoco": _refcoco_files,
    "ocid_ref": _ocid_ref_files,
    "pope": _pope_files,
    "kinds": _vqa_files,
}
