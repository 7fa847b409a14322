"""The command: whose answers a word stands for, what it writes where, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firstsight.cli import command
from firstsight.plan.graph import build_graph
from firstsight.plan.store import Store
from firstsight.recipe.scales import scale_named
from firstsight.recipe.serialize import to_json
from firstsight.studies.when import when
from tests.report.answer_files import Page, benchmarks, line, picture, written

PLAN = build_graph(when(replace(scale_named("smoke"), seeds=1)))
BLANK = {"answer": "dog", "score": 0.0, "image": "1"}


def _stored(out: Path, label: str, lines: list[dict[str, Any]], *, ended: str = "2026-01-01") -> str:
    """An arm's evaluate step and its checkpoint in a store, as a run leaves them; the checkpoint's address."""
    store, step = Store(out), PLAN.final_step(label)
    needs = {role: parent.address for role, parent in step.needs}
    written(store.path(step.address) / "answers.jsonl", lines)
    benchmarks(store.path(needs["benchmarks"]), {"1.png": picture(48, 48)})
    store.path(needs["checkpoint"]).mkdir(exist_ok=True)
    (store.path(needs["checkpoint"]) / "spec.json").write_text(json.dumps({"kind": label}))
    for address, spec, role in ((step.address, to_json(step.spec), needs), (needs["checkpoint"], {}, {})):
        note = {"address": address, "needs": role, "spec": spec, "ended": ended}
        (out / "provenance" / f"{address}.json").write_text(json.dumps(note))
    return needs["checkpoint"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A store with two judged arms."""
    folder = tmp_path / "out"
    _stored(folder, "start-000.s1", [line("1", image="1"), line("2", image="1"), line("3", task="boolq")])
    _stored(folder, "start-080.s1", [line("1", **BLANK), line("2", image="1"), line("3", task="boolq")])
    return folder


