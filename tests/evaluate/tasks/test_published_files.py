"""The benchmarks' published files are read, their versions recognised, and published images evaluated."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.errors import DataError
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.harness import EvalConfig, evaluate_checkpoint
from firstsight.evaluate.result_files import SubsetScore
from firstsight.evaluate.task import Question, benchmark_files, describe_version
from firstsight.evaluate.tasks import get_task
from firstsight.model.checkpoint_io import save
from firstsight.model.vlm import VLM
from firstsight.site import Site
from tests.evaluate.conftest import LM, PATCHES
from tests.evaluate.tasks.task_files import SHARED, lines, needs_shared, read, write

pytestmark = [needs_shared, pytest.mark.shared]

FILES = {
    "textvqa": ("textvqa", "openflamingo_vqa_val/textvqa", 5000, "TextVQA val"),
    "vizwiz": ("vizwiz", "openflamingo_vqa_val/vizwiz", 4319, "VizWiz val"),
    "pope head": ("pope", "pope/head", 9000, "POPE on COCO, head (3,000 random questions)"),
    "pope e3e3926": ("pope", "pope/e3e3926", 8910, "e3e3926 (2,910 random questions, LLaVA's), not POPE"),
    "pope_p": ("pope_p", "pope/e3e3926", 8910, "e3e3926"),
    "refcoco": ("refcoco", "refcoco/refcoco_val.json.gz", 10834, "RefCOCO val"),
    "refcoco testA": ("refcoco", "refcoco/refcoco_testA.json.gz", 5657, "RefCOCO testA, not RefCOCO val"),
    "refcoco testB": ("refcoco", "refcoco/refcoco_testB.json.gz", 5095, "RefCOCO testB, not RefCOCO val"),
    "refcoco_plus": ("refcoco_plus", "refcoco/refcoco+_val.json.gz", 10758, "RefCOCO+ val"),
    "refcoco with +": ("refcoco", "refcoco/refcoco+_val.json.gz", 10758, "RefCOCO+ val, not RefCOCO val"),
    "refcocog": ("refcocog", "refcoco/refcocog_val.json", 4896, "RefCOCOg val"),
    "vqav2": ("vqav2", "allennlp_vision/vqav2", 3, "no published version; VQAv2 val2014 has 214,354"),
    "gqa": ("gqa", "allennlp_vision/gqa", 1, "no published version; GQA testdev_balanced has 12,578"),
}


def right_answer(question: Question) -> str:
    truth = question.truth
    if isinstance(truth, tuple):
        words = all(isinstance(part, str) for part in truth)
        return max(map(str, truth), key=truth.count) if words else " ".join(map(str, truth))
    return str(truth)


SLOW = {"refcoco testB", "refcoco with +", "pope_p", "pope head"}


@pytest.mark.parametrize("case", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in FILES])
def test_published_files_are_read_and_their_version_is_recognised(case: str) -> None:
    name, path, count, version = FILES[case]
    path = SHARED / path
    questions = get_task(name).read_questions(benchmark_files(path) if path.is_dir() else [path])
    assert len({question.id for question in questions}) == len(questions) == count
    assert describe_version(get_task(name), questions).startswith(f"{count:,} question{'s' * (count > 1)}: {version}")
    sample = questions[::10]
    scores = get_task(name).metric.compute(
        [right_answer(question) for question in sample], [question.truth for question in sample]
    )
    assert min(scores) >= 0 and sum(scores) > 0.8 * len(sample)


def test_two_versions_of_pope_in_a_folder_are_refused(tmp_path: Path) -> None:
    for version in ("head", "e3e3926"):
        (tmp_path / f"{version}_random.json").symlink_to(SHARED / "pope" / version / "coco_pope_random.json")
    with pytest.raises(DataError, match=r"e3e3926_random\.json.*head_random\.json.*one file of the split random"):
        read("pope", tmp_path)


def test_llavas_question_file_has_no_labels(tmp_path: Path) -> None:
    path = SHARED / "llava15_pope" / "llava_pope_test.jsonl.gz"
    with pytest.raises(DataError, match="lacks 'label'"):
        get_task("pope").read_questions([path])


@pytest.fixture(scope="module")
def byte_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with the paper's byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("byte_checkpoint")
    tokens = gzip.decompress((SHARED / "tokenizers" / "gpt-neox-20b_tokenizer.json.gz").read_bytes())
    (folder / "tokenizer.json").write_bytes(tokens)
    model = VLM(replace(PATCHES, lm=replace(LM, vocab_size=50432, token_shift=1)))
    model.initialise(7)
    save(folder / "checkpoint", model, tokens_seen=0, tokenizer=folder / "tokenizer.json", encoders=[])
    return folder / "checkpoint"


def link_published(root: Path) -> Path:
    """VQAv2's and GQA's published records, with images in the benchmarks' own folders."""
    vision = SHARED / "allennlp_vision"
    for name, has_own_images in (("vqav2", False), ("gqa", True)):
        (root / name).mkdir(parents=True)
        for path in benchmark_files(vision / name):
            (root / name / path.name).symlink_to(path)
        path = root / name / "images" if has_own_images else root / "images" / "train2014"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(vision / "images" / name)
    return root


