"""The page as a browser finds it: what others wrote stays text, pictures stand once, and equal input is equal bytes."""

from __future__ import annotations

import base64
import re
from collections import Counter
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

import pytest

from firstsight.report.pages.answers_page import render_answers
from firstsight.report.pages.answers_table import AnswersTable
from tests.report.answer_files import Page, benchmarks, line, picture, sheet

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img/src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style></article></table>",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "\u202egnp.exe\u202c\u200b",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;\x07\x1b[31m",
    "]]><!-- --!>",
)
BOX = [0.25, 0.5, 0.75, 1.0]


def _two(folder: Path) -> list[AnswersTable]:
    """Two checkpoints over text, pictures, boxes, a broken picture and a missing one."""
    place = benchmarks(
        folder / "b", {"1.jpg": picture(400, 200, "JPEG"), "2.png": picture(48, 48), "3.jpg": b"\xff\xd8\xff"}
    )
    box = {"task": "refcoco", "image": "2", "truth": BOX}
    first = [
        line("1", image="1", score=0.0, answer="dog"),
        line("1", image="1", blind=True),
        line("2", image="1", answer="A cat"),
        line("3", image="1"),
        line("b", **box, answer="0.25 0.5 0.75 0.75"),
        line("c", **box, answer="nowhere", score=0.0, readable=False),
        line("x", image="3"),
        line("y", image="9"),
        line("t", task="boolq", form="heldout", score=0.6),
        line("u", task="boolq", truth="other"),
        line("o", task="boolq"),
    ]
    second = [
        line("1", image="1"),
        line("2", image="1"),
        line("3", image="1"),
        line("b", **box, answer="0.0 0.0 0.5 0.5", score=0.0),
        line("c", **box, answer="[0.25, 0.5, 0.75, 1]"),
        line("x", image="3"),
        line("y", image="9", prompt="Another prompt"),
        line("t", task="boolq", form="heldout", score=0.0),
        line("u", task="boolq"),
    ]
    return [sheet(folder, "start-000.s1", first, place), sheet(folder, "start-080.s1", second, place)]


def test_questions_stand_by_how_they_differ(tmp_path: Path) -> None:
    page = Page(render_answers(_two(tmp_path), max_questions=99))
    order = list(page.cards)
    assert set(order[:3]) == {"vqav2/1", "refcoco/b", "refcoco/c"}
    assert order[3:5] == ["boolq/t", "vqav2/2"]
    assert set(order[5:8]) == {"vqav2/3", "vqav2/x", "vqav2/y"} and order[8:] == ["boolq/u", "boolq/o"]
    headings = [
        " ".join(part.split())
        for part in re.findall(r"<h2>(.*?)</h2>", render_answers(_two(tmp_path), max_questions=99))
    ]
    counts = {re.sub("<.*?>", "", one).rpartition(" ")[0]: one.partition("<small>")[2][0] for one in headings[2:]}
    assert counts["Different scores"] == "4" and counts["Same score, different wording"] == "1"
    assert counts["Same answer"] == "3"
    assert "start-000.s1 scores more on 2 and start-080.s1 on 2" in page.text


def test_a_question_shows_all_that_was_said_to_it(tmp_path: Path) -> None:
    page = Page(render_answers(_two(tmp_path), max_questions=99))
    words = " ".join(page.cards["vqav2/1"].split())
    for told in ("what is 1 ?", "truthcat", "with image", "without image", "dog score 0", "start-080.s1 +1"):
        assert told in words
    assert "unreadable" in page.cards["refcoco/c"] and "unreadable" not in page.cards["refcoco/b"]
    assert "overlap 0.50" in page.cards["refcoco/b"]
    assert "Another prompt" in page.cards["vqav2/y"]
    assert "form held out" in page.cards["boolq/t"]
    assert "truth here: cat" in " ".join(page.cards["boolq/u"].split())


def test_pictures_stand_once_and_boxes_over_them(tmp_path: Path) -> None:
    page = Page(render_answers(_two(tmp_path), max_questions=99))
    images = {one["id"]: one for one in page.all("image")}
    asked = Counter(images[str(one["href"])[1:]]["width"] for one in page.all("use"))
    assert len(images) == 2 and asked == {"384": 3, "48": 2}
    boxes = {(one["x"], one["y"], one["width"], one["height"]) for one in page.all("rect")}
    assert boxes == {
        ("12.00", "24.00", "24.00", "24.00"),
        ("12.00", "24.00", "24.00", "12.00"),
        ("0.00", "0.00", "24.00", "24.00"),
    }
    told = [str(one.get("aria-label")) for one in page.all("svg") if one.get("role") == "img"]
    assert any("truth: left 25 %, top 50 %, right 75 %, bottom 100 %; A: left 25 %" in one for one in told)