def _told(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    return " ".join((told.out + told.err).split())


def _answers(*words: str) -> int:
    return command(["answers", *words, "--scale", "smoke"])


def test_two_arms_are_compared_on_a_page(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _answers("start-000.s1", "start-080.s1", "--out", str(out)) == 0
    file = out / "answers" / "start-000.s1-against-start-080.s1.html"
    assert _told(capsys) == f"answers: {file}"
    page = Page(file.read_text(encoding="utf-8"))
    assert next(iter(page.cards)) == "vqav2/1" and len(page.cards) == 3
    assert len(page.all("image")) == 1 and "OpenMoji" in page.text
    assert Store(out).addresses()  # what lies there is still a store


def test_a_task_alone_has_a_page_of_its_own(out: Path) -> None:
    assert _answers("start-000", "--task", "boolq", "--out", str(out)) == 0
    page = Page((out / "answers" / "start-000-boolq.html").read_text(encoding="utf-8"))
    assert list(page.cards) == ["boolq/3"] and "OpenMoji" not in page.text


def test_one_question_is_printed_and_no_page_written(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _answers("start-000.s1", "start-080.s1", "--question", "vqav2/1", "--out", str(out)) == 0
    assert "truth: cat start-000.s1: cat [score 1] start-080.s1: dog [score 0]" in _told(capsys)
    assert not (out / "answers").exists()


def test_every_name_of_a_checkpoint_finds_its_answers(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step, checkpoint = (
        PLAN.final_step("start-080.s1").address,
        dict(PLAN.final_step("start-080.s1").needs)["checkpoint"].address,
    )
    steps = out / "steps"
    file = steps / step / "answers.jsonl"
    for word in ("start-080", step, step[-12:], checkpoint, str(steps / step), str(file), str(steps / checkpoint)):
        assert _answers(word, "--question", "vqav2/1", "--out", str(out)) == 0, word
        assert "dog [score 0]" in _told(capsys), word


def test_of_two_judgings_the_later_speaks_for_a_checkpoint(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step, checkpoint = (
        PLAN.final_step("start-080.s1").address,
        dict(PLAN.final_step("start-080.s1").needs)["checkpoint"].address,
    )
    note = json.loads((out / "provenance" / f"{step}.json").read_text())
    later = "evaluate-9-tasks-0123456789ab"
    written(out / "steps" / later / "answers.jsonl", [line("1", answer="owl")])
    (out / "provenance" / f"{later}.json").write_text(json.dumps(note | {"address": later, "ended": "2026-02-01"}))
    assert _answers(checkpoint, "--question", "1", "--out", str(out)) == 0
    assert "owl" in _told(capsys)
    assert _answers("start-080", "--question", "1", "--out", str(out)) == 0
    assert "dog" in _told(capsys)


def test_what_was_judged_beside_a_study_comes_behind_it(out: Path, tmp_path: Path) -> None:
    from firstsight.evaluate.answer_cache import evaluation_folder

    checkpoint = out / "steps" / dict(PLAN.final_step("start-080.s1").needs)["checkpoint"].address
    beside, place = evaluation_folder(out, checkpoint), benchmarks(tmp_path / "coco", {"7.png": picture(60, 60)})
    written(beside / "answers.jsonl", [line("1", answer="never shown"), line("7", task="nocaps", image="7")])
    told = {"benchmarks": str(tmp_path / "gone"), "tasks": {"nocaps": str(place)}}
    (beside / "judged.json").write_text(json.dumps(told))
    assert _answers("start-080", "--out", str(out)) == 0
    page = Page((out / "answers" / "start-080.html").read_text(encoding="utf-8"))
    assert set(page.cards) == {"vqav2/1", "vqav2/2", "boolq/3", "nocaps/7"}
    assert {one["width"] for one in page.all("image")} == {"48", "60"} and "never shown" not in page.text


def test_a_file_of_answers_needs_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "mine" / "answers.jsonl", [line("1", image="1")])
    place = benchmarks(tmp_path / "b", {"1.png": picture(48, 48)})
    words = [str(file), "--out", str(tmp_path / "new")]
    assert _answers(*words) == 0
    page = Page((tmp_path / "new" / "answers" / "mine.html").read_text(encoding="utf-8"))
    assert not page.all("image") and "--benchmarks" in page.text
    assert _answers(*words, "--benchmarks", str(place)) == 0
    page = Page((tmp_path / "new" / "answers" / "mine.html").read_text(encoding="utf-8"))
    assert len(page.all("image")) == 1 and "OpenMoji" not in page.text
    other = written(tmp_path / "yours" / "answers.jsonl", [line("1", image="1")])
    assert _answers(str(file), str(other), "--out", str(tmp_path / "new")) == 0
    assert (tmp_path / "new" / "answers" / "mine-against-yours.html").is_file()


def test_a_task_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", [line("1", task="../../up")])
    assert _answers(str(file), "--task", "../../up", "--out", str(tmp_path / "out")) == 0
    assert [path.name for path in (tmp_path / "out" / "answers").iterdir()] == ["a-up.html"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["start-020.s1"], "Run it first: firstsight run when --scale smoke"),
        (["start-080", "--task", "vqav3"], "Nearest: vqav2"),
        (["start-080", "--question", "99"], "wanted the id of a question"),
        (["start-080", "start-080"], "Got it twice"),
        (["start-080", "--rows", "0"], "at least 1"),
        (["start-080", "strat-000"], "Nearest: start-000"),
    ],
)
def test_a_wrong_request_is_refused(words: list[str], told: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _answers(*words, "--out", str(out)) == 2
    assert told in _told(capsys)
    assert not (out / "answers").exists()


def test_nothing_is_made_where_nothing_was_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _answers("start-080", "--out", str(tmp_path / "none")) == 2
    assert "Run it first" in _told(capsys)
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_that_nobody_judged_is_told_how_to_be(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "steps" / PLAN.final_step("start-080.s1").address / "answers.jsonl").unlink()
    assert _answers("start-080", "--out", str(out)) == 2
    assert f"firstsight evaluate start-080 --study when --scale smoke --out {out}" in _told(capsys)


def test_a_broken_file_is_a_wrong_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "answers.jsonl").write_text("no answers\n")
    assert _answers(str(tmp_path / "answers.jsonl"), "--out", str(tmp_path / "out")) == 2
    assert "answers.jsonl:1" in _told(capsys)
