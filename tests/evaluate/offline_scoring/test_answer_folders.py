"""Folders as harnesses write them: answers to one task are read, everything else is passed over and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from firstsight.evaluate.offline_scoring.answer_folders import PassedOver, list_answer_files
from tests.evaluate.offline_scoring.small_benchmarks import run_command, score, write_file, write_pope, write_vqa

DATE = "20240601_120000"
SUMMARY = {"results": {"vqav2_val": {"alias": "vqav2_val", "exact_match,none": 0.9}}, "configs": {}, "n-shot": {}}


def _samples(count: int = 8, *, right: int = 6) -> list[dict[str, Any]]:
    return [
        {"doc_id": n, "doc": {"question_id": 100 + n}, "filtered_resps": [f"w{n}" if n < right else "no"]}
        for n in range(count)
    ]


def test_a_folder_of_lmms_eval_with_several_tasks(tmp_path: Path) -> None:
    """Samples of other tasks have the same ids, and answers of their own."""
    folder = tmp_path / "logs" / "llava-hf__llava-1.5-7b"
    write_file(folder, f"{DATE}_results.json", SUMMARY)
    write_file(folder, f"{DATE}_samples_vqav2_val.jsonl", _samples())
    for name in ("gqa", "pope", "mme", "ok_vqa_val2014", "vizwiz_vqa_val"):
        write_file(folder, f"{DATE}_samples_{name}.jsonl", _samples(right=0))
    write_file(folder, "notes.txt", "x")
    write_file(folder, ".cache.json", "{")
    scored = score("vqav2", tmp_path / "logs", write_vqa(tmp_path / "vqav2"))
    assert (scored.score, scored.missing_count, len(scored.joined_answers.unmatched)) == (0.75, 0, 0)
    notes = " | ".join(scored.notes)
    assert "5 files passed over, samples of other tasks" in notes and "and 2 more" in notes
    assert (
        "1 file passed over, without answers to this task: llava-hf__llava-1.5-7b/20240601_120000_results.json" in notes
    )
    assert "1 file passed over, hidden" in notes and "1 file passed over, no JSON, JSON lines or table" in notes


@pytest.mark.parametrize(
    ("task", "own", "others"),
    [
        (
            "refcoco",
            ["refcoco_bbox_rec_val"],
            ["refcoco_bbox_val", "refcoco+_bbox_rec_val", "refcocog_bbox_rec_val", "pope"],
        ),
        ("refcoco_plus", ["refcoco+_bbox_rec_val"], ["refcoco_bbox_rec_val", "refcocog_bbox_rec_val"]),
        ("refcocog", ["refcocog_bbox_rec_val"], ["refcocog_seg_val", "refcoco_bbox_rec_testA"]),
        ("coco_captions", ["coco2014_cap_val"], ["nocaps_val", "refcoco_bbox_rec_val"]),
        ("textvqa", ["textvqa_val"], ["vqav2_val", "docvqa_val"]),
        ("pope", ["pope", "pope_adv"], ["mme"]),
        ("gqa", [], ["strange_name"]),
    ],
)
def test_samples_belong_to_tasks_by_name(tmp_path: Path, task: str, own: list[str], others: list[str]) -> None:
    """Both tools' names; where none is of the task, its name is unknown and all are read."""
    for pattern in ("20240601_samples_{}.jsonl", "samples_{}_2024-06-01T12-00-00.123456.jsonl"):
        for name in (*own, *others):
            write_file(tmp_path / task, pattern.format(name), [])
    passed_over = PassedOver()
    names = {file.name for file in list_answer_files([tmp_path / task], task, passed_over)}
    expected = own or others
    assert len(names) == 2 * len(expected) and all(any(f"_{name}" in file for name in expected) for file in names)
    assert sum(map(len, passed_over.names.values())) == (2 * len(others) if own else 0)


def test_the_papers_harness_writes_its_answers_three_times(tmp_path: Path) -> None:
    """The copy for GQA's script has no punctuation, so it would be another answer to the same question."""
    asked = {"7": {"question": "Which?", "imageId": "1", "answer": "t-shirt"}}
    references = write_file(tmp_path / "gqa", "q.json", asked)
    results = {
        "7": {"question_id": 7, "question": "Which?", "model_output": "T-shirt", "ground_truth_answer": "t-shirt"}
    }
    folder = tmp_path / "results"
    write_file(folder, "results+rank-0.json", results)
    write_file(folder, "full-results.json", results)
    write_file(folder, "gqa-formatted-predictions.json", [{"questionId": 7, "prediction": "tshirt"}])
    write_file(
        folder,
        "metrics.json",
        {"dataset": "gqa-full", "n_examples": 1, "summary": {"accuracy": 0.0}, "examples": results},
    )
    write_file(folder, "gqa-eval-output.txt", "Accuracy: 0.00%")
    scored = score("gqa", folder, references)
    assert (scored.score, scored.joined_answers.duplicates, len(scored.joined_answers.unmatched)) == (1, 2, 0)
    assert any(
        "copies of answers for official scripts: gqa-formatted-predictions.json" in note for note in scored.notes
    )
    assert score("gqa", folder / "gqa-formatted-predictions.json", references).score == 0


