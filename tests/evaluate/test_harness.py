"""Judging an untrained model end to end: what is kept adds up, and repeats to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from firstsight.data.tokenizer import encode_prompt
from firstsight.errors import DataError, ModelError, RequestError, UnknownName
from firstsight.evaluate.harness import EvalConfig, answer_question, evaluate, evaluate_checkpoint
from firstsight.evaluate.models.interface import ChoiceRequest, GenerationRequest
from firstsight.evaluate.models.native import NativeModel, load_native_model
from firstsight.recipe.mixture import SyntheticBenchmarks, SyntheticWorld
from firstsight.recipe.stages import Evaluate
from firstsight.site import Progress, Site
from tests.model.tiny_models import packed

Checkpoint = Callable[[str], Path]

WORLD = SyntheticBenchmarks(
    world=SyntheticWorld(objects=8, kinds=2, image_size=16, max_objects=4, seed=0), questions=12
)
SPEC = Evaluate(benchmarks=WORLD, vision_tasks=("vqav2", "pope", "refcoco"), text_tasks=("copa",))


def silent(progress: Progress) -> None:
    """Progress that nobody watches."""


def asking(*tasks: str, sight: Any = "both") -> EvalConfig:
    return EvalConfig(tasks=tasks, image_mode=sight, prompt_style="bare")


@pytest.fixture(params=["patches", "siglip"])
def judged(
    request: pytest.FixtureRequest, checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    inputs = {"checkpoint": checkpoint(request.param), "benchmarks": benchmarks}
    evaluate(SPEC, inputs=inputs, out=tmp_path, site=Site(), on_progress=silent)
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads((tmp_path / "scores.json").read_text())


def test_every_question_is_kept_once_a_condition(judged: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    rows, scores = judged
    keys = [(row["task"], row["question_id"], row["blind"]) for row in rows]
    assert len(set(keys)) == len(keys) == 3 * 12 * 2 + 12
    assert list(scores["tasks"]) == ["vqav2", "pope", "refcoco", "copa"]
    assert {"task", "question_id", "image", "prompt", "answer", "truth", "score", "blind"} <= rows[0].keys()


def test_scores_are_the_means_of_the_kept_rows(judged: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    rows, scores = judged
    for name, facts in scores["tasks"].items():
        assert facts["n"] == 12
        for key, blind in (("score", False), ("blind", True)):
            own = [row["score"] for row in rows if row["task"] == name and row["blind"] is blind]
            # All splits of this benchmark are of one size, so the mean over splits is the mean.
            assert facts[key] == (pytest.approx(sum(own) / len(own), abs=1e-8) if own else None)
        low, high = facts["interval"]
        assert low <= facts["score"] <= high
    stable = [facts["score"] - facts["chance"] for facts in scores["tasks"].values() if facts["kind"] == "vision"]
    assert scores["stable"]["vision"] == pytest.approx(sum(stable) / 3, abs=1e-8)
    assert scores["missing"]["vision"] == ["gqa", "textvqa", "ocid_ref"]


def test_the_question_blind_guesser_is_scored_by_the_same_metric(
    judged: tuple[list[dict[str, Any]], dict[str, Any]],
) -> None:
    tasks = judged[1]["tasks"]
    # "cat" is right for half of the questions, "yes" for half, and the guessed box is the true one.
    assert [tasks[name]["question_blind"] for name in ("vqav2", "pope", "refcoco", "copa")] == [0.5, 0.5, 1.0, None]


def test_held_out_questions_are_told_apart(judged: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
    facts = judged[1]["tasks"]["vqav2"]
    assert {value: found["n"] for value, found in facts["by"]["form"].items()} == {"heldout": 4, "seen": 8}
    assert facts["heldout"] == facts["by"]["form"]["heldout"]["score"]
    assert judged[1]["tasks"]["pope"]["heldout"] is None
    assert {found["n"] for found in judged[1]["tasks"]["pope"]["splits"].values()} == {4}


def test_judging_again_leaves_the_same_bytes(checkpoint: Checkpoint, benchmarks: Path, tmp_path: Path) -> None:
    inputs = {"checkpoint": checkpoint("siglip"), "benchmarks": benchmarks}
    for name in ("a", "b"):
        evaluate(SPEC, inputs=inputs, out=tmp_path / name, site=Site(), on_progress=silent)
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"answers.jsonl", "scores.json"}
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_answers_do_not_hang_on_what_else_is_asked(checkpoint: Checkpoint, benchmarks: Path) -> None:
    found = {}
    for tasks in (("vqav2",), ("copa", "refcoco", "pope", "vqav2")):
        verdict = evaluate_checkpoint(
            checkpoint("siglip"), benchmarks, config=asking(*tasks), site=Site(), on_progress=silent
        )
        found[tasks] = [row.to_json() for row in verdict.answers if row.task.name == "vqav2"]
    first, second = found.values()
    assert first == second


def test_progress_ends_at_its_total(checkpoint: Checkpoint, benchmarks: Path) -> None:
    told: list[Progress] = []
    evaluate_checkpoint(checkpoint("patches"), benchmarks, config=asking("pope"), site=Site(), on_progress=told.append)
    assert told[-1].done == told[-1].total == 24


def test_a_text_model_is_judged_on_text_and_blind_alone(checkpoint: Checkpoint, benchmarks: Path) -> None:
    def judged(*tasks: str, sight: Any) -> dict[str, Any]:
        how = asking(*tasks, sight=sight)
        return evaluate_checkpoint(checkpoint("lm"), benchmarks, config=how, site=Site(), on_progress=silent).scores[
            "tasks"
        ]

    assert judged("copa", sight="both")["copa"]["score"] is not None
    blind = judged("pope", "copa", sight="blind")
    assert blind["pope"]["score"] is None
    assert blind["pope"]["blind"] is not None
    with pytest.raises(ModelError, match="text-only model"):
        judged("copa", "pope", sight="both")


def predicted(who: NativeModel, ids: Sequence[int | None], images: torch.Tensor | None = None) -> torch.Tensor:
    """[T, V] logits of one row in the training layout, run through VLM.forward."""
    model = who.checkpoint.model
    with torch.no_grad():
        return model.lm.logits(model(packed([[ids]], length=len(ids), images=images)))[0]


def test_the_likeliest_choice_is_lm_evals(checkpoint: Checkpoint, tokenizer: Path) -> None:
    who = load_native_model(checkpoint("lm"), site=Site())
    offered = ("a cat", "dog", "the red dog", "no")
    totals = []
    for choice in offered:
        ids = [who.tokenizer.special_ids.end, *who.tokenizer.encode([f"what is it ? {choice}"])[0]]
        logs = predicted(who, ids).log_softmax(-1)
        totals.append(sum(float(logs[at - 1, ids[at]]) for at in range(5, len(ids))))
    assert list(
        who.rank_choices([ChoiceRequest(text="what is it ?", image=None, choices=offered, is_chat_turn=False)])
    ) == [int(np.argmax(totals))]


def test_the_first_answered_word_is_what_a_training_row_predicts(checkpoint: Checkpoint) -> None:
    """The same tokens in the training layout predict the first generated word."""
    who = load_native_model(checkpoint("siglip"), site=Site())
    [picture] = who.encode_images([("x.png", _png(3))])
    assert isinstance(picture, torch.Tensor)
    laid = encode_prompt(who.tokenizer, "what is it ?", image_tokens=4)
    likeliest = int(predicted(who, [*[None] * 4, *laid[4:]], images=picture[None])[-1].argmax())
    [answer] = who.generate([GenerationRequest(text="\nwhat is it ?", image=picture)], max_new_tokens=1)
    stopped = likeliest in (who.tokenizer.special_ids.end, who.tokenizer.special_ids.answer)
    assert answer == ("" if stopped else who.tokenizer.decode([likeliest]))


def _png(seed: int) -> bytes:
    import io

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_ask_answers_about_one_picture(checkpoint: Checkpoint, tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    picture.write_bytes(_png(1))
    assert isinstance(answer_question(checkpoint("siglip"), picture, "What is it ?", site=Site()), str)
    with pytest.raises(RequestError, match="'zebra'"):
        answer_question(checkpoint("siglip"), picture, "is it a zebra ?", site=Site())
    picture.write_text("no picture")
    with pytest.raises(DataError, match=r"x\.png: wanted an image"):
        answer_question(checkpoint("siglip"), picture, "what is it ?", site=Site())
    with pytest.raises(DataError, match="wanted an image"):
        answer_question(checkpoint("siglip"), tmp_path / "none.png", "what is it ?", site=Site())
    picture.write_bytes(_png(1))
    with pytest.raises(ModelError, match="text model"):
        answer_question(checkpoint("lm"), picture, "what is it ?", site=Site())


def test_what_is_not_there_is_named(checkpoint: Checkpoint, benchmarks: Path) -> None:
    def judged(task: str) -> None:
        evaluate_checkpoint(checkpoint("patches"), benchmarks, config=asking(task), site=Site(), on_progress=silent)

    with pytest.raises(UnknownName, match="pope"):
        judged("pop")
    with pytest.raises(DataError, match="wanted a folder gqa"):
        judged("gqa")
