"""The pages of stored answers: what is on them, and where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstsight import files
from firstsight.plan.store import Store
from tests.full_disk import file_size_limit
from tests.report.answer_files import encoded_image, line, write_images, write_lines
from tests.report.html_page import Page
from tests.workspace.answer_store import answers, out, printed

__all__ = ["out"]


def test_two_arms_are_compared_on_a_page(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answers("start-000.s1", "start-080.s1", "--out", str(out)) == 0
    file = out / "answers" / "start-000.s1-against-start-080.s1.html"
    assert printed(capsys) == f"answers: {file}"
    page = Page(file.read_text(encoding="utf-8"))
    assert next(iter(page.cards)) == "vqav2/1" and len(page.cards) == 3
    assert len(page.all("image")) == 1 and "OpenMoji" in page.text
    assert Store(out).addresses()  # the folder is still a store


def test_one_task_has_its_own_page(out: Path) -> None:
    assert answers("start-000", "--task", "boolq", "--out", str(out)) == 0
    page = Page((out / "answers" / "start-000-boolq.html").read_text(encoding="utf-8"))
    assert list(page.cards) == ["boolq/3"] and "OpenMoji" not in page.text


def test_a_file_of_answers_needs_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_lines(tmp_path / "mine" / "answers.jsonl", [line("1", image="1")])
    folder = write_images(tmp_path / "b", {"1.png": encoded_image(48, 48)})
    words = [str(file), "--out", str(tmp_path / "new")]
    assert answers(*words) == 0
    page = Page((tmp_path / "new" / "answers" / "mine.html").read_text(encoding="utf-8"))
    assert not page.all("image") and "--benchmarks" in page.text
    assert answers(*words, "--benchmarks", str(folder)) == 0
    page = Page((tmp_path / "new" / "answers" / "mine.html").read_text(encoding="utf-8"))
    assert len(page.all("image")) == 1 and "OpenMoji" not in page.text
    other = write_lines(tmp_path / "yours" / "answers.jsonl", [line("1", image="1")])
    assert answers(str(file), str(other), "--out", str(tmp_path / "new")) == 0
    assert (tmp_path / "new" / "answers" / "mine-against-yours.html").is_file()


def test_a_full_disk_leaves_the_old_page_and_nothing_else(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "mine" / "answers.jsonl", [line("1")])
    words = [str(file), "--out", str(tmp_path / "out")]
    assert answers(*words) == 0
    page, other = tmp_path / "out" / "answers" / "mine.html", write_lines(tmp_path / "yours.jsonl", [line("1")])
    before = page.read_bytes()
    with file_size_limit(len(before) // 2):
        assert answers(*words) != 0
        assert answers(str(file), str(other), "--out", str(tmp_path / "out")) != 0
    assert page.read_bytes() == before and list(page.parent.iterdir()) == [page]
    (page.parent / ".mine.html.0123abcd.tmp").write_text("of a killed process")
    files._remove_abandoned_temporaries.cache_clear()  # as in a new process, which looks for them once per folder
    assert answers(*words) == 0
    assert page.read_bytes() == before and list(page.parent.iterdir()) == [page]


def test_a_task_name_does_not_leave_the_folder(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [line("1", task="../../up")])
    assert answers(str(file), "--task", "../../up", "--out", str(tmp_path / "out")) == 0
    assert [path.name for path in (tmp_path / "out" / "answers").iterdir()] == ["a-up.html"]
