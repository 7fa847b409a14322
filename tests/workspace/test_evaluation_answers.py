"""Which answers the names of a checkpoint mean."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from firstsight.cli.app import command
from firstsight.evaluate.answer_cache import evaluation_folder
from firstsight.plan.step import Step
from firstsight.plan.verification import write_evaluation_record
from tests.report.answer_files import encoded_image, line, write_images, write_lines
from tests.report.html_page import Page
from tests.workspace.answer_store import PLAN, answers, out, printed, store_step

__all__ = ["out"]


def test_every_name_of_a_checkpoint_finds_its_answers(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step, checkpoint = (
        PLAN.final_step("start-080.s1").address,
        dict(PLAN.final_step("start-080.s1").needs)["checkpoint"].address,
    )
    steps = out / "steps"
    file = steps / step / "answers.jsonl"
    for name in ("start-080", step, step[-12:], checkpoint, str(steps / step), str(file), str(steps / checkpoint)):
        assert answers(name, "--question", "vqav2/1", "--out", str(out)) == 0, name
        assert "dog [score 0]" in printed(capsys), name


def test_the_latest_evaluation_of_a_checkpoint_counts(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = PLAN.final_step("start-080.s1")
    checkpoint = dict(final.needs)["checkpoint"].address
    spec = replace(final.spec, vision_tasks=final.spec.vision_tasks[:1])
    later = Step(kind="evaluate", spec=spec, needs=final.needs, version=final.version)
    store_step(out, later, lambda folder: write_lines(folder / "answers.jsonl", [line("1", answer="owl")]))
    assert answers(checkpoint, "--question", "1", "--out", str(out)) == 0
    assert "owl" in printed(capsys)
    assert answers("start-080", "--question", "1", "--out", str(out)) == 0
    assert "dog" in printed(capsys)


@pytest.mark.parametrize("place", ["{}", "{}/answers.jsonl"])
def test_edited_answers_of_a_step_are_refused_by_every_name(
    out: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    folder = out / "steps" / PLAN.final_step("start-080.s1").address
    write_lines(folder / "answers.jsonl", [line("1", answer="edited")])
    assert answers(place.format(folder), "--out", str(out)) != 0
    assert "answers.jsonl: changed" in printed(capsys)


def test_answers_of_the_evaluate_command_follow_those_of_the_study_and_are_checked(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = out / "steps" / dict(PLAN.final_step("start-080.s1").needs)["checkpoint"].address
    evaluated, folder = (
        evaluation_folder(out, checkpoint),
        write_images(tmp_path / "coco", {"7.png": encoded_image(60, 60)}),
    )
    write_lines(evaluated / "answers.jsonl", [line("1", answer="hidden"), line("7", task="nocaps", image="7")])
    record = {"checkpoint": "c", "benchmarks": str(tmp_path / "gone"), "tasks": {"nocaps": str(folder)}}
    write_evaluation_record(evaluated, record, files=("answers.jsonl",))
    assert answers("start-080", "--out", str(out)) == 0
    page = Page((out / "answers" / "start-080.html").read_text(encoding="utf-8"))
    assert set(page.cards) == {"vqav2/1", "vqav2/2", "boolq/3", "nocaps/7"}
    assert {image["width"] for image in page.all("image")} == {"48", "60"} and "hidden" not in page.text
    write_lines(evaluated / "answers.jsonl", [line("1", answer="hidden"), line("7", task="nocaps", answer="edited")])
    for name in ("start-080", str(evaluated), str(evaluated / "answers.jsonl")):
        capsys.readouterr()
        assert answers(name, "--out", str(out)) != 0
        assert f"{evaluated}/answers.jsonl: not as `firstsight evaluate` wrote it" in printed(capsys)
    assert command(["doctor", "--store", str(out)]) == 1
    assert f"firstsight evaluate c --tasks nocaps --out {out}" in printed(capsys)
    (evaluated / "judged.json").unlink()
    assert command(["doctor", "--store", str(out)]) == 1
    shutil.rmtree(evaluated)
    assert command(["doctor", "--store", str(out)]) == 0


def test_a_checkpoint_without_answers_is_refused_with_the_command(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "steps" / PLAN.final_step("start-080.s1").address / "answers.jsonl").unlink()
    assert answers("start-080", "--out", str(out)) == 2
    assert f"firstsight evaluate start-080 --study when --scale smoke --out {out}" in printed(capsys)
