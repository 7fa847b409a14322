"""Pairing, counts, pictures and single questions against rows written by hand and laws that any answers obey."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from firstsight.data.images import decode_rgb
from firstsight.errors import DataError, RequestError, UnknownName
from firstsight.report.pages.answers_table import AnswerFile, AnswersTable
from firstsight.report.pages.disagreements import compute_task_stats, draw_questions, rank_disagreements
from firstsight.report.pages.question_cards import question_cards, question_lines
from firstsight.report.pages.thumbnails import Thumbnails, make_thumbnail
from tests.report.answer_files import Line, benchmarks, line, picture, sheet, written

SCORES = (0.0, 0.3, 0.6, 0.9, 1.0)
WORDS = ("cat", "dog", "")


@st.composite
def asked(draw: st.DrawFn) -> tuple[list[Line], list[Line]]:
    """Answers of two checkpoints to overlapping questions, in any order."""
    keys = draw(st.lists(st.tuples(st.sampled_from(["gqa", "pope", "kinds"]), st.integers(0, 9)), unique=True))
    sheets: tuple[list[Line], list[Line]] = ([], [])
    for task, number in keys:
        both = draw(st.sampled_from([(0,), (1,), (0, 1), (0, 1), (0, 1)]))
        for who in both:
            for blind in draw(st.sampled_from([(False,), (True,), (False, True)])):
                truth = draw(st.sampled_from(["cat", "cat", "cat", "dog"]))
                told = {"answer": draw(st.sampled_from(WORDS)), "score": draw(st.sampled_from(SCORES)), "truth": truth}
                sheets[who].append(line(str(number), task=task, blind=blind, **told))
    return draw(st.permutations(sheets[0])), draw(st.permutations(sheets[1]))


def _kind(first: list[Line], second: list[Line]) -> tuple[str, float]:
    """How one question's lines differ, by the definition: as both saw it, with the picture if they did."""
    for blind in (False, True):
        a, b = ([one for one in lines if one["blind"] is blind] for lines in (first, second))
        if a and b:
            if a[0]["truth"] != b[0]["truth"]:
                return "truth", 0.0
            less = round(a[0]["score"] - b[0]["score"], 9)
            return ("score" if less else "wording" if a[0]["answer"] != b[0]["answer"] else "same"), less
    return "unpaired", 0.0


@given(asked())
@settings(max_examples=60, deadline=None)
def test_differences_stand_on_top_the_largest_first(given: tuple[list[Line], list[Line]]) -> None:
    first, second = given
    if not first or not second:
        return
    with TemporaryDirectory() as folder:
        both = sheet(Path(folder), "a", first), sheet(Path(folder), "b", second)
        found = rank_disagreements(*both)
        counted = {row.task: row for row in compute_task_stats(both, found)}
    wanted = {
        key: _kind(*([one for one in lines if (one["task"], one["question_id"]) == key] for lines in (first, second)))
        for key in {(one["task"], one["question_id"]) for one in (*first, *second)}
    }
    rows = found.select("task", "question", "kind", "difference").rows()
    told = {
        (task, question): (kind, difference if kind != "truth" else 0.0) for task, question, kind, difference in rows
    }
    assert told == wanted and len(rows) == len(wanted)
    places = [("score", "wording", "same", "truth", "unpaired").index(kind) for _, _, kind, _ in rows]
    assert places == sorted(places)
    sizes = [abs(difference) for _, _, kind, difference in rows if kind == "score"]
    assert sizes == sorted(sizes, reverse=True)
    for task, row in counted.items():
        own = [kind for (name, _), kind in wanted.items() if name == task]
        assert row.kind_counts == Counter(kind for kind, _ in own)
        assert row.better_counts == (sum(less > 0 for _, less in own), sum(less < 0 for _, less in own))


