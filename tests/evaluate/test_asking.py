"""Everything is asked once, about its own picture, and a judging that was killed anywhere goes on where it stopped."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstsight.errors import DataError, ModelError, RequestError
from firstsight.evaluate import harness, tasks
from firstsight.evaluate.benchmark_images import BenchmarkImages
from firstsight.evaluate.harness import (
    EvalConfig,
    evaluate,
    evaluate_checkpoint,
)
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest
from firstsight.evaluate.results import EvalResult, add_text_only_scores, merge_result, write_result
from firstsight.recipe.mixture import SyntheticBenchmarks, SyntheticWorld
from firstsight.recipe.stages import Evaluate
from firstsight.site import Progress, Site
from tests.evaluate.scripted_model import Scripted

ALL = ("vqav2", "pope", "pope_p", "refcoco", "copa")
Judge = Callable[..., EvalResult]


def silent(progress: Progress) -> None:
    """Progress that nobody watches."""


@pytest.fixture
def judged(benchmarks: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Judges `who`; None fails where a checkpoint would be loaded."""

    def judging(
        who: Scripted | None, *names: str, sight: Any = "both", style: Any = "bare", **where: Any
    ) -> EvalResult:
        def opened(checkpoint: Path, *, site: Site) -> Scripted:
            assert who is not None, "wanted no checkpoint to be loaded"
            return who

        monkeypatch.setattr(harness, "load_eval_model", opened)
        asking = EvalConfig(tasks=names or ALL, image_mode=sight, prompt_style=style)
        place, tell = where.get("place", benchmarks), where.get("on_progress", silent)
        return evaluate_checkpoint(
            Path("x"), place, config=asking, site=Site(), on_progress=tell, answers_folder=where.get("sheets")
        )

    return judging


def test_every_question_is_asked_about_its_own_picture(judged: Judge, benchmarks: Path) -> None:
    who, pictures = Scripted(), BenchmarkImages(benchmarks)
    for row in judged(who).answers:
        if row.task.answer_type == "words":
            seen = None if row.is_blind else sha256(pictures.read(str(row.question.image))).hexdigest()
            assert row.answer == f"{seen}|{row.prompt}"
    assert len(who.seen) == 6, "each picture is seen once, whatever the tasks call it"
    keys = [(type(one), one.text, one.image) for one in who.asked]
    assert len(set(keys)) == len(keys), "what is said twice is asked once"


def test_a_choice_about_a_picture_is_the_answer_of_a_turn(judged: Judge, benchmarks: Path) -> None:
    who = Scripted()
    verdict = judged(who, "pope_p", "copa")
    offers = [one for one in who.asked if isinstance(one, ChoiceRequest)]
    assert len(offers) == len(who.asked)
    assert {(one.is_chat_turn, one.choices) for one in offers} == {(True, ("Yes", "No")), (False, ("a cat", "dog"))}
    assert {one.image is None for one in offers if one.is_chat_turn} == {True, False}
    splits = verdict.scores["tasks"]["pope_p"]["splits"]
    assert set(splits) == {"random", "popular", "adversarial"}
    mean = sum(found["accuracy"] for found in splits.values()) / 3
    assert verdict.scores["tasks"]["pope_p"]["score"] == pytest.approx(mean, abs=1e-8)


def test_a_tasks_own_pictures_come_first(judged: Judge, benchmarks: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(benchmarks, tmp_path / "b"))
    (place / "pope" / "images").mkdir()
    (place / "pope" / "images" / "000001.png").write_bytes(b"another")
    rows = judged(Scripted(), "pope", "vqav2", sight="seeing", place=place).answers
    wanted = sha256(b"another").hexdigest()
    assert {row.task.name for row in rows if row.answer.startswith(wanted)} == {"pope"}


def left(verdict: EvalResult, out: Path) -> dict[str, bytes]:
    write_result(verdict, out)
    return {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.integers(0, 20), max_size=4))
