"""answers.html as a browser finds it: data stays text, images are in it once, and equal input gives equal bytes."""

from __future__ import annotations

import base64
import re
from collections import Counter
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote

import pytest

from firstsight.report.answers import AnswersTable
from firstsight.report.pages.answers_page import render_answers
from tests.report.answer_files import answers_table, encoded_image, line, write_images
from tests.report.html_page import Page

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


def _two_tables(folder: Path) -> list[AnswersTable]:
    """Two checkpoints with texts, images, boxes, an invalid image and a missing one."""
    images = {"1.jpg": encoded_image(400, 200, "JPEG"), "2.png": encoded_image(48, 48), "3.jpg": b"\xff\xd8\xff"}
    benchmarks_dir = write_images(folder / "b", images)
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
        line("t", task="boolq", combination="heldout", score=0.6),
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
        line("t", task="boolq", combination="heldout", score=0.0),
        line("u", task="boolq"),
    ]
    named = (("start-000.s1", first), ("start-080.s1", second))
    return [answers_table(folder, name, lines, benchmarks_dir) for name, lines in named]


def test_questions_are_grouped_by_how_they_differ(tmp_path: Path) -> None:
    page = Page(render_answers(_two_tables(tmp_path), max_questions=99))
    order = list(page.cards)
    assert set(order[:3]) == {"vqav2/1", "refcoco/b", "refcoco/c"}
    assert order[3:5] == ["boolq/t", "vqav2/2"]
    assert set(order[5:8]) == {"vqav2/3", "vqav2/x", "vqav2/y"} and order[8:] == ["boolq/u", "boolq/o"]
    headings = [" ".join(heading.split()) for heading in re.findall(r"<h2>(.*?)</h2>", page.html)]
    counts = {
        re.sub("<.*?>", "", heading).rpartition(" ")[0]: heading.partition("<small>")[2][0] for heading in headings[2:]
    }
    assert counts["Different scores"] == "4" and counts["Same score, different wording"] == "1"
    assert counts["Same answer"] == "3"
    assert "start-000.s1 scores more on 2 and start-080.s1 on 2" in page.text


def test_card_has_all_answers_to_a_question(tmp_path: Path) -> None:
    page = Page(render_answers(_two_tables(tmp_path), max_questions=99))
    card = " ".join(page.cards["vqav2/1"].split())
    for text in ("what is 1 ?", "truthcat", "with image", "without image", "dog score 0", "start-080.s1 +1"):
        assert text in card
    assert "unreadable" in page.cards["refcoco/c"] and "unreadable" not in page.cards["refcoco/b"]
    assert "overlap 0.50" in page.cards["refcoco/b"]
    assert "Another prompt" in page.cards["vqav2/y"]
    assert "combination held out" in page.cards["boolq/t"]
    assert "truth here: cat" in " ".join(page.cards["boolq/u"].split())


def test_images_are_in_the_page_once_with_boxes_over_them(tmp_path: Path) -> None:
    page = Page(render_answers(_two_tables(tmp_path), max_questions=99))
    images = {image["id"]: image for image in page.all("image")}
    uses = Counter(images[str(use["href"])[1:]]["width"] for use in page.all("use"))
    assert len(images) == 2 and uses == {"384": 3, "48": 2}
    boxes = {(box["x"], box["y"], box["width"], box["height"]) for box in page.all("rect")}
    assert boxes == {
        ("12.00", "24.00", "24.00", "24.00"),
        ("12.00", "24.00", "24.00", "12.00"),
        ("0.00", "0.00", "24.00", "24.00"),
    }
    labels = [str(svg.get("aria-label")) for svg in page.all("svg") if svg.get("role") == "img"]
    assert any("truth: left 25 %, top 50 %, right 75 %, bottom 100 %; A: left 25 %" in label for label in labels)


def test_missing_images_have_a_reason(tmp_path: Path) -> None:
    page = Page(render_answers(_two_tables(tmp_path), max_questions=99))
    assert "2 questions on this page without their image" in page.text
    assert "not an image" in page.cards["vqav2/x"] and "no image is called '9'" in page.cards["vqav2/y"]
    table = answers_table(tmp_path, "bare", [line("1", image="1.jpg")])
    assert "name it with --benchmarks" in Page(render_answers([table], max_questions=9)).cards["vqav2/1"]


def test_one_checkpoint_is_grouped_by_task(tmp_path: Path) -> None:
    page = Page(render_answers(_two_tables(tmp_path)[:1], max_questions=99))
    assert [key.partition("/")[0] for key in page.cards] == 5 * ["vqav2"] + 2 * ["refcoco"] + 3 * ["boolq"]
    assert "start-080" not in page.text
    assert not any("differ" in str(option.get("value")) for option in page.all("option"))