def test_what_is_missing_is_named_and_breaks_nothing(tmp_path: Path) -> None:
    page = Page(render_answers(_two(tmp_path), max_questions=99))
    assert "2 questions on this page without their image" in page.text
    assert "not a picture" in page.cards["vqav2/x"] and "no image is called '9'" in page.cards["vqav2/y"]
    alone = sheet(tmp_path, "bare", [line("1", image="1.jpg")])
    assert "name it with --benchmarks" in Page(render_answers([alone], max_questions=9)).cards["vqav2/1"]


def test_one_checkpoint_is_told_task_by_task(tmp_path: Path) -> None:
    page = Page(render_answers(_two(tmp_path)[:1], max_questions=99))
    assert [key.partition("/")[0] for key in page.cards] == 5 * ["vqav2"] + 2 * ["refcoco"] + 3 * ["boolq"]
    assert "start-080" not in page.text and "differ" not in " ".join(
        str(one.get("value")) for one in page.all("option")
    )


def test_few_rows_are_a_part_of_many(tmp_path: Path) -> None:
    sheets = _two(tmp_path)
    whole, part = Page(render_answers(sheets, max_questions=99)), Page(render_answers(sheets, max_questions=4))
    assert list(part.cards) == list(whole.cards)[:4]
    assert "4 of 10 questions" in part.text and "--rows 8" in part.text
    assert "4 of 4" not in part.text


def test_the_page_stays_small_whatever_it_is_given(tmp_path: Path) -> None:
    place = benchmarks(tmp_path / "b", {"1.png": picture(1500, 1000)})
    many = sheet(tmp_path, "a", [line(str(n), image="1", answer="word " * 20_000) for n in range(60)], place)
    html = render_answers([many], max_questions=40)
    assert len(Page(html).cards) == 40
    assert len(html) < 40 * 4000 + 150_000
    assert "(100,000 characters)" in html


def test_equal_answers_give_equal_bytes(tmp_path: Path) -> None:
    sheets = _two(tmp_path)
    assert render_answers(sheets, max_questions=7) == render_answers(sheets, max_questions=7)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The same page twice: once with everything hostile, once with the same shape in harmless words."""
    folder = tmp_path_factory.mktemp("hostile")

    def made(kind: str, words: tuple[str, ...]) -> str:
        place = benchmarks(folder / kind, {"1.png": picture(48, 48)})
        lines = [
            line(word, task=word, image=word if n % 2 else "1", prompt=word, answer=word, truth=word, split=word)
            | {"form": "heldout" if n % 2 else word, "readable": n != 3}
            for n, word in enumerate(words)
        ]
        other = [one | {"answer": one["answer"] + "!", "score": 0.0, "prompt": one["prompt"] + "?"} for one in lines]
        return render_answers(
            [sheet(folder / kind, "a", lines, place), sheet(folder / kind, "b", other, place)], max_questions=99
        )

    return made("hostile", HOSTILE), made("harmless", tuple(f"word{n}" for n in range(len(HOSTILE))))


def test_no_element_and_no_attribute_comes_from_data(hostile: tuple[str, str]) -> None:
    evil, good = (Page(html) for html in hostile)

    def shape(page: Page) -> list[tuple[str, tuple[str, ...]]]:
        return sorted((tag, tuple(attributes)) for tag, attributes in page.elements)

    assert shape(evil) == shape(good)
    assert not [name for _, attributes in evil.elements for name in attributes if name.startswith("on")]
    for tag, attributes in evil.elements:
        for name in ("src", "href", "xlink:href", "action", "formaction", "style"):
            value = attributes.get(name)
            allowed = ("#", "data:image/") if tag in ("a", "use", "image") else ()
            assert value is None or value.startswith(allowed), (tag, attributes)
    assert evil.scripts == good.scripts


def test_hostile_words_are_all_to_be_read(hostile: tuple[str, str]) -> None:
    page = Page(hostile[0])
    keys = {tuple(unquote(part) for part in anchor.split("/")) for anchor in page.cards}
    assert keys == {(word, word) for word in HOSTILE}
    for word in HOSTILE:
        shown = re.sub("[\u202e\u202c\u200b\x07\x1b]", lambda found: f"[U+{ord(found[0]):04X}]", word)
        assert sum(shown in words for words in page.cards.values()) >= 1
    assert not re.search("[\u202e\u202c\u200b\x07\x1b]", hostile[0])
    anchors = {str(one["id"]) for one in page.all("article")}
    assert anchors == {str(one["href"])[1:] for one in page.all("a")} and not any(
        re.search(r"\s", one) for one in anchors
    )


def test_only_its_own_script_may_run(hostile: tuple[str, str]) -> None:
    page = Page(hostile[0])
    [policy] = [str(one["content"]) for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    hashes = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in page.scripts]
    assert len(hashes) == 2 and "unsafe" not in policy
    assert f"style-src 'sha256-{hashes[0]}'" in policy and f"script-src 'sha256-{hashes[1]}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_script_holds_nothing_that_makes_elements_of_words(hostile: tuple[str, str]) -> None:
    script = Page(hostile[0]).scripts[1]
    assert not re.search(r"innerHTML|outerHTML|insertAdj|\.write|eval|Function\(|fetch|XMLHttp|import\(", script)