def test_killed_anywhere_it_goes_on_and_leaves_the_same_bytes(
    kills: list[int], judged: Judge, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("killed")
    whole = Scripted()
    some = ("vqav2", "pope_p", "copa")
    wanted = left(judged(whole, *some), root / "whole")
    answered = 0
    for dies in kills:
        who = Scripted(dies=dies)
        try:
            judged(who, *some, sheets=root / "sheets")
        except ModelError as error:
            assert ("are stored" in str(error)) is (dies > 0)
        answered += who.answered
    last = Scripted()
    assert left(judged(last, *some, sheets=root / "sheets"), root / "again") == wanted
    # An answer that several questions share may have reached only some of them when the kill came.
    assert whole.answered <= answered + last.answered <= whole.answered + len(kills)


def test_killed_by_ctrl_c_what_was_told_is_kept(judged: Judge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(harness, "_PROGRESS_INTERVAL", 10)

    def stop(progress: Progress) -> None:
        assert progress.total == 108
        if progress.done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judged(Scripted(), sheets=tmp_path, on_progress=stop)
    lines = [json.loads(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert sum("answer" in line for line in lines) == 50
    told: list[Progress] = []
    judged(Scripted(), sheets=tmp_path, on_progress=told.append)
    assert (told[0].done, told[-1].done) == (60, 108)


def test_a_killed_step_of_a_study_goes_on(benchmarks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = SyntheticBenchmarks(
        world=SyntheticWorld(objects=8, kinds=2, image_size=16, max_objects=4, seed=0), questions=12
    )
    spec = Evaluate(benchmarks=world, vision_tasks=("vqav2", "pope"), text_tasks=("copa",))
    inputs, whole = {"checkpoint": tmp_path, "benchmarks": benchmarks}, Scripted()

    def step(who: Scripted, name: str) -> dict[str, bytes]:
        monkeypatch.setattr(harness, "load_eval_model", lambda *_, **__: who)
        evaluate(spec, inputs=inputs, out=tmp_path / name, site=Site(), on_progress=silent)
        return {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}

    wanted = step(whole, "whole")
    assert set(wanted) == {"answers.jsonl", "scores.json"}
    with pytest.raises(ModelError):
        step(Scripted(dies=9), "killed")
    last = Scripted()
    assert step(last, "killed") == wanted
    assert last.answered == whole.answered - 9


def test_a_second_judging_asks_nothing_and_loads_nothing(judged: Judge, tmp_path: Path) -> None:
    first = judged(Scripted(), sheets=tmp_path)
    assert left(judged(None, sheets=tmp_path), tmp_path / "b") == left(first, tmp_path / "a")
    # The other condition lies there whole, so it is told, too.
    assert judged(None, "pope", sight="blind", sheets=tmp_path).scores["tasks"]["pope"]["score"] is not None


def test_only_what_changed_is_asked_anew(
    judged: Judge, benchmarks: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sheets, place = tmp_path / "sheets", Path(shutil.copytree(benchmarks, tmp_path / "b"))
    judged(Scripted(), place=place, sheets=sheets)
    monkeypatch.setitem(tasks.TASKS, "vqav2", replace(tasks.TASKS["vqav2"], version=99))
    who = Scripted()
    judged(who, place=place, sheets=sheets)
    assert {one.text for one in who.asked} == {"what is it ?"}
    file = place / "pope" / "coco_pope_random.json"
    file.write_text(file.read_text().replace("a cat ?", "a dog ?"))
    who = Scripted()
    judged(who, "pope", place=place, sheets=sheets)
    assert "is there a dog ?" in {one.text for one in who.asked}
    who = Scripted()
    judged(who, "pope", style="paper", place=place, sheets=sheets)
    assert len(who.asked) > 0


def test_missing_pictures_are_counted_before_anything_is_asked(judged: Judge, benchmarks: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(benchmarks, tmp_path / "b"))
    (place / "images.tar").unlink()
    (place / "images").mkdir()
    (place / "images" / "000001.png").write_bytes(b"one of six")
    who = Scripted()
    with pytest.raises(DataError, match="5 of 6 images are missing"):
        judged(who, "copa", "vqav2", place=place)
    assert not who.asked
    assert judged(who, "vqav2", place=place, sight="blind").scores["tasks"]["vqav2"]["n"] == 12


def test_a_picture_that_is_none_keeps_what_was_answered(judged: Judge, tmp_path: Path) -> None:
    class Strict(Scripted):
        def encode_images(self, named_images: Any) -> list[object]:
            if self.seen:
                raise DataError("000003.png: wanted a picture. Got a text. Mend it.")
            return super().encode_images(named_images)

    with pytest.raises(DataError, match=r"Mend it\. \d+ of 108 answers are stored"):
        judged(Strict(), sheets=tmp_path)


def test_unreadable_answers_are_counted(judged: Judge) -> None:
    verdict = judged(Scripted(), "refcoco", "vqav2")
    assert [verdict.scores["tasks"][name]["unreadable"] for name in ("refcoco", "vqav2")] == [12, 0]
    assert [row.to_json().get("readable", True) for row in verdict.answers].count(False) == 24


def test_how_far_a_score_stands_over_blindness_is_the_mean_of_paired_differences(judged: Judge) -> None:
    class Cat(Scripted):
        """Right about half of the questions where it sees, and never where it does not."""

        def generate(self, requests: Any, *, max_new_tokens: int) -> Any:
            return ("cat" if one.image else "red" for one in requests if isinstance(one, GenerationRequest))

    verdict = judged(Cat(), "vqav2")
    facts = verdict.scores["tasks"]["vqav2"]
    assert (facts["score"], facts["blind"], facts["over"]["blind"]["difference"]) == (0.5, 0.0, 0.5)
    low, high = facts["over"]["blind"]["interval"]
    assert 0 <= low < 0.5 < high <= 1
    text = judged(Cat(sees=False), "vqav2", sight="blind")
    assert text.scores["tasks"]["vqav2"]["over"] == {}
    both = add_text_only_scores(verdict.scores, verdict.answers, text_only=text.answers)["tasks"]["vqav2"]
    assert both["text_only"] == 0.0
    assert both["over"]["text_only"] == both["over"]["blind"] == facts["over"]["blind"]


def test_what_was_judged_is_added_up(judged: Judge, tmp_path: Path) -> None:
    note = {"checkpoint": "x", "word": "x", "benchmarks": "b"}
    for names in (("pope",), ("vqav2", "copa"), ("pope",)):
        merge_result(judged(Scripted(), *names), tmp_path, note)
    whole = judged(Scripted(), "pope", "vqav2", "copa")
    wanted = left(whole, tmp_path / "whole")
    assert {name: (tmp_path / name).read_bytes() for name in wanted} == wanted
    told = json.loads((tmp_path / "judged.json").read_text())
    assert told == {**note, "tasks": {"pope": "b", "vqav2": "b", "copa": "b"}}


def test_what_another_version_scored_is_left_out(judged: Judge, tmp_path: Path) -> None:
    note = {"checkpoint": "x", "word": "x", "benchmarks": "b"}
    merge_result(judged(Scripted(), "pope"), tmp_path, note)
    scores = json.loads((tmp_path / "scores.json").read_text())
    scores["versions"]["scores"] -= 1
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    merge_result(judged(Scripted(), "copa"), tmp_path, note)
    assert list(json.loads((tmp_path / "scores.json").read_text())["tasks"]) == ["copa"]
    assert {json.loads(line)["task"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()} == {"copa"}


def test_other_peoples_models_are_sent_to_lm_eval_for_text(judged: Judge, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(RequestError, match="lm_eval --model hf"):
        judged(Scripted(), "copa", style="paper")


def loose(place: Path, benchmarks: Path) -> Path:
    """The benchmarks with their pictures in a folder; returns it."""
    shutil.copytree(benchmarks, place)
    with tarfile.open(place / "images.tar") as tar:
        tar.extractall(place / "images", filter="data")
    (place / "images.tar").unlink()
    return place / "images"


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_that_changed_in_place_are_asked_about_again(
    judged: Judge, benchmarks: Path, tmp_path: Path, packed: bool
) -> None:
    place = tmp_path / "own"
    images = loose(place, benchmarks)
    if packed:
        shutil.rmtree(images)
        shutil.copy2(benchmarks / "images.tar", place)
    sheets = {"place": place, "sheets": tmp_path / "sheets"}
    first = judged(Scripted(), "vqav2", "copa", **sheets)
    assert judged(None, "vqav2", "copa", **sheets).scores == first.scores
    file = place / "images.tar" if packed else images / "000003.png"
    with file.open("ab") as more:
        more.write(b"\0" * 512)
    who = Scripted()
    again = judged(who, "vqav2", "copa", **sheets)
    assert {type(one) for one in who.asked} == {GenerationRequest}, "texts have no pictures"
    moved = [
        old.question.image for old, new in zip(first.answers, again.answers, strict=True) if old.answer != new.answer
    ]
    assert set(moved) == (set() if packed else {"3"})


def test_other_pictures_beside_them_change_nothing(judged: Judge, benchmarks: Path, tmp_path: Path) -> None:
    images = loose(tmp_path / "own", benchmarks)
    sheets = {"place": tmp_path / "own", "sheets": tmp_path / "sheets"}
    judged(Scripted(), "vqav2", **sheets)
    (images / "another.png").write_bytes(b"")
    judged(None, "vqav2", **sheets)


def test_a_broken_picture_is_named_by_its_place(judged: Judge, benchmarks: Path) -> None:
    who = Scripted()
    judged(who, "vqav2")
    assert set(who.seen) == {f"{benchmarks}/images.tar/{number:06d}.png" for number in range(6)}