def test_short_page_is_the_start_of_a_longer_one(tmp_path: Path) -> None:
    tables = _two_tables(tmp_path)
    long, short = Page(render_answers(tables, max_questions=99)), Page(render_answers(tables, max_questions=4))
    assert list(short.cards) == list(long.cards)[:4]
    assert "4 of 10 questions" in short.text and "--rows 8" in short.text
    assert "4 of 4" not in short.text


def test_page_is_small_even_for_long_answers_and_large_images(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "b", {"1.png": encoded_image(1500, 1000)})
    lines = [line(str(n), image="1", answer="word " * 20_000) for n in range(60)]
    html = render_answers([answers_table(tmp_path, "a", lines, folder)], max_questions=40)
    assert len(Page(html).cards) == 40
    assert len(html) < 40 * 4000 + 150_000
    assert "(100,000 characters)" in html


def test_equal_answers_give_equal_bytes(tmp_path: Path) -> None:
    tables = _two_tables(tmp_path)
    assert render_answers(tables, max_questions=7) == render_answers(tables, max_questions=7)


@pytest.fixture(scope="module")
def hostile_and_harmless(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Page]:
    """The same page twice: with hostile text everywhere, and with harmless words."""
    folder = tmp_path_factory.mktemp("hostile")

    def page(kind: str, words: tuple[str, ...]) -> Page:
        benchmarks_dir = write_images(folder / kind, {"1.png": encoded_image(48, 48)})
        first = [
            line(word, task=word, image=word if n % 2 else "1", prompt=word, answer=word, truth=word, split=word)
            | {"combination": "heldout" if n % 2 else word, "readable": n != 3}
            for n, word in enumerate(words)
        ]
        second = [row | {"answer": row["answer"] + "!", "score": 0.0, "prompt": row["prompt"] + "?"} for row in first]
        tables = [answers_table(folder / kind, *table, benchmarks_dir) for table in (("a", first), ("b", second))]
        return Page(render_answers(tables, max_questions=99))

    return page("hostile", HOSTILE), page("harmless", tuple(f"word{n}" for n in range(len(HOSTILE))))


def test_no_element_and_no_attribute_comes_from_data(hostile_and_harmless: tuple[Page, Page]) -> None:
    hostile, harmless = hostile_and_harmless

    def shape(page: Page) -> list[tuple[str, tuple[str, ...]]]:
        return sorted((tag, tuple(attributes)) for tag, attributes in page.elements)

    assert shape(hostile) == shape(harmless)
    assert not [name for _, attributes in hostile.elements for name in attributes if name.startswith("on")]
    for tag, attributes in hostile.elements:
        for name in ("src", "href", "xlink:href", "action", "formaction", "style"):
            value = attributes.get(name)
            allowed = ("#", "data:image/") if tag in ("a", "use", "image") else ()
            assert value is None or value.startswith(allowed), (tag, attributes)
    assert (hostile.scripts, hostile.styles) == (harmless.scripts, harmless.styles)


def test_hostile_text_is_readable(hostile_and_harmless: tuple[Page, Page]) -> None:
    page = hostile_and_harmless[0]
    keys = {tuple(unquote(part) for part in anchor.split("/")) for anchor in page.cards}
    assert keys == {(word, word) for word in HOSTILE}
    for word in HOSTILE:
        visible = re.sub("[\u202e\u202c\u200b\x07\x1b]", lambda match: f"[U+{ord(match[0]):04X}]", word)
        assert any(visible in card for card in page.cards.values())
    assert not re.search("[\u202e\u202c\u200b\x07\x1b]", page.html)
    anchors = {str(article["id"]) for article in page.all("article")}
    assert anchors == {str(link["href"])[1:] for link in page.all("a")}
    assert not any(re.search(r"\s", anchor) for anchor in anchors)


def test_only_the_pages_own_script_may_run(hostile_and_harmless: tuple[Page, Page]) -> None:
    page = hostile_and_harmless[0]
    [policy] = [
        str(meta["content"]) for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    [style], [script] = (
        [base64.b64encode(sha256(text.encode()).digest()).decode() for text in texts]
        for texts in (page.styles, page.scripts)
    )
    assert "unsafe" not in policy
    assert f"style-src 'sha256-{style}'" in policy and f"script-src 'sha256-{script}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_script_makes_no_elements_from_text(hostile_and_harmless: tuple[Page, Page]) -> None:
    [script] = hostile_and_harmless[0].scripts
    assert not re.search(r"innerHTML|outerHTML|insertAdj|\.write|eval|Function\(|fetch|XMLHttp|import\(", script)
