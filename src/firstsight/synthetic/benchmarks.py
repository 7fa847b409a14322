"""The benchmarks' own file forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from firstsight.recipe.mixture import SyntheticBenchmarks
from firstsight.site import ProgressCallback, Site
from firstsight.synthetic.held_out import QuestionPlan
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
"""Annotators, all of one mind: the drawing is the truth."""

FileContents = dict[str, bytes]
QuestionsBySplit = Mapping[str, Sequence[VisionQuestion]]


def write_benchmarks(
    spec: SyntheticBenchmarks, *, inputs: Mapping[str, Path], out: Path, site: Site, on_progress: ProgressCallback
) -> None:
    """Leaves a folder per task with its files and, for vision, question_blind.json; images.tar serves all of them."""
    del inputs
    renderer = cached_renderer(spec.world, site.cache)
    question_plan = [
        (task, index) for task in SYNTHETIC_VISION_TASKS for index in range(question_count(task, spec.questions))
    ]
    questions: dict[str, list[VisionQuestion]] = {task.name: [] for task in SYNTHETIC_VISION_TASKS}
    with tar_writer(out / "images.tar") as add_file:
        for number in with_progress(
            range(len(question_plan)), len(question_plan), unit="pictures", on_progress=on_progress
        ):
            task, question_index = question_plan[number]
            question = make_vision_question(task, renderer, number=number, index=question_index)
            questions[task.name].append(question)
            add_file(question.image, encode_png(renderer.render(question.scene)))
    for name, make_files in _FILE_WRITERS.items():
        _write_files(
            out / name,
            make_files(
                {split: split_questions for split, split_questions in questions.items() if split.split()[0] == name}
            ),
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


def _vqa_files(questions_by_split: QuestionsBySplit) -> FileContents:
    """The VQA challenge's two files."""
    benchmark_questions = [question for split_questions in questions_by_split.values() for question in split_questions]
    header = {"info": {"description": "The built-in world"}, "data_type": "mscoco", "data_subtype": "val2014"}
    question_records = [
        {
            "image_id": benchmark_question.number,
            "question": benchmark_question.text,
            "question_id": benchmark_question.number,
            **benchmark_question.tags,
        }
        for benchmark_question in benchmark_questions
    ]
    return {
        "questions.json": compact_json({**header, "task_type": "Open-Ended", "questions": question_records}),
        "annotations.json": compact_json(
            {**header, "annotations": [_annotation(question) for question in benchmark_questions]}
        ),
        **_blind_answers_file(benchmark_questions),
    }


def _annotation(question: VisionQuestion) -> dict[str, Any]:
    answers = [
        {"answer": question.question.answer, "answer_confidence": "yes", "answer_id": annotator + 1}
        for annotator in range(_ANNOTATORS)
    ]
    return {
        "image_id": question.number,
        "question_id": question.number,
        "question_type": " ".join(question.text.split()[:2]),
        "answer_type": "number" if question.question.answer.isdigit() else "other",
        "multiple_choice_answer": question.question.answer,
        "answers": answers,
    }


def _gqa_files(questions_by_split: QuestionsBySplit) -> FileContents:
    """GQA's testdev form: a mapping by question id."""
    questions = questions_by_split["gqa"]
    records = {
        str(question.number): {
            "imageId": question.stem,
            "question": question.text,
            "answer": question.question.answer,
            "fullAnswer": f"{question.question.answer} is {question.question.subject} .",
            "isBalanced": True,
            "types": {"structural": "query", "semantic": "rel", "detailed": "relO"},
            **question.tags,
        }
        for question in questions
    }
    return {"questions.json": compact_json(records), **_blind_answers_file(questions)}


def _textvqa_files(questions_by_split: QuestionsBySplit) -> FileContents:
    """TextVQA's own form."""
    questions = questions_by_split["textvqa"]
    records = [
        {
            "question_id": question.number,
            "image_id": question.stem,
            "question": question.text,
            "answers": [question.question.answer] * _ANNOTATORS,
            "image_width": question.scene.world.image_size,
            "image_height": question.scene.world.image_size,
            "set_name": "val",
            **question.tags,
        }
        for question in questions
    ]
    dataset = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "world", "data": records}
    return {"TextVQA_val.json": compact_json(dataset), **_blind_answers_file(questions)}


def _vizwiz_files(questions_by_split: QuestionsBySplit) -> FileContents:
    """VizWiz's list; questions are known by their picture."""
    questions = questions_by_split["vizwiz"]
    records = [
        {
            "image": question.image,
            "question": question.text,
            "answers": [{"answer": question.question.answer, "answer_confidence": "yes"}] * _ANNOTATORS,
            "answer_type": question.question.answer if question.question.answer == "unanswerable" else "other",
            "answerable": int(question.question.answer != "unanswerable"),
            **question.tags,
        }
        for question in questions
    ]
    return {
        "val.json": compact_json(records),
        "question_blind.json": compact_json({question.image: question.blind_answer for question in questions}),
    }


def _refcoco_files(questions_by_split: QuestionsBySplit) -> FileContents:
    """One row a sentence, boxes as left, top, width, height."""
    questions = questions_by_split["refcoco"]
    records = [
        {
            "img_id": question.stem,
            "question_id": question.number,
            "sents": question.text,
            "bbox": [
                question.box[0],
                question.box[1],
                question.box[2] - question.box[0],
                question.box[3] - question.box[1],
            ],
            "width": question.scene.world.image_size,
            "height": question.scene.world.image_size,
            **question.tags,
        }
        for question in questions
    ]
    return {"refcoco_val.json": compact_json(records), **_blind_answers_file(questions)}


def _ocid_ref_files(questions_by_split: QuestionsBySplit) -> FileContents:
    """A mapping by expression, boxes as left, top, right, bottom in a string."""
    questions = questions_by_split["ocid_ref"]
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


def _pope_files(questions_by_split: QuestionsBySplit) -> FileContents:
    """Three files of one JSON object a line; ids count from 1 in each."""
    files: FileContents = {}
    blind_answers: dict[str, str] = {}
    for name, questions in questions_by_split.items():
        split = name.split()[1]
        files[f"{split}.json"] = b"".join(
            json_line(
                {
                    "question_id": question_id,
                    "image": question.image,
                    "text": question.text,
                    "label": question.question.answer,
                    **question.tags,
                }
            )
            for question_id, question in enumerate(questions, start=1)
        )
        blind_answers |= {
            f"{split}-{question_id}": split_question.blind_answer
            for question_id, split_question in enumerate(questions, start=1)
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