@given(asked(), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_a_draw_is_fair_to_tasks_and_hangs_on_no_order(given: tuple[list[Line], list[Line]], count: int) -> None:
    lines = given[0]
    if not lines:
        return
    with TemporaryDirectory() as folder:
        one, turned = sheet(Path(folder), "a", lines), sheet(Path(folder), "b", lines[::-1])
        drawn, again = draw_questions(one, count=count), draw_questions(turned, count=10**6)
    keys = drawn.select("task", "question").rows()
    sizes = Counter(task for task, _ in {(one["task"], one["question_id"]) for one in lines})
    assert len(keys) == len(set(keys)) == min(count, sum(sizes.values()))
    held = Counter(task for task, _ in keys)
    most = max(held.values())
    assert all(held[task] >= min(size, most - 1) for task, size in sizes.items())
    for task in held:  # the first of each task's own order, whatever the order of the lines
        own = [key for key in again.select("task", "question").rows() if key[0] == task]
        assert [key for key in keys if key[0] == task] == own[: held[task]]


def test_ties_let_tasks_take_turns(tmp_path: Path) -> None:
    keys = [(task, str(number)) for task in ("gqa", "pope", "kinds") for number in range(5)]
    first = sheet(tmp_path, "a", [line(number, task=task, score=1.0) for task, number in keys])
    second = sheet(tmp_path, "b", [line(number, task=task, score=0.0) for task, number in keys])
    tasks = rank_disagreements(first, second).get_column("task").to_list()
    assert [set(tasks[at : at + 3]) for at in range(0, 15, 3)] == [{"gqa", "pope", "kinds"}] * 5


def test_scores_and_the_difference_are_those_of_the_lines(tmp_path: Path) -> None:
    """POPE's score is the mean over splits; the difference is over the questions that both were asked."""

    def asked(scores: tuple[float, ...]) -> list[Line]:
        splits = zip(("random", "random", "random", "popular"), scores, strict=True)
        return [line(str(n), task="pope", split=split, score=s, image="i") for n, (split, s) in enumerate(splits)]

    first, second = asked((1, 1, 0, 0)), asked((1, 0, 0, 1))
    second.append(line("9", task="pope", split="popular", score=0.0))
    first.append(line("0", task="pope", split="random", score=0.5, blind=True))
    both = sheet(tmp_path, "a", first), sheet(tmp_path, "b", second)
    [row] = compute_task_stats(both, rank_disagreements(*both))
    a, b = row.scores
    assert a is not None and a.sighted == pytest.approx((2 / 3 + 0) / 2) and a.blind == 0.5 and a.questions == 4
    assert b is not None and b.sighted == pytest.approx((1 / 3 + 1 / 2) / 2) and b.blind is None and b.questions == 5
    assert row.compared_count == 4 and row.difference == pytest.approx((1 / 3 - 1) / 2)
    assert row.interval is not None and row.interval[0] <= (1 / 3 - 1) / 2 <= row.interval[1]


def test_a_paired_difference_is_surer_than_two_scores(tmp_path: Path) -> None:
    """Both fail on the same hard questions: the interval of the difference is narrower than that of a score."""
    hard = [n % 2 == 0 for n in range(200)]
    first = sheet(tmp_path, "a", [line(str(n), score=0.0 if hard[n] else 1.0) for n in range(200)])
    second = sheet(tmp_path, "b", [line(str(n), score=0.0 if hard[n] or n % 20 == 1 else 1.0) for n in range(200)])
    [row] = compute_task_stats((first, second), rank_disagreements(first, second))
    assert row.interval is not None and 0 < row.interval[0] < 0.05 < row.interval[1] < 0.1


def test_several_files_give_each_task_from_the_first_that_has_it(tmp_path: Path) -> None:
    own = written(tmp_path / "own.jsonl", [line("1", answer="own")])
    beside = written(tmp_path / "beside.jsonl", [line("1", answer="beside"), line("2", task="mmmu", answer="beside")])
    held = AnswersTable("a", [AnswerFile(path=own, benchmarks_dir=None), AnswerFile(path=beside, benchmarks_dir=None)])
    shown = list(question_cards([held], draw_questions(held, count=9), Thumbnails()))
    assert [(card.task, card.answers[0].text) for card in shown] == [("vqav2", "own"), ("mmmu", "beside")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Got none"),
        ("{\n", "answers.jsonl:1"),
        ("[1]\n", "answers.jsonl:1"),
        ("1\n", "answers.jsonl:1"),
        ('{"task": "gqa", "question_id": 1}\n', "task, question_id and score"),
        ('{"task": "gqa", "question_id": 1, "score": NaN}\n', "Got nan"),
        ('{"task": "gqa", "question_id": 1, "score": Infinity}\n', "Got inf"),
        ('{"task": "gqa", "question_id": 1, "score": null}\n', "answers.jsonl:1"),
        ("\n" + 2 * '{"task": "gqa", "question_id": 1, "score": 1}\n', "two for '1' of gqa with its image"),
    ],
)
def test_what_is_no_file_of_answers_is_named(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=told):
        AnswersTable("a", [AnswerFile(path=file, benchmarks_dir=None)])