def test_published_records_and_images_are_evaluated(byte_checkpoint: Path, tmp_path: Path) -> None:
    benchmarks = link_published(tmp_path / "benchmarks")
    config = EvalConfig(tasks=("vqav2", "gqa"), image_mode="both", prompt_style="paper")
    result = evaluate_checkpoint(byte_checkpoint, benchmarks, config=config, site=Site(), on_progress=lambda _: None)
    assert [row.is_blind for row in result.answers] == [False] * 3 + [True] * 3 + [False, True]
    first, last = result.answers[0], result.answers[-1]
    assert first.prompt == (
        "\nWhat is this photo taken looking through?\nAnswer the question using a single word or phrase."
    )
    assert last.prompt.startswith("\nWhat is hanging above the chalkboard?\n")
    assert last.stored().truth == "picture"
    assert all(0 <= row.score <= 1 for row in result.answers)
    assert result.scores.tasks["vqav2"].n == 3 and result.scores.tasks["vqav2"].version == 2


def test_missing_images_are_counted_before_any_question(byte_checkpoint: Path, tmp_path: Path) -> None:
    benchmarks = link_published(tmp_path / "benchmarks")
    rows = {str(n): {"question": "q?", "imageId": f"n{n}", "answer": "yes"} for n in range(9)}
    (benchmarks / "gqa" / "questions.json").unlink()
    write(benchmarks / "gqa", "questions.json", rows)
    config = EvalConfig(tasks=("vqav2", "gqa"), image_mode="both", prompt_style="paper")
    progress: list[object] = []
    with pytest.raises(DataError, match=r"9 of 9 images are missing: 'n0', 'n1', 'n2', \.\.\."):
        evaluate_checkpoint(byte_checkpoint, benchmarks, config=config, site=Site(), on_progress=progress.append)
    assert progress == []


def test_published_images_have_several_names(tmp_path: Path) -> None:
    images = BenchmarkImages(link_published(tmp_path / "benchmarks"))
    assert images.read("458752", "vqav2") == images.read("COCO_train2014_000000458752.jpg")
    assert images.read("n578564", "gqa").startswith(b"\xff\xd8")
    assert images.missing_names(["n578564", "262148"], "vqav2") == ("n578564",)


def write_small_benchmarks(root: Path) -> Path:
    """One or two questions in each other form, about the same images."""
    image = "COCO_train2014_000000458752.jpg"
    line = {"question_id": 1, "image": image, "text": "Is there a net in the image?", "label": "yes"}
    write(root / "pope", "coco_pope_random.json", lines([line, line | {"question_id": 2, "label": "no"}]))
    row = {"question_id": 5, "image_id": "n578564", "question": "what does it say?", "answers": ["chalk"] * 10}
    write(root / "textvqa", "val.json", {"data": [row | {"ocr_tokens": ["chalk", "board"]}]})
    box = {"img_id": image[:-4] + "_1", "sents": "the man", "bbox": [10, 10, 90, 90], "height": 480, "width": 640}
    write(root / "refcoco_plus", "refcoco+_val.json", [box])
    images = [{"id": 1, "file_name": image, "domain": "in-domain"}, {"id": 2, "file_name": "n578564.jpg"}]
    captions = [{"image_id": 1, "caption": "a man bats"}, {"image_id": 2, "caption": "a room"}]
    write(root / "nocaps", "nocaps_val_4500_captions.json", {"images": images, "annotations": captions})
    mmmu_row = {"id": "1", "question": "<image 1> Who?", "options": "['a', 'b']", "answer": "B", "image_1": image}
    write(root / "mmmu", "Art.jsonl", lines([mmmu_row]))
    task_json = {"prompt": "{question}", "metric": "choice", "answered": "choice", "chance": 0.5, "version": 1}
    write(root / "sport", "task.json", task_json)
    has_own_images = {
        "id": "1",
        "question": "Which sport?",
        "image": "own.jpg",
        "choices": ["tennis", "baseball"],
        "answer": "tennis",
    }
    write(root / "sport", "questions.jsonl", lines([has_own_images]))
    (root / "sport" / "images").mkdir()
    (root / "sport" / "images" / "own.jpg").symlink_to(SHARED / "allennlp_vision" / "images" / "gqa" / "2368326.jpg")
    (root / "images" / "gqa").symlink_to(SHARED / "allennlp_vision" / "images" / "gqa")
    return root


def test_all_other_forms_are_evaluated(byte_checkpoint: Path, tmp_path: Path) -> None:
    benchmarks = write_small_benchmarks(link_published(tmp_path / "benchmarks"))
    names = ("pope", "pope_p", "textvqa_ocr", "refcoco_plus", "nocaps", "mmmu", "sport")
    config = EvalConfig(tasks=names, image_mode="seeing", prompt_style="paper")
    result = evaluate_checkpoint(byte_checkpoint, benchmarks, config=config, site=Site(), on_progress=lambda _: None)
    scores = result.scores.tasks
    assert {name: scores[name].n for name in names} == dict(zip(names, (2, 2, 1, 1, 2, 1, 1), strict=True))
    answers = {row.task.name: row.answer for row in result.answers}
    assert answers["pope_p"] in ("Yes", "No") and answers["sport"] in ("tennis", "baseball")
    assert scores["pope_p"].splits["random"].accuracy == 0.5
    assert scores["nocaps"].by == {"domain": {"in-domain": SubsetScore(n=1, score=0.0)}}
    assert result.scores.missing["vision"] == ("vqav2", "gqa", "textvqa", "refcoco", "ocid_ref")
