"""The table of tasks: names, prompts, versions and baselines; and how files of a benchmark are read."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
import zstandard

from firstsight.errors import DataError, UnknownName
from firstsight.evaluate.metrics import METRICS as ALL_METRICS
from firstsight.evaluate.task import Question, benchmark_files, describe_version, unread_file_notes
from firstsight.evaluate.tasks import TASKS, get_task
from tests.evaluate.tasks.task_files import lines, read, write

DOCS = Path(__file__).parents[2] / "docs"
SHORT = "\nQ?\nAnswer the question using a single word or phrase."
BOX = '\nPlease provide the bounding box coordinate of the region this sentence describes: "Q?"'
GOLDEN = {
    **dict.fromkeys(("vqav2", "kinds", "gqa", "textvqa", "textvqa_ocr", "pope", "pope_p"), SHORT),
    **dict.fromkeys(("refcoco", "refcoco_plus", "refcocog", "ocid_ref"), BOX),
    **dict.fromkeys(("coco_captions", "nocaps"), "\nQ?"),
    "vizwiz": "\nQ?\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    "\nAnswer the question using a single word or phrase.",
    "mmmu": "\nQ?\nAnswer with the option's letter from the given choices directly.",
}
"""The paper's prompts (paper 5.2), and its harness's for the other tasks."""
VERSIONS = {"vqav2": 2, "kinds": 2, "vizwiz": 3, "textvqa": 2}
BASELINES = {"vqav2": 0.25, "gqa": 0.25, "textvqa": 0.0, "refcoco": 0.0, "ocid_ref": 0.0, "pope": 0.5}
METRICS = {"vqav2": "vqa", "textvqa": "textvqa", "vizwiz": "vizwiz", "gqa": "exact", "refcocog": "iou50"} | {
    "ocid_ref": "iou25",
    "pope_p": "yes_no",
    "nocaps": "cider",
    "mmmu": "letter",
}


def question(text: str = "Q?", *, split: str = "", name: str = "1") -> Question:
    return Question(id=name, text=text, truth="yes", image=None, choices=(), split=split, tags={})


def test_names_are_keys_and_unknown_names_list_the_nearest() -> None:
    assert all(name == get_task(name).name for name in TASKS)
    with pytest.raises(UnknownName, match="vqav2"):
        get_task("vqa2")


def test_the_stable_score_has_the_papers_six_vision_and_nine_text_tasks() -> None:
    scored = {t.name: t.baseline for t in TASKS.values() if t.baseline is not None and t.kind == "vision"}
    assert scored == BASELINES
    assert sum(t.kind == "text" and t.baseline is not None for t in TASKS.values()) == 9


def test_the_papers_prompts() -> None:
    vision = {name: task.prompt(question(), "paper") for name, task in TASKS.items() if task.kind == "vision"}
    assert vision == GOLDEN


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_bare_prompt_is_the_question(name: str) -> None:
    assert get_task(name).prompt(question("is it {red}?"), "bare") == "is it {red}?"
    assert "is it {red}?" in get_task(name).prompt(question("is it {red}?"), "paper")


def test_versions_and_metrics_are_as_released() -> None:
    assert {
        name: task.version for name, task in TASKS.items() if task.kind == "vision" and task.version > 1
    } == VERSIONS
    assert {name: TASKS[name].metric.name for name in METRICS} == METRICS


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("vqav2", 214354, "214,354 questions: VQAv2 val2014"),
        ("refcoco", 10834, "10,834 questions: RefCOCO val"),
        ("refcoco", 5657, "5,657 questions: RefCOCO testA, not RefCOCO val"),
        ("refcoco_plus", 10834, "10,834 questions: RefCOCO val, not RefCOCO+ val"),
        ("refcocog", 4896, "4,896 questions: RefCOCOg val"),
        ("gqa", 12, "12 questions: no published version; GQA testdev_balanced has 12,578"),
        ("kinds", 96, "96 questions"),
    ],
)
def test_a_version_is_recognised_by_its_count(name: str, count: int, expected: str) -> None:
    assert describe_version(get_task(name), [question()] * count) == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((3000, 3000, 3000), "9,000 questions: POPE on COCO, head (3,000 random questions)"),
        ((3000, 3000, 2910), "8,910 questions: e3e3926 (2,910 random questions, LLaVA's), not POPE on COCO, head"),
        ((0, 0, 2910), "2,910 questions: only the split random of e3e3926"),
        ((4, 4, 4), "12 questions: no published version"),
    ],
)
def test_popes_versions_are_recognised(counts: tuple[int, ...], expected: str) -> None:
    splits = zip(("adversarial", "popular", "random"), counts, strict=True)
    questions = [question(split=split) for split, count in splits for _ in range(count)]
    assert describe_version(get_task("pope"), questions).startswith(expected)


def test_the_papers_counts_add_up() -> None:
    """paper 5.2: 26,488 for RefCOCO, RefCOCO+ and RefCOCOg together; 9,000 for POPE."""
    totals = {name: sum(next(iter(task.published.values())).values()) for name, task in TASKS.items() if task.published}
    assert totals["refcoco"] + totals["refcoco_plus"] + totals["refcocog"] == 26488
    papers = {"vqav2": 214354, "gqa": 12578, "vizwiz": 4319, "textvqa": 5000, "ocid_ref": 18342, "pope": 9000}
    assert papers.items() <= totals.items()


def test_a_variant_reads_its_own_folder_or_that_of_its_task(tmp_path: Path) -> None:
    assert get_task("pope_p").folder(tmp_path) == tmp_path / "pope"
    (tmp_path / "pope_p").mkdir()
    assert get_task("pope_p").folder(tmp_path) == tmp_path / "pope_p"
    assert get_task("gqa").folder(tmp_path) == tmp_path / "gqa"


def test_other_files_of_a_folder_are_left_out(tmp_path: Path) -> None:
    for name in ("b.jsonl.gz", "a.json", "README.json", "LICENSE", "question_blind.json", "task.json", ".x.json"):
        write(tmp_path, name, "")
    write(tmp_path / "images", "c.json", "")
    assert [path.name for path in benchmark_files(tmp_path)] == ["a.json", "b.jsonl.gz"]
    with pytest.raises(DataError, match=r"Got c\.txt"):
        benchmark_files(write(tmp_path / "other", "c.txt", "").parent)
    with pytest.raises(DataError, match="Got none"):
        benchmark_files(tmp_path / "nowhere")


GQA_ROW = {"question_id": "1", "question": "what is it?", "answer": "caf\u00e9", "imageId": "7"}


@pytest.mark.parametrize("name", ["q.json", "Q.JSON", "q.jsonl", "q.ndjson", "Q.JsonL"])
@pytest.mark.parametrize("packing", ["", ".gz", ".GZ", ".zst", ".zstd", "renamed gzip"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_questions_are_read_with_each_ending_of_the_readers(tmp_path: Path, name: str, packing: str, mark: str) -> None:
    text = mark + (json.dumps([GQA_ROW]) if name.lower().endswith(".json") else lines([GQA_ROW]))
    data = text.encode()
    if packing:
        data = zstandard.compress(data) if packing.startswith(".zst") else gzip.compress(data)
    (tmp_path / (name + (packing if packing.startswith(".") else ""))).write_bytes(data)
    (only,) = read("gqa", tmp_path)
    assert (only.id, only.text, only.truth, only.image) == ("1", "what is it?", "caf\u00e9", "7")
    assert unread_file_notes(tmp_path) == ()


def test_files_that_are_not_read_are_counted_by_reason(tmp_path: Path) -> None:
    write(tmp_path, "q.json", [GQA_ROW])
    for name in (
        "._q.json",
        ".q.json",
        ".b.json",
        "README.md",
        "q.csv",
        "old.zip",
        "question_blind.json",
        "images.tar",
    ):
        write(tmp_path, name, "")
    assert len(read("gqa", tmp_path)) == 1
    (note,) = unread_file_notes(tmp_path)
    for counted in ("1 x macOS file (._q.json)", "2 x hidden file (.b.json)", "1 x documentation (README.md)"):
        assert counted in note
    assert "1 x ending .csv (q.csv)" in note and "1 x archive .zip: unpack it (old.zip)" in note
    assert "question_blind" not in note and "images.tar" not in note


@pytest.mark.parametrize("is_folder", [True, False])
def test_tables_of_google_refexp_have_no_boxes(tmp_path: Path, is_folder: bool) -> None:
    path = write(tmp_path, "google_refexp_val.csv", "annotation_id,refexp\n1,the left one\n")
    with pytest.raises(
        DataError, match=r"without boxes, which are in google_refexp_val_201511_coco_aligned\.json"
    ) as info:
        get_task("refcocog").read_questions(benchmark_files(tmp_path) if is_folder else [path])
    assert "\n" not in str(info.value)


def test_choices_must_contain_the_right_one(tmp_path: Path) -> None:
    write(tmp_path, "copa.jsonl", lines([{"query": "q", "choices": ["a", "b"], "gold": 2}]))
    with pytest.raises(DataError, match=r"copa\.jsonl: record 1: gold"):
        read("copa", tmp_path)


@pytest.mark.parametrize("name", ["arc_easy", "gqa", "vizwiz", "refcoco", "ocid_ref", "coco_captions", "mmmu"])
@pytest.mark.parametrize(
    "content", ["{", '{"query": "a"}\n{"query', '{"strange": 1}', "[1, 2]", "3", b"\xff", b"\x1f\x8bxx"]
)
def test_broken_files_are_named(content: str | bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "given.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"given\.jsonl"):
        read(name, tmp_path)


def test_the_reference_page_lists_every_vision_task() -> None:
    page = (DOCS / "reference" / "tasks.md").read_text()
    listed: dict[str, tuple[str, float, float | None, int]] = {}
    for row in re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE):
        cells = [cell.strip() for cell in row[1].split("|")]
        if len(cells) == 6:
            _, _, metric, chance, stable, version = cells
            listed[row[0]] = (metric.strip("`"), float(chance), float(stable) if stable else None, int(version))
    vision = [task for task in TASKS.values() if task.kind == "vision"]
    assert listed == {task.name: (task.metric.name, task.chance, task.baseline, task.version) for task in vision}
    assert all(f"{sum(next(iter(task.published.values())).values()):,}" in page for task in vision if task.published)
    assert all(f"`{task.name}`" in page for task in TASKS.values())


def test_the_example_of_the_custom_benchmark_page_is_read(tmp_path: Path) -> None:
    page = (DOCS / "howto" / "own-benchmark.md").read_text()
    head, row = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    write(tmp_path / "birds", "task.json", head)
    write(tmp_path / "birds", "questions.jsonl", row)
    task = get_task("birds", tmp_path)
    (only,) = task.read_questions(benchmark_files(tmp_path / "birds"))
    assert task.prompt(only, "paper") == "\nWhich bird is this?\nAnswer with one word."
    assert all(f"`{name}`" in page for name in ALL_METRICS)
