"""Readers on small files in the benchmarks' own forms, and on real ones."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from firstsight.errors import DataError, UnknownName
from firstsight.evaluate.pictures import Pictures
from firstsight.evaluate.question import Question, Task
from firstsight.evaluate.tasks import TASKS, task

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")


def write(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    data = text.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def perfect(name: str, question: Question) -> str:
    truth = question.truth
    if isinstance(truth, tuple):
        return " ".join(str(edge) for edge in truth) if name in ("refcoco", "ocid_ref") else str(truth[0])
    return str(truth)


def test_names_are_keys_and_unknown_names_list_the_nearest() -> None:
    assert all(name == task(name).name for name in TASKS)
    with pytest.raises(UnknownName, match="vqav2"):
        task("vqa2")


def test_the_stable_score_has_six_vision_and_nine_text_tasks() -> None:
    scored = [t for t in TASKS.values() if t.baseline is not None]
    assert sum(t.kind == "vision" for t in scored) == 6
    assert sum(t.kind == "text" for t in scored) == 9


@pytest.mark.parametrize("name", sorted(TASKS))
def test_bare_wording_is_the_question_alone(name: str) -> None:
    question = Question(id="1", text="is it {red}?", truth="yes", image=None, choices=(), split="", tags={})
    assert task(name).prompt(question, "bare") == "is it {red}?"
    assert "is it {red}?" in task(name).prompt(question, "paper")


def test_the_papers_wording() -> None:
    question = Question(id="1", text="Q?", truth="yes", image=None, choices=(), split="", tags={})
    short = "\nQ?\nAnswer the question using a single word or phrase."
    assert {task(n).prompt(question, "paper") for n in ("vqav2", "gqa", "textvqa", "pope")} == {short}
    assert "respond with 'Unanswerable'" in task("vizwiz").prompt(question, "paper")
    assert task("refcoco").prompt(question, "paper").endswith('this sentence describes: "Q?"')


@pytest.mark.parametrize("name", ["vqav2", "textvqa", "vizwiz", "kinds"])
def test_the_vqa_form_joins_by_question_id(name: str, tmp_path: Path) -> None:
    questions = [{"question_id": n, "image_id": 7, "question": f"q{n}", "form": "heldout"} for n in (1, 2)]
    annotations = [{"question_id": n, "answers": [{"answer": f"a{n}"}] * 10} for n in (2, 1)]
    write(tmp_path, "val_questions.json", {"questions": questions})
    write(tmp_path, "val_annotations.json.gz", {"annotations": annotations})
    first, second = task(name).read(tmp_path)
    assert (first.id, first.text, first.image, first.truth) == ("1", "q1", "7", ("a1",) * 10)
    assert (second.truth[0], second.tags) == ("a2", {"form": "heldout"})  # type: ignore[index]


def test_a_question_without_annotation_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "questions.json", {"questions": [{"question_id": 3, "image_id": 7, "question": "q"}]})
    write(tmp_path, "annotations.json", {"annotations": []})
    with pytest.raises(DataError, match="question 3 has no annotation"):
        task("vqav2").read(tmp_path)


def test_textvqa_and_vizwiz_own_files(tmp_path: Path) -> None:
    row = {"question_id": 5, "image_id": "ab", "question": "q", "answers": ["x"] * 10}
    write(tmp_path / "t", "TextVQA_0.5.1_val.json", {"data": [row]})
    assert task("textvqa").read(tmp_path / "t")[0].truth == ("x",) * 10
    write(tmp_path / "v", "question_blind.json", {"V.jpg": "unanswerable"})
    item = {"image": "V.jpg", "question": "q", "answers": [{"answer": "x", "answer_confidence": "yes"}]}
    write(tmp_path / "v", "val.json", [item])
    assert task("vizwiz").read(tmp_path / "v")[0].id == "V.jpg"


def test_pope_has_three_splits_and_its_own_ids(tmp_path: Path) -> None:
    line = {"question_id": 1, "image": "a.jpg", "text": "Is there a cat?", "label": "yes"}
    for split in ("random", "popular", "adversarial"):
        write(tmp_path, f"coco_pope_{split}.json", json.dumps(line) + "\n" + json.dumps(line | {"question_id": 2}))
    read = task("pope").read(tmp_path)
    assert len({q.id for q in read}) == 6
    assert {q.split for q in read} == {"random", "popular", "adversarial"}
    write(tmp_path, "coco_pope_random.json", json.dumps(line | {"label": "maybe"}))
    with pytest.raises(DataError, match="maybe"):
        task("pope").read(tmp_path)


def test_refcoco_boxes_become_shares(tmp_path: Path) -> None:
    row = {"img_id": "COCO_train2014_000000580957_4", "sents": "bowl", "bbox": [160, 107, 320, 214]}
    write(tmp_path, "refcoco_val.json", [row | {"height": 428, "width": 640}] * 2)
    first, second = task("refcoco").read(tmp_path)
    assert first.truth == (0.25, 0.25, 0.75, 0.75)
    assert first.image == "COCO_train2014_000000580957"
    assert first.id != second.id


def test_ocid_ref_boxes_are_corners_in_text(tmp_path: Path) -> None:
    row = {"scene_path": "ARID20/floor/x.png", "sentence": "the mug", "bbox": "[160, 120, 320, 240]", "take_id": 3}
    write(tmp_path, "val_expressions.json", {"9": row})
    (only,) = task("ocid_ref").read(tmp_path)
    assert (only.id, only.truth) == ("9", (0.25, 0.25, 0.5, 0.5))
    write(tmp_path, "val_expressions.json", {"9": row | {"bbox": "[160, 120, 160, 240]"}})
    with pytest.raises(DataError, match="empty"):
        task("ocid_ref").read(tmp_path)


def test_choices_must_hold_the_right_one(tmp_path: Path) -> None:
    write(tmp_path, "copa.jsonl", json.dumps({"query": "q", "choices": ["a", "b"], "gold": 2}))
    with pytest.raises(DataError, match=r"copa\.jsonl:1: gold"):
        task("copa").read(tmp_path)


@pytest.mark.parametrize("content", ["{", '{"question": 1}', "\xff"])
def test_broken_files_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "arc_easy.jsonl").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"arc_easy\.jsonl"):
        task("arc_easy").read(tmp_path)
    with pytest.raises(DataError, match="Got none"):
        task("gqa").read(tmp_path)


def test_pictures_are_found_by_name_stem_and_coco_number(tmp_path: Path) -> None:
    names = {"val/COCO_val2014_000000458752.jpg": b"coco", "n578564.jpg": b"gqa", "000012.png": b"world"}
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    pictures = Pictures(tmp_path)
    assert pictures.read("458752") == pictures.read("COCO_val2014_000000458752.jpg") == b"coco"
    assert pictures.read("n578564") == b"gqa"
    assert pictures.read("000012") == pictures.read("000012.png") == b"world"
    with pytest.raises(DataError, match="no picture is called 'x'"):
        pictures.read("x")
    pictures.close()


REAL = {
    "vqav2": "allennlp_vision/vqav2",
    "gqa": "allennlp_vision/gqa",
    "textvqa": "openflamingo_vqa_val/textvqa",
    "vizwiz": "openflamingo_vqa_val/vizwiz",
    "pope": "pope/head",
}


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize("name", sorted(REAL))
def test_real_files_are_read(name: str) -> None:
    judged: Task = task(name)
    read = judged.read(SHARED / REAL[name])
    assert len({question.id for question in read}) == len(read) > 0
    assert all(0 <= judged.check(perfect(name, question), question.truth) <= 1 for question in read)


@needs_shared
@pytest.mark.shared
def test_real_references_and_choices_are_read(tmp_path: Path) -> None:
    (tmp_path / "refcoco").mkdir()
    (tmp_path / "refcoco" / "refcoco_val.json.gz").symlink_to(SHARED / "refcoco" / "refcoco_val.json.gz")
    boxes = task("refcoco").read(tmp_path / "refcoco")
    assert len(boxes) == 10834
    assert all(task("refcoco").check(perfect("refcoco", question), question.truth) == 1 for question in boxes)
    (tmp_path / "arc").mkdir()
    (tmp_path / "arc" / "arc_easy.jsonl").symlink_to(SHARED / "llm_foundry_evals" / "arc_easy.jsonl")
    assert len(task("arc_easy").read(tmp_path / "arc")) > 2000
