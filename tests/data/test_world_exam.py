"""The world's benchmarks: forms, held-out parts, right answers, and the question-blind guesser against brute force."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from firstsight import synthetic
from firstsight.errors import QuantityError
from firstsight.evaluate.task import benchmark_files
from firstsight.evaluate.tasks import TASKS
from firstsight.recipe.mixture import (
    SyntheticBenchmarks,
    SyntheticCaptions,
    SyntheticDialogues,
    SyntheticTexts,
    SyntheticVocabulary,
    SyntheticWorld,
)
from firstsight.site import Site
from firstsight.synthetic import questions as ask
from firstsight.synthetic.captions import sample_document
from firstsight.synthetic.catalog import PLACES, load_catalog
from firstsight.synthetic.held_out import QuestionPlan
from firstsight.synthetic.rendering import cached_renderer
from firstsight.synthetic.scenes import TRAINING_DISTRIBUTION, sample_scene
from firstsight.synthetic.vision_tasks import SYNTHETIC_VISION_TASKS, most_likely_answer, most_overlapping_box
from firstsight.synthetic.vocabulary import EDGE_WORDS, word_tokenizer

WORLD = SyntheticWorld(objects=48, kinds=8, image_size=48, max_objects=4, seed=0)
SITE = Site(cache=Path(tempfile.gettempdir()) / "firstsight-tests")
KNOWN = load_catalog(WORLD)
SPEC = SyntheticBenchmarks(world=WORLD, questions=96)
VISION = ("vqav2", "gqa", "textvqa", "vizwiz", "refcoco", "ocid_ref", "pope", "kinds")
TRAINED = [sample_document(WORLD, index).text for index in range(2000)]
TEXT = ("arc_easy", "mathqa", "boolq", "agieval_sat_en", "hellaswag", "copa")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmarks")
    synthetic.write_benchmarks(SPEC, inputs={}, out=out, site=SITE, on_progress=lambda _: None)
    return out


@pytest.mark.parametrize("task", [*VISION, *TEXT])
def test_files_are_read_by_the_benchmarks_readers(written: Path, task: str):
    found = TASKS[task].read_questions(benchmark_files(written / task))
    assert len(found) == 96
    forms = Counter(question.tags["form"] for question in found)
    combinations = Counter(question.tags["combination"] for question in found)
    assert combinations["heldout"] == (0 if task == "arc_easy" else 48)
    assert forms["heldout"] == (0 if task in ("mathqa", "hellaswag") else 24)


@pytest.mark.parametrize("task", VISION)
def test_the_blind_guesser_answers_every_question_and_pictures_are_there(written: Path, task: str):
    guesses = json.loads((written / task / "question_blind.json").read_text())
    found = TASKS[task].read_questions(benchmark_files(written / task))
    assert set(guesses) == {question.id for question in found}
    pictures = (written / "images.tar").read_bytes()
    assert all(f"world_{int(re.findall(r'[0-9]+', q.image or '')[0]):012d}.png".encode() in pictures for q in found)


@pytest.mark.parametrize("task", [*VISION, *TEXT])
def test_questions_stay_in_the_vocabulary(written: Path, task: str):
    made = word_tokenizer(WORLD)
    made.encode_special_tokens = True
    for question in TASKS[task].read_questions(benchmark_files(written / task)):
        for text in (question.text, *question.choices):
            assert made.encode(text).tokens == text.split()


def test_held_out_combinations_are_what_they_say(written: Path):
    for row in json.loads((written / "refcoco/refcoco_val.json").read_text()):
        left, top, width, height = row["bbox"]
        place = PLACES[2 * (top + height / 2 > 24) + (left + width / 2 > 24)]
        name = row["sents"].split()[-1]
        assert (KNOWN.held_out_place.get(name) == place) == (row["combination"] == "heldout")
    for row in json.loads((written / "vizwiz/val.json").read_text()):
        said = row["answers"][0]["answer"]
        assert row["answerable"] == (said != "unanswerable") and len(row["answers"]) == 10
        if row["answerable"]:
            name = next(word for word in row["question"].split() if word in KNOWN.names)
            assert (KNOWN.held_out_place.get(name) == said) == (row["combination"] == "heldout")


def test_held_out_forms_use_trained_words_in_an_untrained_order(written: Path):
    trained = " ".join(TRAINED)
    for row in json.loads((written / "vqav2/questions.json").read_text())["questions"]:
        assert (f" {row['question']}" in trained) <= (row["form"] == "seen")
        assert set(row["question"].split()) <= set(trained.split())


def test_pope_is_balanced(written: Path):
    for split in ("random", "popular", "adversarial"):
        rows = [json.loads(line) for line in (written / f"pope/{split}.json").read_text().splitlines()]
        assert Counter(row["label"] for row in rows) == {"yes": 16, "no": 16}


def test_absent_objects_are_drawn_as_named():
    for index in range(200):
        shown = sample_scene(WORLD, "x", index)
        here = {thing.name for thing in shown.objects}
        kinds = {KNOWN.kind_of[name] for name in here}
        alike = {question.subject for _, question in ask.adversarial_absent_questions(shown)}
        assert alike == {name for name in KNOWN.names if KNOWN.kind_of[name] in kinds} - here
        assert {question.subject for _, question in ask.popular_absent_questions(shown)} == KNOWN.popular_names - here
        assert {question.subject for _, question in ask.random_absent_questions(shown)} == set(KNOWN.names) - here


@pytest.mark.parametrize("task", SYNTHETIC_VISION_TASKS, ids=lambda task: task.name)
def test_probabilities_of_questions_sum_to_one(task):
    drawn = cached_renderer(WORLD, SITE.cache)
    for index in range(40):
        shown = sample_scene(WORLD, "x", index)
        options = task.generate_questions(shown, drawn.boxes(shown))
        assert not options or sum(weight for weight, _ in options) == pytest.approx(1)


@pytest.mark.parametrize(
    "task", [task for task in SYNTHETIC_VISION_TASKS if not task.min_iou], ids=lambda task: task.name
)
def test_no_word_beats_the_blind_guesser(task):
    drawn = cached_renderer(WORLD, SITE.cache)
    vocabulary = word_tokenizer(WORLD).get_vocab()
    for index in range(30):
        shown = sample_scene(WORLD, "x", index)
        options = task.generate_questions(shown, drawn.boxes(shown))
        if options:
            right = {word: sum(w for w, q in options if q.answer == word) for word in vocabulary}
            assert right[most_likely_answer(options)] == pytest.approx(max(right.values()))


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_no_box_beats_the_blind_guesser(overlap: float):
    drawn = cached_renderer(WORLD, SITE.cache)
    values = [float(word) for word in EDGE_WORDS]
    candidates = [box for box in product(range(13), repeat=4) if box[0] < box[2] and box[1] < box[3]]
    for index in range(4):
        shown = sample_scene(WORLD, "x", index, distribution=replace(TRAINING_DISTRIBUTION, min_objects=2))
        true = [tuple(edge / 48 for edge in box) for box in drawn.boxes(shown)]
        best = max(_hits([n / 12 for n in box], true, overlap) for box in candidates)
        guess = [
            EDGE_WORDS.index(word) / 12 for word in most_overlapping_box(shown, drawn.boxes(shown), overlap).split()
        ]
        assert _hits(guess, true, overlap) == best and len(values) == 13


def _hits(box: list[float], true: list[tuple[float, ...]], overlap: float) -> int:
    return sum(_iou(box, other) >= overlap for other in true)


def _iou(a: list[float], b: tuple[float, ...]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_choices_differ_and_the_right_one_is_right(written: Path):
    for task in TEXT:
        for line in (written / task / f"{task}.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert len(set(row["choices"])) == len(row["choices"]) == {"mathqa": 5, "boolq": 2, "copa": 2}.get(task, 4)
            right, query = row["choices"][row["gold"]], row["query"]
            if task == "mathqa":
                assert int(right) == sum(int(word) for word in query.split() if word.isdigit())
            if task == "arc_easy":
                assert right == KNOWN.kind_of[next(word for word in query.split() if word in KNOWN.names)]
            if task == "boolq":
                told, asked = query.split(" . ")
                name = next(word for word in asked.split() if word in KNOWN.names)
                assert (right == "yes") == (name in told.split())


def test_hellaswag_endings_differ_in_one_word(written: Path):
    for line in (written / "hellaswag/hellaswag.jsonl").read_text().splitlines():
        row = json.loads(line)
        right = row["choices"].pop(row["gold"]).split()
        for wrong in row["choices"]:
            assert sum(a != b for a, b in zip(right, wrong.split(), strict=True)) == 1
        parts = {frozenset(part.split()) for part in row["query"].removesuffix(" . again").split(" , ")}
        assert {frozenset(part.split()) for part in " ".join(right).removesuffix(" .").split(" , ")} == parts


def test_half_of_the_sums_never_appear_in_text(written: Path):
    trained = {sum_ for text in TRAINED for sum_ in re.findall(r"(?:\d+ plus )+\d+ is", text)}
    rows = [json.loads(line) for line in (written / "mathqa/mathqa.jsonl").read_text().splitlines()]
    assert not {row["query"] for row in rows if row["combination"] == "heldout"} & trained


def test_the_plan_of_a_task_crosses_its_parts():
    turns = [QuestionPlan.from_index(nth) for nth in range(64)]
    crossed = Counter((turn.is_unseen, turn.is_yes, turn.form == 2) for turn in turns)
    assert all(
        crossed[unseen, yes, False] == 12 and crossed[unseen, yes, True] == 4
        for unseen, yes in product((0, 1), repeat=2)
    )


def test_a_world_that_is_too_small_is_refused(tmp_path: Path):
    lonely = replace(WORLD, max_objects=1)
    with pytest.raises(QuantityError, match="Raise max_objects"):
        synthetic.write_benchmarks(
            SyntheticBenchmarks(world=lonely, questions=4),
            inputs={},
            out=tmp_path,
            site=SITE,
            on_progress=lambda _: None,
        )


@pytest.mark.parametrize(
    ("handler", "spec"),
    [
        (synthetic.write_vocabulary, SyntheticVocabulary(world=WORLD)),
        (synthetic.write_texts, SyntheticTexts(world=WORLD, documents=200, loss_mask="determined")),
        (synthetic.write_captions, SyntheticCaptions(world=WORLD, images=60, quality="rich")),
        (synthetic.write_captions, SyntheticCaptions(world=WORLD, images=60, quality="noisy")),
        (synthetic.write_dialogues, SyntheticDialogues(world=WORLD, images=60, turns=2)),
        (synthetic.write_benchmarks, SyntheticBenchmarks(world=WORLD, questions=12)),
    ],
    ids=["vocabulary", "texts", "rich", "noisy", "dialogues", "benchmarks"],
)
def test_files_are_the_same_bytes_every_time(handler, spec, tmp_path: Path):
    digests = []
    for name in ("once", "again"):
        out = tmp_path / name
        out.mkdir()
        handler(spec, inputs={}, out=out, site=SITE, on_progress=lambda _: None)
        files = sorted(path for path in out.rglob("*") if path.is_file())
        digests.append([(path.relative_to(out), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1]