@pytest.mark.parametrize("folder", ["judged", "judged/0123456789ab"])
def test_an_evaluation_of_firstsight(tmp_path: Path, folder: str) -> None:
    """Its scores, its record and its raw answers have ids and texts of their own."""
    rows = [
        {"task": "vqav2", "blind": blind, "question_id": 100 + n, "answer": f"w{n}" if n < 6 else "no"}
        for n in range(8)
        for blind in (False, True)
    ]
    parent = tmp_path / folder
    write_file(parent, "answers.jsonl", rows)
    write_file(parent, "scores.json", {"format": 1, "tasks": {"vqav2": {"score": 0.75}}})
    write_file(parent, "judged.json", {"benchmarks": "x"})
    write_file(parent / "sheets", "vqav2-v2-bare.jsonl", [{"task": "vqav2"}, {"id": "100", "answer": "raw"}])
    scored = score("vqav2", tmp_path / "judged", write_vqa(tmp_path / "vqav2"))
    assert (scored.score, len(scored.joined_answers.unmatched)) == (0.75, 0)
    assert any("3 files passed over, beside the answers.jsonl of an evaluation" in note for note in scored.notes)


def test_a_summary_alone_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references = write_vqa(tmp_path / "vqav2")
    path = write_file(tmp_path / "logs", "results.json", SUMMARY)
    for given in (path, path.parent):
        assert run_command("vqav2", given, references) == 2
        assert "lmms-eval: samples_*.jsonl" in " ".join(capsys.readouterr().err.split())


def test_tables_have_the_same_score(tmp_path: Path) -> None:
    """Ids as pandas writes them beside empty cells, quotes, line breaks in cells, a byte-order mark."""
    cells = [f'{100 + n}.0,"w{n}"' for n in range(6)] + ['106.0,"w6\n"', "107.0,"]
    text = "\ufeffquestion_id,answer\r\n" + "\r\n".join(cells) + "\r\n"
    scored = score("vqav2", write_file(tmp_path, "a.csv", text), write_vqa(tmp_path / "vqav2"))
    assert (scored.score, scored.missing_count) == (7 / 8, 0)


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (2.0, "1 answers are numbers such as 2.0, read as 2"),
        ([2.0], "1 answers are numbers such as 2.0, read as 2"),
        (True, "1 answers are true or false, read as yes or no"),
        (None, "1 answers are null or empty lists, read as no answer"),
        ("2.0", "1 answers are texts such as '2.0', which the official scorer does not take for 2"),
        (2, ""),
        ("2", ""),
    ],
)
def test_values_that_are_no_text_are_said(tmp_path: Path, value: Any, note: str) -> None:
    """As a text "2.0" stays what it is: the challenge's scorer keeps a full stop before a digit."""
    write_file(tmp_path / "v", "q.json", {"questions": [{"question_id": 1, "image_id": 1, "question": "how many?"}]})
    write_file(tmp_path / "v", "a.json", {"annotations": [{"question_id": 1, "answers": [{"answer": "2"}] * 10}]})
    scored = score("vqav2", write_file(tmp_path, "a.json", [{"question_id": 1, "answer": value}]), tmp_path / "v")
    assert scored.score == float(value in (2, [2.0], "2") and value is not True)
    assert scored.notes == ((note,) if note else ())


def test_answers_in_no_form_are_said(tmp_path: Path) -> None:
    rows = [
        {"question_id": n, "category": "random", "answer": text}
        for n, text in ((1, "maybe"), (2, "I see NO cat"), (3, "yes"))
    ]
    references = write_pope(tmp_path / "pope") / "coco_pope_random.jsonl"
    notes = score("pope", write_file(tmp_path, "a.json", rows), references).notes
    assert any("1 answers are not in the task's form, such as 'maybe'" in note for note in notes)
    assert any("1 answers such as 'I see NO cat' count as yes" in note for note in notes)