def test_a_task_that_was_not_answered_is_refused_with_those_that_were(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [line("1"), line("1", task="pope")])
    with pytest.raises(UnknownName, match="pope"):
        AnswersTable("a", [AnswerFile(path=file, benchmarks_dir=None)], task="popo")
    only = AnswersTable("a", [AnswerFile(path=file, benchmarks_dir=None)], task="pope")
    assert only.rows.get_column("task").to_list() == ["pope"]


def _decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize(
    ("data", "form", "size"),
    [
        (picture(2000, 1000, "JPEG"), "JPEG", (384, 192)),
        (picture(300, 1200, "WEBP"), "JPEG", (96, 384)),
        (picture(48, 48), "PNG", (48, 48)),
        (picture(128, 20, "BMP"), "PNG", (128, 20)),
    ],
)
def test_pictures_are_drawn_anew(data: bytes, form: str, size: tuple[int, int]) -> None:
    shown = make_thumbnail(decode_rgb(data + b"<script>alert(1)</script>"))
    again = _decoded(shown.uri)
    assert (again.format, again.size, (shown.width, shown.height)) == (form, size, size)
    assert b"script" not in base64.b64decode(shown.uri.partition(",")[2])
    left, right = again.convert("RGB").getpixel((2, size[1] // 2)), again.convert("RGB").getpixel((size[0] - 3, 2))
    assert isinstance(left, tuple) and isinstance(right, tuple)
    assert left[0] > 240 > 20 > left[2] and right[2] > 240 > 20 > right[0]
    assert make_thumbnail(decode_rgb(data)).uri == make_thumbnail(decode_rgb(data)).uri


def test_a_picture_stands_upright_and_without_what_its_camera_wrote() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    shown = make_thumbnail(decode_rgb(picture(400, 200, "JPEG", exif=exif)))
    assert (shown.width, shown.height) == (192, 384)
    assert b"secret" not in base64.b64decode(shown.uri.partition(",")[2])


def test_an_album_names_what_it_cannot_show(tmp_path: Path) -> None:
    whole, broken, drawing = picture(200, 200, "JPEG"), picture(200, 200, "JPEG")[:-200], b"<svg onload=alert(1)>"
    place = benchmarks(tmp_path / "b", {"1.jpg": whole, "2.jpg": broken, "3.png": drawing, "4.gif": b""})
    album = Thumbnails()
    assert album.find(place, "gqa", "1") is album.find(place, "gqa", "1") and len(album.page_images) == 1
    for name, told in (("2", "breaks"), ("3", "none of"), ("4", "empty"), ("9", "no image is called '9'")):
        assert told in str(album.find(place, "gqa", name))
    assert "--benchmarks" in str(album.find(None, "gqa", "1"))
    assert "images.tar or images/" in str(album.find(tmp_path / "gone", "gqa", "1"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "images.tar").write_bytes(b"no archive at all" * 100)
    assert "images.tar" in str(album.find(tmp_path / "torn", "gqa", "1"))
    album.close()
    assert len(album.page_images) == 1


def test_a_task_may_bring_pictures_of_its_own(tmp_path: Path) -> None:
    place = benchmarks(tmp_path / "b", {"1.png": picture(10, 10)})
    benchmarks(place / "textvqa", {"1.png": picture(20, 20)})
    benchmarks(tmp_path / "secret", {"1.png": picture(30, 30), "2.png": picture(30, 30)})
    album = Thumbnails()
    found = [album.find(place, task, "1") for task in ("gqa", "textvqa", "textvqa_ocr", "../secret", "..", "\0")]
    assert [one.thumbnail.width for one in found if not isinstance(one, str)] == [10, 20, 20, 10, 10, 10]
    assert len(album.page_images) == 2 and isinstance(album.find(place, "../secret", "2"), str)


def test_an_album_is_full_at_some_point(tmp_path: Path) -> None:
    place = benchmarks(tmp_path / "b", {f"{n}.jpg": picture(384, 300 + n, "JPEG") for n in range(4)})
    size = len(make_thumbnail(decode_rgb(picture(384, 300, "JPEG"))).uri)
    album = Thumbnails(max_bytes=2 * size + size // 2)
    found = [album.find(place, "gqa", str(n)) for n in range(4)]
    assert [isinstance(one, str) for one in found] == [False, False, True, True]
    assert "fewer rows" in str(found[2])


BOXES: list[tuple[Any, str, float | None]] = [
    ([0.0, 0.0, 0.5, 0.5], "0.0 0.0 0.5 0.25", 0.5),
    ([0.0, 0.0, 0.5, 0.5], "[0.5, 0.5, 1.0, 1.0]", 0.0),
    ([0.0, 0.0, 0.5, 0.5], "somewhere", None),
    ("0.1 0.2 0.3 0.4", "0.0 0.0 0.5 0.5", None),
    ([0, 1, 2], "0.0 0.0 0.5 0.5", None),
    ([0.5, 0.5, 0.1, 0.1], "0.0 0.0 0.5 0.5", None),
]


@pytest.mark.parametrize(("truth", "answer", "overlap"), BOXES)
def test_boxes_overlap_where_the_truth_is_a_box(truth: Any, answer: str, overlap: float | None, tmp_path: Path) -> None:
    held = sheet(
        tmp_path, "a", [line("1", truth=truth, answer=answer), line("1", truth=truth, answer=answer, blind=True)]
    )
    [card] = question_cards([held], draw_questions(held, count=1), Thumbnails())
    assert [reply.overlap for reply in card.answers] == [overlap and pytest.approx(overlap), None]


def test_one_question_is_looked_up(tmp_path: Path) -> None:
    lines = [
        line("7", image="p", answer="owl", score=0.3),
        line("7", blind=True, readable=False, answer="\x1b[31m?", score=0),
    ]
    first = sheet(tmp_path, "a", [*lines, line("7", task="pope"), line("8")])
    second = sheet(tmp_path, "b", [line("7", prompt="Which ?", answer="")])
    told = question_lines([first, second], "vqav2/7")
    assert told == [
        "vqav2/7",
        "image: p",
        "prompt: what is 7 ?",
        "truth: cat",
        "a: owl  [score 0.3]",
        "a without the image: [U+001B][31m?  [score 0, unreadable]",
        "  prompt: Which ?",
        "b: (nothing)  [score 1]",
    ]
    assert [one for one in question_lines([first, second], "7") if "/" in one] == ["vqav2/7", "pope/7"]
    with pytest.raises(RequestError, match="vqav2/7"):
        question_lines([first, second], "nothing")


def test_lines_are_read_again_where_they_stand(tmp_path: Path) -> None:
    """Letters of several bytes, blank lines and any line's end move no other line."""
    file = tmp_path / "a.jsonl"
    texts = ["caf\u00e9 \U0001f642", "\u2028", "x" * 5000]
    rows = [json.dumps(line(str(n), answer=text), ensure_ascii=n % 2 == 0) for n, text in enumerate(texts)]
    file.write_bytes("\r\n\n".join(rows).encode())
    held = AnswersTable("a", [AnswerFile(path=file, benchmarks_dir=None)])
    found = {
        card.question: card.answers[0].text
        for card in question_cards([held], draw_questions(held, count=9), Thumbnails())
    }
    assert found == {str(n): text for n, text in enumerate(texts)}
